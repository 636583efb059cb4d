//! A node and its pods: network namespaces, and calls of CNI plugins.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use netpol_lab::privilege::{self, Need};
use serde_json::{Value, json};

use crate::fake_agent::FakeAgent;

/// Debian's folder of the reference plugins.
pub(crate) const PLUGIN_DIR: &str = "/usr/lib/cni";

/// All versions of the specification.
pub(crate) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Whether tests with real namespaces and plugins can run here.
#[must_use]
pub(crate) fn can_run() -> bool {
    let plugin = |path| Need::File { path, from: "package containernetworking-plugins" };
    privilege::met(&[
        Need::Root,
        Need::Program("ip"),
        Need::Program("ping"),
        plugin("/usr/lib/cni/bridge"),
        plugin("/usr/lib/cni/host-local"),
    ])
}

/// A named network namespace. Dropped, it is removed.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    pub(crate) fn new(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("npc-{}-{number}-{role}", std::process::id());
        run(&mut command(&["ip", "netns", "add", &name]));
        Self { name }
    }

    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs a program inside; it must succeed. Returns its standard output.
    pub(crate) fn exec(&self, program: &[&str]) -> String {
        run(&mut self.command(program))
    }

    /// Runs a program inside; returns whether it succeeded.
    pub(crate) fn succeeds(&self, program: &[&str]) -> bool {
        self.command(program).output().unwrap().status.success()
    }

    pub(crate) fn command(&self, program: &[&str]) -> Command {
        let mut inside = vec!["ip", "netns", "exec", &self.name];
        inside.extend(program);
        command(&inside)
    }

    /// Whether `address` answers within some seconds.
    pub(crate) fn reaches(&self, address: &str) -> bool {
        eventually(|| self.succeeds(&["ping", "-c1", "-W1", address]))
    }

    /// All links, from `ip -json`.
    pub(crate) fn links(&self) -> Vec<Value> {
        let json = self.exec(&["ip", "-json", "-details", "link"]);
        serde_json::from_str(&json).unwrap()
    }

    /// Names of all links but `lo`.
    pub(crate) fn link_names(&self) -> Vec<String> {
        let name = |link: &Value| link["ifname"].as_str().unwrap().to_owned();
        self.links().iter().map(name).filter(|name| name != "lo").collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        command(&["ip", "netns", "del", &self.name]).output().ok();
    }
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Whether the condition becomes true before a deadline.
pub(crate) fn eventually(condition: impl Fn() -> bool) -> bool {
    #[expect(clippy::disallowed_methods, reason = "a deadline of a test")]
    let now = Instant::now;
    let deadline = now() + Duration::from_secs(20);
    while now() < deadline {
        if condition() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

/// A pod for a runtime to connect.
pub(crate) struct Pod {
    pub(crate) netns: Namespace,
    pub(crate) container_id: String,
    pub(crate) name: String,
}

impl Pod {
    pub(crate) fn new(name: &str) -> Self {
        let netns = Namespace::new(name);
        let container_id = format!("{}-sandbox", netns.name);
        Self { netns, container_id, name: name.into() }
    }

    /// `CNI_ARGS` as containerd fills it.
    fn args(&self) -> String {
        let Self { container_id, name, .. } = self;
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name};\
             K8S_POD_INFRA_CONTAINER_ID={container_id};K8S_POD_UID=uid-of-{name}"
        )
    }
}

/// A plugin's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    /// Its output; null if empty.
    pub(crate) json: Value,
}

impl Answer {
    /// The result of a successful call.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.json);
        self.json
    }

    /// The number of the CNI error of a failed call.
    #[track_caller]
    pub(crate) fn error(&self) -> u64 {
        assert_eq!(self.code, Some(1), "{}", self.json);
        assert!(self.json["msg"].is_string(), "{}", self.json);
        assert!(VERSIONS.contains(&self.json["cniVersion"].as_str().unwrap()), "{}", self.json);
        self.json["code"].as_u64().unwrap()
    }

    pub(crate) fn message(&self) -> String {
        format!("{} {}", self.json["msg"], self.json["details"])
    }
}

/// Runs a plugin to its end.
pub(crate) fn call(mut plugin: Command, environment: &[(&str, &str)], config: &str) -> Answer {
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CNI_"))
    {
        plugin.env_remove(name);
    }
    let mut child = plugin
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // A plugin that fails early does not read its configuration.
    child.stdin.take().unwrap().write_all(config.as_bytes()).ok();
    let output = child.wait_with_output().unwrap();
    let json = if output.stdout.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&output.stdout)))
    };
    Answer { code: output.status.code(), json }
}

