//! Debian's archive, also that of another release or for another processor than this system's: finds and downloads packages.
//!
//! apt checks the signatures. Nothing is installed: the package lists are in a folder of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::system;
use crate::{privilege::Privilege, shell};

/// Debian's mirror for releases and processors that are not this system's.
const MIRROR: &str = "http://deb.debian.org/debian";

/// The keys that sign Debian's package lists.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A release and a processor, whose package lists apt uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Those of this system.
    ThisSystem,
    /// Of a release, for a processor by Debian's name: `bookworm`, `arm64`.
    Release(&'static str, &'static str),
}

/// apt with these package lists.
pub(crate) struct Apt {
    options: Vec<String>,
}

impl Apt {
    /// Whether this system has the keys of Debian's archive, without which nothing of it is trusted. Ubuntu has only its own.
    pub(crate) fn knows_debian() -> bool {
        Path::new(KEYRING).is_file()
    }

    /// Keeps the package lists below the folder `cache`.
    ///
    /// # Errors
    /// The folder cannot be written, or the keys of Debian are not on this system.
    pub(crate) fn new(source: Source, cache: &Path) -> Result<Self> {
        let Source::Release(release, processor) = source else {
            return Ok(Self { options: Vec::new() });
        };
        ensure!(Self::knows_debian(), "{KEYRING} is missing, so this is not Debian");
        let folder = cache.join(format!("apt-{release}-{processor}"));
        fs::create_dir_all(folder.join("lists/partial"))?;
        let sources = folder.join("sources.list");
        let options = format!("[signed-by={KEYRING} arch={processor}]");
        let text = format!(
            "deb {options} {MIRROR} {release} main\n\
             deb {options} {MIRROR}-security {release}-security main\n"
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
                format!("APT::Architecture={processor}"),
                format!("APT::Architectures={processor}"),
            ],
        })
    }

    /// The lines `PACKAGE - SUMMARY` of the packages whose names match a regular expression.
    ///
    /// # Errors
    /// `apt-cache` is missing or fails.
    pub(crate) fn search(&self, pattern: &str) -> Result<String> {
        let mut search = self.command("apt-cache");
        shell::stdout(search.args(["search", "--names-only", pattern]))
    }

    /// Updates the package lists.
    ///
    /// # Errors
    /// There is no way to become root, which the lists of this system need, or apt failed.
    pub(crate) fn update(&self) -> Result<()> {
        if self.options.is_empty() {
            return system::update_package_lists(Privilege::detect());
        }
        // One of the sources may be gone; the search says whether that matters.
        shell::step("updating package lists", self.command("apt-get").arg("update")).or(Ok(()))
    }

    /// Downloads a package into an empty folder; returns its file.
    ///
    /// # Errors
    /// The archive has no such package, or cannot be reached.
    pub(crate) fn download(&self, package: &str, folder: &Path) -> Result<PathBuf> {
        let name = package.replace('.', "[.]").replace('+', "[+]");
        if self.search(&format!("^{name}$"))?.is_empty() {
            self.update()?;
        }
        let download = || {
            let mut download = self.command("apt-get");
            download.args(["download", package]).current_dir(folder);
            shell::step(&format!("downloading {package}"), &mut download)
        };
        if download().is_err() {
            // The package lists are outdated.
            self.update()?;
            download()?;
        }
        only_entry(folder)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = shell::command(program);
        command.args(self.options.iter().flat_map(|option| ["-o", option]));
        command
    }
}

/// The only entry of a folder.
///
/// # Errors
/// The folder has none or several, or cannot be read.
pub(crate) fn only_entry(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let paths: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    match paths.as_slice() {
        [path] => Ok(path.clone()),
        _ => {
            anyhow::bail!("{} should hold one thing, and holds {}", folder.display(), paths.len())
        }
    }
}
