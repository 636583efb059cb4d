//! The image, run as in the manifests: it protects a node, answers requests, and its removal leaves nothing.
#![forbid(unsafe_code)]

mod runtime;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use netpol_lab::binaries;
use netpol_lab::container::{Access, Rootfs, exec, process_in};
use netpol_lab::deployment::{at, containers, items, kustomize, of_kind};
use netpol_lab::node::netns::Netns;
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Host, Lab, Passing, PodSpec, labels};
use netpol_lab::privilege::{Need, met};
use netpol_lab::probe::Protocol::Tcp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const NEEDS: [Need; 5] = [
    Need::Root,
    Need::Program("ip"),
    Need::Program("bwrap"),
    Need::Program("kubectl"),
    Need::File { path: "/usr/lib/cni/bridge", from: "containernetworking-plugins" },
];

const PORT: u16 = 80;

/// The agent's health port in the DaemonSet.
const HEALTH: u16 = 9470;

/// The agent's port for metrics in the component `prometheus`.
const METRICS: u16 = 9471;

/// Allows only clients to connect to web.
const ALLOW_CLIENTS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: allow-clients, namespace: shop }
spec:
  podSelector: { matchLabels: { app: web } }
  ingress: [{ from: [{ podSelector: { matchLabels: { role: client } } }] }]
";

#[test]
fn the_programs_of_the_image_need_no_other_file() -> Result<()> {
    if !met(&[Need::Program("bwrap"), Need::Root]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let rootfs = Rootfs::unpack(&binaries::image()?, folder.path())?;
    // The container has no other files: no loader, no library, no shell.
    let mut files: Vec<_> = fs::read_dir(folder.path())?
        .map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()))
        .collect::<Result<_>>()?;
    files.sort();
    ensure!(files == ["bin", "licenses"], "{files:?}");

    let output = rootfs.container()?.run([rootfs.entrypoint(), "--version"]).output()?;
    let version = concat!("netpol-agent ", env!("CARGO_PKG_VERSION"), "\n");
    ensure!(output.status.success() && output.stdout == version.as_bytes(), "{output:?}");

    let mut plugin = rootfs.container()?;
    plugin.set("CNI_COMMAND", "VERSION");
    let mut plugin = plugin.run(["netpol-cni"]);
    let mut plugin = plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    serde_json::to_writer(
        plugin.stdin.take().context("no input")?,
        &json!({ "cniVersion": "1.1.0", "name": "n" }),
    )?;
    let output = plugin.wait_with_output()?;
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(at(&answer, "/supportedVersions/0") == "0.3.0", "{answer}");
    Ok(())
}

/// A node with a network as of Flannel, and the unpacked image.
struct Node {
    lab: Lab,
    rootfs: Rootfs,
    _folder: tempfile::TempDir,
    conf_dir: PathBuf,
    bin_dir: PathBuf,
    empty_dir: PathBuf,
}

/// A running container. Dropped, it is killed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The container may have ended already.
        if let Some(pid) = process_in(self.0.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::KILL).ok();
        }
        self.0.wait().ok();
    }
}

