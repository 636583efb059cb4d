//! `simulate`: a cluster that exists only in files.

mod cases;

use super::args::{EngineChoice, SimulateArgs};
use super::terminal::Terminal;
use crate::simulate::Engine;

pub(super) fn run(args: SimulateArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let SimulateArgs { cases, engine } = args;
    let Some(path) = cases else { anyhow::bail!("nothing to simulate: give --cases") };
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
