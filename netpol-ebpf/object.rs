//! How an object for the kernel is built: included by the build scripts of netpol-datapath and netpol-bench.
//!
//! In: a package of this workspace. Out: its object file in `$OUT_DIR`, under the package's name. The pinned stable compiler
//! is told to accept `-Z build-std`, because no toolchain ships `core` for BPF; so its LLVM and bpf-linker's stay of one
//! version.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};

/// Kernels since 5.1 know the third version of the instruction set: 32-bit arithmetic and jumps.
const CPU: &str = "-Ctarget-cpu=v3";
/// Else LLVM leaves the clearing of three bytes of padding to a function with a loop, and so do copies.
const EXPAND: &str = "-Clink-arg=--disable-expand-memcpy-in-order";

/// Builds a package whose sources are in these folders of the workspace.
///
/// # Errors
/// A tool is missing, or it does not build: the error holds the compiler's output.
pub(crate) fn embed(package: &str, folders: &[&str]) -> Result<()> {
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
    let object = build(workspace, package)?;
    let embedded = path("OUT_DIR")?.join(package);
    fs::copy(&object, &embedded)
        .with_context(|| format!("copying {} to {}", object.display(), embedded.display()))?;
    Ok(())
}

/// Says in one line what is missing, where cargo would say it in many.
fn check_tools() -> Result<()> {
    let search_path = env::var_os("PATH").unwrap_or_default();
    ensure!(
        env::split_paths(&search_path).any(|folder| folder.join("bpf-linker").is_file()),
        "bpf-linker, which links the eBPF programs, is not in PATH: run cargo xtask setup"
    );
    let sysroot = Command::new(path("RUSTC")?).args(["--print", "sysroot"]).output()?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    ensure!(
        sysroot.join("lib/rustlib/src/rust/library/core").is_dir(),
        "rust-src, from which core is built for eBPF, is not installed: run cargo xtask setup"
    );
    Ok(())
}

/// Runs cargo for the BPF target; returns the object file.
fn build(workspace: &Path, package: &str) -> Result<PathBuf> {
    let endian = env::var("CARGO_CFG_TARGET_ENDIAN")?;
    let target = if endian == "big" { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let cfg = format!("--cfg=bpf_target_arch=\"{arch}\"");
    let flags = [&cfg, CPU, "-Cdebuginfo=2", "-Clink-arg=--btf", EXPAND];
    // Beside the folders of all build scripts: one build serves clippy, tests and all choices of features.
    let out_dir = path("OUT_DIR")?;
    let target_dir = out_dir.ancestors().nth(3).unwrap_or(&out_dir).join("bpf");
    let mut cargo = Command::new(path("CARGO")?);
    cargo
        .args(["build", "--package", package, "--release", "--locked", "-Zbuild-std=core"])
        .args(["--target", target, "--target-dir"])
        .arg(&target_dir)
        .current_dir(workspace)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    // What the outer build was called with (clippy, sanitizers, coverage) is not meant for this one.
    for (name, _) in env::vars_os() {
        if is_of_the_outer_build(&name) {
            cargo.env_remove(name);
        }
    }
    let output = cargo.output().context("starting cargo for the kernel")?;
    if !output.status.success() {
        bail!("building {package} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(target_dir.join(target).join("release").join(package))
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
