//! `cargo xtask vm [KERNELS]`: runs the datapath tests on other kernels and for another processor, in a virtual machine.
//!
//! In: a kernel package, and test programs built by cargo. Out: each test's outcome. The machine is QEMU without KVM, and runs
//! from memory: copies of this system's programs, with the other kernel's modules.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::image::Platform;
use crate::setup::apt::Source;
use crate::{setup, shell, term, workspace::Workspace};

mod busybox;
mod initramfs;
mod kernel;
mod machine;
mod programs;

use kernel::{Kernel, Leg};
use machine::Outcome;
use programs::Programs;

/// Options of `vm`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The kernels: 5.10 is refused by the name of a feature that it lacks, 6.1 has clsact filters only, 6.12 has TCX links.
    /// Two of 6.12 are for 64-bit ARM.
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
    /// Debian 13's for 64-bit ARM, with pages of 4 KiB.
    #[value(name = "6.12-arm64")]
    V6_12Arm64,
    /// Debian 13's for 64-bit ARM, with pages of 16 KiB.
    #[value(name = "6.12-arm64-16k")]
    V6_12Arm64Large,
    /// Both for 64-bit ARM.
    Arm64,
    /// All for x86-64.
    Amd64,
    /// All of them.
    All,
}

/// All that this system's own packages are for, on which every test can run.
const V6_12: Leg = Leg {
    name: "6.12",
    platform: Platform::Amd64,
    source: Source::ThisSystem,
    series: "6.12",
    flavour: "cloud-amd64",
    only: "",
};
const V6_1: Leg = Leg { name: "6.1", series: "6.1", ..V6_12 };
const V5_10: Leg = Leg {
    name: "5.10",
    source: Source::Release("bullseye", "amd64"),
    series: "5.10",
    only: "datapath::kernels",
    ..V6_12
};
const ARM64: Leg = Leg {
    name: "6.12-arm64",
    platform: Platform::Arm64,
    source: Source::Release("bookworm", "arm64"),
    flavour: "arm64",
    ..V6_12
};
const ARM64_LARGE: Leg = Leg { name: "6.12-arm64-16k", flavour: "arm64-16k", ..ARM64 };

impl Kernels {
    const fn legs(self) -> &'static [Leg] {
        match self {
            Self::V5_10 => &[V5_10],
            Self::V6_1 => &[V6_1],
            Self::V6_12 => &[V6_12],
            Self::V6_12Arm64 => &[ARM64],
            Self::V6_12Arm64Large => &[ARM64_LARGE],
            Self::Arm64 => &[ARM64, ARM64_LARGE],
            Self::Amd64 => &[V5_10, V6_1, V6_12],
            Self::All => &[V5_10, V6_1, V6_12, ARM64, ARM64_LARGE],
        }
    }

    /// The processors of these kernels.
    fn platforms(self) -> Vec<Platform> {
        let mut platforms: Vec<_> = self.legs().iter().map(|leg| leg.platform).collect();
        platforms.dedup();
        platforms
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
    let platforms = kernels.platforms();
    setup::for_machines(&platforms)?;
    let cache = Workspace::read()?.target_directory.join("vm");
    let mut outcomes = Vec::new();
    for platform in platforms {
        term::heading(&format!("build for {}", platform.name()));
        let (programs, mut tests) = match platform {
            Platform::Arm64 => (programs::build_for(platform)?, programs::foreign()),
            Platform::Amd64 => {
                let wanted = if *all { programs::ALL.as_slice() } else { &programs::USUAL };
                let programs = programs::build(wanted)?;
                let tests = programs::tests(&programs)?;
                (programs, tests)
            }
        };
        tests.retain(|test| test.title().contains(only));
        for leg in kernels.legs().iter().filter(|leg| leg.platform == platform) {
            outcomes.extend(on_kernel(*leg, &cache, &programs, &tests, costs)?);
        }
    }
    if outcomes.is_empty() {
        bail!("no test has {only:?} in its name");
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

/// One test of a test program, or a program that is a test.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Test {
    /// Name of the program.
    program: String,
    /// The test's name within it; empty if the whole program is one.
    name: String,
}

impl Test {
    fn title(&self) -> String {
        let Self { program, name } = self;
        if name.is_empty() { program.clone() } else { format!("{program}::{name}") }
    }
}

fn on_kernel(
    leg: Leg,
    cache: &Path,
    programs: &Programs,
    tests: &[Test],
    costs: Costs,
) -> Result<Vec<Outcome>> {
    let name = leg.name;
    let tests: Vec<_> = tests.iter().filter(|test| test.title().contains(leg.only)).collect();
    if tests.is_empty() {
        return Ok(Vec::new());
    }
    term::heading(&format!("Linux {name}"));
    let kernel = Kernel::fetch(leg, cache)?;
    let busybox = match leg.platform {
        Platform::Amd64 => None,
        Platform::Arm64 => Some(busybox::arm64(cache)?),
    };
    let folder = cache.join(format!("{name}-root"));
    let image = cache.join(format!("{name}.cpio"));
    initramfs::build(&folder, &image, &kernel, (programs, busybox.as_deref()), &tests)
        .with_context(|| format!("making the file system of the machine with {name}"))?;
    let report = machine::run(leg.platform, &kernel, &image)?;
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
