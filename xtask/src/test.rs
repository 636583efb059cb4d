//! `cargo xtask test [unit|root|all]`: the tests, by nextest, the examples in the documentation, and `tidy`.
//!
//! Tests that need root are those of [`PRIVILEGED_BINARIES`] and those in a module named `privileged`.

use std::{env, fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{build, privilege::Privilege, release, setup, shell, term, tidy, workspace::Workspace};

/// Test programs of the package netpol-tests that need root in every test.
const PRIVILEGED_BINARIES: [&str; 10] = [
    "bench",
    "confinement",
    "crash",
    "datapath",
    "hostile",
    "netns",
    "cni",
    "services",
    "soak",
    "image",
];

/// The warning if there is no way to become root.
const NOT_RUN: &str =
    "the tests that need root were not run: this user is not root and there is no sudo";

/// Start of the generated inputs of laws (proptest). In CI it is fixed, so that a failure can be repeated and says something
/// about the change; elsewhere each run has new inputs.
const SEED: &str = "PROPTEST_RNG_SEED";

/// Options of `test`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which tests to run.
    #[arg(value_enum, default_value_t = Part::All)]
    part: Part,
}

impl Options {
    /// All tests.
    pub(crate) fn all() -> Self {
        Self { part: Part::All }
    }
}

/// A part of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Those that need no root, and the examples in the documentation.
    Unit,
    /// Those that need root: real eBPF programs, network namespaces, the CNI plugin.
    Root,
    /// Both.
    All,
}

/// How test programs are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runner {
    /// Directly, as this user.
    None,
    /// Through sudo, as root.
    Sudo,
}

/// One run of nextest.
#[derive(Debug)]
struct Suite {
    title: &'static str,
    /// Which tests, in nextest's filter language.
    filter: String,
    runner: Runner,
}

/// Numbers of passed and failed tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    n_passed: u64,
    n_failed: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.n_passed += other.n_passed;
        self.n_failed += other.n_failed;
    }
}

/// Sets up and runs the tests. The last line has the numbers of passed and failed tests.
///
/// # Errors
/// The set-up or the build failed, a test failed, or tests that must run here could not.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { part } = options;
    setup::ensure(setup::Purpose::Testing)?;
    build::tests()?;
    if *part != Part::Unit {
        release::for_tests()?;
    }
    let mut tally = Tally::default();
    let (suites, all_ran) = suites(*part, Privilege::detect());
    for suite in suites {
        term::heading(suite.title);
        tally.add(nextest(&suite)?);
    }
    if *part != Part::Root {
        term::heading("examples in the documentation");
        tally.add(doc_tests()?);
    }
    let tidied = if *part == Part::Root { Ok(()) } else { tidy::run() };
    if !all_ran {
        term::warning(NOT_RUN);
    }
    term::line(&format!("{} passed, {} failed", tally.n_passed, tally.n_failed));
    if tally.n_failed > 0 {
        bail!("not all tests passed");
    }
    tidied?;
    if !all_ran && (*part == Part::Root || must_run_all()) {
        bail!(NOT_RUN);
    }
    Ok(())
}

/// The runs of nextest for a part, and whether they are all of it.
fn suites(part: Part, privilege: Privilege) -> (Vec<Suite>, bool) {
    let without_root = || Suite {
        title: "tests that need no root",
        filter: format!("not ({})", needs_root()),
        runner: Runner::None,
    };
    let with_root = |runner| Suite { title: "tests that need root", filter: needs_root(), runner };
    match (part, privilege) {
        (Part::Unit, _) => (vec![without_root()], true),
        (Part::Root, Privilege::Root) => (vec![with_root(Runner::None)], true),
        (Part::Root, Privilege::Sudo) => (vec![with_root(Runner::Sudo)], true),
        (Part::Root, Privilege::None) => (Vec::new(), false),
        (Part::All, Privilege::Root) => {
            (vec![Suite { title: "tests", filter: "all()".to_owned(), runner: Runner::None }], true)
        }
        (Part::All, Privilege::Sudo) => (vec![without_root(), with_root(Runner::Sudo)], true),
        (Part::All, Privilege::None) => (vec![without_root()], false),
    }
}