/// The plugin under test.
pub(crate) fn netpol_cni() -> PathBuf {
    netpol_lab::binaries::binary("netpol-cni").unwrap()
}

/// A node: a network namespace to run plugins in, and a directory for the state of plugins and agent.
pub(crate) struct Node {
    pub(crate) netns: Namespace,
    pub(crate) dir: tempfile::TempDir,
    plugin: PathBuf,
}

/// The node's own addresses.
pub(crate) const NODE_V4: &str = "192.168.77.1";
pub(crate) const NODE_V6: &str = "fd77::1";

impl Node {
    pub(crate) fn new() -> Self {
        let netns = Namespace::new("node");
        netns.exec(&["ip", "link", "set", "lo", "up"]);
        netns.exec(&["ip", "address", "add", NODE_V4, "dev", "lo"]);
        netns.exec(&["ip", "address", "add", NODE_V6, "dev", "lo"]);
        Self { netns, dir: tempfile::tempdir().unwrap(), plugin: netpol_cni() }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    pub(crate) fn willing_agent(&self) -> FakeAgent {
        FakeAgent::willing(&self.socket())
    }

    /// A configuration of netpol-cni with these additional fields.
    pub(crate) fn config(&self, version: &str, extra: Value) -> Value {
        let config = json!({
            "cniVersion": version, "name": "cbr0", "type": "netpol-cni", "agentSocket": self.socket(),
        });
        merge(config, extra)
    }

    /// An `ipam` section of host-local that keeps its state in this node's directory.
    pub(crate) fn host_local(&self, subnets: &[&str]) -> Value {
        let ranges: Vec<Value> =
            subnets.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
        json!({ "type": "host-local", "dataDir": self.ipam_dir(), "ranges": ranges })
    }

    pub(crate) fn ipam_dir(&self) -> PathBuf {
        self.dir.path().join("ipam")
    }

    /// Addresses that host-local has assigned.
    pub(crate) fn reserved(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.ipam_dir().join("cbr0")) else {
            return Vec::new();
        };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "lock" && !name.starts_with("last_reserved")).collect()
    }

    /// Calls netpol-cni for a pod.
    pub(crate) fn cni(&self, verb: &str, pod: &Pod, config: &Value) -> Answer {
        self.call(&self.plugin, verb, pod, &pod.netns.path(), config)
    }

    /// The same, without a network namespace.
    pub(crate) fn cni_without_netns(&self, verb: &str, pod: &Pod, config: &Value) -> Answer {
        self.call(&self.plugin, verb, pod, "", config)
    }

    /// The same, with another value of `CNI_NETNS`.
    pub(crate) fn cni_at(&self, verb: &str, pod: &Pod, netns: &Path, config: &Value) -> Answer {
        self.call(&self.plugin, verb, pod, netns.to_str().unwrap(), config)
    }

    /// Calls one of the reference plugins for a pod.
    pub(crate) fn other(&self, plugin: &str, verb: &str, pod: &Pod, config: &Value) -> Answer {
        self.call(&Path::new(PLUGIN_DIR).join(plugin), verb, pod, &pod.netns.path(), config)
    }

    fn call(&self, plugin: &Path, verb: &str, pod: &Pod, netns: &str, config: &Value) -> Answer {
        let args = pod.args();
        let environment = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", &pod.container_id),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", &args),
            ("CNI_PATH", PLUGIN_DIR),
        ];
        call(self.netns.command(&[plugin.to_str().unwrap()]), &environment, &config.to_string())
    }
}

/// The first object with the fields of the second.
pub(crate) fn merge(mut object: Value, extra: Value) -> Value {
    let Value::Object(extra) = extra else { panic!("{extra}") };
    object.as_object_mut().unwrap().extend(extra);
    object
}

/// The addresses in a result, without prefix lengths.
pub(crate) fn addresses(result: &Value) -> Vec<String> {
    let address =
        |ip: &Value| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
    result["ips"].as_array().unwrap().iter().map(address).collect()
}

/// Runs `work` for `0..n`, all at once.
pub(crate) fn at_once(n: usize, work: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for number in 0..n {
            let work = &work;
            scope.spawn(move || work(number));
        }
    });
}
