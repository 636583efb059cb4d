//! `cargo xtask bench dp|cp|cni|soak|offline`: measures netpol and its peers. The benchmark is a program of netpol-bench.

use anyhow::Result;

pub(crate) use crate::bench_options::Bench as Options;
use crate::{build, image, program, setup, shell, term};

/// Sets up, builds optimised programs, and executes the benchmark.
///
/// # Errors
/// The set-up or the build failed, there is no way to become root, or the benchmark could not be started.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(setup::Purpose::Running)?;
    if options.suite == "offline" {
        setup::for_pages()?;
    }
    term::heading("build");
    build::optimised_programs()?;
    let mut bench = program::as_root("release", "bench")?;
    if !options.quick && options.suite != "dp" && options.programs.is_none() {
        // Measures the static programs, which run on nodes.
        bench.arg("--programs").arg(image::static_programs()?);
    }
    if !options.quick && options.output.is_none() {
        bench.arg("--output").arg(shell::root().join("docs"));
    }
    program::become_it(&mut bench)
}
