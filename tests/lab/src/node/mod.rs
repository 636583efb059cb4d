//! A node of a cluster on this machine: network namespaces, the real CNI plugins, the real agent, real traffic.
//!
//! A [`Lab`] has a name, and everything that it makes bears it: labs side by side share nothing, and what a killed run
//! left behind is removed when the next of the same name starts. It ends when it is dropped, with a panic, and when
//! the process is interrupted. Needs root. Must not: sleep; every wait is for a condition, with a deadline.

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

/// Where Debian puts the plugins of the CNI project, and where most others do.
const PLUGIN_FOLDERS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// On what every host outside and the node answer.
const HOST_PORTS: [u16; 2] = [80, 443];

/// Somebody who can talk: a pod, by namespace and name, or a host.
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
    /// What the last plugin answered.
    result: Value,
    addresses: Vec<IpAddr>,
    /// What runs in it, if anything does.
    server: Option<Server>,
}

/// A node with its network, see the module.
#[derive(Debug)]
pub struct Lab {
    name: String,
    topology: Topology,
    network: Network,
    manifests: Manifests,
    place: agent::Place,
    agent: Option<Agent>,
    pods: BTreeMap<String, Pod>,
    servers: Vec<Server>,
    /// Containers made so far: a sandbox id is never used again.
    n_containers: u32,
    api: Option<api::ApiServer>,
    _lock: File,
}

impl Lab {
    /// Makes the network, without an agent and without pods. Names are letters, digits and dashes.
    ///
    /// # Errors
    /// The name is not of that form, another process has a lab of this name, or something could not be made.
    pub fn create(name: &str, wiring: Wiring) -> Result<Self> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        ensure!(!name.is_empty() && name.chars().all(is_plain), "`{name}` is no name for a lab");
        let lock = teardown::lock(name)?;
        teardown::remove(name).context("removing what an earlier run left")?;
        interrupt::register(name);
        let outcome = Self::build(name, wiring, lock);
        if outcome.is_err() {
            // The error of building it says more.
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
        let place = agent::prepare(name, manifests.folder())?;
        let conflist = topology::conflist(wiring, &folder, &place.socket());
        fs::write(folder.join("10-lab.conflist"), format!("{conflist:#}\n"))?;
        let cni = binaries::binary("netpol-cni")?;
        let own = cni.parent().context("netpol-cni has no folder")?;
        let folders: Vec<_> = PLUGIN_FOLDERS.iter().map(AsRef::as_ref).chain([own]).collect();
        let network = Network::new(&topology.node, &folders, &conflist, place.results.clone())?;
        let mut lab = Self {
            name: name.to_owned(),
            topology,
            network,
            manifests,
            place,
            agent: None,
            pods: BTreeMap::new(),
            servers: Vec::new(),
            n_containers: 0,
            api: None,
            _lock: lock,
        };
        for host in [Host::Node, Host::Office, Host::Guest] {
            let server = Server::start(lab.netns(&host)?, &HOST_PORTS)?;
            lab.servers.push(server);
        }
        Ok(lab)
    }

    /// Removes what a lab of this name left behind, or what was kept of it.
    ///
    /// # Errors
    /// Another process uses it, or something could not be removed.
    pub fn remove(name: &str) -> Result<()> {
        let _lock = teardown::lock(name)?;
        teardown::remove(name)
    }

    /// Leaves everything running and ends only the owner. The next lab of the same name removes it.
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

    /// Where everything of the agent is.
    pub fn place(&self) -> &agent::Place {
        &self.place
    }

    /// Lets the next agent have these capabilities only.
    pub fn limit_capabilities(&mut self, names: &[&str]) {
        self.place.capabilities = Some(names.iter().map(|name| (*name).to_owned()).collect());
    }

    /// Lets the next agents be this program; `None` for the one of this build.
    pub fn use_agent(&mut self, program: Option<&Path>) {
        self.place.program = program.map(Path::to_owned);
    }

    /// Lets the next agents start behind this, a tracer for example; nothing for none.
    pub fn set_prefix(&mut self, prefix: Vec<String>) {
        self.place.prefix = prefix;
    }

    /// Whether the agent has ended by itself; it is forgotten then.
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

    /// Connects pods from now on as this configuration says, with these folders of plugins.
    ///
    /// # Errors
    /// It is no configuration list.
    pub fn configure(&mut self, conflist: &Value, folders: &[&Path]) -> Result<()> {
        let folders: Vec<_> =
            PLUGIN_FOLDERS.iter().map(AsRef::as_ref).chain(folders.iter().copied()).collect();
        let results = self.place.results.clone();
        self.network = Network::new(&self.topology.node, &folders, conflist, results)?;
        Ok(())
    }

    /// Starts the agent and waits until it can serve an ADD.
    ///
    /// # Errors
    /// It runs already, or does not become ready.
    pub fn start_agent(&mut self) -> Result<()> {
        ensure!(self.agent.is_none(), "the agent runs already");
        self.agent = Some(Agent::start(&self.topology.node, &self.place)?);
        Ok(())
    }

    /// Starts the agent and does not wait for anything.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn begin_agent(&mut self) -> Result<()> {
        ensure!(self.agent.is_none(), "the agent runs already");
        self.agent = Some(Agent::begin(&self.topology.node, &self.place)?);
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
        let log = &self.place.log;
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

    /// Creates a pod as the kubelet does: the object, its network namespace, CNI ADD, then what runs in it.
    /// When this returns the pod answers on its ports.
    ///
    /// # Errors
    /// A plugin refused (a [`cni::CniError`]), in which case nothing of the pod is left; or something could not be made.
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

    /// The second half of [`Lab::add_pod`]: CNI ADD, and `first` in the instant in which it is answered.
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
            // The error of connecting it says more.
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

    /// Deletes a pod as the kubelet does: what runs in it, CNI DEL, its namespace, the object.
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

    /// Gives a pod other labels, while it runs.
    ///
    /// # Errors
    /// There is no such pod, or its manifest cannot be written.
    pub fn relabel(&mut self, name: &str, labels: &Labels) -> Result<()> {
        let pod = self.pods.get_mut(name).with_context(|| format!("there is no pod {name}"))?;
        pod.spec.labels.clone_from(labels);
        let object = pod.spec.object(&pod.uid, &pod.addresses);
        self.manifests.write_object(&pod.spec.file(), &object)
    }

    /// The namespace that somebody lives in.
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

    /// Somebody's addresses, IPv4 first.
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

    /// Where somebody answers, in one family.
    ///
    /// # Errors
    /// There is no such pod, or it has no address of the family.
    pub fn socket_address(&self, host: &Host, family: Family, port: u16) -> Result<SocketAddr> {
        let mut addresses = self.addresses(host)?.iter();
        let address = addresses.find(|address| address.is_ipv4() == (family == Family::V4));
        let address = address.with_context(|| format!("{host:?} has no {family:?} address"))?;
        Ok(SocketAddr::new(*address, port))
    }

    /// The host's end of a pod's veth pair, by name and by index.
    ///
    /// # Errors
    /// There is no such pod, or its device is gone.
    pub fn host_interface(&self, pod: &str) -> Result<(String, u32)> {
        let name = cni::host_interface(&self.pod(pod)?.result)?;
        let index = self.topology.node.interface_index(&name)?;
        Ok((name, index))
    }

    /// What a runtime says of a pod of [`Lab::prepare_pod`] when it calls the plugins: for callers that do so themselves.
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