impl Node {
    fn create(name: &str) -> Result<Self> {
        let lab = Lab::create(name, Wiring::Bridge)?;
        let folder = tempfile::tempdir()?;
        let rootfs = Rootfs::unpack(&binaries::image()?, &folder.path().join("rootfs"))?;
        let [conf_dir, bin_dir, empty_dir] =
            ["net.d", "plugins", "empty"].map(|part| lab.folder().join(part));
        for path in [&conf_dir, &bin_dir, &empty_dir] {
            fs::create_dir(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
            // File modes as after unpacking a release of the plugins.
            chown(path, Some(1001), Some(1001))?;
        }
        let conflist = lab.folder().join("10-lab.conflist");
        let mut conflist: Value = serde_json::from_slice(&fs::read(conflist)?)?;
        let plugins = conflist.pointer_mut("/plugins").and_then(Value::as_array_mut);
        plugins.context("no plugins")?.retain(|plugin| at(plugin, "/type") != "netpol-cni");
        let file = conf_dir.join("10-lab.conflist");
        fs::write(&file, format!("{conflist:#}\n"))?;
        chown(&file, Some(1001), Some(1001))?;
        Ok(Self { lab, rootfs, _folder: folder, conf_dir, bin_dir, empty_dir })
    }

    /// The lab's folder for a host path.
    fn folder_of(&self, host_path: &str) -> Result<PathBuf> {
        Ok(match host_path {
            "/sys/fs/bpf" => self.lab.agent_config().pins.parent().context("no bpffs")?.to_owned(),
            "/run/netpol" => self.lab.agent_config().state.clone(),
            "/etc/cni/net.d" => self.conf_dir.clone(),
            "/opt/cni/bin" => self.bin_dir.clone(),
            "/var/lib/cni/results" => self.lab.agent_config().results.clone(),
            // No pod is older than the agent in these tests.
            "/run/netns" => self.empty_dir.clone(),
            other => bail!("the lab has no {other}"),
        })
    }

    /// Starts a container of a DaemonSet. Objects come from the lab's manifests.
    fn start(&self, daemon_set: &Value, name: &str) -> Result<Running> {
        let container = containers(daemon_set).find(|container| at(container, "/name") == name);
        let container = container.with_context(|| format!("no container {name}"))?;
        let mut made =
            self.rootfs.container_of(daemon_set, container, |path| self.folder_of(path))?;
        made.mount(self.lab.manifests().folder(), "/manifests", Access::ReadOnly)?;
        made.set("NETPOL_MANIFESTS", "/manifests");
        made.set("NETPOL_LOG_FORMAT", "json");
        made.set("NETPOL_METRICS", &format!("[::]:{METRICS}"));
        if name == "cni" {
            // The agent's socket of this lab, at the same path in the container and on the node.
            let state = &self.lab.agent_config().state;
            made.mount(state, state.to_str().context("not UTF-8")?, Access::ReadOnly)?;
            made.set(
                "NETPOL_SOCKET",
                self.lab.agent_config().socket().to_str().context("not UTF-8")?,
            );
        }
        let words: Vec<_> = items(at(container, "/command"))
            .chain(items(at(container, "/args")))
            .filter_map(Value::as_str)
            .collect();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.lab.folder().join(format!("{name}.log")))?;
        let mut command = made.run(words);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Running(self.netns()?.spawn(&mut command)?))
    }

    fn netns(&self) -> Result<&Netns> {
        self.lab.netns(&Host::Node)
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.lab.folder().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Runs a program in a running container, as `kubectl exec` does.
    fn exec(&self, container: &Running, words: &[&str]) -> Result<Output> {
        Ok(exec(&self.rootfs, container.0.id(), words.iter().copied())?.output()?)
    }

    fn until_installed(&self) -> Result<Value> {
        until("our entry and our plugin", LIMIT, || {
            let text = fs::read_to_string(self.conf_dir.join("10-lab.conflist"))?;
            let is_there = text.contains("netpol-cni") && self.bin_dir.join("netpol-cni").is_file();
            Ok(if is_there {
                Look::Done(serde_json::from_str(&text)?)
            } else {
                Look::NotYet(format!("{text}{}{}", self.log("cni"), self.log("agent")))
            })
        })
    }

    fn until_in_force(&self, agent: &Running) -> Result<()> {
        until("policies in force", LIMIT, || {
            let output = self.exec(agent, &["netpol-agent", "status", "-o", "json"]);
            let said = match output {
                Ok(output) if output.status.success() => {
                    let status: Value = serde_json::from_slice(&output.stdout)?;
                    if *at(&status, "/is_in_force") == true {
                        return Ok(Look::Done(()));
                    }
                    status.to_string()
                }
                other => format!("{other:?}"),
            };
            Ok(Look::NotYet(format!("{said} {}", self.log("agent"))))
        })
    }

    /// Sends the agent an HTTP request, as the kubelet and Prometheus do, in both families. Returns head and body.
    fn ask(&self, port: u16, path: &str) -> Result<String> {
        let ask = |address: IpAddr| {
            let mut stream = TcpStream::connect((address, port))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        self.netns()?.inside(|| {
            ask(Ipv6Addr::LOCALHOST.into())?;
            ask(Ipv4Addr::LOCALHOST.into())
        })
    }

    fn expect(&self, passing: Passing, from: &str) -> Result<()> {
        self.lab.expect(passing, &Host::pod(from), &Host::pod("shop/web"), Tcp, PORT)
    }
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names: Vec<_> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()))
        .collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

/// Asks for health as the kubelet does, and for metrics as Prometheus.
fn check_probes(node: &Node, daemon_set: &Value) -> Result<()> {
    for container in containers(daemon_set) {
        for probe in ["/livenessProbe", "/readinessProbe"] {
            if let Some(path) = at(at(container, probe), "/httpGet/path").as_str() {
                ensure!(at(at(container, probe), "/httpGet/host") == "localhost");
                let answer = node.ask(HEALTH, path)?;
                ensure!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
            }
        }
    }
    ensure!(node.ask(HEALTH, "/metrics")?.starts_with("HTTP/1.1 404 "));
    let metrics = node.ask(METRICS, "/metrics")?;
    ensure!(metrics.lines().any(|line| line == "netpol_in_force 1"), "{metrics}");
    let is_counted = |line: &str| line == "netpol_add_latency_seconds_count 3";
    ensure!(metrics.lines().any(is_counted), "{metrics}");
    Ok(())
}

