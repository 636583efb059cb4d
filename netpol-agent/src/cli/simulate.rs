//! `simulate`: verdicts on the connections of many cases, by one of three engines.

use netpol_datapath::simulation;
use netpol_policy::simulate::{CaseStreams, Cluster, Engine, run_cases};
use netpol_terminal::{FAILED, Terminal, complain};

use super::args::{EngineChoice, SimulateArgs};

pub(super) fn run(args: SimulateArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let SimulateArgs { cases, engine, own_node_egress } = args;
    let mut input = terminal.open(&cases)?;
    let Terminal { program, stdout, stderr, .. } = terminal;
    let streams = CaseStreams {
        name: &cases.display().to_string(),
        input: &mut *input,
        output: &mut *stdout,
        complain: &mut |problem| complain(program, &mut *stderr, problem),
    };
    let engine = match engine {
        EngineChoice::Reference => Engine::Reference,
        EngineChoice::Compiled => Engine::compiled(),
        EngineChoice::Kernel => simulation::engine()?,
    };
    let n_unreadable =
        run_cases(streams, Cluster::new(engine).with_own_node_egress(own_node_egress))?;
    Ok(if n_unreadable > 0 { FAILED } else { 0 })
}
