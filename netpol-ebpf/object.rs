//! The build of an object for the kernel. The build scripts of netpol-datapath and netpol-bench include this file.
//!
//! In: a package of this workspace. Out: its object files in `$OUT_DIR`, under their names. The pinned stable compiler
//! builds `core` too (`-Z build-std`, with `RUSTC_BOOTSTRAP`), because no toolchain ships `core` for BPF. With a nightly compiler
//! its LLVM could differ from that of bpf-linker.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};

/// Version 3 of the instruction set has arithmetic and jumps on 32 bits. Linux has it since 5.1.
const CPU: &str = "-Ctarget-cpu=v3";
/// The profile of the root Cargo.toml, of its own, so that the programs do not change with the settings of userland.
const PROFILE: &str = "ebpf";
/// Without this LLVM copies and clears even three bytes by a call of a function with a loop.
const EXPAND: &str = "-Clink-arg=--disable-expand-memcpy-in-order";

/// Builds the object files of a package whose sources are in these folders of the workspace.
///
/// # Errors
/// A tool is missing, or the package does not compile. Then the error has the output of the compiler.
pub(crate) fn embed(package: &str, objects: &[&str], folders: &[&str]) -> Result<()> {
    let package_folder = path("CARGO_MANIFEST_DIR")?;
    let is_workspace = |folder: &&Path| folder.join("Cargo.lock").is_file();
    let workspace = package_folder.ancestors().find(is_workspace).context("no Cargo.lock above")?;
    println!("cargo::rerun-if-changed=build.rs");
    for file in ["netpol-ebpf/object.rs", "Cargo.toml", "Cargo.lock", "rust-toolchain.toml"] {
        println!("cargo::rerun-if-changed={}", workspace.join(file).display());
    }
    for folder in folders {
        for input in ["src", "Cargo.toml"] {
            println!("cargo::rerun-if-changed={}", workspace.join(folder).join(input).display());
        }
    }
    check_tools()?;
    let built = build(workspace, package)?;
    for name in objects {
        let (object, embedded) = (built.join(name), path("OUT_DIR")?.join(name));
        fs::copy(&object, &embedded)
            .with_context(|| format!("copying {} to {}", object.display(), embedded.display()))?;
    }
    Ok(())
}

/// Folders of this machine, and what the object calls them.
fn remapped(workspace: &Path) -> Result<Vec<(PathBuf, &'static str)>> {
    let mut folders = vec![(workspace.to_owned(), "/netpol"), (sysroot()?, "/rust")];
    let home = env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let cargo = env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
    folders.extend(cargo.map(|cargo| (cargo, "/cargo")));
    Ok(folders)
}

/// Where the toolchain is.
fn sysroot() -> Result<PathBuf> {
    let sysroot = Command::new(path("RUSTC")?).args(["--print", "sysroot"]).output()?;
    Ok(PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim()))
}

/// Names a missing tool in one line, which is clearer than the errors of cargo.
fn check_tools() -> Result<()> {
    let search_path = env::var_os("PATH").unwrap_or_default();
    ensure!(
        env::split_paths(&search_path).any(|folder| folder.join("bpf-linker").is_file()),
        "bpf-linker, which links the eBPF programs, is not in PATH: run cargo xtask setup"
    );
    ensure!(
        sysroot()?.join("lib/rustlib/src/rust/library/core").is_dir(),
        "rust-src, from which core is built for eBPF, is not installed: run cargo xtask setup"
    );
    Ok(())
}

/// Runs cargo for the BPF target; returns the folder of the object files.
fn build(workspace: &Path, package: &str) -> Result<PathBuf> {
    let endian = env::var("CARGO_CFG_TARGET_ENDIAN")?;
    let target = if endian == "big" { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let cfg = format!("--cfg=bpf_target_arch=\"{arch}\"");
    let mut flags = vec![cfg, CPU.to_owned(), "-Cdebuginfo=2".to_owned()];
    flags.extend(["-Clink-arg=--btf", EXPAND].map(str::to_owned));
    // The object names its sources for the verifier's log. Without the folders of this machine it is the same everywhere.
    for (folder, name) in remapped(workspace)? {
        flags.push(format!("--remap-path-prefix={}={name}", folder.display()));
    }
    // A folder that all build scripts share, so that clippy, tests and all sets of features use one build.
    let out_dir = path("OUT_DIR")?;
    let target_dir = out_dir.ancestors().nth(3).unwrap_or(&out_dir).join("bpf");
    let mut cargo = Command::new(path("CARGO")?);
    cargo
        .args(["build", "--package", package, "--profile", PROFILE, "--locked", "-Zbuild-std=core"])
        .args(["--target", target, "--target-dir"])
        .arg(&target_dir)
        .current_dir(workspace)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    // Settings of the outer build (clippy, sanitizers, coverage) must not apply to this one.
    for (name, _) in env::vars_os() {
        if is_of_the_outer_build(&name) {
            cargo.env_remove(name);
        }
    }
    let output = cargo.output().context("starting cargo for the kernel")?;
    if !output.status.success() {
        bail!("building {package} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(target_dir.join(target).join(PROFILE))
}

fn is_of_the_outer_build(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    ["RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS"].contains(&&*name)
        || ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_CFG_", "CARGO_FEATURE_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

fn path(name: &str) -> Result<PathBuf> {
    env::var_os(name).map(PathBuf::from).with_context(|| format!("{name} is not set"))
}