/// Whether a test that can't run here must fail, as in CI.
fn must_run_all() -> bool {
    ["CI", "NETPOL_REQUIRE_PRIVILEGES"]
        .iter()
        .any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// The tests that need root, in nextest's filter language.
fn needs_root() -> String {
    let folder = shell::root().join("tests/tests");
    // nextest refuses the name of a test program that does not exist.
    let exists = |name: &str| {
        folder.join(format!("{name}.rs")).exists() || folder.join(name).join("main.rs").exists()
    };
    let binaries = PRIVILEGED_BINARIES.into_iter().filter(|name| exists(name));
    let mut terms: Vec<_> =
        binaries.map(|name| format!("(package(=netpol-tests) & binary(={name}))")).collect();
    terms.push("test(/(^|::)privileged::/)".to_owned());
    terms.join(" | ")
}

/// Compiles as this user and runs the suite's tests by its runner.
fn nextest(suite: &Suite) -> Result<Tally> {
    let report = Workspace::read()?.target_directory.join("nextest/default/junit.xml");
    remove(&report)?;
    let mut nextest = shell::cargo(["nextest", "run", "--no-tests=warn", "-E", &suite.filter]);
    if must_run_all() {
        nextest.env("NETPOL_REQUIRE_PRIVILEGES", "1");
        if env::var_os(SEED).is_none() {
            nextest.env(SEED, "1");
        }
    }
    if suite.runner == Runner::Sudo {
        let host = host_triple()?.to_uppercase().replace('-', "_");
        nextest.env(format!("CARGO_TARGET_{host}_RUNNER"), "sudo --preserve-env --");
    }
    let outcome = shell::run(&mut nextest);
    let text = fs::read_to_string(&report);
    match (outcome, text) {
        (Ok(()), text) => {
            counts_of_report(&text.with_context(|| format!("reading {}", report.display()))?)
        }
        // A report exists, so tests failed, and the other suites run too.
        (Err(_), Ok(text)) => counts_of_report(&text),
        (Err(error), Err(_)) => Err(error),
    }
}

/// Runs the examples in the library crates' documentation.
fn doc_tests() -> Result<Tally> {
    let mut tests = shell::cargo(["test", "--doc", "--no-fail-fast"]);
    term::line(&format!("$ {}", shell::described(&tests)));
    let output =
        tests.stderr(std::process::Stdio::inherit()).output().context("starting cargo test")?;
    let text = String::from_utf8_lossy(&output.stdout);
    term::line(text.trim_end());
    let tally = counts_of_libtest(&text);
    if !output.status.success() && tally.n_failed == 0 {
        bail!("cargo test --doc failed ({})", output.status);
    }
    Ok(tally)
}

/// Reads the totals of a `JUnit` report: the attributes of its outermost element.
fn counts_of_report(junit: &str) -> Result<Tally> {
    let (_, rest) =
        junit.split_once("<testsuites ").context("the JUnit report has no <testsuites>")?;
    let element = rest.split('>').next().unwrap_or_default();
    let count = |name: &str| {
        let (_, value) = element.split_once(&format!(" {name}=\""))?;
        value.split('"').next()?.parse::<u64>().ok()
    };
    let count = |name: &str| {
        count(name).with_context(|| format!("the JUnit report has no count of {name}"))
    };
    let n_failed = count("failures")? + count("errors")?;
    Ok(Tally { n_passed: count("tests")?.saturating_sub(n_failed), n_failed })
}

/// Adds up the closing lines of Rust's own test runner.
fn counts_of_libtest(output: &str) -> Tally {
    let mut tally = Tally::default();
    for line in output.lines().filter_map(|line| line.strip_prefix("test result: ")) {
        for part in line.split([';', '.']) {
            let mut words = part.split_whitespace();
            match (words.next().and_then(|word| word.parse::<u64>().ok()), words.next()) {
                (Some(n), Some("passed")) => tally.n_passed += n,
                (Some(n), Some("failed")) => tally.n_failed += n,
                (_, _) => {}
            }
        }
    }
    tally
}

fn host_triple() -> Result<String> {
    let version = shell::stdout(shell::command("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", file.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_way_to_root_only_the_other_tests_run() {
        let (suites, all_ran) = suites(Part::All, Privilege::None);
        assert!(!all_ran);
        assert!(suites.iter().all(|suite| suite.filter.starts_with("not ")), "{suites:?}");
    }

    #[test]
    fn root_runs_everything_in_one_go() {
        let (suites, all_ran) = suites(Part::All, Privilege::Root);
        assert!(all_ran);
        assert_eq!(suites.len(), 1);
    }

    #[test]
    fn totals_come_from_the_outermost_element_of_the_report() {
        let report = r#"<?xml version="1.0"?>
            <testsuites name="nextest-run" tests="5" failures="1" errors="1" uuid="u" time="0.1">
            <testsuite name="a" tests="9" failures="9" errors="9"/></testsuites>"#;
        assert_eq!(counts_of_report(report).unwrap(), Tally { n_passed: 3, n_failed: 2 });
    }

    #[test]
    fn a_report_without_totals_is_an_error() {
        assert!(counts_of_report("<testsuites name=\"x\"></testsuites>").is_err());
        assert!(counts_of_report("").is_err());
    }

    #[test]
    fn closing_lines_of_doc_tests_are_added_up() {
        let output = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n\
                      test result: FAILED. 1 passed; 2 failed; 0 ignored\n";
        assert_eq!(counts_of_libtest(output), Tally { n_passed: 4, n_failed: 2 });
    }
}
