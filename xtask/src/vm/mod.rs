//! `cargo xtask vm [6.1|6.12|all]`: runs the datapath tests on Debian's kernels, in a virtual machine.
//!
//! In: a kernel package, and test programs built by cargo. Out: each test's outcome. The machine is QEMU without KVM, and runs
//! from memory: copies of this system's programs with the other kernel's modules.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::{build, setup, term, workspace::Workspace};

mod initramfs;
mod kernel;
mod machine;
mod programs;

use kernel::Kernel;
use machine::Outcome;

/// Options of `vm`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The kernels: 6.1 has clsact filters only, 6.12 has TCX links.
    #[arg(value_enum, default_value_t = Kernels::All)]
    kernels: Kernels,
    /// Only tests whose names contain this, with their program's name in front: `datapath::handmade`.
    #[arg(long, default_value = "")]
    only: String,
    /// Also the tests with traffic of pods: namespaces, Services, and the CNI plugin. Without KVM they take several times as long,
    /// and some exceed their own deadlines.
    #[arg(long)]
    all: bool,
}

/// A choice of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kernels {
    /// Debian 12's.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's.
    #[value(name = "6.12")]
    V6_12,
    /// Both.
    All,
}

impl Kernels {
    const fn series(self) -> &'static [&'static str] {
        match self {
            Self::V6_1 => &["6.1"],
            Self::V6_12 => &["6.12"],
            Self::All => &["6.1", "6.12"],
        }
    }
}

/// Sets up, builds, and runs the tests on each kernel. The last line has the numbers of passed and failed tests.
///
/// # Errors
/// The set-up or the build failed, a kernel is unavailable or crashed, or a test failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { kernels, only, all } = options;
    if std::env::consts::ARCH != "x86_64" {
        bail!("kernels and test programs are for x86-64, and this machine is not");
    }
    setup::run(&setup::Options::default())?;
    setup::for_machines()?;
    term::heading("build");
    build::programs()?;
    let programs = programs::build(if *all { programs::ALL.as_slice() } else { &programs::USUAL })?;
    let tests = programs::tests(&programs, only)?;
    if tests.is_empty() {
        bail!("no test has {only:?} in its name");
    }
    let cache = Workspace::read()?.target_directory.join("vm");
    let mut outcomes = Vec::new();
    for series in kernels.series() {
        outcomes.extend(on_kernel(series, &cache, &programs, &tests)?);
    }
    let n = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
    let n_failed = n(Outcome::Failed);
    term::line(&format!(
        "{} passed, {n_failed} failed, {} skipped",
        n(Outcome::Passed),
        n(Outcome::Skipped)
    ));
    if n_failed > 0 {
        bail!("not all tests passed");
    }
    Ok(())
}

/// One test of a test program.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Test {
    /// Name of the program.
    program: String,
    /// The test's name within it.
    name: String,
}

fn on_kernel(
    series: &str,
    cache: &Path,
    programs: &programs::Programs,
    tests: &[Test],
) -> Result<Vec<Outcome>> {
    term::heading(&format!("Linux {series}"));
    let kernel = Kernel::fetch(series, cache)?;
    let folder = cache.join(format!("{series}-root"));
    let image = cache.join(format!("{series}.cpio"));
    initramfs::build(&folder, &image, &kernel, programs, tests)
        .with_context(|| format!("making the file system of the machine with {series}"))?;
    let results = machine::run(&kernel, &image)?;
    let mut outcomes = Vec::new();
    for test in tests {
        let title = format!("{}::{}", test.program, test.name);
        let found = results.iter().find(|result| result.test == title);
        if found.is_none() {
            term::failure(&format!("{title}: the machine ended before it"));
        }
        outcomes.push(found.map_or(Outcome::Failed, |result| result.outcome));
    }
    Ok(outcomes)
}
