//! The virtual machine: QEMU without KVM, and its console output.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};

use super::kernel::Kernel;
use crate::{image::Platform, shell, term};

/// Time limit of all tests together; the machine is twenty times slower than its host.
const LIMIT_SECONDS: &str = "900";
/// Exit code of `timeout` on a timeout.
const TIMED_OUT: i32 = 124;
/// Prefix of the init script's reports.
const MARK: &str = "netpol-vm: ";

/// Parameters of every kernel.
const PARAMETERS: &str = "loglevel=3 panic=-1 mitigations=off apparmor=1 security=apparmor";

/// What QEMU emulates.
struct Hardware {
    program: &'static str,
    machine: &'static str,
    cpu: &'static str,
    /// The kernel's name of its serial port.
    console: &'static str,
}

impl Hardware {
    const fn of(platform: Platform) -> Self {
        match platform {
            Platform::Amd64 => {
                Self { program: "qemu-system-x86_64", machine: "q35", cpu: "max", console: "ttyS0" }
            }
            // The processor of a Raspberry Pi 5, which can have pages of 4 and of 16 KiB.
            Platform::Arm64 => Self {
                program: "qemu-system-aarch64",
                machine: "virt",
                cpu: "cortex-a76",
                console: "ttyAMA0",
            },
        }
    }
}

/// The outcome of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It passed.
    Passed,
    /// It was skipped.
    Skipped,
    /// It failed or did not end.
    Failed,
}

/// A line of the machine's report.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TestResult {
    /// `PROGRAM::NAME`.
    pub(super) test: String,
    /// The outcome.
    pub(super) outcome: Outcome,
    /// Duration, seconds.
    pub(super) seconds: String,
}

/// The machine's report.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Outcomes of the tests.
    pub(super) results: Vec<TestResult>,
    /// Lines of `netpol-ebpf/verified.txt`, if the test that measures them passed.
    pub(super) costs: Vec<String>,
}

impl TestResult {
    fn print(&self) {
        let Self { test, outcome, seconds } = self;
        match outcome {
            Outcome::Passed => term::good(&format!("{test} ({seconds} s)")),
            Outcome::Skipped => term::warning(&format!("{test} says that it cannot run there")),
            Outcome::Failed => term::failure(&format!("{test} ({seconds} s)")),
        }
    }
}

/// Boots the kernel with this file system, and returns its report. Prints each outcome as it arrives, and then
/// the output of failed tests.
///
/// # Errors
/// QEMU could not be started, or the machine did not end by itself and in time.
pub(super) fn run(platform: Platform, kernel: &Kernel, image: &Path) -> Result<Report> {
    let n_cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(4);
    let Hardware { program, machine, cpu, console } = Hardware::of(platform);
    let mut qemu = shell::command("timeout");
    qemu.args(["--kill-after=10", LIMIT_SECONDS, program])
        // KVM would be faster, but is missing in most virtual machines in which tests run.
        .args(["-accel", "tcg,thread=multi", "-machine", machine, "-cpu", cpu])
        .args(["-smp", &n_cpus.to_string(), "-m", "3072"])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .arg("-kernel")
        .arg(&kernel.vmlinuz)
        .arg("-initrd")
        .arg(image)
        .arg("-append")
        .arg(format!("console={console} {PARAMETERS}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    term::line(&format!("running the tests on {}", kernel.version));
    let mut machine = qemu.spawn().context("starting QEMU")?;
    let console = machine.stdout.take().context("QEMU has no console")?;
    let mut report = Report::default();
    let mut other = Vec::new();
    let mut has_ended = false;
    for line in BufReader::new(console).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        match line.split_once(MARK) {
            Some((_, "end")) => has_ended = true,
            Some((_, said)) => {
                if let Some(output) = said.strip_prefix("| ") {
                    term::line(output);
                } else if let Some(cost) = said.strip_prefix("cost ") {
                    report.costs.push(cost.to_owned());
                } else if let Some(result) = parse(said) {
                    result.print();
                    report.results.push(result);
                } else {
                    other.push(said.to_owned());
                }
            }
            None => other.push(line),
        }
    }
    let status = machine.wait().context("waiting for QEMU")?;
    if !has_ended {
        let why = if status.code() == Some(TIMED_OUT) { "was too slow" } else { "crashed" };
        let console = other.split_off(other.len().saturating_sub(60)).join("\n");
        bail!("the machine {why}; the end of its console:\n{console}");
    }
    Ok(report)
}

/// Reads `passed PROGRAM::NAME SECONDS`.
fn parse(line: &str) -> Option<TestResult> {
    let mut words = line.split(' ');
    let outcome = match words.next()? {
        "passed" => Outcome::Passed,
        "skipped" => Outcome::Skipped,
        "failed" => Outcome::Failed,
        _ => return None,
    };
    Some(TestResult { outcome, test: words.next()?.to_owned(), seconds: words.next()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_consoles_lines_are_read() {
        let result = TestResult {
            test: "datapath::a::b".to_owned(),
            outcome: Outcome::Failed,
            seconds: "12".to_owned(),
        };
        assert_eq!(parse("failed datapath::a::b 12"), Some(result));
        assert_eq!(parse("| failed to say"), None);
        assert_eq!(parse("end"), None);
    }
}
