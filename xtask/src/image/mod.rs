//! `cargo xtask image`: the agent, the CNI plugin and the command-line tool as a container image, without a Docker daemon.
//!
//! The image holds three static programs and the licences: no shell, no libraries. [`platform`] builds for a processor,
//! [`layout`] makes the image.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

pub(crate) use self::layout::{File, Image, Layout};
pub(crate) use self::platform::Platform;
pub(crate) use self::tools::Tools;
use crate::{revision, revision::Revision, setup, shell, term, workspace::Workspace};

mod layout;
mod platform;
pub(crate) mod tarball;
mod tools;

/// The programs: package and binary. The agent installs the plugin from its own folder on a node.
const PROGRAMS: [(&str, &str); 3] = [
    ("netpol-agent", "netpol-agent"),
    ("netpol-cni", "netpol-cni"),
    ("netpol-cli", "kubectl-netpol"),
];

/// A second name of a program: the first one is for kubectl, this one for direct use.
const LINK: (&str, &str) = ("bin/netpol", "kubectl-netpol");

/// The variable with which `netpol-proto` is compiled for another version than the workspace's.
const VERSION_VARIABLE: &str = "NETPOL_VERSION";

/// The variable that tells `netpol-proto` the page of the project.
const HOMEPAGE_VARIABLE: &str = "NETPOL_HOMEPAGE";

/// The licences, which accompany the programs.
const LICENCES: [&str; 3] = ["LICENSE", "LICENSE-MIT", "LICENSE-GPL-2.0"];

/// Options of `image`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Processor [default: that of this machine].
    #[arg(long, value_enum)]
    arch: Option<Platform>,
    /// Output file [default: netpol-VERSION-ARCH.tar in the target folder].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Sets up, builds, and writes the image.
///
/// # Errors
/// The set-up or the build failed, or the image cannot be written.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { arch, output } = options;
    let platform = arch.unwrap_or_else(Platform::of_this_machine);
    setup::ensure(setup::Purpose::Building)?;
    term::heading("image");
    write(platform, output.as_deref())
}

/// Builds the programs of the image; returns their folder. The machine must be set up.
///
/// # Errors
/// The set-up for static programs or the build failed.
pub(crate) fn static_programs() -> Result<PathBuf> {
    let platform = Platform::of_this_machine();
    // Without a revision: a benchmark after a commit need not build again.
    build(platform, &Tools::ensure(platform)?, Profile::Release, &Names::default())
}

/// Builds the programs of a release and puts them into an image.
///
/// # Errors
/// The build failed.
pub(crate) fn of_release(
    (platform, tools): (Platform, &Tools),
    profile: Profile,
    version: &str,
    revision: Option<&Revision>,
    homepage: Option<&str>,
) -> Result<Image> {
    let version_of_build = (Workspace::read()?.version()? != version).then_some(version);
    let names = Names { version: version_of_build, revision, homepage };
    let programs = build(platform, tools, profile, &names)?;
    image(platform, version, revision, &programs)
}

/// What the programs say of themselves.
#[derive(Clone, Copy, Debug, Default)]
struct Names<'a> {
    /// Another version than the workspace's.
    version: Option<&'a str>,
    revision: Option<&'a Revision>,
    /// The page of the project.
    homepage: Option<&'a str>,
}

/// Cargo profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Not optimised, for tests.
    Dev,
    /// Optimised.
    Release,
}

