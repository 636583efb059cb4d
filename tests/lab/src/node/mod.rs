//! A node of a cluster on this machine: network namespaces, the real CNI plugins, the real agent, real traffic.
//!
//! All resources of a [`Lab`] have its name, so that labs can run side by side, and the next lab of the same name removes the
//! leftovers of a killed one. A lab is removed when it is dropped, on a panic, and when the process is interrupted. Needs
//! root. Must not: sleep; every wait has a condition and a deadline.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

pub mod agent;
mod api;
pub mod cni;
mod crowd;
mod explained;
mod interrupt;
pub mod nat;
pub mod netns;
pub mod objects;
mod older;
pub mod second_node;
mod server;
pub mod strace;
mod stream;
pub mod teardown;
pub mod topology;
mod traffic;
pub mod wait;
mod watch;

pub use self::agent::Agent;
pub use self::nat::{Bridge, Masquerade, Service, Shape};
pub use self::objects::{Labels, Manifests, PodSpec, labels};
pub use self::second_node::SecondNode;
pub use self::stream::Stream;
pub use self::traffic::Passing;
pub use self::watch::Watch;

use self::cni::{Container, Network};
use self::netns::Netns;
use self::server::Server;
use self::topology::{Topology, Wiring};
use crate::binaries;

/// The folders of the CNI project's plugins: on Debian, and elsewhere.
const PLUGIN_FOLDERS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// The ports on which the node and the hosts outside answer.
const HOST_PORTS: [u16; 2] = [80, 443];

/// A source or destination of traffic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A pod, such as `shop/web`.
    Pod(String),
    /// The node itself.
    Node,
    /// A host outside the cluster, see [`topology::OFFICE`].
    Office,
    /// Another one, see [`topology::GUEST`].
    Guest,
}

impl Host {
    /// The pod `namespace/name`.
    pub fn pod(full_name: &str) -> Self {
        Self::Pod(full_name.to_owned())
    }
}

/// A connected pod.
#[derive(Debug)]
struct Pod {
    spec: PodSpec,
    uid: String,
    container: Container,
    /// The CNI result.
    result: Value,
    addresses: Vec<IpAddr>,
    /// Its server process, if it has one.
    server: Option<Server>,
}

/// A node with its network; see the module.
#[derive(Debug)]
pub struct Lab {
    name: String,
    topology: Topology,
    network: Network,
    manifests: Manifests,
    agent_config: agent::Config,
    agent: Option<Agent>,
    pods: BTreeMap<String, Pod>,
    servers: Vec<Server>,
    /// Number of containers made so far; sandbox ids are not reused.
    n_containers: u32,
    api: Option<api::ApiServer>,
    /// Whether the agent's source tells it what the files say.
    is_agent_informed: bool,
    _lock: File,
}

