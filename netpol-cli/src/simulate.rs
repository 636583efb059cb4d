//! `simulate`: a cluster that exists only in files.

use netpol_policy::simulate::{CaseStreams, Engine, answer_cases};
use netpol_terminal::{FAILED, Terminal, complain};

use crate::args::{EngineChoice, SimulateArgs};
use crate::input;
use crate::reachability::{self, Question};

pub(super) fn run(args: SimulateArgs, terminal: &mut Terminal<'_>) -> anyhow::Result<u8> {
    let SimulateArgs { files, cluster, matrix: _, ports, addresses, output, cases, engine } = args;
    let Some(path) = cases else {
        let has_objects = !files.before.is_empty() || cluster.is_asked();
        anyhow::ensure!(has_objects, "{}, or cases with --cases", input::NO_OBJECTS);
        let question = Question { files, cluster, ports, addresses, engine, output };
        return reachability::run(question, terminal);
    };
    anyhow::ensure!(!cluster.is_asked(), "--cases brings its own objects: leave out --cluster");
    let mut input = terminal.open(&path)?;
    let Terminal { program, stdout, stderr, .. } = terminal;
    let streams = CaseStreams {
        name: &path.display().to_string(),
        input: &mut *input,
        output: &mut *stdout,
        complain: &mut |problem| complain(program, &mut *stderr, problem),
    };
    let n_unreadable = answer_cases(streams, start(engine))?;
    Ok(if n_unreadable > 0 { FAILED } else { 0 })
}

pub(super) fn start(choice: EngineChoice) -> Engine {
    match choice {
        EngineChoice::Reference => Engine::Reference,
        EngineChoice::Compiled => Engine::compiled(),
    }
}
