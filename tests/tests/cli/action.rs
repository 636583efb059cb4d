//! The container action: `action.yml`, its image as the `Dockerfile` makes it, and the workflow in docs/ci.md.
//!
//! A sandbox has what the image has: what the last stage copies, a shell, and the libraries of its base image.
#![expect(clippy::indexing_slicing, reason = "what is missing fails the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use netpol_lab::privilege::{Need, met};
use netpol_lab::{binaries, repository};
use serde_json::{Value, json};

use crate::SHOP;

/// What a program needs of the base image. Debian's slim images have these, in the folder of the processor.
const LIBRARIES: [&str; 3] = ["libc.so.6", "libm.so.6", "libgcc_s.so.1"];
const LIBRARY_FOLDER: &str = "/lib/x86_64-linux-gnu";
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// The folder of the repository in the container of an action.
const WORKSPACE: &str = "/github/workspace";

/// The image that a Dockerfile makes.
#[derive(Debug, Default)]
struct Recipe {
    base: String,
    /// What is copied, and where to.
    files: Vec<(PathBuf, String)>,
    entrypoint: Vec<String>,
}

/// Follows the instructions of the Dockerfile. Other instructions than those that are known here fail.
fn image() -> Recipe {
    let text = fs::read_to_string(repository::path("Dockerfile")).unwrap();
    let mut image = Recipe::default();
    let (mut folder, mut built) = (String::new(), String::new());
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["FROM", base] => image = Recipe { base: (*base).to_owned(), ..Recipe::default() },
            ["FROM", base, "AS", "build"] => assert_eq!(*base, toolchain_image()),
            ["ENV", ..] => assert!(image.base.is_empty(), "{line}"),
            ["WORKDIR", path] => (*path).clone_into(&mut folder),
            ["COPY", ".", "."] => assert!(repository::path("Cargo.lock").exists()),
            [
                "RUN",
                "cargo",
                "build",
                "--release",
                "--locked",
                "--package",
                package,
                "--bin",
                name,
            ] => {
                assert!(repository::path(package).join("Cargo.toml").exists(), "{line}");
                built = format!("{folder}/target/release/{name}");
            }
            ["COPY", "--from=build", from, to] => {
                assert_eq!(*from, built);
                let name = Path::new(from).file_name().unwrap().to_str().unwrap();
                image.files.push((binaries::binary(name).unwrap(), (*to).to_owned()));
            }
            ["COPY", from, to] => {
                image.files.push((repository::path(from), (*to).to_owned()));
            }
            ["ENTRYPOINT", list] => image.entrypoint = serde_json::from_str(list).unwrap(),
            _ => assert_eq!(line, "an instruction that this test knows"),
        }
    }
    image
}

