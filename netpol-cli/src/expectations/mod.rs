//! `test`: expectations on connections, in files beside the policies.

mod check;
mod coverage;
mod file;
mod report;

use std::io;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::ValueEnum;
use netpol_policy::manifests::{self, files};
use netpol_policy::simulate::{Engine, OfflineCluster};
use netpol_terminal::{FAILED, FOUND, Terminal};

use crate::input::{self, ClusterArgs, Input, PodNetworkArgs};
use crate::progress::Progress;
use check::Context;
use coverage::Coverage;
pub(crate) use file::{API_VERSION, KIND};
use file::{Expectation, Mistake, TestFile};
use report::{CaseReport, FileReport};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  netpol test deploy/
  netpol test tests/shop.yaml -f rendered/ -o junit --min-coverage 80";

/// Compare expectations with what the policies allow: unit tests for policies.
///
/// A test file has `apiVersion: netpol.dev/v1`, `kind: PolicyTest` and a list of expectations, such as
/// `shop/front -> shop/redis:6379: allow` or `any -> shop/redis: deny` with `except: [shop/front]`. docs/test.md describes it.
///
/// The exit code is 0 if every expectation holds, 1 if one does not or the coverage is too low, and 2 if a file is not understood: an
/// unknown field, a name that nothing has, a port that no pod has.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TestArgs {
    /// Test files, and directories that contain some.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Files and directories with objects, in place of those that the test files name; `-` is the standard input.
    #[arg(short, long = "file", value_name = "PATH", num_args = 1..)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    pod_networks: PodNetworkArgs,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: TestOutput,
    /// Exit with 1 if the expectations exercise less than this percentage of the rules and isolations of the policies.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    min_coverage: Option<u8>,
}

/// The output format of the results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum TestOutput {
    /// A line for each expectation, with the connections that differ.
    #[default]
    Text,
    /// `JUnit` XML.
    Junit,
    /// Test Anything Protocol, version 14.
    Tap,
}

/// Exit codes: 1 if an expectation does not hold or the coverage is too low, 2 if a file is not understood.
pub(super) fn run(args: TestArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let TestArgs { paths, files, pod_networks, output, min_coverage } = args;
    let given = if files.is_empty() { None } else { Some(read(&files, terminal)?) };
    let mut results = Results { given, pod_networks, ..Results::default() };
    for path in test_files(&paths)? {
        results.run(&path, terminal)?;
    }
    let Results { reports, coverage, n_mistakes, .. } = results;
    let out = &mut terminal.stdout;
    match output {
        TestOutput::Text => report::write_text(&reports, &coverage, out)?,
        TestOutput::Junit => report::write_junit(&reports, &coverage, out)?,
        TestOutput::Tap => report::write_tap(&reports, &coverage, out)?,
    }
    if n_mistakes > 0 {
        return Ok(FAILED);
    }
    let (_, n_differing) = report::totals(&reports);
    let is_covered = coverage.percent() >= min_coverage.map_or(0, usize::from);
    Ok(if n_differing > 0 || !is_covered { FOUND } else { 0 })
}

/// The results of the files so far.
#[derive(Default)]
struct Results {
    /// The objects, if the user has named some.
    given: Option<Input>,
    pod_networks: PodNetworkArgs,
    reports: Vec<FileReport>,
    coverage: Coverage,
    n_mistakes: usize,
}

