//! The system's packages: which are needed and why, which are missing, and their installation by apt.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{privilege::Privilege, shell};

/// A package that the system must provide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    /// Name of the Debian and Ubuntu package.
    pub(super) package: &'static str,
    /// How to detect it without dpkg.
    pub(super) shows_as: Shows,
    /// Its purpose.
    pub(super) purpose: &'static str,
}

/// How to detect a need on any Linux.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shows {
    /// By a program of this name.
    Program(&'static str),
    /// By a plugin of this name in one of the usual CNI folders.
    CniPlugin(&'static str),
    /// Not at all: a failing build shows it.
    Nothing,
}

/// Needed to run pods on this machine: for the demo, benchmarks, and tests.
pub(super) const NETWORK: [Need; 8] = [
    need("iproute2", Shows::Program("ip"), "network namespaces, veths and bridges"),
    need("iptables", Shows::Program("iptables"), "Service rules as kube-proxy writes them"),
    need("nftables", Shows::Program("nft"), "Service rules as kube-proxy writes them"),
    need("conntrack", Shows::Program("conntrack"), "looking at the kernel's own connections"),
    need("ipset", Shows::Program("ipset"), "peers of the benchmarks that match by sets"),
    need("iperf3", Shows::Program("iperf3"), "bulk traffic of the benchmarks"),
    need("iputils-ping", Shows::Program("ping"), "ICMP probes"),
    need(
        "containernetworking-plugins",
        Shows::CniPlugin("bridge"),
        "the CNI plugins that netpol-cni is chained after",
    ),
];

/// Needed by tests only.
pub(super) const TESTS: [Need; 4] = [
    need("strace", Shows::Program("strace"), "killing the agent in the middle of what it does"),
    need("prometheus", Shows::Program("promtool"), "checking alerts and metrics"),
    need("bubblewrap", Shows::Program("bwrap"), "running the image as a container"),
    need("python3-jsonschema", Shows::Nothing, "validating the bill of materials of a release"),
];

/// Needed by the tests of the page of `kubectl netpol ui`, and for its picture. Ubuntu has no such packages.
pub(super) const BROWSER: [Need; 2] = [
    need("chromium", Shows::Program("chromium"), "showing the page of `kubectl netpol ui`"),
    need("chromium-driver", Shows::Program("chromedriver"), "clicking and typing there"),
];

/// Needed to run the image as on a node. Where Docker has brought its own containerd, Debian's would replace it.
pub(super) const CONTAINERD: [Need; 2] = [
    need("containerd", Shows::Program("containerd"), "running the image as on a node"),
    need("runc", Shows::Program("runc"), "running the image as on a node"),
];

/// Needed once, to build bpf-linker.
pub(super) const LLVM: [Need; 6] = [
    need(
        "llvm-22-dev",
        Shows::Program("llvm-config"),
        "LLVM 22 with headers, which bpf-linker is built on",
    ),
    need("libpolly-22-dev", Shows::Nothing, "a part of LLVM 22"),
    need("g++", Shows::Program("g++"), "the C++ library that LLVM is linked with"),
    need("zlib1g-dev", Shows::Nothing, "zlib with headers, linked by LLVM"),
    need("libzstd-dev", Shows::Nothing, "zstd with headers, linked by LLVM"),
    need("libxml2-dev", Shows::Nothing, "libxml2 with headers, linked by LLVM"),
];

/// Needed to fuzz.
pub(super) const FUZZING: [Need; 1] =
    [need("g++", Shows::Program("g++"), "libFuzzer, which is compiled with each target")];

/// Needed to run other kernels in virtual machines.
pub(super) const MACHINES: [Need; 6] = [
    need("qemu-system-x86", Shows::Program("qemu-system-x86_64"), "the machines"),
    need("apparmor", Shows::Program("apparmor_parser"), "profiles of containers"),
    need("busybox-static", Shows::Program("busybox"), "their small tools"),
    need("python3-minimal", Shows::Program("python3"), "tests that send made-up frames"),
    need("xz-utils", Shows::Program("xz"), "unpacking kernel modules"),
    need("binutils", Shows::Program("strip"), "test programs that fit into their memory"),
];

/// Needed to run kernels for 64-bit ARM.
pub(super) const MACHINES_FOR_ARM64: [Need; 1] =
    [need("qemu-system-arm", Shows::Program("qemu-system-aarch64"), "the machines")];

pub(super) const fn need(package: &'static str, shows_as: Shows, purpose: &'static str) -> Need {
    Need { package, shows_as, purpose }
}

/// The kind of system.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Distribution {
    /// Debian, Ubuntu or a derivative, with apt.
    Debian,
    /// Anything else, by its name.
    Other(String),
}

impl Distribution {
    /// Reads `/etc/os-release`.
    ///
    /// # Errors
    /// The file can't be read.
    pub(super) fn detect() -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
        Ok(Self::of(&release))
    }

    fn of(os_release: &str) -> Self {
        let value = |key: &str| {
            let line =
                os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.map(|value| value.trim_matches('"')).unwrap_or_default()
        };
        let like = value("ID_LIKE").split_whitespace().chain([value("ID")]);
        if like.into_iter().any(|id| matches!(id, "debian" | "ubuntu")) {
            Self::Debian
        } else {
            Self::Other(value("PRETTY_NAME").to_owned())
        }
    }
}

