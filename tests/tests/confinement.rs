//! The containers of the manifest under the `AppArmor` profile that a container runtime gives them. `cargo xtask vm` runs these tests
//! on kernels with `AppArmor`; elsewhere they print that they were skipped.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use netpol_lab::binaries;
use netpol_lab::deployment::{at, containers, items, objects, of_kind};
use netpol_lab::node::netns::{self, Netns};
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::privilege::{Need, met};
use serde_json::Value;
use tempfile::TempDir;

/// The manifest, which the machine of `cargo xtask vm` does not have as a file.
const DAEMON_SET: &str = include_str!("../../deploy/base/daemonset.yaml");

const PROFILE: &str = "netpol-test-default";

/// What containerd and CRI-O forbid a container that has no profile of its own: mounts, and writing to the files of the kernel,
/// of which only cgroups are left.
const RULES: &str = "
profile netpol-test-default flags=(attach_disconnected, mediate_deleted) {
  capability,
  file,
  network,
  signal,
  unix,
  ptrace (read, readby, trace, tracedby) peer=netpol-test-default,
  deny mount,
  deny /proc/{sysrq-trigger,kcore} rwklx,
  deny /sys/{block,bus,class,dev,devices,firmware,kernel,module,power}/** wkl,
  deny /sys/fs/{bpf,ext4,fuse,pstore,selinux,smackfs,xfs}/** wkl,
}
";

const NEEDS: [Need; 4] =
    [Need::Root, Need::Program("apparmor_parser"), Need::Program("setpriv"), Need::Program("ip")];

/// The programs of the containers, with their files in one folder.
struct Node {
    folder: TempDir,
    netns: Netns,
    pins: String,
}

/// A running container. Dropped, it is killed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.pins).ok();
        netns::delete(self.netns.name()).ok();
    }
}

impl Node {
    fn create(name: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        for part in ["net.d", "bin", "manifests", "run"] {
            fs::create_dir(folder.path().join(part))?;
        }
        let list = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]}"#;
        fs::write(folder.path().join("net.d/10-net.conflist"), list)?;
        let profile = folder.path().join("profile");
        fs::write(&profile, RULES)?;
        let mut parser = Command::new("apparmor_parser");
        let output = parser.args(["--replace", "--skip-cache"]).arg(&profile).output()?;
        ensure!(output.status.success(), "{output:?}");
        let pins = format!("/sys/fs/bpf/{name}");
        Ok(Self { folder, netns: Netns::create(name)?, pins })
    }

    fn path(&self, part: &str) -> String {
        self.folder.path().join(part).display().to_string()
    }

    /// Starts a container with its capabilities of the manifest, under a profile or unconfined.
    fn start(&self, container: &Value, profile: Option<&str>) -> Result<Running> {
        let name = at(container, "/name").as_str().context("no name")?;
        let capabilities = items(at(container, "/securityContext/capabilities/add"));
        let bounding = capabilities
            .filter_map(Value::as_str)
            .fold("-all".to_owned(), |all, one| format!("{all},+{}", one.to_lowercase()));
        let words: Vec<_> =
            items(at(container, "/command")).skip(1).filter_map(Value::as_str).collect();
        let mut command = Command::new("sh");
        let script = match profile {
            Some(profile) => format!("echo exec {profile} >/proc/self/attr/exec && exec \"$@\""),
            None => "exec \"$@\"".to_owned(),
        };
        command.args(["-c", &script, "sh", "setpriv", "--bounding-set", &bounding, "--"]);
        command.arg(binaries::binary("netpol-agent")?).args(words);
        command
            .env("NETPOL_BPFFS", "require")
            .env("NETPOL_PIN_ROOT", &self.pins)
            .env("NETPOL_MANIFESTS", self.path("manifests"))
            .env("NETPOL_SOCKET", self.path("run/cni.sock"))
            .env("NETPOL_CNI_CONF_DIR", self.path("net.d"))
            .env("NETPOL_CNI_BIN_DIR", self.path("bin"))
            .env("NETPOL_CNI_PLUGIN", binaries::binary("netpol-cni")?);
        let log = fs::File::create(self.path(&format!("{name}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Running(self.netns.spawn(&mut command)?))
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }
}

/// Whether this kernel has `AppArmor`. The tests need a machine that is made for them, so its absence is no failure.
#[expect(
    clippy::print_stdout,
    reason = "the reader of a test's output must see what was not tested"
)]
fn has_apparmor() -> bool {
    let found = Path::new("/sys/kernel/security/apparmor/profiles").exists();
    if !found {
        println!("SKIP: this kernel runs without AppArmor; cargo xtask vm has one");
    }
    found && met(&NEEDS)
}

/// The profile under which a runtime starts a container.
fn profile_of(container: &Value) -> Option<&'static str> {
    let wanted = at(container, "/securityContext/appArmorProfile/type");
    (*wanted != "Unconfined").then_some(PROFILE)
}

#[test]
fn the_containers_work_under_the_profiles_that_the_manifest_leads_to() -> Result<()> {
    if !has_apparmor() {
        return Ok(());
    }
    let node = Node::create("netpol-confined")?;
    let objects = objects(DAEMON_SET)?;
    let mut running = Vec::new();
    for container in containers(of_kind(&objects, "DaemonSet")?) {
        running.push(node.start(container, profile_of(container))?);
    }
    until("the entry of netpol-cni", LIMIT, || {
        let list = fs::read_to_string(node.path("net.d/10-net.conflist"))?;
        Ok(if list.contains("netpol-cni") {
            Look::Done(())
        } else {
            Look::NotYet(format!("agent: {}\ncni: {}", node.log("agent"), node.log("cni")))
        })
    })?;
    ensure!(Path::new(&node.pins).is_dir(), "{}", node.log("agent"));
    ensure!(Path::new(&node.path("bin/netpol-cni")).is_file(), "{}", node.log("cni"));
    Ok(())
}

#[test]
fn an_agent_under_the_default_profile_names_it() -> Result<()> {
    if !has_apparmor() {
        return Ok(());
    }
    let node = Node::create("netpol-denied")?;
    let objects = objects(DAEMON_SET)?;
    let mut all = containers(of_kind(&objects, "DaemonSet")?);
    let agent = all.find(|container| at(container, "/name") == "agent").context("no agent")?;
    let mut running = node.start(agent, Some(PROFILE))?;
    let status = until("the end of the agent", LIMIT, || {
        Ok(running.0.try_wait()?.map_or_else(|| Look::NotYet(node.log("agent")), Look::Done))
    })?;
    let log = node.log("agent");
    ensure!(status.code() == Some(2), "{status}: {log}");
    let expected = format!("likely cause: the AppArmor profile {PROFILE} confines this process");
    ensure!(log.contains(&expected) && log.contains(&node.pins), "{log}");
    Ok(())
}
