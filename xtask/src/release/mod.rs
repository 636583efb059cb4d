//! `cargo xtask release`: everything that is published, in one folder. Pushing and signing happen elsewhere.
//!
//! [`assets`] makes the files from programs in memory; this module builds the programs, reads what the files are made from, and writes
//! them. [`manifests`] asks kubectl for the manifests, [`again`] does all of it in a second folder and compares.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum as _;

use self::assets::{Content, Release};
use crate::image::{self, Image, Platform, Profile, Tools};
use crate::revision::Revision;
use crate::setup::{self, Package};
use crate::workspace::Workspace;
use crate::{shell, term};

mod again;
mod assets;
mod krew;
mod manifests;
mod provenance;
mod sbom;
#[cfg(test)]
mod validated;

/// Options of `release`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Version of the programs, the image and the chart [default: that of the workspace].
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Registry and folder of the image, such as `ghcr.io/OWNER`.
    #[arg(long, value_name = "REGISTRY", required_unless_present = "dev")]
    registry: Option<String>,
    /// Address of the folder from which the files will be downloaded [default: the release on GitHub, for a registry `ghcr.io/OWNER`].
    #[arg(long, value_name = "URL")]
    downloads: Option<String>,
    /// Processor; repeat it for several [default: all].
    #[arg(long, value_enum)]
    arch: Vec<Platform>,
    /// Output folder, which must not exist [default: netpol-VERSION in the target folder, replaced].
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Build in a second checkout too, and compare every byte.
    #[arg(long)]
    check: bool,
    /// Write what tests install on a node instead: for this processor unless others are named, not optimised, into
    /// netpol-VERSION-dev.
    #[arg(long, conflicts_with_all = ["version", "registry", "downloads", "output", "check"])]
    dev: bool,
}

/// Where the image of tests would be.
const REGISTRY_OF_TESTS: &str = "registry.example/lab";

/// Sets up, builds, and writes the release.
///
/// # Errors
/// An option is invalid, a tool is missing, or the build failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { version, registry, downloads, arch, output, check, dev } = options;
    setup::ensure(setup::Purpose::Building)?;
    let registry = match registry {
        Some(registry) if !dev => registry,
        _ if arch.is_empty() => return for_tests(),
        _ => return for_tests_on(arch),
    };
    let workspace = Workspace::read()?;
    let version = match version {
        Some(version) => version.clone(),
        None => workspace.version()?,
    };
    let release = Release {
        downloads: match downloads {
            Some(downloads) => downloads.trim_end_matches('/').to_owned(),
            None => downloads_of(registry, &version)?,
        },
        registry: registry.trim_end_matches('/').to_owned(),
        revision: Revision::read()?,
        version,
    };
    let version = &release.version;
    ensure!(is_version(version), "{version} is no semantic version");
    let platforms = if arch.is_empty() { Platform::value_variants() } else { arch };
    term::heading("release");
    let mut images = Vec::new();
    let mut packages = Vec::new();
    for platform in platforms {
        let tools = Tools::ensure(*platform)?;
        let (revision, homepage) = (release.revision.as_ref(), release.homepage());
        let for_processor = (*platform, &tools);
        let image =
            image::of_release(for_processor, Profile::Release, version, revision, Some(homepage))?;
        check_paths(&image, shell::root())?;
        images.push(image);
        packages.extend(tools.package().cloned());
    }
    let render = |image: &str, digest: &str| manifests::render(image, digest, version);
    let files = files(&release, &images, &packages, render)?;
    let default = workspace.target_directory.join(format!("netpol-{version}"));
    if output.is_none() && default.exists() {
        fs::remove_dir_all(&default)?;
    }
    let output = output.as_ref().unwrap_or(&default);
    write(output, &files)?;
    term::good(&format!(
        "{}: {} files, image {registry}/netpol:{version}",
        output.display(),
        files.len()
    ));
    if *check {
        again::compare(&release, platforms, output)?;
    }
    Ok(())
}

/// Writes the release that tests install on a node. The machine must be set up.
///
/// # Errors
/// The build failed, or kubectl refuses the manifests.
pub(crate) fn for_tests() -> Result<()> {
    for_tests_on(&[Platform::of_this_machine()])
}

fn for_tests_on(platforms: &[Platform]) -> Result<()> {
    let workspace = Workspace::read()?;
    let version = workspace.version()?;
    let mut images = Vec::new();
    let mut packages = Vec::new();
    for platform in platforms {
        let tools = Tools::ensure(*platform)?;
        // Without a revision, because each commit would build it again.
        images.push(image::of_release((*platform, &tools), Profile::Dev, &version, None, None)?);
        packages.extend(tools.package().cloned());
    }
    let output = workspace.target_directory.join(format!("netpol-{version}-dev"));
    let release = Release {
        version,
        registry: REGISTRY_OF_TESTS.to_owned(),
        downloads: format!("https://{REGISTRY_OF_TESTS}"),
        revision: None,
    };
    let render = |image: &str, digest: &str| {
        if shell::find_program("kubectl").is_none() {
            term::warning("there is no kubectl: tests of the manifests cannot run");
            return Ok(BTreeMap::new());
        }
        manifests::render(image, digest, &release.version)
    };
    let files = files(&release, &images, &packages, render)?;
    if output.exists() {
        fs::remove_dir_all(&output)?;
    }
    write(&output, &files)?;
    term::good(&format!("{}: a release for tests", output.display()));
    Ok(())
}

