//! `simulate`: the verdicts of a cluster that exists only as objects.

mod args;
mod matrix;
mod reachability;

use netpol_policy::simulate::{CaseStreams, run_cases};
use netpol_terminal::{FAILED, Terminal, complain};

pub(crate) use args::SimulateArgs;
use reachability::Request;

/// Exit code: 2 if a file, or a line of the cases, cannot be read.
pub(super) fn run(args: SimulateArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let SimulateArgs { files, cluster, matrix: _, ports, addresses, output, cases, engine } = args;
    let Some(path) = cases else {
        let request = Request { files, cluster, ports, addresses, engine, output };
        return reachability::run(request, terminal);
    };
    let mut input = terminal.open(&path)?;
    let Terminal { program, stdout, stderr, .. } = terminal;
    let streams = CaseStreams {
        name: &path.display().to_string(),
        input: &mut *input,
        output: &mut *stdout,
        complain: &mut |problem| complain(program, &mut *stderr, problem),
    };
    let n_unreadable = run_cases(streams, engine.open())?;
    Ok(if n_unreadable > 0 { FAILED } else { 0 })
}
