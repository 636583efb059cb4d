//! `cargo xtask bench dp|cp|cni`: measurements beside the peers. The benchmark itself is a program of netpol-bench.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result, bail};

use crate::{build, image, privilege::Privilege, setup, shell, term, workspace::Workspace};

/// Options of `bench`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// What is measured: dp (packets), cp (the agent), cni (starting pods).
    suite: String,
    /// Small sizes: a test that the benchmark works; times mean nothing, nothing is written unless told where.
    #[arg(long)]
    quick: bool,
    /// How often each configuration is measured.
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Measure although the machine is busy.
    #[arg(long)]
    anyway: bool,
    /// Only this part of the suite (dp: verdicts, writes, memory, flood, bulk; cp: cold, worst, events, agent, load); prints
    /// everything, writes nothing.
    #[arg(long)]
    part: Option<String>,
    /// Where benchmarks.md and the folder benchmarks are written, instead of docs.
    #[arg(short, long, value_name = "DIR")]
    output: Option<String>,
}

/// Sets up, builds optimised programs, and becomes the benchmark.
///
/// # Errors
/// The set-up or the build failed, there is no way to become root, or the benchmark could not be started.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { suite, quick, rounds, anyway, part, output } = options;
    setup::run(&setup::Options::default())?;
    term::heading("build");
    build::optimised_programs()?;
    let program = Workspace::read()?.target_directory.join("release/bench");
    let program = program.to_str().context("the target folder's name is not UTF-8")?;
    let Some(mut bench) = Privilege::detect().command(program) else {
        bail!(
            "the benchmark makes network namespaces and loads eBPF programs: it needs root or sudo"
        );
    };
    bench.arg(suite);
    if *quick {
        bench.arg("--quick");
    } else if suite != "dp" {
        // What runs on nodes is what is measured.
        bench.arg("--programs").arg(image::static_programs()?);
    }
    if let Some(rounds) = rounds {
        bench.args(["--rounds", &rounds.to_string()]);
    }
    if *anyway {
        bench.arg("--anyway");
    }
    if let Some(part) = part {
        bench.args(["--part", part]);
    }
    match output {
        Some(folder) => {
            bench.args(["--output", folder]);
        }
        None if *quick => {}
        None => {
            bench.arg("--output").arg(shell::root().join("docs"));
        }
    }
    Err(bench.exec()).with_context(|| format!("starting {program}"))
}
