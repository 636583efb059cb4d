//! Debian's kernel packages: finds, downloads, and unpacks them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{setup, shell};

/// The unpacked files: the kernel, and network modules.
const WANTED: [&str; 7] = [
    "./boot/vmlinuz-*",
    "./lib/modules/*/modules.*",
    "./lib/modules/*/kernel/net/*",
    "./lib/modules/*/kernel/lib/*",
    "./lib/modules/*/kernel/crypto/*",
    "./lib/modules/*/kernel/arch/x86/crypto/*",
    "./lib/modules/*/kernel/drivers/net/*",
];

/// Debian's mirror for releases that are not this system's.
const MIRROR: &str = "http://deb.debian.org/debian";

/// The keys that sign Debian's package lists.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A kernel to boot.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Its full version, as in `uname -r`.
    pub(super) version: String,
    /// The compressed kernel.
    pub(super) vmlinuz: PathBuf,
    /// The folder `lib/modules/VERSION`.
    pub(super) modules: PathBuf,
}

/// A series of Debian's kernels, and the release that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Series {
    /// As in `5.10`.
    pub(super) name: &'static str,
    /// The release whose package lists have it; `None` for those of this system.
    pub(super) release: Option<&'static str>,
    /// Only tests whose names contain this can pass there.
    pub(super) only: &'static str,
}

/// apt with the package lists of one release, in a folder of their own.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(release: Option<&str>, cache: &Path) -> Result<Self> {
        let Some(release) = release else { return Ok(Self { options: Vec::new() }) };
        let folder = cache.join(format!("apt-{release}"));
        fs::create_dir_all(folder.join("lists/partial"))?;
        let sources = folder.join("sources.list");
        let text = format!(
            "deb [signed-by={KEYRING}] {MIRROR} {release} main\n\
             deb [signed-by={KEYRING}] {MIRROR}-security {release}-security main\n"
        );
        fs::write(&sources, text)?;
        let path = |path: &Path| path.display().to_string();
        Ok(Self {
            options: vec![
                format!("Dir::Etc::sourcelist={}", path(&sources)),
                "Dir::Etc::sourceparts=-".to_owned(),
                format!("Dir::State::lists={}", path(&folder.join("lists"))),
                format!("Dir::Cache::pkgcache={}", path(&folder.join("pkgcache.bin"))),
                format!("Dir::Cache::srcpkgcache={}", path(&folder.join("srcpkgcache.bin"))),
            ],
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = shell::command(program);
        command.args(self.options.iter().flat_map(|option| ["-o", option]));
        command
    }

    fn update(&self) -> Result<()> {
        if self.options.is_empty() {
            return setup::update_package_lists();
        }
        // One of the sources may be gone; the search says whether that matters.
        shell::step("updating package lists", self.command("apt-get").arg("update")).or(Ok(()))
    }
}

impl Kernel {
    /// The newest kernel of a series in the package lists, or the one that was unpacked before.
    ///
    /// # Errors
    /// No package source has such a kernel, or it could not be downloaded or unpacked.
    pub(super) fn fetch(wanted: Series, cache: &Path) -> Result<Self> {
        let Series { name: series, release, only: _ } = wanted;
        let folder = cache.join(series);
        if let Ok(kernel) = Self::in_folder(&folder) {
            return Ok(kernel);
        }
        let apt = Apt::new(release, cache)?;
        let package = newest(series, &apt)?;
        // A partly unpacked kernel must not be used later.
        let unfinished = cache.join(format!("{series}.unfinished"));
        for stale in [&folder, &unfinished] {
            if stale.exists() {
                fs::remove_dir_all(stale)?;
            }
        }
        fs::create_dir_all(&unfinished)?;
        shell::step(
            &format!("downloading {package}"),
            apt.command("apt-get").args(["download", &package]).current_dir(&unfinished),
        )?;
        unpack(&unfinished).with_context(|| format!("unpacking {package}"))?;
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
fn newest(series: &str, apt: &Apt) -> Result<String> {
    let pattern = format!("^linux-image-{}[.].*-cloud-amd64$", series.replace('.', "[.]"));
    let search = || {
        shell::stdout(apt.command("apt-cache").args(["search", "--names-only", &pattern]))
            .map(|lines| latest(&lines))
    };
    if let Some(package) = search()? {
        return Ok(package);
    }
    apt.update()?;
    search()?.with_context(|| {
        format!(
            "no package source has a cloud kernel {series}: Debian 11 has 5.10, Debian 12 6.1, and 6.12 among its security updates"
        )
    })
}

/// The package with the highest version in lines of `apt-cache search`.
fn latest(lines: &str) -> Option<String> {
    let packages = lines.lines().filter_map(|line| line.split(' ').next());
    packages.max_by_key(|package| numbers(package)).map(str::to_owned)
}

/// The numbers in a name, in their order.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// Unpacks the wanted files of the package in a folder, and removes the package.
fn unpack(folder: &Path) -> Result<()> {
    let package = only_entry(folder)?;
    let mut archive = shell::command("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(&package)
        .stdout(Stdio::piped())
        .spawn()
        .context("starting dpkg-deb")?;
    let tar = archive.stdout.take().context("dpkg-deb has no output")?;
    let mut unpack = shell::command("tar");
    unpack.arg("--extract").arg("--directory").arg(folder).arg("--wildcards").args(WANTED);
    // tar fails if a pattern matches nothing, as for some kernels.
    unpack.stdin(tar).stderr(Stdio::null()).status().context("starting tar")?;
    // tar ends at the archive's end mark, before dpkg-deb may have ended.
    archive.wait().context("waiting for dpkg-deb")?;
    fs::remove_file(&package)?;
    Ok(())
}

/// The only entry of a folder.
fn only_entry(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let paths: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    match paths.as_slice() {
        [path] => Ok(path.clone()),
        _ => bail!("{} should hold one thing, and holds {}", folder.display(), paths.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let lines = "linux-image-6.1.0-9-cloud-amd64 - Linux 6.1\n\
                     linux-image-6.1.0-56-cloud-amd64 - Linux 6.1\n\
                     linux-image-6.1.0-49-cloud-amd64 - Linux 6.1\n";
        assert_eq!(latest(lines).unwrap(), "linux-image-6.1.0-56-cloud-amd64");
        assert_eq!(latest(""), None);
    }
}
