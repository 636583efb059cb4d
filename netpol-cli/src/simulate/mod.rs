//! `simulate`: the verdicts of a cluster that exists only as objects.

mod args;
mod matrix;
mod output;
mod reachability;
mod rows;
mod selector;
mod table;

use netpol_policy::simulate::{CaseStreams, run_cases};
use netpol_terminal::{FAILED, Terminal, complain};

pub(crate) use args::SimulateArgs;
use reachability::Request;
use rows::Filter;

use crate::input::PodNetworkArgs;

/// Exit code: 2 if a file, or a line of the cases, cannot be read.
pub(super) fn run(args: SimulateArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let SimulateArgs {
        files,
        cluster,
        matrix: _,
        ports,
        addresses,
        namespaces,
        selector,
        pod_networks: PodNetworkArgs { pod_networks },
        output,
        fail_on,
        cases,
        engine,
    } = args;
    let Some(path) = cases else {
        let filter = Filter { namespaces, selector };
        let request = Request {
            files,
            cluster,
            pod_networks,
            filter,
            ports,
            addresses,
            engine,
            output,
            fail_on,
        };
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
    let n_unreadable = run_cases(streams, engine.open()())?;
    Ok(if n_unreadable > 0 { FAILED } else { 0 })
}