impl Lab {
    /// Makes the network, without agent and pods. Names consist of letters, digits, and dashes.
    ///
    /// # Errors
    /// The name is invalid, another process has a lab of this name, or a resource could not be made.
    pub fn create(name: &str, wiring: Wiring) -> Result<Self> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        ensure!(!name.is_empty() && name.chars().all(is_plain), "`{name}` is no name for a lab");
        let lock = teardown::lock(name)?;
        teardown::remove(name).context("removing what an earlier run left")?;
        interrupt::register(name);
        let outcome = Self::build(name, wiring, lock);
        if outcome.is_err() {
            // The first error is reported.
            teardown::remove(name).ok();
        }
        outcome
    }

    fn build(name: &str, wiring: Wiring, lock: File) -> Result<Self> {
        let folder = teardown::folder(name);
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let topology = Topology::create(|part| teardown::netns_name(name, part))?;
        let manifests = Manifests::create(&folder)?;
        manifests.write_object("node.yaml", &objects::node())?;
        let agent_config = agent::prepare(name, topology::NODE_NAME, manifests.folder())?;
        let conflist = topology::conflist(wiring, &folder, &agent_config.socket());
        fs::write(folder.join("10-lab.conflist"), format!("{conflist:#}\n"))?;
        let cni = binaries::binary("netpol-cni")?;
        let own = cni.parent().context("netpol-cni has no folder")?;
        let folders: Vec<_> = PLUGIN_FOLDERS.iter().map(AsRef::as_ref).chain([own]).collect();
        let network =
            Network::new(&topology.node, &folders, &conflist, agent_config.results.clone())?;
        let mut lab = Self {
            name: name.to_owned(),
            topology,
            network,
            manifests,
            agent_config,
            agent: None,
            pods: BTreeMap::new(),
            servers: Vec::new(),
            n_containers: 0,
            api: None,
            is_agent_informed: true,
            _lock: lock,
        };
        for host in [Host::Node, Host::Office, Host::Guest] {
            let server = Server::start(lab.netns(&host)?, &HOST_PORTS)?;
            lab.servers.push(server);
        }
        Ok(lab)
    }

    /// Removes the leftovers of a lab of this name, or a lab that was kept.
    ///
    /// # Errors
    /// Another process uses it, or something could not be removed.
    pub fn remove(name: &str) -> Result<()> {
        let _lock = teardown::lock(name)?;
        teardown::remove(name)
    }

    /// Keeps the lab running without an owner. The next lab of the same name removes it.
    pub fn keep(self) {
        interrupt::unregister(&self.name);
        std::mem::forget(self);
    }

    /// The lab's folder: manifests, the agent's log, the network configuration.
    pub fn folder(&self) -> PathBuf {
        teardown::folder(&self.name)
    }

    /// The directory of manifests.
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// The agent's configuration.
    pub fn agent_config(&self) -> &agent::Config {
        &self.agent_config
    }

    /// Restricts the next agent to these capabilities.
    pub fn limit_capabilities(&mut self, names: &[&str]) {
        self.agent_config.capabilities =
            Some(names.iter().map(|name| (*name).to_owned()).collect());
    }

    /// Sets the program of the next agents; `None` for the one of this build.
    pub fn use_agent(&mut self, program: Option<&Path>) {
        self.agent_config.program = program.map(Path::to_owned);
    }

    /// Sets the command prefix of the next agents, such as a tracer.
    pub fn set_prefix(&mut self, prefix: Vec<String>) {
        self.agent_config.prefix = prefix;
    }

    /// Sets further arguments of the next agents.
    pub fn set_options(&mut self, options: &[&str]) {
        self.agent_config.options = options.iter().map(|option| (*option).to_owned()).collect();
    }

    /// Whether the agent has ended by itself; if so, the lab has no agent afterwards.
    ///
    /// # Errors
    /// There was none.
    pub fn has_agent_ended(&mut self) -> Result<bool> {
        let agent = self.agent.as_mut().context("no agent is running")?;
        let has_ended = agent.status()?.is_some();
        if has_ended {
            self.agent = None;
        }
        Ok(has_ended)
    }

    /// The network that pods are connected to.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Sets the network configuration of later pods, and the plugin folders.
    ///
    /// # Errors
    /// The configuration list is invalid.
    pub fn configure(&mut self, conflist: &Value, folders: &[&Path]) -> Result<()> {
        let folders: Vec<_> =
            PLUGIN_FOLDERS.iter().map(AsRef::as_ref).chain(folders.iter().copied()).collect();
        let results = self.agent_config.results.clone();
        self.network = Network::new(&self.topology.node, &folders, conflist, results)?;
        Ok(())
    }

    /// Starts the agent and waits until it can serve an ADD.
    ///
    /// # Errors
    /// It runs already, or does not become ready.
    pub fn start_agent(&mut self) -> Result<()> {
        ensure!(self.agent.is_none(), "the agent runs already");
        self.agent = Some(Agent::start(&self.topology.node, &self.agent_config)?);
        Ok(())
    }

    /// Starts the agent without waiting.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn begin_agent(&mut self) -> Result<()> {
        ensure!(self.agent.is_none(), "the agent runs already");
        self.agent = Some(Agent::begin(&self.topology.node, &self.agent_config)?);
        Ok(())
    }

    /// Waits until the agent can serve an ADD.
    ///
    /// # Errors
    /// There is none, or it does not become ready.
    pub fn wait_for_agent(&mut self) -> Result<()> {
        self.agent.as_mut().context("no agent is running")?.wait_until_ready()
    }

    /// Takes the running agent out of the lab, to end it.
    ///
    /// # Errors
    /// There is none.
    pub fn take_agent(&mut self) -> Result<Agent> {
        self.agent.take().context("no agent is running")
    }

    /// The process id of the running agent.
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Agent::pid)
    }

    /// What the agent has logged so far.
    ///
    /// # Errors
    /// It never ran.
    pub fn agent_log(&self) -> Result<String> {
        let log = &self.agent_config.log;
        fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))
    }

    /// Creates or changes a namespace of the cluster.
    ///
    /// # Errors
    /// Its manifest cannot be written.
    pub fn apply_namespace(&self, name: &str, labels: &Labels) -> Result<()> {
        let file = format!("namespace-{name}.yaml");
        self.manifests.write_object(&file, &objects::namespace(name, labels))
    }

    /// Creates a pod as the kubelet does: the object, its network namespace, CNI ADD, then its process. When this returns, the
    /// pod answers on its ports.
    ///
    /// # Errors
    /// A plugin failed (a [`cni::CniError`]), in which case the pod is removed; or a resource could not be made.
    pub fn add_pod(&mut self, spec: PodSpec) -> Result<()> {
        let netns = self.prepare_pod(&spec)?;
        self.connect_pod(spec, &netns, |_netns| Ok(()))
    }

    /// The first half of [`Lab::add_pod`]: the pod's object and its namespace, but no interface yet.
    ///
    /// # Errors
    /// The pod exists, or something could not be made.
    pub fn prepare_pod(&mut self, spec: &PodSpec) -> Result<Netns> {
        let name = spec.full_name();
        ensure!(!self.pods.contains_key(&name), "the pod {name} exists");
        self.n_containers += 1;
        self.manifests.write_object(&spec.file(), &spec.object(&self.uid(&name), &[]))?;
        Netns::create(&teardown::netns_name(&self.name, &name.replace('/', ".")))
    }

    /// The second half of [`Lab::add_pod`]: CNI ADD, then `first` at once.
    ///
    /// # Errors
    /// As [`Lab::add_pod`], and those of `first`.
    pub fn connect_pod<T>(
        &mut self,
        spec: PodSpec,
        netns: &Netns,
        first: impl FnOnce(&Netns) -> Result<T>,
    ) -> Result<T> {
        let name = spec.full_name();
        let outcome = self.connect(spec, netns, first);
        if outcome.is_err() {
            // The first error is reported.
            netns::delete(netns.name()).ok();
        }
        outcome.with_context(|| format!("adding the pod {name}"))
    }

    fn connect<T>(
        &mut self,
        spec: PodSpec,
        netns: &Netns,
        first: impl FnOnce(&Netns) -> Result<T>,
    ) -> Result<T> {
        let name = spec.full_name();
        let uid = self.uid(&name);
        let container = self.container(&spec, netns);
        let result = self.network.add(&container)?;
        let outcome = first(netns)?;
        let addresses = cni::addresses(&result)?;
        let server = Some(Server::start(netns, &spec.ports)?);
        self.manifests.write_object(&spec.file(), &spec.object(&uid, &addresses))?;
        self.pods.insert(name, Pod { spec, uid, container, result, addresses, server });
        Ok(outcome)
    }

    /// Deletes a pod as the kubelet does: its process, CNI DEL, its namespace, the object.
    ///
    /// # Errors
    /// There is no such pod, a plugin failed, or something could not be removed.
    pub fn delete_pod(&mut self, name: &str) -> Result<()> {
        let pod = self.pods.remove(name).with_context(|| format!("there is no pod {name}"))?;
        let Pod { spec, uid: _, container, result, addresses: _, server } = pod;
        drop(server);
        let disconnected = self.network.del(&container, Some(&result));
        let deleted = netns::delete(container.netns.name());
        disconnected.and(deleted).and(self.manifests.remove(&spec.file()))
    }

    /// Changes the labels of a running pod.
    ///
    /// # Errors
    /// There is no such pod, or its manifest cannot be written.
    pub fn relabel(&mut self, name: &str, labels: &Labels) -> Result<()> {
        let pod = self.pods.get_mut(name).with_context(|| format!("there is no pod {name}"))?;
        pod.spec.labels.clone_from(labels);
        let object = pod.spec.object(&pod.uid, &pod.addresses);
        self.manifests.write_object(&pod.spec.file(), &object)
    }

    /// The labels that the pods with these addresses have in common; `None` if they differ, or an address is no pod's.
    fn labels_of(&self, backends: &[SocketAddr]) -> Option<&Labels> {
        let labels = |backend: &SocketAddr| {
            let mut pods = self.pods.values();
            let pod = pods.find(|pod| pod.addresses.contains(&backend.ip()))?;
            Some(&pod.spec.labels)
        };
        let first = labels(backends.first()?)?;
        backends.iter().all(|backend| labels(backend) == Some(first)).then_some(first)
    }

    /// The network namespace of a host.
    ///
    /// # Errors
    /// There is no such pod.
    pub fn netns(&self, host: &Host) -> Result<&Netns> {
        Ok(match host {
            Host::Pod(name) => &self.pod(name)?.container.netns,
            Host::Node => &self.topology.node,
            Host::Office => &self.topology.office,
            Host::Guest => &self.topology.guest,
        })
    }

    /// The addresses of a host, IPv4 first.
    ///
    /// # Errors
    /// There is no such pod.
    pub fn addresses(&self, host: &Host) -> Result<&[IpAddr]> {
        Ok(match host {
            Host::Pod(name) => &self.pod(name)?.addresses,
            Host::Node => &topology::NODE,
            Host::Office => &topology::OFFICE,
            Host::Guest => &topology::GUEST,
        })
    }

    /// The socket address of a host's port, in one family.
    ///
    /// # Errors
    /// There is no such pod, or it has no address of the family.
    pub fn socket_address(&self, host: &Host, family: Family, port: u16) -> Result<SocketAddr> {
        let mut addresses = self.addresses(host)?.iter();
        let address = addresses.find(|address| address.is_ipv4() == (family == Family::V4));
        let address = address.with_context(|| format!("{host:?} has no {family:?} address"))?;
        Ok(SocketAddr::new(*address, port))
    }

    /// Name and index of a pod's host-side veth device.
    ///
    /// # Errors
    /// There is no such pod, or its device is gone.
    pub fn host_interface(&self, pod: &str) -> Result<(String, u32)> {
        let name = cni::host_interface(&self.pod(pod)?.result)?;
        let index = self.topology.node.interface_index(&name)?;
        Ok((name, index))
    }

    /// The container of a pod of [`Lab::prepare_pod`], for callers that run the plugins themselves.
    pub fn container(&self, spec: &PodSpec, netns: &Netns) -> Container {
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_UID={}",
            spec.namespace,
            spec.name,
            self.uid(&spec.full_name()),
        );
        let id = format!("{}-{}", self.name, self.n_containers);
        Container { id, netns: netns.clone(), args }
    }

    fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods.get(name).with_context(|| format!("there is no pod {name}"))
    }

    fn uid(&self, pod: &str) -> String {
        if let Some((namespace, name)) = pod.split_once('/')
            && let Some(uid) = self.uid_in_cluster(namespace, name)
        {
            return uid;
        }
        format!("{}-{pod}-{}", self.name, self.n_containers).replace('/', "-")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.pods.clear();
        self.servers.clear();
        self.agent = None;
        if let Err(error) = teardown::remove(&self.name) {
            traffic::tell(&format!("{error:#}"));
        }
        interrupt::unregister(&self.name);
    }
}

/// The two families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}
