//! The container runtime's side of CNI: runs the plugin chain of a network configuration list.
//!
//! Source: CNI specification 1.0.0, "Section 3: Execution of Network Configurations".

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::netns::Netns;

/// The interface name that runtimes request.
pub const CONTAINER_IFNAME: &str = "eth0";

/// A plugin's error result.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("CNI error {code}: {msg} {details}")]
pub struct CniError {
    /// Error code of the specification.
    pub code: u32,
    /// Message.
    pub msg: String,
    /// Details, possibly empty.
    #[serde(default)]
    pub details: String,
}

/// A container to connect.
#[derive(Clone, Debug)]
pub struct Container {
    /// Sandbox id.
    pub id: String,
    /// Its network namespace.
    pub netns: Netns,
    /// `CNI_ARGS`, which names the pod.
    pub args: String,
}

/// A network configuration of the node's runtime.
#[derive(Clone, Debug)]
pub struct Network {
    /// The network namespace in which plugins run.
    node: Netns,
    /// `CNI_PATH`, the folders of the plugins.
    path: String,
    version: String,
    name: String,
    plugins: Vec<Map<String, Value>>,
    /// The folder of cached results, as `libcni`'s `/var/lib/cni/results`.
    results: PathBuf,
}

impl Network {
    /// The network of a configuration list, as in `/etc/cni/net.d/*.conflist`.
    ///
    /// # Errors
    /// A field is missing or has the wrong type.
    pub fn new(
        node: &Netns,
        folders: &[&Path],
        conflist: &Value,
        results: PathBuf,
    ) -> Result<Self> {
        #[derive(Deserialize)]
        struct List {
            #[serde(rename = "cniVersion")]
            version: String,
            name: String,
            plugins: Vec<Map<String, Value>>,
        }
        let List { version, name, plugins } =
            List::deserialize(conflist).context("reading the configuration list")?;
        let path = std::env::join_paths(folders)?.into_string().ok().context("CNI_PATH")?;
        fs::create_dir_all(&results).with_context(|| format!("creating {}", results.display()))?;
        Ok(Self { node: node.clone(), path, version, name, plugins, results })
    }

    /// The same network without this plugin.
    #[must_use]
    pub fn without(&self, plugin: &str) -> Self {
        let mut network = self.clone();
        network.plugins.retain(|config| config.get("type").and_then(Value::as_str) != Some(plugin));
        network
    }

    /// The folder of cached results.
    pub fn results(&self) -> &Path {
        &self.results
    }

    fn result_file(&self, container: &Container) -> PathBuf {
        self.results.join(format!("{}-{}-{CONTAINER_IFNAME}", self.name, container.id))
    }

    /// Source: `libcni`, `cacheAdd`.
    fn keep(&self, container: &Container, result: &Value) -> Result<()> {
        let args = container.args.split(';').filter_map(|pair| pair.split_once('='));
        let cached = serde_json::json!({
            "kind": "cniCacheV1",
            "containerId": container.id,
            "config": "",
            "ifName": CONTAINER_IFNAME,
            "networkName": self.name,
            "cniArgs": args.collect::<Vec<_>>(),
            "result": result,
        });
        let path = self.result_file(container);
        fs::write(&path, cached.to_string()).with_context(|| format!("writing {}", path.display()))
    }

    /// Connects a container; returns the last plugin's result. A failed ADD is followed by DEL.
    ///
    /// # Errors
    /// A [`CniError`] if a plugin returned an error; another error if it returned nothing valid.
    pub fn add(&self, container: &Container) -> Result<Value> {
        let mut result = None;
        for plugin in &self.plugins {
            match self.run("ADD", plugin, container, result.as_ref()) {
                Ok(next) => result = Some(next),
                Err(error) => {
                    // The error of ADD matters; DEL of a half-connected container may fail.
                    self.del(container, result.as_ref()).ok();
                    return Err(error);
                }
            }
        }
        let result = result.context("the network has no plugins")?;
        self.keep(container, &result)?;
        Ok(result)
    }