/// The image with the compiler of `rust-toolchain.toml`.
fn toolchain_image() -> String {
    let text = fs::read_to_string(repository::path("rust-toolchain.toml")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("channel = \"")).unwrap();
    let mut numbers = line.trim_end_matches('"').split('.');
    format!("rust:{}.{}-bookworm", numbers.next().unwrap(), numbers.next().unwrap())
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// The arguments of the entrypoint for the inputs of a step: those that the step gives, else the defaults.
fn arguments(with: &Value) -> Vec<String> {
    let action = yaml(&fs::read_to_string(repository::path("action.yml")).unwrap());
    assert_eq!(action["runs"]["using"], "docker");
    assert_eq!(action["runs"]["image"], "Dockerfile");
    let inputs = action["inputs"].as_object().unwrap();
    for name in with.as_object().unwrap().keys() {
        assert!(inputs.contains_key(name), "{name}");
    }
    let arguments = action["runs"]["args"].as_array().unwrap().iter().map(|argument| {
        let argument = argument.as_str().unwrap();
        let name = argument.strip_prefix("${{ inputs.").unwrap().strip_suffix(" }}").unwrap();
        let value = with.get(name).unwrap_or(&inputs[name]["default"]);
        value.as_str().unwrap().to_owned()
    });
    arguments.collect()
}

/// Runs the action on a workspace. Returns the exit code and the output.
fn act(workspace: &Path, with: &Value) -> (i32, String) {
    let Recipe { base, files, entrypoint } = image();
    assert_eq!(base, "debian:bookworm-slim");
    let mut sandbox = Command::new("bwrap");
    sandbox.args(["--unshare-all", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
    let mut mount = |from: &Path, to: &str| {
        let from = fs::canonicalize(from).unwrap();
        sandbox.arg("--ro-bind").arg(from).arg(to);
    };
    mount(Path::new("/bin/sh"), "/bin/sh");
    mount(Path::new(LOADER), LOADER);
    for library in LIBRARIES {
        let path = format!("{LIBRARY_FOLDER}/{library}");
        mount(Path::new(&path), &path);
    }
    for (from, to) in &files {
        mount(from, to);
    }
    sandbox.arg("--bind").arg(workspace).args([WORKSPACE, "--chdir", WORKSPACE]);
    sandbox.args(["--clearenv", "--setenv", "PATH", "/usr/local/bin:/usr/bin:/bin"]);
    let output = sandbox.args(entrypoint).args(arguments(with)).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// The step of the workflow in docs/ci.md.
fn documented_inputs() -> Value {
    let text = fs::read_to_string(repository::path("docs/ci.md")).unwrap();
    let (_, text) = text.split_once("```yaml\njobs:").unwrap();
    let (text, _) = text.split_once("```").unwrap();
    let workflow = yaml(&format!("jobs:{text}"));
    let steps = workflow["jobs"]["policies"]["steps"].as_array().unwrap();
    let is_ours = |step: &&Value| step["uses"].as_str().is_some_and(|of| of.contains("/netpol@"));
    steps.iter().find(is_ours).unwrap()["with"].clone()
}

#[test]
fn the_action_marks_lines_and_writes_sarif() {
    if !met(&[Need::Program("bwrap")]) {
        return;
    }
    let workspace = tempfile::tempdir().unwrap();
    let folder = workspace.path();
    let with = documented_inputs();
    fs::write(folder.join(with["files"].as_str().unwrap()), SHOP).unwrap();
    let (code, text) = act(folder, &with);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("::error file=rendered.yaml,line=40,"), "{text}");
    assert!(text.contains("::warning file=rendered.yaml,line=39,"), "{text}");
    let sarif = fs::read_to_string(folder.join(with["sarif"].as_str().unwrap())).unwrap();
    let sarif: Value = serde_json::from_str(&sarif).unwrap();
    let found = &sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
    assert_eq!(found["artifactLocation"]["uri"], "rendered.yaml");
}

#[test]
fn the_action_lints_the_repository_by_default_and_fails_for_lost_input() {
    if !met(&[Need::Program("bwrap")]) {
        return;
    }
    let workspace = tempfile::tempdir().unwrap();
    let folder = workspace.path();
    let pod = "{ apiVersion: v1, kind: Pod, metadata: { name: p } }\n";
    fs::write(folder.join("a.yaml"), pod).unwrap();
    assert_eq!(act(folder, &json!({})), (0, String::new()));
    fs::write(folder.join("b.yaml"), SHOP).unwrap();
    // Below the default level are warnings.
    let some = json!({ "files": "a.yaml b.yaml", "deny": "warnings" });
    assert_eq!(act(folder, &some).0, 1);
    assert_eq!(act(folder, &json!({ "files": "a.yaml" })).0, 0);
    fs::write(folder.join("c.yaml"), "a: [").unwrap();
    assert_eq!(act(folder, &json!({})).0, 2);
    assert_eq!(act(folder, &json!({ "files": "none.yaml", "sarif": "out.sarif" })).0, 2);
    assert_eq!(act(folder, &json!({ "deny": "everything" })).0, 2);
}
