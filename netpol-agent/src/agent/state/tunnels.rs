//! The tunnels between nodes, which pods must not reach: their ports, and the addresses of nodes.

use std::collections::{BTreeMap, BTreeSet};

use netpol_common::addr::Addr;
use netpol_common::keys::Known;
use netpol_datapath::netlink;
use netpol_policy::store::Changes;

use crate::agent::answers::status::TunnelStatus;

/// What to do with packets of pods to the tunnels between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PodTunnels {
    /// Drop them.
    #[default]
    Drop,
    /// Judge them like other packets.
    Allow,
}

/// In place of a port, for protocols without ports.
const NO_PORT: u16 = 0;

/// What is known of the tunnels, and what the maps have of it.
#[derive(Debug, Default)]
pub(in crate::agent) struct Tunnels {
    pub(in crate::agent) for_pods: PodTunnels,
    /// The ports that the operator names, because no network device shows them.
    pub(in crate::agent) further_ports: Vec<u16>,
    /// As the node's devices have them; `None` until they are listed.
    of_devices: Option<netlink::Tunnels>,
    /// The devices or the node's own addresses have changed since the maps were written.
    pub(in crate::agent) is_changed: bool,
    /// The maps have the addresses of all pods, because a pod of this node forwards.
    pub(in crate::agent) has_pods: bool,
    /// Addresses whose owners have changed since the maps were written.
    pub(in crate::agent) moved: BTreeSet<Addr>,
    /// The content of the maps, and the state's number of changes of nodes of which it is; `None` until this run has written them.
    pub(in crate::agent) written: Option<Written>,
}

/// What the maps have of the tunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::agent) struct Written {
    pub(in crate::agent) ports: BTreeSet<u16>,
    pub(in crate::agent) known: BTreeMap<Addr, Known>,
    pub(in crate::agent) n_node_changes: u64,
}

impl Tunnels {
    /// Takes what the devices say. The maps follow with the next look.
    pub(in crate::agent) fn set_devices(&mut self, of_devices: &netlink::Tunnels) {
        if self.of_devices.as_ref() != Some(of_devices) {
            self.of_devices = Some(of_devices.clone());
            self.is_changed = true;
        }
    }

    /// Records what has changed of the pods.
    pub(in crate::agent) fn pods_changed(&mut self, changes: &Changes) {
        self.is_changed |= changes.everything;
        if self.has_pods {
            self.moved.extend(&changes.addresses);
        }
    }

    /// The ports, port 0 for protocols without ports included; `None` until they are known.
    pub(in crate::agent) fn ports(&self) -> Option<BTreeSet<u16>> {
        let of_devices = self.of_devices.as_ref()?;
        Some(match self.for_pods {
            PodTunnels::Drop => {
                let ports = of_devices.ports.iter().chain(&self.further_ports).copied();
                ports.chain([NO_PORT]).collect()
            }
            PodTunnels::Allow => BTreeSet::new(),
        })
    }

    /// What the maps have, for the agent's status.
    pub(in crate::agent) fn describe(&self) -> TunnelStatus {
        match (&self.written, self.for_pods) {
            (None, _) => TunnelStatus::Unknown,
            (Some(_), PodTunnels::Allow) => TunnelStatus::Open,
            (Some(written), PodTunnels::Drop) => {
                let ports = written.ports.iter().copied().filter(|port| *port != NO_PORT);
                TunnelStatus::Closed { ports: ports.collect() }
            }
        }
    }

    /// The addresses at which tunnels end, as the devices have them.
    pub(in crate::agent) fn ends(&self) -> impl Iterator<Item = Addr> {
        self.of_devices.iter().flat_map(|tunnels| &tunnels.ends).map(|end| Addr::from(*end))
    }
}
