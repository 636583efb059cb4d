//! `simulate`: a cluster that exists only in files.

mod cases;
mod reachability;

use super::args::{EngineChoice, SimulateArgs};
use super::terminal::Terminal;
use crate::simulate::Engine;
use reachability::Question;

pub(super) fn run(args: SimulateArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let SimulateArgs { files, cluster, matrix: _, ports, addresses, output, cases, engine } = args;
    let Some(path) = cases else {
        let has_objects = !files.before.is_empty() || cluster.is_asked();
        anyhow::ensure!(has_objects, "{}, or cases with --cases", super::NO_OBJECTS);
        let question = Question { files, cluster, ports, addresses, engine, output };
        return reachability::run(question, terminal);
    };
    anyhow::ensure!(!cluster.is_asked(), "--cases brings its own objects: leave out --cluster");
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
