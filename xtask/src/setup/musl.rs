//! The C library and the unwinder of static programs for 64-bit ARM, which rustup brings with the target: here musl comes from Debian's
//! archive, and the unwinder is compiled from rustc's own sources (`rust-src`).
//!
//! With them cargo builds `std` from the same sources, so that the target need not be downloaded.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::apt::{Apt, Source};
use crate::{digest::sha256, shell, workspace::Workspace};

/// musl as it is in Debian 13: the version that Rust 1.95 brings, too.
const SOURCE: Source = Source::Release("trixie", "arm64");
/// Its package.
const PACKAGE: &str = "musl-dev";
/// Where the package has libraries and headers.
const LIBRARIES: &str = "usr/lib/aarch64-linux-musl";
const HEADERS: &str = "usr/include/aarch64-linux-musl";
/// The C and C++ compilers, and the archiver.
const COMPILERS: [&str; 2] = ["aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++"];
const ARCHIVER: &str = "aarch64-linux-gnu-ar";

/// What musl's programs begin and end with, of the compiler's own.
const OF_THE_COMPILER: [&str; 4] = ["crtbegin.o", "crtbeginS.o", "crtend.o", "crtendS.o"];

/// The sources of the unwinder for this processor. The others are for other processors or for `setjmp`.
const UNWINDER: [&str; 5] = [
    "libunwind.cpp",
    "UnwindLevel1.c",
    "UnwindLevel1-gcc-ext.c",
    "UnwindRegistersRestore.S",
    "UnwindRegistersSave.S",
];

/// How the unwinder is compiled: quiet, found by its own tables, and without the C++ library.
const UNWINDER_FLAGS: [&str; 8] = [
    "-O2",
    "-fPIC",
    "-funwind-tables",
    "-fvisibility=hidden",
    "-DNDEBUG",
    "-D_LIBUNWIND_IS_NATIVE_ONLY",
    "-U_FORTIFY_SOURCE",
    "-fno-stack-protector",
];
const CXX_FLAGS: [&str; 4] = ["-std=c++17", "-nostdinc++", "-fno-exceptions", "-fno-rtti"];

/// A package of Debian that is a part of programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// Its file, with the version.
    pub(crate) file: String,
    /// SHA-256.
    pub(crate) digest: String,
}

/// musl and the unwinder, unpacked.
#[derive(Clone, Debug)]
pub(crate) struct Musl {
    folder: PathBuf,
    /// The package of musl.
    pub(crate) package: Package,
}

impl Musl {
    /// The folder with the libraries, and with the objects that programs begin and end with.
    pub(crate) fn libraries(&self) -> PathBuf {
        self.folder.join("lib")
    }

    /// What tells gcc to use musl's headers.
    pub(crate) fn specs(&self) -> PathBuf {
        self.folder.join("musl.specs")
    }

    /// Downloads and compiles what is missing. The compilers must be installed.
    ///
    /// # Errors
    /// This is not Debian, its archive cannot be reached, or the unwinder does not compile.
    pub(super) fn ensure() -> Result<Self> {
        let cache = Workspace::read()?.target_directory.join("musl");
        let folder = cache.join("arm64");
        if let Ok(found) = Self::in_folder(&folder) {
            return Ok(found);
        }
        // A partly filled folder must not be used later.
        let unfinished = cache.join("arm64.unfinished");
        for stale in [&folder, &unfinished] {
            if stale.exists() {
                fs::remove_dir_all(stale)?;
            }
        }
        let download = unfinished.join("package");
        fs::create_dir_all(&download)?;
        let package = Apt::new(SOURCE, &cache)?.download(PACKAGE, &download)?;
        unpack(&package, &unfinished).context("unpacking musl")?;
        let name = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = format!("{} {name}\n", sha256(&fs::read(&package)?));
        fs::remove_dir_all(&download)?;
        write_specs(&unfinished)?;
        unwinder(&unfinished).context("compiling the unwinder")?;
        fs::write(unfinished.join("package"), text)?;
        fs::rename(&unfinished, &folder)?;
        Self::in_folder(&folder)
    }