fn files(
    release: &Release,
    images: &[Image],
    packages: &[Package],
    render: impl FnOnce(&str, &str) -> Result<BTreeMap<String, String>>,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let root = shell::root();
    let read =
        |path: &str| fs::read_to_string(root.join(path)).with_context(|| format!("reading {path}"));
    let toolchain = read("rust-toolchain.toml")?;
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = "));
    let metadata = shell::stdout(&mut shell::cargo([
        "metadata",
        "--format-version=1",
        "--locked",
        "--filter-platform=x86_64-unknown-linux-musl",
    ]))?;
    let content = Content {
        images,
        packages,
        chart: &chart(&root.join("deploy/helm"))?,
        metadata: &serde_json::from_str(&metadata)
            .context("reading the output of cargo metadata")?,
        lock: &read("Cargo.lock")?,
        toolchain: channel.context("rust-toolchain.toml names no channel")?.trim_matches('"'),
    };
    assets::assets(release, &content, render)
}

/// The files of the chart, by path below its folder.
fn chart(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                waiting.push(entry?.path());
            }
        } else {
            let name = path.strip_prefix(folder)?.display().to_string();
            let text = fs::read_to_string(&path).with_context(|| format!("reading {name}"))?;
            files.insert(name, text);
        }
    }
    Ok(files)
}

/// A program that names the folder of its checkout is another one in each folder.
fn check_paths(image: &Image, root: &Path) -> Result<()> {
    let root = root.as_os_str().as_encoded_bytes();
    for (path, file) in &image.files {
        let names_it = file.content.windows(root.len()).any(|window| window == root);
        ensure!(!names_it, "{path} contains the path of the checkout, so it is not reproducible");
    }
    Ok(())
}

fn write(output: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    ensure!(!output.exists(), "{} exists", output.display());
    for (name, content) in files {
        let path = output.join(name);
        fs::create_dir_all(path.parent().unwrap_or(output))?;
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Where GitHub serves the files of a release, if the registry is GitHub's.
fn downloads_of(registry: &str, version: &str) -> Result<String> {
    let Some(owner) = registry.trim_end_matches('/').strip_prefix("ghcr.io/") else {
        bail!("{registry} does not say where files are downloaded from: give --downloads URL");
    };
    Ok(format!("https://github.com/{owner}/netpol/releases/download/v{version}"))
}

/// Whether this is `MAJOR.MINOR.PATCH`, with or without a pre-release.
fn is_version(text: &str) -> bool {
    let (numbers, pre_release) = text.split_once('-').unwrap_or((text, "0"));
    let is_number = |part: &str| {
        part.bytes().all(|byte| byte.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
            && !part.is_empty()
    };
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    numbers.split('.').count() == 3
        && numbers.split('.').all(is_number)
        && pre_release.split('.').all(is_name)
}

#[cfg(test)]
mod tests {
    use oci_spec::image::Arch;

    use super::*;
    use crate::image::File;

    #[test]
    fn a_version_has_three_numbers_and_may_have_a_pre_release() {
        for good in ["0.1.0", "1.20.3", "1.0.0-rc.1"] {
            assert!(is_version(good), "{good}");
        }
        for bad in ["", "1.0", "v1.0.0", "1.0.0-", "01.0.0", "1.0.0+build", "1.0.0 "] {
            assert!(!is_version(bad), "{bad}");
        }
    }

    #[test]
    fn only_githubs_registry_says_where_files_are_downloaded_from() {
        let url = downloads_of("ghcr.io/o", "1.2.3").unwrap();
        assert_eq!(url, "https://github.com/o/netpol/releases/download/v1.2.3");
        assert!(downloads_of("r.example/o", "1.2.3").is_err());
    }

    #[test]
    fn a_program_that_names_its_checkout_is_refused() {
        let image = |content: &str| Image {
            arch: Arch::Amd64,
            labels: BTreeMap::new(),
            entrypoint: String::new(),
            search_path: String::new(),
            files: [("bin/x".to_owned(), File { mode: 0, content: content.into() })].into(),
            links: BTreeMap::new(),
        };
        let root = Path::new("/home/a/netpol");
        check_paths(&image("/netpol/src/main.rs"), root).unwrap();
        check_paths(&image("at /home/a/netpol/src/main.rs"), root).unwrap_err();
    }

    #[test]
    fn the_chart_of_this_checkout_is_read_with_its_folders() {
        let files = chart(&shell::root().join("deploy/helm")).unwrap();
        assert!(files.contains_key("Chart.yaml") && files.contains_key("templates/daemonset.yaml"));
    }
}
