//! A containerd of its own, which runs the containers of a DaemonSet as the kubelet asks for them.
//!
//! In: the image of a release, and container specs of the manifests. Out: running containers, with
//! containerd's default profile of system calls where the manifest says `RuntimeDefault`. What a kubelet adds is missing:
//! cgroup limits, the `AppArmor` profile, and the service account's files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::deployment::{at, host_path, items, texts};
use crate::node::wait::{LIMIT, Look, until};

/// The capabilities that `ctr run` grants by itself.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The daemon. Dropped, it ends, and so do its containers.
#[derive(Debug)]
pub struct Containerd {
    child: Child,
    folder: TempDir,
    namespace: String,
}

/// A container of [`Containerd`].
#[derive(Debug)]
pub struct Running<'a> {
    of: &'a Containerd,
    id: String,
    client: Child,
}

/// What of a container's environment a test replaces.
#[derive(Debug, Default)]
pub struct Overrides<'a> {
    /// More bind mounts: folder of this machine, path in the container.
    pub mounts: Vec<(&'a Path, &'a str)>,
    /// More variables.
    pub variables: Vec<(&'a str, String)>,
}

impl Containerd {
    /// Starts the daemon in a folder of its own.
    ///
    /// # Errors
    /// It cannot be started, or does not answer.
    pub fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("config.toml");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
            path("root"),
            path("state"),
            path("socket"),
        );
        fs::write(&config, text)?;
        let log = fs::File::create(folder.path().join("log"))?;
        let child = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting containerd")?;
        let namespace = format!("netpol-{}", std::process::id());
        let daemon = Self { child, folder, namespace };
        until("containerd's answer", LIMIT, || {
            let output = daemon.ctr().arg("version").output()?;
            let log = || fs::read_to_string(daemon.folder.path().join("log")).unwrap_or_default();
            Ok(if output.status.success() { Look::Done(()) } else { Look::NotYet(log()) })
        })?;
        Ok(daemon)
    }

    fn ctr(&self) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(self.folder.path().join("socket"));
        ctr.args(["--namespace", &self.namespace]);
        ctr
    }

    /// Imports an archive as docs/install.md says for nodes without a registry, under the name `base_name`. Returns the names of
    /// all images, those with a tag and those with a digest.
    ///
    /// # Errors
    /// containerd refuses it.
    pub fn import(&self, archive: &Path, base_name: &str) -> Result<Vec<String>> {
        let mut import = self.ctr();
        import.args(["images", "import", "--no-unpack", "--base-name", base_name, "--digests"]);
        let output = import.arg(archive).output()?;
        ensure!(output.status.success(), "{output:?}");
        let output = self.ctr().args(["images", "list", "--quiet"]).output()?;
        Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
    }

    /// Starts a container of a DaemonSet in a network namespace. `folder_of` maps each host path of the manifest to the folder to
    /// mount instead. Its output goes to the file `log`.
    ///
    /// # Errors
    /// The DaemonSet is malformed, or containerd cannot be asked.
    pub fn run(
        &self,
        id: &str,
        (daemon_set, container): (&Value, &Value),
        netns: &Path,
        folder_of: impl Fn(&str) -> Result<PathBuf>,
        overrides: &Overrides<'_>,
        log: fs::File,
    ) -> Result<Running<'_>> {
        let Overrides { mounts, variables } = overrides;
        let context = at(container, "/securityContext");
        let pod = at(daemon_set, "/spec/template/spec");
        let mut ctr = self.ctr();
        ctr.args(["run", "--rm", "--snapshotter", "native"]);
        ctr.arg("--with-ns").arg(format!("network:{}", netns.display()));
        if at(pod, "/securityContext/seccompProfile/type") == "RuntimeDefault" {
            ctr.arg("--seccomp");
        }
        if at(context, "/readOnlyRootFilesystem") == true {
            ctr.arg("--read-only");
        }
        let added = texts(at(context, "/capabilities/add"));
        for name in &added {
            ctr.args(["--cap-add", &format!("CAP_{name}")]);
        }
        // ctr drops after it has added.
        for name in DEFAULT_CAPABILITIES.iter().filter(|name| !added.contains(*name)) {
            ctr.args(["--cap-drop", &format!("CAP_{name}")]);
        }
        let mut mount = |folder: &Path, path: &str, options: &str| {
            ctr.arg("--mount").arg(format!(
                "type=bind,src={},dst={path},options=rbind:{options}",
                folder.display()
            ));
        };
        for volume_mount in items(at(container, "/volumeMounts")) {
            let text = |field| at(volume_mount, field).as_str().context("a mount lacks a field");
            let volume = host_path(daemon_set, text("/name")?).context("a mount has no volume")?;
            let access = if *at(volume_mount, "/readOnly") == true { "ro" } else { "rw" };
            mount(&folder_of(volume)?, text("/mountPath")?, access);
        }
        for (folder, path) in mounts {
            mount(folder, path, "ro");
        }
        let fixed = items(at(container, "/env")).filter_map(|variable| {
            // The kubelet resolves the others (`valueFrom`).
            Some((at(variable, "/name").as_str()?, at(variable, "/value").as_str()?.to_owned()))
        });
        for (name, value) in fixed.chain(variables.iter().cloned()) {
            ctr.args(["--env", &format!("{name}={value}")]);
        }
        let image = at(container, "/image").as_str().context("a container has no image")?;
        ctr.args([&full_name(image), id]);
        ctr.args(items(at(container, "/command")).filter_map(Value::as_str));
        ctr.args(items(at(container, "/args")).filter_map(Value::as_str));
        ctr.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let client = ctr.spawn().context("starting ctr")?;
        Ok(Running { of: self, id: id.to_owned(), client })
    }
}

/// The name under which containerd keeps an image of a manifest.
fn full_name(image: &str) -> String {
    let has_host = image.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':']));
    if has_host { image.to_owned() } else { format!("docker.io/library/{image}") }
}

impl Running<'_> {
    /// Runs a program in the container, as `kubectl exec` does.
    ///
    /// # Errors
    /// containerd cannot be asked.
    pub fn exec(&self, words: &[&str]) -> Result<Output> {
        let mut ctr = self.of.ctr();
        ctr.args(["task", "exec", "--exec-id", "exec", &self.id]).args(words);
        Ok(ctr.stdin(Stdio::null()).output()?)
    }

    /// The process id of its first process.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<u32> {
        let output = self.of.ctr().args(["task", "list"]).output()?;
        let text = String::from_utf8(output.stdout)?;
        let line = text.lines().find_map(|line| line.strip_prefix(&self.id)).map(str::trim);
        let pid = line.and_then(|line| line.split_whitespace().next()).context("no such task")?;
        Ok(pid.parse()?)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // It may have ended already.
        self.of.ctr().args(["task", "kill", "--signal", "SIGKILL", &self.id]).output().ok();
        self.client.wait().ok();
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
