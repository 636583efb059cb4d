//! A container runtime's part of a DaemonSet: its containers, run from the image by bubblewrap.
//!
//! In: the archive that `cargo xtask image` writes, and container specs of the manifests. Out: commands. A container gets
//! only what its spec grants: files, host paths, capabilities, and variables.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use flate2::read::GzDecoder;
use serde_json::Value;

use crate::deployment::{at, host_path, items};

/// The unpacked image.
#[derive(Debug)]
pub struct Rootfs {
    path: PathBuf,
    entrypoint: String,
    environment: Vec<(String, String)>,
}

impl Rootfs {
    /// Unpacks an archive as a runtime does: index, manifest, then layers.
    ///
    /// # Errors
    /// It is no OCI image layout, or the folder cannot be written.
    pub fn unpack(archive: &Path, folder: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let file = File::open(archive).with_context(|| format!("opening {}", archive.display()))?;
        for entry in tar::Archive::new(file).entries()? {
            let mut entry = entry?;
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            files.insert(entry.path()?.display().to_string(), content);
        }
        let blob = |descriptor: &Value| {
            let digest = at(descriptor, "/digest").as_str().context("no digest")?;
            let path = format!("blobs/{}", digest.replace(':', "/"));
            files.get(&path).with_context(|| format!("no {path}"))
        };
        let index: Value = serde_json::from_slice(files.get("index.json").context("no index")?)?;
        let manifest: Value = serde_json::from_slice(blob(at(&index, "/manifests/0"))?)?;
        let config: Value = serde_json::from_slice(blob(at(&manifest, "/config"))?)?;
        for layer in items(at(&manifest, "/layers")) {
            let mut layer = tar::Archive::new(GzDecoder::new(blob(layer)?.as_slice()));
            layer.unpack(folder)?;
        }
        let environment = items(at(&config, "/config/Env"))
            .filter_map(|variable| variable.as_str()?.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let entrypoint = at(&config, "/config/Entrypoint/0").as_str().context("no entrypoint")?;
        Ok(Self { path: folder.to_owned(), entrypoint: entrypoint.to_owned(), environment })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The entrypoint.
    pub fn entrypoint(&self) -> &str {
        &self.entrypoint
    }

    /// The value of a variable that the image sets.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let (_, value) = self.environment.iter().find(|(found, _)| found == name)?;
        Some(value)
    }

    /// A container that sees nothing of the host except its processes and a read-only `/sys`.
    ///
    /// # Errors
    /// A mount point cannot be made.
    pub fn container(&self) -> Result<Container> {
        for folder in ["proc", "dev", "sys"] {
            fs::create_dir_all(self.path.join(folder))?;
        }
        let mut command = Command::new("bwrap");
        command.arg("--ro-bind").arg(&self.path).arg("/");
        command.args(["--proc", "/proc", "--dev", "/dev", "--ro-bind", "/sys", "/sys"]);
        command.args(["--clearenv", "--cap-drop", "ALL"]);
        for (name, value) in &self.environment {
            command.args(["--setenv", name, value]);
        }
        Ok(Container { command, root: self.path.clone() })
    }

    /// A container as a DaemonSet describes it. `folder_of` maps each host path of the manifest to the folder to mount instead.
    ///
    /// # Errors
    /// The DaemonSet is malformed, or uses a field that is not supported here.
    pub fn container_of(
        &self,
        daemon_set: &Value,
        container: &Value,
        folder_of: impl Fn(&str) -> Result<PathBuf>,
    ) -> Result<Container> {
        let context = at(container, "/securityContext");
        ensure!(at(context, "/privileged").is_null(), "privileged: {context}");
        ensure!(at(context, "/readOnlyRootFilesystem") == true, "may write: {context}");
        let mut made = self.container()?;
        for capability in items(at(context, "/capabilities/add")) {
            let name = capability.as_str().context("a capability has no name")?;
            made.command.args(["--cap-add", &format!("CAP_{name}")]);
        }
        for mount in items(at(container, "/volumeMounts")) {
            let text = |field| at(mount, field).as_str().context("a mount lacks a field");
            let volume = host_path(daemon_set, text("/name")?);
            let folder = folder_of(volume.context("a mount has no volume")?)?;
            let access =
                if *at(mount, "/readOnly") == true { Access::ReadOnly } else { Access::ReadWrite };
            made.mount(&folder, text("/mountPath")?, access)?;
        }
        for variable in items(at(container, "/env")) {
            let name = at(variable, "/name").as_str().context("a variable has no name")?;
            // The kubelet resolves the others (`valueFrom`).
            if let Some(value) = at(variable, "/value").as_str() {
                made.set(name, value);
            }
        }
        Ok(made)
    }
}

/// Access to a mounted host path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    ReadOnly,
    /// Read and write.
    ReadWrite,
}

/// A container that has not been started.
#[derive(Debug)]
pub struct Container {
    command: Command,
    root: PathBuf,
}

impl Container {
    /// Mounts a folder of the host.
    ///
    /// # Errors
    /// The mount point cannot be made: a runtime makes it before the image becomes read-only.
    pub fn mount(&mut self, folder: &Path, mount_path: &str, access: Access) -> Result<()> {
        if !mount_path.starts_with("/sys/") {
            fs::create_dir_all(self.root.join(mount_path.trim_start_matches('/')))?;
        }
        self.command.arg(match access {
            Access::ReadOnly => "--ro-bind",
            Access::ReadWrite => "--bind",
        });
        self.command.arg(folder).arg(mount_path);
        Ok(())
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        self.command.args(["--setenv", name, value]);
    }

    /// The command that runs a program in it.
    pub fn run<'a>(mut self, words: impl IntoIterator<Item = &'a str>) -> Command {
        self.command.arg("--").args(words);
        self.command
    }
}

/// The pid of the process in a container; `pid` is that of its parent, bubblewrap.
///
/// # Errors
/// There is none.
pub fn process_in(pid: u32) -> Result<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let inside = children.split_whitespace().next().context("nothing runs in the container")?;
    Ok(inside.parse()?)
}

/// The command that runs a program in a container that is running, as `kubectl exec` does. `pid` is bubblewrap's.
///
/// # Errors
/// There is no such container.
pub fn exec<'a>(
    rootfs: &Rootfs,
    pid: u32,
    words: impl IntoIterator<Item = &'a str>,
) -> Result<Command> {
    let mut command = Command::new("nsenter");
    command.args(["--target", &process_in(pid)?.to_string(), "--mount", "--root", "--wd"]);
    command.env_clear().envs(rootfs.environment.iter().cloned());
    let mut words = words.into_iter();
    // nsenter resolves the program's path before it enters the container.
    let program = words.next().context("no program")?;
    let folder = rootfs.variable("PATH").context("the image has no PATH")?;
    command.arg(Path::new(folder).join(program)).args(words);
    Ok(command)
}
