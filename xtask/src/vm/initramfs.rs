//! The machine's file system: copies of this system's programs and libraries, the other kernel's modules, the test programs,
//! and an init script.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{Test, kernel::Kernel, programs::Programs};
use crate::shell;

const INIT: &str = include_str!("init.sh");

/// System programs that the tests run.
const SYSTEM_PROGRAMS: [&str; 18] = [
    "apparmor_parser",
    "conntrack",
    "ip",
    "ip6tables-legacy",
    "ip6tables-legacy-restore",
    "ip6tables-nft",
    "ip6tables-restore",
    "iptables-legacy",
    "iptables-legacy-restore",
    "iptables-nft",
    "iptables-nft-restore",
    "iptables-restore",
    "nft",
    "ping",
    "python3",
    "setpriv",
    "sh",
    "tc",
];

/// The CNI plugins that the tests run.
const CNI_PLUGINS: [&str; 5] = ["bridge", "host-local", "loopback", "portmap", "ptp"];

/// Debian's folder of them.
const CNI_FOLDER: &str = "/usr/lib/cni";

/// Files that programs load by themselves, if they exist.
const FILES: [&str; 7] = [
    "/etc/ethertypes",
    "/etc/group",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/protocols",
    "/etc/services",
];

/// Finds a program of the system, not one that precedes it in `PATH`, such as another Python, because the machine has only the
/// system's libraries and modules.
fn system_program(name: &str) -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    folders.iter().map(|folder| Path::new(folder).join(name)).find(|program| program.exists())
}

/// Builds the file system in a folder, and packs it. `busybox` is that of another processor, whose machine has no program of this
/// system.
///
/// # Errors
/// A file cannot be read or written, or a program that is needed is missing.
pub(super) fn build(
    folder: &Path,
    image: &Path,
    kernel: &Kernel,
    (programs, busybox): (&Programs, Option<&Path>),
    tests: &[&Test],
) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let root = Root { folder, busybox };
    root.folders()?;
    if busybox.is_none() {
        root.this_system()?;
    }
    for (name, file) in &programs.tests {
        root.stripped(file, &Path::new("/netpol/deps").join(name))?;
    }
    for file in &programs.own {
        root.stripped(file, &Path::new("/netpol").join(file.file_name().unwrap_or_default()))?;
    }
    let tests = tests.iter().map(|test| test.title() + "\n");
    fs::write(folder.join("netpol/tests"), tests.collect::<String>())?;
    root.modules(kernel)?;
    root.init()?;
    pack(folder, image)?;
    fs::remove_dir_all(folder)?;
    Ok(())
}

/// The machine's root folder.
struct Root<'a> {
    folder: &'a Path,
    /// The shell of another processor.
    busybox: Option<&'a Path>,
}