#[test]
fn the_daemon_set_protects_a_node_and_its_removal_leaves_nothing_there() -> Result<()> {
    if !met(&NEEDS) {
        return Ok(());
    }
    let mut node = Node::create("image")?;
    let before = fs::read_to_string(node.conf_dir.join("10-lab.conflist"))?;
    node.lab.apply_namespace("shop", &labels(&[]))?;
    node.lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;

    let objects = kustomize("overlays/kubeadm-flannel")?;
    let daemon_set = of_kind(&objects, "DaemonSet")?;
    // A node without an agent starts its pods as before.
    let cni = node.start(daemon_set, "cni")?;
    until("the wait for the agent", LIMIT, || {
        let log = node.log("cni");
        let waits = log.contains("no agent has served on this node");
        Ok(if waits { Look::Done(()) } else { Look::NotYet(log) })
    })?;
    ensure!(fs::read_to_string(node.conf_dir.join("10-lab.conflist"))? == before);
    let agent = node.start(daemon_set, "agent")?;
    let conflist = node.until_installed()?;
    node.until_in_force(&agent)?;
    let bin_dir = node.bin_dir.clone();
    node.lab.configure(&conflist, &[&bin_dir])?;
    for (name, role) in
        [("shop/web", "web"), ("shop/client", "client"), ("shop/visitor", "visitor")]
    {
        let app = if name == "shop/web" { "web" } else { "other" };
        node.lab.add_pod(PodSpec::new(name, &[("app", app), ("role", role)], &[PORT]))?;
    }
    node.expect(Passing::Yes, "shop/client")?;
    node.expect(Passing::No, "shop/visitor")?;

    // kubectl exec ds/netpol-agent -- netpol-agent explain ...
    for (from, code, word) in [("shop/client", 0, "allowed"), ("shop/visitor", 1, "denied")] {
        let words = ["netpol-agent", "explain", "--from", from, "--to", "shop/web", "--port", "80"];
        let output = node.exec(&agent, &words)?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.code() == Some(code) && text.contains(word), "{from}: {output:?}");
    }

    check_probes(&node, daemon_set)?;
    for line in node.log("agent").lines() {
        let _fact: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
    }

    let objects = kustomize("uninstall/kubeadm-flannel")?;
    let removing = of_kind(&objects, "DaemonSet")?;
    // The removal refuses while an agent runs.
    let mut refused = node.start(removing, "agent")?;
    ensure!(!refused.0.wait()?.success(), "{}", node.log("agent"));
    ensure!(node.log("agent").contains("another agent"), "{}", node.log("agent"));
    node.expect(Passing::No, "shop/visitor")?;

    drop((agent, cni));
    node.expect(Passing::No, "shop/visitor")?;
    let mut removal = node.start(removing, "agent")?;
    until("the removal", LIMIT, || {
        if let Some(status) = removal.0.try_wait()? {
            bail!("it ended ({status}): {}", node.log("agent"));
        }
        let log = node.log("agent");
        let is_done = log.contains("nothing of netpol is left on this node");
        Ok(if is_done { Look::Done(()) } else { Look::NotYet(log) })
    })?;
    // The command itself has checked that the kernel has released programs, links, and maps.
    let pins = &node.lab.agent_config().pins;
    ensure!(!pins.exists(), "{} is still there", pins.display());
    ensure!(
        names(&node.lab.agent_config().state)?.is_empty(),
        "{:?}",
        names(&node.lab.agent_config().state)
    );
    ensure!(names(&node.bin_dir)?.is_empty(), "{:?}", names(&node.bin_dir));
    ensure!(names(&node.conf_dir)? == ["10-lab.conflist"], "{:?}", names(&node.conf_dir));
    ensure!(fs::read_to_string(node.conf_dir.join("10-lab.conflist"))? == before);
    // Running pods keep running, without policies.
    node.expect(Passing::Yes, "shop/client")?;
    node.expect(Passing::Yes, "shop/visitor")?;
    // A second removal is no error.
    drop(removal);
    let _again = node.start(removing, "agent")?;
    until("a second removal", LIMIT, || {
        let log = node.log("agent");
        let n_done = log.matches("nothing of netpol is left on this node").count();
        Ok(if n_done == 2 { Look::Done(()) } else { Look::NotYet(log) })
    })
}
