//! `cargo xtask vm [5.10|6.1|6.12|all]`: runs the datapath tests on Debian's kernels, in a virtual machine.
//!
//! In: a kernel package, and test programs built by cargo. Out: each test's outcome. The machine is QEMU without KVM, and runs
//! from memory: copies of this system's programs with the other kernel's modules.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{build, setup, shell, term, workspace::Workspace};

mod initramfs;
mod kernel;
mod machine;
mod programs;

use kernel::{Kernel, Series};
use machine::Outcome;

/// Options of `vm`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The kernels: 5.10 is refused by the name of a feature that it lacks, 6.1 has clsact filters only, 6.12 has TCX links.
    #[arg(value_enum, default_value_t = Kernels::All)]
    kernels: Kernels,
    /// Only tests whose names contain this, with their program's name in front: `datapath::handmade`.
    #[arg(long, default_value = "")]
    only: String,
    /// Also the tests with traffic of pods: namespaces, Services, and the CNI plugin. Without KVM they take several times as long,
    /// and some exceed their own deadlines.
    #[arg(long)]
    all: bool,
    /// Write what the programs cost on these kernels to `netpol-ebpf/verified.txt`.
    #[arg(long)]
    update: bool,
}

/// What happens to the costs of the programs.
#[derive(Clone, Copy, Debug)]
enum Costs {
    /// The tests compare them with the committed table.
    Compare,
    /// They are written to the table.
    Write,
}

/// The table with the lines of one kernel series replaced or added.
fn with_costs(table: &str, costs: &[String]) -> String {
    let series = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let measured: BTreeSet<String> = costs.iter().map(|line| series(line)).collect();
    let (header, lines): (Vec<&str>, Vec<&str>) =
        table.lines().partition(|line| line.starts_with('#'));
    let kept = lines.into_iter().filter(|line| !measured.contains(&series(line)));
    let mut lines: Vec<&str> = kept.chain(costs.iter().map(String::as_str)).collect();
    lines.sort_unstable();
    let all: Vec<&str> = header.into_iter().chain(lines).collect();
    all.join("\n") + "\n"
}

/// A choice of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kernels {
    /// Debian 11's.
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12's.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's.
    #[value(name = "6.12")]
    V6_12,
    /// All of them.
    All,
}

const V5_10: Series = Series { name: "5.10", release: Some("bullseye"), only: "datapath::kernels" };
const V6_1: Series = Series { name: "6.1", release: None, only: "" };
const V6_12: Series = Series { name: "6.12", release: None, only: "" };

impl Kernels {
    const fn series(self) -> &'static [Series] {
        match self {
            Self::V5_10 => &[V5_10],
            Self::V6_1 => &[V6_1],
            Self::V6_12 => &[V6_12],
            Self::All => &[V5_10, V6_1, V6_12],
        }
    }
}

/// Sets up, builds, and runs the tests on each kernel. The last line has the numbers of passed and failed tests.
///
/// # Errors
/// The set-up or the build failed, a kernel is unavailable or crashed, or a test failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { kernels, only, all, update } = options;
    let costs = if *update { Costs::Write } else { Costs::Compare };
    if std::env::consts::ARCH != "x86_64" {
        bail!("kernels and test programs are for x86-64, and this machine is not");
    }
    setup::ensure(setup::Purpose::Testing)?;
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
        outcomes.extend(on_kernel(*series, &cache, &programs, &tests, costs)?);
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

impl Test {
    fn title(&self) -> String {
        let Self { program, name } = self;
        format!("{program}::{name}")
    }
}

fn on_kernel(
    series: Series,
    cache: &Path,
    programs: &programs::Programs,
    tests: &[Test],
    costs: Costs,
) -> Result<Vec<Outcome>> {
    let name = series.name;
    term::heading(&format!("Linux {name}"));
    let kernel = Kernel::fetch(series, cache)?;
    let tests: Vec<_> = tests.iter().filter(|test| test.title().contains(series.only)).collect();
    let folder = cache.join(format!("{name}-root"));
    let image = cache.join(format!("{name}.cpio"));
    initramfs::build(&folder, &image, &kernel, programs, &tests)
        .with_context(|| format!("making the file system of the machine with {name}"))?;
    let report = machine::run(&kernel, &image)?;
    if matches!(costs, Costs::Write) && !report.costs.is_empty() {
        let file = shell::root().join("netpol-ebpf/verified.txt");
        let text = fs::read_to_string(&file)?;
        fs::write(&file, with_costs(&text, &report.costs))?;
    }
    let mut outcomes = Vec::new();
    for test in tests {
        let title = test.title();
        let found = report.results.iter().find(|result| result.test == title);
        if found.is_none() {
            term::failure(&format!("{title}: the machine ended before it"));
        }
        outcomes.push(found.map_or(Outcome::Failed, |result| result.outcome));
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_costs_of_one_series_are_replaced_and_the_others_stay() {
        let table = "# head\n6.1    a 1\n6.18   a 2\n";
        let new = ["6.1    a 3".to_owned(), "6.1    b 4".to_owned()];
        assert_eq!(with_costs(table, &new), "# head\n6.1    a 3\n6.1    b 4\n6.18   a 2\n");
        let first = ["5.10   a 5".to_owned()];
        assert_eq!(with_costs(table, &first), "# head\n5.10   a 5\n6.1    a 1\n6.18   a 2\n");
    }
}