impl Profile {
    /// cargo's name of its folder.
    const fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

fn write(platform: Platform, output: Option<&Path>) -> Result<()> {
    let workspace = Workspace::read()?;
    let version = workspace.version()?;
    let revision = Revision::read()?;
    let tools = Tools::ensure(platform)?;
    let image =
        of_release((platform, &tools), Profile::Release, &version, revision.as_ref(), None)?;
    let name = format!("netpol-{version}-{}.tar", platform.name());
    let default = workspace.target_directory.join(name);
    let output = output.unwrap_or(&default);
    // Kubernetes writes `netpol:0.1.0` for this name.
    let reference = format!("docker.io/library/netpol:{version}");
    let archive = Layout::new(std::slice::from_ref(&image), &reference, &version)?.archive()?;
    fs::write(output, &archive).with_context(|| format!("writing {}", output.display()))?;
    let sizes: Vec<_> = PROGRAMS
        .iter()
        .filter_map(|(_, name)| {
            let file = image.files.get(&format!("bin/{name}"))?;
            Some(format!("{name} {}", mebibytes(file.content.len())))
        })
        .collect();
    term::good(&format!(
        "{}: netpol:{version} for {}, {} ({})",
        output.display(),
        platform.name(),
        mebibytes(archive.len()),
        sizes.join(", ")
    ));
    Ok(())
}

/// Builds the programs; returns their folder.
fn build(
    platform: Platform,
    tools: &Tools,
    profile: Profile,
    names: &Names<'_>,
) -> Result<PathBuf> {
    let Names { version, revision, homepage } = *names;
    let mut build = match profile {
        Profile::Release => tools.cargo(&["build", "--release"], remapped()?),
        Profile::Dev => {
            let mut build = tools.cargo(&["build"], Vec::new());
            // Debug information would make the image ten times as large.
            build.env("CARGO_PROFILE_DEV_STRIP", "debuginfo");
            build
        }
    };
    for (package, program) in PROGRAMS {
        build.args(["--package", package, "--bin", program]);
    }
    for (variable, value) in [
        (revision::VARIABLE, revision.map(Revision::short)),
        (VERSION_VARIABLE, version.map(str::to_owned)),
        (HOMEPAGE_VARIABLE, homepage.map(str::to_owned)),
    ] {
        match value {
            Some(value) => build.env(variable, value),
            None => build.env_remove(variable),
        };
    }
    shell::step(&format!("building static programs for {}", platform.name()), &mut build)?;
    Ok(tools.programs(profile.folder()))
}

/// Flags for programs that do not name the folders of this machine, so that a second checkout builds the same ones.
fn remapped() -> Result<Vec<String>> {
    let target = Workspace::read()?.target_directory;
    let home = env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let cargo = env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
    let sysroot = shell::stdout(shell::command("rustc").args(["--print", "sysroot"]))?;
    let folders = [
        (Some(shell::root().to_owned()), "/netpol"),
        (Some(target), "/netpol/target"),
        (cargo, "/cargo"),
        (Some(PathBuf::from(sysroot.trim())), "/rust"),
    ];
    let flags = folders.into_iter().filter_map(|(folder, name)| {
        Some(format!("--remap-path-prefix={}={name}", folder?.display()))
    });
    Ok(flags.collect())
}

fn image(
    platform: Platform,
    version: &str,
    revision: Option<&Revision>,
    programs: &Path,
) -> Result<Image> {
    let mut files = BTreeMap::new();
    let mut add = |path: String, mode: u32, source: &Path| -> Result<()> {
        let content = fs::read(source).with_context(|| format!("reading {}", source.display()))?;
        files.insert(path, File { mode, content });
        Ok(())
    };
    for (_, name) in PROGRAMS {
        add(format!("bin/{name}"), 0o755, &programs.join(name))?;
    }
    for name in LICENCES {
        add(format!("licenses/{name}"), 0o644, &shell::root().join(name))?;
    }
    Ok(Image {
        arch: platform.oci(),
        labels: labels(version, revision),
        entrypoint: "/bin/netpol-agent".to_owned(),
        search_path: "/bin".to_owned(),
        files,
        links: BTreeMap::from([(LINK.0.to_owned(), LINK.1.to_owned())]),
    })
}

/// Labels with the keys that the OCI image specification defines.
fn labels(version: &str, revision: Option<&Revision>) -> BTreeMap<String, String> {
    let fixed = [
        ("title", "netpol"),
        ("description", "Kubernetes NetworkPolicy, enforced by eBPF"),
        ("version", version),
        ("licenses", "Apache-2.0 AND (MIT OR GPL-2.0-only)"),
    ];
    let fixed = fixed.map(|(key, value)| (key, value.to_owned()));
    let known = revision.map(|revision| ("revision", revision.commit.clone()));
    let key = |key: &str| format!("org.opencontainers.image.{key}");
    fixed.into_iter().chain(known).map(|(name, value)| (key(name), value)).collect()
}

fn mebibytes(n_bytes: usize) -> String {
    let tenths = n_bytes.saturating_mul(10) / (1024 * 1024);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
