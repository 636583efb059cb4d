//! cargo for static programs of a processor.
//!
//! In: a processor. Out: commands that build for it, and where they put programs. Where the target is not installed they build `std`
//! too, with a target folder of their own, because the permission for that (`RUSTC_BOOTSTRAP`) changes how build scripts decide.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::platform::Platform;
use crate::setup::{self, Musl, Package};
use crate::{shell, workspace::Workspace};

/// The separator in `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: &str = "\u{1f}";

/// Tools that are installed.
#[derive(Debug)]
pub(crate) struct Tools {
    platform: Platform,
    /// What a target from rustup would bring, unless it is installed.
    musl: Option<Musl>,
    target_folder: PathBuf,
}

impl Tools {
    /// Installs what is missing.
    ///
    /// # Errors
    /// Something could not be installed.
    pub(crate) fn ensure(platform: Platform) -> Result<Self> {
        let musl = setup::static_programs(&platform.target(), platform.c_compiler())?;
        let target_folder = Workspace::read()?.target_directory;
        Ok(Self { platform, musl, target_folder })
    }

    /// cargo with these arguments, for the processor and with these flags for rustc.
    pub(crate) fn cargo(&self, args: &[&str], mut flags: Vec<String>) -> Command {
        let target = self.platform.target();
        let mut cargo = shell::cargo(args);
        cargo.args(["--target", &target]).envs(self.platform.environment());
        if let Some(musl) = &self.musl {
            cargo.args(["-Zbuild-std=std", "--target-dir"]).arg(self.folder());
            cargo.env("RUSTC_BOOTSTRAP", "1");
            let variable = format!("CFLAGS_{}", target.replace('-', "_"));
            cargo.env(variable, format!("-specs={}", musl.specs().display()));
            // rustc looks there for what programs begin and end with, too.
            flags.push(format!("-Lnative={}", musl.libraries().display()));
        }
        if !flags.is_empty() {
            cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join(SEPARATOR));
        }
        cargo
    }

    /// The folder of programs that were built with a profile, by cargo's name of its folder.
    pub(crate) fn programs(&self, profile: &str) -> PathBuf {
        self.folder().join(self.platform.target()).join(profile)
    }

    /// The package of musl in the programs, if it is not rustup's.
    pub(crate) fn package(&self) -> Option<&Package> {
        self.musl.as_ref().map(|musl| &musl.package)
    }

    /// cargo's target folder.
    fn folder(&self) -> PathBuf {
        match self.musl {
            Some(_) => self.target_folder.join("cross"),
            None => self.target_folder.clone(),
        }
    }
}