impl Root<'_> {
    fn at(&self, path: &Path) -> PathBuf {
        self.folder.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The standard folders and their symbolic links.
    fn folders(&self) -> Result<()> {
        for name in [
            "busybox",
            "dev",
            "etc",
            "netpol/deps",
            "proc",
            "root",
            "run",
            "sys",
            "tmp",
            "usr/bin",
            "usr/lib",
            "usr/lib64",
            "usr/sbin",
            "var/lib",
        ] {
            fs::create_dir_all(self.folder.join(name))?;
        }
        for name in ["bin", "lib", "lib64", "sbin"] {
            symlink(format!("usr/{name}"), self.folder.join(name))?;
        }
        symlink("../run", self.folder.join("var/run"))?;
        Ok(())
    }

    /// Copies the programs of this system that the tests run.
    fn this_system(&self) -> Result<()> {
        for name in SYSTEM_PROGRAMS {
            let found = system_program(name).or_else(|| shell::find_program(name));
            self.program(&found.with_context(|| format!("there is no program {name}"))?)?;
        }
        for name in CNI_PLUGINS {
            self.program(&Path::new(CNI_FOLDER).join(name))?;
        }
        for file in FILES.map(Path::new).iter().filter(|file| file.exists()) {
            self.copy(file, file)?;
        }
        self.loaded_by_name()
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        let to = self.at(to);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(from, &to).with_context(|| format!("copying {}", from.display()))?;
        Ok(())
    }

    /// Copies a program to the same path, with its libraries.
    fn program(&self, file: &Path) -> Result<()> {
        self.copy(file, file)?;
        self.libraries(file)
    }

    /// Copies one of our programs, stripped.
    fn stripped(&self, from: &Path, to: &Path) -> Result<()> {
        let strip = if self.busybox.is_some() { "aarch64-linux-gnu-strip" } else { "strip" };
        let mut strip = shell::command(strip);
        strip.arg("--strip-debug").arg("-o").arg(self.at(to)).arg(from);
        shell::stdout(&mut strip)?;
        // Programs for another processor are static.
        if self.busybox.is_some() { Ok(()) } else { self.libraries(from) }
    }

    fn libraries(&self, file: &Path) -> Result<()> {
        // `ldd` fails for static programs.
        let list = shell::command("ldd").arg(file).output().context("starting ldd")?;
        for library in libraries_of(&String::from_utf8_lossy(&list.stdout)) {
            if !self.at(&library).exists() {
                self.copy(&library, &library)?;
            }
        }
        Ok(())
    }

    /// Copies files that are loaded by name at run time: iptables extensions and Python modules.
    fn loaded_by_name(&self) -> Result<()> {
        let mut folders = Vec::new();
        for folder in fs::read_dir("/usr/lib")?.flatten().map(|entry| entry.path()) {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("python3.") {
                folders.push(folder.clone());
            }
            folders.push(folder.join("xtables"));
        }
        for folder in folders.iter().filter(|folder| folder.is_dir()) {
            let to = self.at(folder);
            fs::create_dir_all(&to)?;
            let mut copy = shell::command("cp");
            copy.args(["--recursive", "--dereference", "--no-target-directory"]);
            shell::stdout(copy.arg(folder).arg(&to))?;
        }
        Ok(())
    }

    /// Copies the kernel's modules, uncompressed, with an index.
    fn modules(&self, kernel: &Kernel) -> Result<()> {
        let place = Path::new("/lib/modules").join(&kernel.version);
        let to = self.at(&place);
        fs::create_dir_all(&to)?;
        let mut copy = shell::command("cp");
        copy.args(["--recursive", "--no-target-directory"]).arg(&kernel.modules).arg(&to);
        shell::stdout(&mut copy)?;
        let mut unpack = shell::command("find");
        unpack.arg(&to).args(["-name", "*.ko.xz", "-exec", "xz", "--decompress", "{}", "+"]);
        shell::stdout(&mut unpack)?;
        let mut index = shell::command("busybox");
        index.arg("depmod").arg("-b").arg(self.folder).arg(&kernel.version);
        shell::stdout(&mut index).map(drop)
    }

    /// Writes the init script, its shell, and modprobe.
    fn init(&self) -> Result<()> {
        let busybox = match self.busybox {
            Some(busybox) => busybox.to_owned(),
            None => shell::find_program("busybox").context("there is no program busybox")?,
        };
        self.copy(&busybox, Path::new("/busybox/busybox"))?;
        let applets = shell::stdout(shell::command("busybox").arg("--list"))?;
        for applet in applets.lines().filter(|applet| *applet != "busybox") {
            symlink("busybox", self.folder.join("busybox").join(applet))?;
        }
        symlink("/busybox/busybox", self.folder.join("usr/sbin/modprobe"))?;
        let init = self.folder.join("init");
        fs::write(&init, INIT)?;
        shell::stdout(shell::command("chmod").arg("755").arg(&init)).map(drop)
    }
}

/// The paths in the output of `ldd`.
fn libraries_of(list: &str) -> Vec<PathBuf> {
    let words =
        list.lines().filter_map(|line| line.split_whitespace().find(|w| w.starts_with('/')));
    words.map(PathBuf::from).collect()
}

/// Packs a folder as an initramfs.
fn pack(folder: &Path, image: &Path) -> Result<()> {
    let mut pack = shell::command("sh");
    pack.args(["-c", "cd \"$1\" && busybox find . | busybox cpio -o -H newc > \"$2\"", "sh"]);
    shell::stdout(pack.arg(folder).arg(image))?;
    if fs::metadata(image).map_or(0, |image| image.len()) == 0 {
        bail!("{} is empty", image.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found_in_the_output_of_ldd() {
        let list = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries_of(list), expected.map(PathBuf::from));
        assert!(libraries_of("\tnot a dynamic executable\n").is_empty());
    }
}
