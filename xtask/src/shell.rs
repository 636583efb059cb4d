//! Runs other programs in the workspace's root: with their output shown, captured, or as a step with a spinner.

use std::{
    collections::VecDeque,
    env,
    ffi::OsStr,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::term::{self, Step};

/// Number of output lines shown for a failed step.
const SHOWN_LINES: usize = 60;

/// The workspace's root folder.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// A command that runs in the workspace's root.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// Cargo, of the same toolchain as xtask.
pub(crate) fn cargo<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    let mut cargo = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Build scripts that read cargo's variables about our own package, such as ring's, would rerun after each change between
    // cargo and xtask.
    for (name, _) in env::vars_os() {
        let is_ours = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        });
        if is_ours {
            cargo.env_remove(name);
        }
    }
    cargo.args(args);
    cargo
}

/// The command as a person would type it.
pub(crate) fn described(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_=./,:+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}

/// Runs the command with its output shown.
///
/// # Errors
/// The program could not be started, or did not exit with 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let text = described(command);
    term::line(&format!("$ {text}"));
    let status = command.status().with_context(|| format!("starting `{text}`"))?;
    if !status.success() {
        bail!("`{text}` failed ({status})");
    }
    Ok(())
}

/// Runs the command and returns what it wrote to standard output; standard error is discarded.
///
/// # Errors
/// The program could not be started, did not exit with 0, or wrote invalid UTF-8.
pub(crate) fn stdout(command: &mut Command) -> Result<String> {
    let text = described(command);
    let output =
        command.stderr(Stdio::null()).output().with_context(|| format!("starting `{text}`"))?;
    if !output.status.success() {
        bail!("`{text}` failed ({})", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("reading the output of `{text}`"))
}

/// Runs the command as a step: its output is only shown when it fails.
///
/// # Errors
/// The program could not be started, or did not exit with 0: the error contains the end of its output.
pub(crate) fn step(label: &str, command: &mut Command) -> Result<()> {
    let step = Step::start(label);
    match watched(command, &step) {
        Ok(()) => {
            step.done();
            Ok(())
        }
        Err(error) => {
            step.failed();
            Err(error)
        }
    }
}

fn watched(command: &mut Command, step: &Step) -> Result<()> {
    let text = described(command);
    let (reader, writer) = std::io::pipe().context("making a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("starting `{text}`"))?;
    // Closes the command's copies of the pipe's writing end, so that the reader reaches the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut tail = VecDeque::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        step.progress(&line);
        if tail.len() == SHOWN_LINES {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    let status = child.wait().with_context(|| format!("waiting for `{text}`"))?;
    if !status.success() {
        let output = Vec::from(tail).join("\n");
        bail!("`{text}` failed ({status}); the end of its output:\n{output}");
    }
    Ok(())
}

/// Finds a program in `PATH` or in the system's administration folders, which the `PATH` of users often lacks.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let admin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(admin).map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_reports_its_output() {
        let error = step("failing on purpose", command("sh").args(["-c", "echo seen; exit 3"]));
        let text = format!("{:#}", error.unwrap_err());
        assert!(text.contains("exit status: 3") && text.contains("seen"), "{text}");
    }

    #[test]
    fn a_command_is_described_without_its_folder() {
        assert_eq!(described(Command::new("/bin/echo").arg("not (a | b)")), "echo 'not (a | b)'");
        assert_eq!(described(Command::new("/usr/bin/ip").args(["link", "show"])), "ip link show");
    }

    #[test]
    fn programs_are_found_by_name() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-here"), None);
    }
}
