//! `diff`: the connections that differ between two sets of objects.

use std::path::PathBuf;

use netpol_policy::model::Object;
use netpol_terminal::{FAILED, Terminal};

use crate::input;
use crate::simulate::{FailOn, MatrixArgs, compare, exit_code};

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  netpol diff old/ new/
  netpol diff old/ new/ -n shop -o json --fail-on opens";

/// Show which connections open and close between two sets of objects, on every port.
///
/// OLD and NEW are files or directories, each with all objects: pods or workloads, policies and namespaces. An object that NEW does
/// not contain is gone; `simulate --what-if` keeps it. Text lists the pods that open (+) and close (-), with the ports.
///
/// The exit code is 0, 1 if --fail-on is met, or 2 if the input cannot be read completely.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DiffArgs {
    /// File or directory with the objects before; `-` is the standard input.
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// File or directory with the objects after; `-` is the standard input.
    #[arg(value_name = "NEW")]
    new: PathBuf,
    #[command(flatten)]
    choice: MatrixArgs,
    /// Exit with 1 if the differences have this effect.
    #[arg(long, value_name = "EFFECT", value_enum)]
    fail_on: Option<FailOn>,
}

/// Exit codes: 1 if `--fail-on` is met, 2 if a file could not be read completely.
pub(super) fn run(args: DiffArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let DiffArgs { old, new, choice, fail_on } = args;
    let mut is_incomplete = false;
    let mut objects = |path: PathBuf, terminal: &mut Terminal<'_>| -> Vec<Object> {
        let read = input::read_files(&[path], terminal);
        input::report_findings(&read, terminal, |_| true);
        is_incomplete |= input::is_incomplete(&read);
        read.objects.into_iter().map(|read| read.object).collect()
    };
    let old = objects(old, terminal);
    let new = objects(new, terminal);
    let totals = compare(old, new, choice, terminal)?;
    Ok(if is_incomplete { FAILED } else { exit_code(fail_on, totals) })
}