impl Results {
    /// Evaluates the expectations of a file. Reports the mistakes in it.
    fn run(&mut self, path: &Path, terminal: &mut Terminal<'_>) -> anyhow::Result<()> {
        let parsed = files::read(path)
            .map_err(|error| Mistake::at(0, error.to_string()))
            .and_then(|text| file::parse(&text));
        let TestFile { objects, namespace, expectations } = match parsed {
            Ok(parsed) => parsed,
            Err(mistake) => {
                self.report(path, &mistake, terminal);
                return Ok(());
            }
        };
        let own = match &self.given {
            Some(_) => Input::default(),
            None => read(&object_paths(path, objects), terminal)?,
        };
        let input = self.given.as_ref().unwrap_or(&own);
        if input::is_incomplete(&input.manifests) {
            let message = "the objects are incomplete: no expectation is evaluated";
            self.report(path, &Mistake::at(0, message), terminal);
            return Ok(());
        }
        let progress = Progress::start(format!("evaluating {}", path.display()));
        let PodNetworkArgs { pod_networks, own_node_egress } = &self.pod_networks;
        let mut cluster = OfflineCluster::new(|| Engine::Reference, pod_networks.clone())
            .with_own_node_egress(*own_node_egress);
        cluster.set(input.objects())?;
        self.coverage.add_policies(input);
        let (mut cases, mut mistakes) = (Vec::new(), Vec::new());
        for expectation in expectations {
            let coverage = &mut self.coverage;
            let namespace = namespace.as_deref();
            match (Context { cluster: &cluster, namespace, coverage }).check(&expectation) {
                Ok(outcome) => {
                    let Expectation { line, text: name, .. } = expectation;
                    cases.push(CaseReport { name, line, outcome });
                }
                Err(mistake) => mistakes.push(mistake),
            }
        }
        drop(progress);
        for mistake in &mistakes {
            self.report(path, mistake, terminal);
        }
        self.reports.push(FileReport { path: path.display().to_string(), cases });
        Ok(())
    }

    fn report(&mut self, path: &Path, mistake: &Mistake, terminal: &mut Terminal<'_>) {
        let Mistake { line, message } = mistake;
        let at = if *line == 0 { String::new() } else { format!(":{line}") };
        terminal.complain(&format_args!("{}{at}: {message}", path.display()));
        self.n_mistakes += 1;
    }
}

/// Reads objects, and reports the findings on them.
fn read(paths: &[PathBuf], terminal: &mut Terminal<'_>) -> anyhow::Result<Input> {
    let input = input::read(paths, &ClusterArgs::default(), terminal)?;
    input.report_all_findings(terminal);
    Ok(input)
}

/// The paths of the objects of a test file: those that it names, else its folder.
fn object_paths(file: &Path, objects: Option<Vec<PathBuf>>) -> Vec<PathBuf> {
    let folder = file.parent().unwrap_or_else(|| Path::new(""));
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    match objects {
        None => vec![folder.to_owned()],
        Some(paths) => paths.iter().map(|path| folder.join(path)).collect(),
    }
}

/// The test files: those that are given, and in a directory every file with our `apiVersion`.
fn test_files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut tests = Vec::new();
    for path in paths {
        if !path.is_dir() {
            tests.push(path.clone());
            continue;
        }
        let listing = files::list(path);
        if let Some((path, error)) = listing.unreadable.into_iter().next() {
            bail!("cannot read {}: {error}", path.display());
        }
        let n_before = tests.len();
        for path in listing.files {
            let text = match files::read(&path) {
                Ok(text) => text,
                // A file of objects; whoever reads them says so.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
                Err(error) => bail!("cannot read {}: {error}", path.display()),
            };
            if is_ours(&text) {
                tests.push(path);
            }
        }
        if tests.len() == n_before {
            bail!("{}: no file has apiVersion: {API_VERSION} and kind: {KIND}", path.display());
        }
    }
    Ok(tests)
}

/// Whether a text has an object of our group, of any version and kind, so that a misspelled one is not passed over.
fn is_ours(text: &str) -> bool {
    let group = API_VERSION.split_inclusive('/').next().unwrap_or_default();
    if !text.contains(group) {
        return false;
    }
    // A text with a syntax error may have no object.
    let is_field = |line: &str| {
        let value =
            line.strip_prefix("apiVersion:").map(|rest| rest.trim_matches([' ', '"', '\'']));
        value.is_some_and(|value| value.starts_with(group))
    };
    text.lines().any(is_field)
        || manifests::parse("", text).unsupported.iter().any(|read| read.object.starts_with(group))
}
