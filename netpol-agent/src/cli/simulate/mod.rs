//! `simulate`: a cluster that exists only in files.

mod cases;
mod reachability;

use super::args::{EngineChoice, SimulateArgs};
use super::terminal::Terminal;
use crate::simulate::Engine;
use reachability::Question;

pub(super) fn run(args: SimulateArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let SimulateArgs { files, matrix: _, ports, addresses, output, cases, engine } = args;
    let Some(path) = cases else {
        anyhow::ensure!(!files.before.is_empty(), "give objects with -f, or cases with --cases");
        let question = Question { files, ports, addresses, engine, output };
        return reachability::run(question, terminal);
    };
    cases::run(&path, engine, terminal)
}

#[cfg_attr(
    not(feature = "ebpf"),
    expect(clippy::unnecessary_wraps, reason = "loading the programs can fail")
)]
fn start(choice: EngineChoice) -> anyhow::Result<Engine> {
    match choice {
        EngineChoice::Reference => Ok(Engine::Reference),
        EngineChoice::Compiled => Ok(Engine::compiled()),
        #[cfg(feature = "ebpf")]
        EngineChoice::Kernel => Ok(crate::cli::kernel::engine()?),
    }
}
