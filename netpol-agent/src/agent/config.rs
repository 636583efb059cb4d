//! The configuration of `netpol-agent run`, and the names of the files in its state directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use netpol_policy::store::OwnNodeEgress;

use super::state::short_cuts::ShortCut;
use super::state::tunnels::PodTunnels;
use crate::control::ListenAddress;
use crate::discovery::SearchPaths;

/// The configuration of the agent.
#[derive(Clone, Debug)]
pub struct Config {
    /// Source of the objects.
    pub source: Source,
    /// Socket for the CNI plugin. Its directory also holds the endpoint records.
    pub socket: PathBuf,
    /// Name of the node on which the agent runs; without it, pods older than the agent are not searched for.
    pub node: Option<Arc<str>>,
    /// Where to search for pods that are older than the agent.
    pub search_paths: SearchPaths,
    /// Programs and maps.
    pub datapath: netpol_datapath::Config,
    /// Whether pods may send tunnelled packets to nodes.
    pub pod_tunnels: PodTunnels,
    /// UDP ports of tunnels between nodes that no network device shows.
    pub tunnel_ports: Vec<u16>,
    /// Whether packets between pods of this node take the short cut.
    pub short_cut: ShortCut,
    /// Whether connections of pods to this node need a rule that allows them.
    pub own_node_egress: OwnNodeEgress,
    /// Address that serves health without authentication; `None` serves it on the control socket only.
    pub health: Option<ListenAddress>,
    /// The same for metrics.
    pub metrics: Option<ListenAddress>,
    /// The file with a token by which the observer knows this agent; without it there is none.
    pub observer_token: Option<PathBuf>,
}

impl Config {
    /// The control socket, in the directory of the CNI plugin's socket.
    pub fn control_socket(&self) -> PathBuf {
        self.socket.with_file_name(CONTROL_SOCKET)
    }
}

/// Whether addresses of pods are published, and believed, before the API reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PublishAddresses {
    /// If the API server keeps each agent to its own object.
    #[default]
    On,
    /// Never.
    Off,
}

/// Source of the objects.
#[derive(Clone, Debug)]
pub enum Source {
    /// An API server.
    Cluster {
        /// A kubeconfig file; `None` takes the in-cluster configuration, else that of kubectl.
        kubeconfig: Option<PathBuf>,
        /// Key of a taint that the agent removes from its own Node once it serves.
        startup_taint: Option<String>,
        /// Whether addresses of pods are published, and believed, before the API reports them.
        publish_addresses: PublishAddresses,
    },
    /// A directory of YAML files.
    Manifests(PathBuf),
}

/// File name of the control socket, on which `netpol-agent status` and the like ask.
pub const CONTROL_SOCKET: &str = "agent.sock";

/// File name of the endpoint records.
pub(super) const RECORDS: &str = "endpoints.json";

/// File name of the addresses of the API servers.
pub(super) const SERVERS: &str = "api-servers.json";

/// File name of the time at which all was up to date.
pub(super) const LAST_HEARD: &str = "last-heard.txt";

/// File name of the interfaces that are blocked until they are identified.
pub(super) const UNIDENTIFIED: &str = "unidentified.json";

/// The files that an agent creates in the directory of the CNI plugin's socket, that socket included.
pub fn state_files(socket: &Path) -> [PathBuf; 11] {
    let records = socket.with_file_name(RECORDS);
    let mut lock = socket.as_os_str().to_owned();
    lock.push(".lock");
    let unfinished = |file: &PathBuf| file.with_extension("new");
    let [servers, heard, unidentified] =
        [SERVERS, LAST_HEARD, UNIDENTIFIED].map(|name| socket.with_file_name(name));
    [
        socket.to_owned(),
        lock.into(),
        socket.with_file_name(CONTROL_SOCKET),
        unfinished(&records),
        records,
        unfinished(&servers),
        servers,
        unfinished(&heard),
        heard,
        unfinished(&unidentified),
        unidentified,
    ]
}