/// Installs the packages that are not installed according to dpkg.
///
/// # Errors
/// No way to become root, a package that this release does not have, or apt failed.
pub(super) fn install(needs: &[Need], privilege: Privilege) -> Result<()> {
    let packages: Vec<_> = needs.iter().map(|need| need.package).collect();
    let missing = not_installed(&packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    if without_candidate(&missing)?.is_empty()
        && apt("installing", "install", &missing, privilege).is_ok()
    {
        return Ok(());
    }
    // The package lists are missing or outdated.
    update_package_lists(privilege)?;
    let unknown = without_candidate(&missing)?;
    if !unknown.is_empty() {
        bail!(
            "this release has no package {}: packages of LLVM 22 for older releases are at https://apt.llvm.org",
            unknown.join(", ")
        );
    }
    apt("installing", "install", &missing, privilege)
}

/// Updates the package lists.
///
/// # Errors
/// No way to become root, or apt failed.
pub(super) fn update_package_lists(privilege: Privilege) -> Result<()> {
    apt("updating the package lists", "update", &[], privilege)
}

/// The missing needs on a system without apt, one line each, with their purposes.
pub(super) fn missing_elsewhere(needs: &[Need]) -> Vec<String> {
    let shows = |need: &Need| match need.shows_as {
        Shows::Program(name) => shell::find_program(name).is_some(),
        Shows::CniPlugin(name) => ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"]
            .iter()
            .any(|folder| Path::new(folder).join(name).is_file()),
        Shows::Nothing => false,
    };
    let missing = needs.iter().filter(|need| !shows(need));
    missing.map(|need| format!("{} (its name in Debian): {}", need.package, need.purpose)).collect()
}

fn not_installed<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    // Exits with 1 for an unknown name, but lists the others.
    let known = shell::command("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context("starting dpkg-query")?;
    let known = String::from_utf8_lossy(&known.stdout).into_owned();
    Ok(packages.iter().copied().filter(|package| !is_installed(package, &known)).collect())
}

fn is_installed(package: &str, dpkg_lines: &str) -> bool {
    dpkg_lines.lines().any(|line| line.split_once(' ') == Some((package, "installed")))
}

/// The packages without an installable version.
fn without_candidate<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let policy = shell::stdout(shell::command("apt-cache").arg("policy").args(packages))?;
    Ok(packages.iter().copied().filter(|package| !has_candidate(package, &policy)).collect())
}

fn has_candidate(package: &str, policy: &str) -> bool {
    let mut lines =
        policy.lines().skip_while(|line| line.strip_suffix(':') != Some(package)).skip(1);
    let candidate = lines
        .by_ref()
        .take_while(|line| line.starts_with(' '))
        .find_map(|line| line.trim().strip_prefix("Candidate: "));
    candidate.is_some_and(|version| version != "(none)")
}

fn apt(label: &str, verb: &str, packages: &[&str], privilege: Privilege) -> Result<()> {
    let by_hand = format!("apt-get {verb} {}", packages.join(" "));
    let Some(mut command) = privilege.command("env") else {
        bail!("installing packages needs root: run `{}` as root, then this again", by_hand.trim());
    };
    command.args([
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-o",
        "DPkg::Lock::Timeout=600",
        verb,
    ]);
    if !packages.is_empty() {
        command.args(["--yes", "--no-install-recommends"]).args(packages);
    }
    let label = format!("{label} {}", packages.join(", "));
    shell::step(label.trim(), &mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_its_children_are_recognised() {
        let release = "PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\n";
        assert_eq!(Distribution::of(release), Distribution::Debian);
        let release = "NAME=Mint\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n";
        assert_eq!(Distribution::of(release), Distribution::Debian);
    }

    #[test]
    fn other_systems_are_named() {
        let release = "ID=fedora\nPRETTY_NAME=\"Fedora Linux 44\"\n";
        assert_eq!(Distribution::of(release), Distribution::Other("Fedora Linux 44".to_owned()));
    }

    #[test]
    fn a_removed_package_is_not_installed() {
        let lines = "conntrack config-files\nnftables installed\n";
        assert!(is_installed("nftables", lines));
        assert!(!is_installed("conntrack", lines));
        assert!(!is_installed("iptables", lines));
    }

    #[test]
    fn a_package_without_a_version_to_install_is_seen() {
        let policy = "a:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\nb:\n  Installed: (none)\n  Candidate: 1.2-3\n";
        assert!(!has_candidate("a", policy));
        assert!(has_candidate("b", policy));
        assert!(!has_candidate("c", policy));
    }

    #[test]
    fn on_other_systems_each_missing_need_says_its_purpose() {
        let lines = missing_elsewhere(&[need(
            "no-such-package",
            Shows::Program("no-such-program"),
            "nothing",
        )]);
        assert_eq!(lines, ["no-such-package (its name in Debian): nothing"]);
    }
}
