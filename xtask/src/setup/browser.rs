//! Chromium with its driver, for the tests of the page of `kubectl netpol ui`.

use anyhow::{Result, bail};

use super::system::{self, BROWSER, Distribution};
use crate::{privilege::Privilege, term};

/// Installs the browser unless it is there. Only warns on failure, because building and most tests do not need it, and tests that do
/// report it themselves.
pub(super) fn ensure(privilege: Privilege) {
    if let Err(error) = install(privilege) {
        term::warning(&format!(
            "there is no browser ({error:#}), which the tests of `kubectl netpol ui` need"
        ));
    }
}

/// Installs the browser unless it is there.
///
/// # Errors
/// It could not be installed, or this is neither Debian nor Ubuntu and the programs are missing.
pub(super) fn install(privilege: Privilege) -> Result<()> {
    let missing = system::missing_elsewhere(&BROWSER);
    match Distribution::detect()? {
        _ if missing.is_empty() => Ok(()),
        Distribution::Debian => system::install(&BROWSER, privilege),
        Distribution::Other(_) => bail!("please install by hand: {}", missing.join("; ")),
    }
}
