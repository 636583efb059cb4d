//! The commands in the documentation: each is one that exists, with arguments that exist, and prints what the page shows.
//!
//! A block `console` has commands after `$ `, which run in the repository, and their output, which `UPDATE_EXPECT=1` writes. A block
//! `sh` has commands for a cluster or a node: they are taken apart and compared with what the programs, charts and manifests accept.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use netpol_lab::deployment::kustomize;
use netpol_lab::privilege::{Need, met};
use netpol_lab::{binaries, repository};

/// Programs of others, which the pages use as their own documentation says.
const FOREIGN: [&str; 16] = [
    "ctr",
    "k3s",
    "skopeo",
    "iptables-save",
    "ip6tables-save",
    "grep",
    "modprobe",
    "microk8s",
    "minikube",
    "mount",
    "journalctl",
    "sha256sum",
    "iptables-restore",
    "ip6tables-restore",
    "tar",
    "curl",
];

/// A block of a page, with its language.
#[derive(Debug)]
struct Block {
    language: String,
    text: String,
}

/// The pages for users.
fn pages() -> Result<Vec<PathBuf>> {
    let mut pages = vec![repository::path("README.md"), repository::path("deploy/README.md")];
    for folder in ["docs", "deploy/cni"] {
        for entry in fs::read_dir(repository::path(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    Ok(pages)
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in page.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(Block { language: language.to_owned(), text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// The words of each command: without comments, joined over `\`, split at `|`, `&&` and `;`.
fn commands(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let mut commands = Vec::new();
    for line in joined.lines() {
        let mut words = Vec::new();
        for word in split(line) {
            match word.as_str() {
                "|" | "&&" | ";" => commands.push(std::mem::take(&mut words)),
                word if word.starts_with('#') => break,
                _ => words.push(word),
            }
        }
        commands.push(words);
    }
    commands.retain(|words| !words.is_empty());
    commands
}

/// The words of a line; quotes keep spaces.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote) = (String::new(), None);
    for c in line.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\'' | '"', None) => quote = Some(c),
            (' ', None) => words.push(std::mem::take(&mut word)),
            (c, _) => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// Checks a command for a cluster or a node.
fn check(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["kubectl", "apply" | "delete", "-k", folder] => {
            kustomize(folder.strip_prefix("deploy/").context("a kustomization outside of deploy")?)
                .map(drop)
        }
        ["kubectl", "apply" | "delete", "-f", file, ..] => check_release_file(file),
        ["kubectl", "netpol", rest @ ..] | ["netpol", rest @ ..] => options("kubectl-netpol", rest),
        ["kubectl", rest @ ..] => match rest.iter().position(|word| *word == "--") {
            Some(end) => {
                let inside: Vec<String> =
                    rest.iter().skip(end + 1).map(|word| (*word).to_owned()).collect();
                check(&inside)
            }
            None => Ok(()),
        },
        ["netpol-agent", rest @ ..] => options("netpol-agent", rest),
        ["netpol-cni", rest @ ..] => options("netpol-cni", rest),
        ["helm", rest @ ..] => check_values(rest),
        ["cargo", "xtask", command, ..] => {
            let folder = repository::path("xtask/src");
            let exists =
                folder.join(format!("{command}.rs")).is_file() || folder.join(command).is_dir();
            ensure!(exists, "cargo xtask has no {command}");
            Ok(())
        }
        [program, ..] if FOREIGN.contains(program) => Ok(()),
        other => bail!("nothing checks {other:?}"),
    }
}

/// A file of a release: those of the overlays, by their names.
fn check_release_file(file: &str) -> Result<()> {
    let name = file.rsplit('/').next().unwrap_or(file);
    // Standard input, and manifests of other projects.
    if name == "-" || file.contains("://") {
        return Ok(());
    }
    let platform = name.strip_prefix("netpol-").and_then(|rest| rest.strip_suffix(".yaml"));
    let platform = platform.with_context(|| format!("{file} is no file of a release"))?;
    let overlay = match platform.strip_prefix("uninstall-") {
        Some(platform) => format!("deploy/uninstall/{platform}"),
        None => format!("deploy/overlays/{platform}"),
    };
    ensure!(repository::path(&overlay).is_dir(), "there is no {overlay} for {file}");
    Ok(())
}

/// The keys of `--set` are values of the chart.
fn check_values(words: &[&str]) -> Result<()> {
    let values = fs::read_to_string(repository::path("deploy/helm/values.yaml"))?;
    for pair in words.windows(2).filter(|pair| pair.first() == Some(&"--set")) {
        let setting = pair.last().and_then(|setting| setting.split_once('='));
        let (key, _) = setting.with_context(|| format!("{pair:?} sets nothing"))?;
        for part in key.split('.') {
            ensure!(values.contains(&format!("{part}:")), "the chart has no value {key}");
        }
    }
    Ok(())
}

/// The subcommand exists, and so do its options.
fn options(program: &str, words: &[&str]) -> Result<()> {
    if words == ["--version"] {
        return Ok(());
    }
    let is_name =
        |word: &&&str| !word.starts_with('-') && word.bytes().all(|b| b.is_ascii_lowercase());
    let mut names: Vec<&str> = words.iter().take_while(is_name).copied().collect();
    let path = binaries::binary(program)?;
    let help = loop {
        let output = Command::new(&path).args(&names).arg("--help").output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // The last word may be an argument instead of a subcommand.
        if output.status.success() && text.contains("Usage:") {
            break text;
        }
        ensure!(names.pop().is_some(), "{program} {words:?}: {output:?}");
    };
    ensure!(!names.is_empty() || words.is_empty(), "{program} has no {words:?}");
    for option in words.iter().filter(|word| word.starts_with('-') && **word != "-") {
        let option = option.split('=').next().unwrap_or(option);
        let exists = help.split_whitespace().any(|word| word.trim_end_matches(',') == option);
        ensure!(exists, "{program} {names:?} has no {option}");
    }
    Ok(())
}

#[test]
fn the_commands_for_a_cluster_name_what_exists() -> Result<()> {
    if !met(&[Need::Program("kubectl")]) {
        return Ok(());
    }
    let (mut n_checked, mut wrong) = (0, Vec::new());
    for page in pages()? {
        let text = fs::read_to_string(&page)?;
        for block in blocks(&text).iter().filter(|block| block.language == "sh") {
            for words in commands(&block.text) {
                n_checked += 1;
                if let Err(error) = check(&words) {
                    wrong.push(format!("{}: {}: {error:#}", page.display(), words.join(" ")));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(n_checked > 20, "only {n_checked} commands were found");
    Ok(())
}

/// The output of a command of a block `console`, with the exit code if it is not 0.
fn output(line: &str) -> Result<String> {
    let words = split(line);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (program, arguments) = match words.as_slice() {
        ["kubectl", "netpol", rest @ ..] => ("kubectl-netpol", rest),
        _ => bail!("only commands of kubectl netpol run here: {line}"),
    };
    let mut command = Command::new(binaries::binary(program)?);
    let output = command.args(arguments).current_dir(repository::path("")).output()?;
    let trimmed = |bytes: &[u8]| -> String {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
    };
    Ok(format!("{}{}", trimmed(&output.stdout), trimmed(&output.stderr)).trim_end().to_owned()
        + "\n")
}

/// The page with the output that its commands have now.
fn renewed(page: &str) -> Result<String> {
    let mut renewed = String::new();
    let mut is_console = false;
    for line in page.lines() {
        if line.starts_with("```") {
            is_console = line == "```console";
        }
        match line.strip_prefix("$ ").filter(|_| is_console) {
            Some(command) => renewed.extend([line, "\n", &output(command)?]),
            None if is_console && line != "```console" => {}
            None => renewed.extend([line, "\n"]),
        }
    }
    Ok(renewed)
}

#[test]
fn the_pages_show_what_their_commands_print() -> Result<()> {
    let mut stale = BTreeMap::new();
    let mut n_found = 0;
    for page in pages()? {
        let text = fs::read_to_string(&page)?;
        n_found += text.matches("```console\n").count();
        let expected = renewed(&text)?;
        if expected != text {
            stale.insert(page, expected);
        }
    }
    ensure!(n_found > 0, "no page shows the output of a command");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        for (page, text) in &stale {
            fs::write(page, text)?;
        }
        return Ok(());
    }
    let names: Vec<_> = stale.keys().collect();
    ensure!(
        stale.is_empty(),
        "UPDATE_EXPECT=1 cargo test -p netpol-tests --test documentation writes {names:?}"
    );
    Ok(())
}

#[test]
fn every_link_between_the_pages_has_a_target() -> Result<()> {
    for page in pages()? {
        let text = fs::read_to_string(&page)?;
        let folder = page.parent().unwrap_or(Path::new("."));
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or(target);
            let is_elsewhere = file.is_empty() || file.contains("://");
            ensure!(is_elsewhere || folder.join(file).exists(), "{}: {target}", page.display());
        }
    }
    Ok(())
}

#[test]
fn commands_are_split_as_a_shell_does() {
    let found = commands("a 'b c' \\\n  -d # why\nx | y \"z\" && w\n# nothing\n");
    let expected: [&[&str]; 4] = [&["a", "b c", "-d"], &["x"], &["y", "z"], &["w"]];
    assert_eq!(found, expected);
}
