//! Kernels to boot: finds, downloads, and unpacks Debian's packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};

use crate::image::Platform;
use crate::setup::apt::{Apt, Source, only_entry};
use crate::shell;

/// The unpacked files: the kernel, and network modules.
const WANTED: [&str; 8] = [
    "./boot/vmlinuz-*",
    "./lib/modules/*/modules.*",
    "./lib/modules/*/kernel/net/*",
    "./lib/modules/*/kernel/lib/*",
    "./lib/modules/*/kernel/crypto/*",
    "./lib/modules/*/kernel/arch/arm64/crypto/*",
    "./lib/modules/*/kernel/arch/x86/crypto/*",
    "./lib/modules/*/kernel/drivers/net/*",
];

/// Drivers of devices that no machine here has, which would fill its memory.
const UNWANTED: [&str; 4] = ["ethernet", "phy", "usb", "wireless"];

/// A kernel to boot.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Its full version, as in `uname -r`.
    pub(super) version: String,
    /// The kernel as the machine loads it.
    pub(super) vmlinuz: PathBuf,
    /// The folder `lib/modules/VERSION`.
    pub(super) modules: PathBuf,
}

/// A kernel, and which tests run on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leg {
    /// Its name in this command.
    pub(super) name: &'static str,
    /// The processor.
    pub(super) platform: Platform,
    /// Whose packages have the kernel.
    pub(super) source: Source,
    /// The series, as in `6.12`; the newest package of it is taken.
    pub(super) series: &'static str,
    /// The end of the package's name, as in `cloud-amd64`.
    pub(super) flavour: &'static str,
    /// Only tests whose names contain this can pass there.
    pub(super) only: &'static str,
}

impl Kernel {
    /// The newest kernel in the package lists, or the one that was unpacked before.
    ///
    /// # Errors
    /// No package source has such a kernel, or it could not be downloaded or unpacked.
    pub(super) fn fetch(leg: Leg, cache: &Path) -> Result<Self> {
        let folder = cache.join(leg.name);
        if let Ok(kernel) = Self::in_folder(&folder) {
            return Ok(kernel);
        }
        let apt = Apt::new(leg.source, cache)?;
        let package = newest(leg.series, leg.flavour, &apt)?;
        // A partly unpacked kernel must not be used later.
        let unfinished = cache.join(format!("{}.unfinished", leg.name));
        for stale in [&folder, &unfinished] {
            if stale.exists() {
                fs::remove_dir_all(stale)?;
            }
        }
        fs::create_dir_all(&unfinished)?;
        let file = apt.download(&package, &unfinished)?;
        unpack(&file, &unfinished).with_context(|| format!("unpacking {package}"))?;
        fs::rename(&unfinished, &folder)?;
        Self::in_folder(&folder)
    }

    fn in_folder(folder: &Path) -> Result<Self> {
        let modules = only_entry(&folder.join("lib/modules"))?;
        let version = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let vmlinuz = folder.join(format!("boot/vmlinuz-{version}"));
        if !vmlinuz.is_file() {
            bail!("{} does not exist", vmlinuz.display());
        }
        Ok(Self { version, vmlinuz, modules })
    }
}

/// The package of the newest kernel of a series.
fn newest(series: &str, flavour: &str, apt: &Apt) -> Result<String> {
    let pattern = format!("^linux-image-{}[.].*-{flavour}$", series.replace('.', "[.]"));
    let search = || apt.search(&pattern).map(|lines| latest(&lines, flavour));
    if let Some(package) = search()? {
        return Ok(package);
    }
    apt.update()?;
    search()?.with_context(|| {
        format!(
            "no package source has a kernel {series} for {flavour}: Debian 11 has 5.10, Debian 12 6.1, and 6.12 among its security updates"
        )
    })
}

/// The package with the highest version in lines of `apt-cache search`, of those whose name has nothing between version and flavour.
fn latest(lines: &str, flavour: &str) -> Option<String> {
    let packages = lines.lines().filter_map(|line| line.split(' ').next());
    let is_plain = |package: &&str| {
        let version = package.strip_suffix(flavour).map(|start| start.trim_end_matches('-'));
        let last = version.and_then(|version| version.rsplit('-').next());
        last.is_some_and(|last| last.starts_with(|c: char| c.is_ascii_digit()))
    };
    packages.filter(is_plain).max_by_key(|package| numbers(package)).map(str::to_owned)
}

/// The numbers in a name, in their order.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// Unpacks the wanted files of a package into a folder, and removes the package.
fn unpack(package: &Path, folder: &Path) -> Result<()> {
    let mut archive = shell::command("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("starting dpkg-deb")?;
    let tar = archive.stdout.take().context("dpkg-deb has no output")?;
    let mut unpack = shell::command("tar");
    unpack.args(UNWANTED.map(|name| format!("--exclude=*/kernel/drivers/net/{name}")));
    unpack.arg("--extract").arg("--directory").arg(folder).arg("--wildcards").args(WANTED);
    // tar fails if a pattern matches nothing, as for some kernels.
    unpack.stdin(tar).stderr(Stdio::null()).status().context("starting tar")?;
    // tar ends at the archive's end mark, before dpkg-deb may have ended.
    archive.wait().context("waiting for dpkg-deb")?;
    fs::remove_file(package)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let lines = "linux-image-6.1.0-9-cloud-amd64 - Linux 6.1\n\
                     linux-image-6.1.0-56-cloud-amd64 - Linux 6.1\n\
                     linux-image-6.1.0-49-cloud-amd64 - Linux 6.1\n";
        assert_eq!(latest(lines, "cloud-amd64").unwrap(), "linux-image-6.1.0-56-cloud-amd64");
        assert_eq!(latest("", "cloud-amd64"), None);
    }

    #[test]
    fn kernels_of_another_kind_are_passed_over() {
        let lines = "linux-image-6.12.9+deb12-arm64 - Linux 6.12\n\
                     linux-image-6.12.10+deb12-cloud-arm64 - Linux 6.12\n\
                     linux-image-6.12.11+deb12-rt-arm64 - Linux 6.12\n";
        assert_eq!(latest(lines, "arm64").unwrap(), "linux-image-6.12.9+deb12-arm64");
    }
}