    fn in_folder(folder: &Path) -> Result<Self> {
        let text = fs::read_to_string(folder.join("package"))?;
        let (digest, file) = text.trim_end().split_once(' ').context("no digest")?;
        // The target folder may have been moved.
        write_specs(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            package: Package { file: file.to_owned(), digest: digest.to_owned() },
        })
    }
}

/// Puts libraries into `lib` and headers into `include`.
fn unpack(package: &Path, folder: &Path) -> Result<()> {
    let all = folder.join("all");
    shell::stdout(shell::command("dpkg-deb").arg("--extract").arg(package).arg(&all))?;
    fs::rename(all.join(LIBRARIES), folder.join("lib"))?;
    fs::rename(all.join(HEADERS), folder.join("include"))?;
    fs::remove_dir_all(all)?;
    for name in OF_THE_COMPILER {
        let mut ask = shell::command(COMPILERS[0]);
        let found = shell::stdout(ask.arg(format!("-print-file-name={name}")))?;
        fs::copy(found.trim(), folder.join("lib").join(name))
            .with_context(|| format!("{} has no {name}", COMPILERS[0]))?;
    }
    Ok(())
}

/// Writes what tells gcc to use the folder's headers and its own, and none of the system's.
fn write_specs(folder: &Path) -> Result<()> {
    let headers = folder.join("include");
    // `include%s` is the compiler's own folder.
    let only = format!("-nostdinc -isystem {} -isystem include%s", headers.display());
    let text = format!(
        "%rename cpp_options old_cpp_options\n\n\
         *cpp_options:\n{only} %(old_cpp_options)\n\n\
         *cc1:\n%(cc1_cpu) {only}\n\n\
         *cc1plus:\n%(cc1_cpu) {only}\n\n"
    );
    Ok(fs::write(folder.join("musl.specs"), text)?)
}

/// Compiles the unwinder into `lib/libunwind.a`.
fn unwinder(folder: &Path) -> Result<()> {
    let sysroot = shell::stdout(shell::command("rustc").args(["--print", "sysroot"]))?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/src/llvm-project/libunwind");
    let mut objects = Vec::new();
    for name in UNWINDER {
        let source = sources.join("src").join(name);
        let object = folder.join(name).with_extension("o");
        let [c, cxx] = COMPILERS;
        let is_cxx = source.extension().is_some_and(|extension| extension == "cpp");
        let mut compiler = shell::command(if is_cxx { cxx } else { c });
        if is_cxx {
            compiler.args(CXX_FLAGS);
        }
        compiler.args(UNWINDER_FLAGS);
        compiler.arg(format!("-specs={}", folder.join("musl.specs").display()));
        compiler.arg(format!("-ffile-prefix-map={}=/libunwind", sources.display()));
        compiler.arg("-I").arg(sources.join("include"));
        compiler.arg("-c").arg(&source).arg("-o").arg(&object);
        shell::step(&format!("compiling {name}"), &mut compiler)?;
        objects.push(object);
    }
    let mut archive = shell::command(ARCHIVER);
    // Without times and owners.
    archive.arg("rcsD").arg(folder.join("lib/libunwind.a")).args(&objects);
    shell::stdout(&mut archive)?;
    objects.iter().try_for_each(fs::remove_file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_is_named_with_its_digest() {
        let folder = std::env::temp_dir().join(format!("netpol-musl-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert!(Musl::in_folder(&folder).is_err());
        fs::write(folder.join("package"), "0123 musl-dev_1_arm64.deb\n").unwrap();
        let musl = Musl::in_folder(&folder).unwrap();
        let expected = Package { file: "musl-dev_1_arm64.deb".into(), digest: "0123".into() };
        assert_eq!(musl.package, expected);
        let specs = fs::read_to_string(musl.specs()).unwrap();
        let headers = folder.join("include").display().to_string();
        assert_eq!(specs.matches(&headers).count(), 3, "{specs}");
        fs::remove_dir_all(folder).unwrap();
    }
}
