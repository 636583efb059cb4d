//! `simulate`: the verdicts of a cluster that exists only as objects.

mod args;
mod array;
mod changes;
mod changes_output;
mod graph;
mod html;
mod html_output;
mod matrix;
mod output;
mod pairs;
mod reachability;
mod rows;
mod selector;
mod table;

use netpol_policy::simulate::{CaseStreams, Cluster, run_cases};
use netpol_terminal::{FAILED, Terminal, complain};

pub(crate) use args::{FailOn, MatrixArgs, SimulateArgs};
pub(crate) use changes::ChangedPorts;
pub(crate) use changes_output::ports_in_words;
pub(crate) use pairs::{OfPair, PairVerdict, PortVerdict};
pub(crate) use reachability::{Matrix, Others, compare, exit_code};
pub(crate) use rows::Row;
pub(crate) use table::{Change, verdict};

/// Exit code: 2 if a file, or a line of the cases, cannot be read.
pub(super) fn run(args: SimulateArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let Some(path) = &args.cases else { return reachability::run(args, terminal) };
    let mut input = terminal.open(path)?;
    let Terminal { program, stdout, stderr, .. } = terminal;
    let streams = CaseStreams {
        name: &path.display().to_string(),
        input: &mut *input,
        output: &mut *stdout,
        complain: &mut |problem| complain(program, &mut *stderr, problem),
    };
    let engine = args.choice.engine.open()();
    let cluster =
        Cluster::new(engine).with_own_node_egress(args.choice.pod_networks.own_node_egress);
    let n_unreadable = run_cases(streams, cluster)?;
    Ok(if n_unreadable > 0 { FAILED } else { 0 })
}