    /// Connects containers concurrently; returns the results in the same order.
    pub fn add_at_once<'a>(
        &self,
        containers: impl Iterator<Item = &'a Container>,
    ) -> Vec<Result<Value>> {
        std::thread::scope(|scope| {
            let calls: Vec<_> =
                containers.map(|container| scope.spawn(move || self.add(container))).collect();
            let finish = |call: std::thread::ScopedJoinHandle<'_, Result<Value>>| {
                call.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            calls.into_iter().map(finish).collect()
        })
    }

    /// Disconnects a container: runs DEL of all plugins in reverse order.
    ///
    /// # Errors
    /// The error of the first plugin that failed.
    pub fn del(&self, container: &Container, result: Option<&Value>) -> Result<()> {
        let mut outcome = Ok(());
        for plugin in self.plugins.iter().rev() {
            outcome = outcome.and(self.run("DEL", plugin, container, result).map(drop));
        }
        let path = self.result_file(container);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                outcome.and(Err(error).with_context(|| format!("removing {}", path.display())))
            }
            Ok(()) | Err(_) => outcome,
        }
    }

    fn run(
        &self,
        verb: &str,
        plugin: &Map<String, Value>,
        container: &Container,
        previous: Option<&Value>,
    ) -> Result<Value> {
        let name = plugin.get("type").and_then(Value::as_str).context("a plugin has no type")?;
        let program = std::env::split_paths(&self.path)
            .map(|folder| folder.join(name))
            .find(|file| file.is_file())
            .with_context(|| format!("CNI plugin {name} is not in {}", self.path))?;
        let mut config = plugin.clone();
        config.insert("cniVersion".into(), self.version.clone().into());
        config.insert("name".into(), self.name.clone().into());
        if let Some(previous) = previous {
            config.insert("prevResult".into(), previous.clone());
        }
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", &container.id);
        command.env("CNI_NETNS", container.netns.path()).env("CNI_IFNAME", CONTAINER_IFNAME);
        command.env("CNI_ARGS", &container.args).env("CNI_PATH", &self.path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.node.spawn(&mut command)?;
        let mut input = child.stdin.take().context("a plugin has no input")?;
        input.write_all(Value::Object(config).to_string().as_bytes())?;
        drop(input);
        let output = child.wait_with_output()?;
        let doing = || format!("{verb} of {} by {name}", container.id);
        if !output.status.success() {
            let error: CniError = serde_json::from_slice(&output.stdout).with_context(|| {
                let stdout = String::from_utf8_lossy(&output.stdout);
                let stderr = String::from_utf8_lossy(&output.stderr);
                format!("{}: {}, {stdout} {stderr}", doing(), output.status)
            })?;
            return Err(anyhow::Error::new(error).context(doing()));
        }
        if verb != "ADD" {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&output.stdout).with_context(doing)
    }
}

/// The addresses in a result, without their prefix lengths.
///
/// # Errors
/// The result is malformed.
pub fn addresses(result: &Value) -> Result<Vec<IpAddr>> {
    let ips = result.get("ips").and_then(Value::as_array).context("the result has no ips")?;
    let address = |ip: &Value| {
        let text = ip.get("address").and_then(Value::as_str).context("an ip has no address")?;
        let address = text.split('/').next().unwrap_or_default();
        address.parse().with_context(|| format!("`{text}` is no address"))
    };
    ips.iter().map(address).collect()
}

/// Name prefixes of host-side veth devices: of the CNI project's plugins, and of ours.
const PREFIXES: [&str; 2] = ["veth", "npl"];

/// The name of the host-side veth device in a result.
///
/// # Errors
/// The result has no such host interface.
pub fn host_interface(result: &Value) -> Result<String> {
    let interfaces = result.get("interfaces").and_then(Value::as_array);
    for interface in interfaces.context("the result has no interfaces")? {
        let text = |field| interface.get(field).and_then(Value::as_str).unwrap_or_default();
        let is_ours = PREFIXES.iter().any(|prefix| text("name").starts_with(prefix));
        if text("sandbox").is_empty() && is_ours {
            return Ok(text("name").to_owned());
        }
    }
    bail!("the result names no veth on the host: {result}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_and_the_host_interface_are_found_in_a_result() {
        let result = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                { "name": "cni0", "mac": "00:00:00:00:00:01" },
                { "name": "veth12345678" },
                { "name": "eth0", "sandbox": "/run/netns/x" },
            ],
            "ips": [{ "address": "10.0.0.2/24", "interface": 2 }, { "address": "fd00::2/64" }],
        });
        assert_eq!(host_interface(&result).unwrap(), "veth12345678");
        let expected: [IpAddr; 2] = ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert_eq!(addresses(&result).unwrap(), expected);
    }

    #[test]
    fn a_result_without_a_veth_of_the_host_is_an_error() {
        let result = json!({ "interfaces": [{ "name": "veth1", "sandbox": "/run/netns/x" }] });
        assert!(host_interface(&result).is_err());
        assert!(addresses(&result).is_err());
    }
}
