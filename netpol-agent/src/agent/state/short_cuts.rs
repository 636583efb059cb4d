//! Which pods' packets may be redirected to each other, past the bridge and netfilter, and why the others' are not.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use netpol_common::ids::IfIndex;
use netpol_common::keys::EndpointValue;
use netpol_datapath::netlink::Obstacle;
use netpol_policy::dataplane::port::{DeviceRole, Kernel};
use netpol_policy::store::{Delta, Endpoint};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::Agent;
use super::netfilter::Ground;
use super::overlays::{OverlayState, Overlays};

/// Whether packets between pods of this node take the short cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ShortCut {
    /// All packets pass the bridge and netfilter.
    #[default]
    Off,
    /// Those of connections that nothing on the way has to see. Rules of netfilter that match packets between pods see them no more.
    On,
    /// Those to and from pods of other nodes too.
    Nodes,
}

/// What is known of the interfaces.
#[derive(Debug, Default)]
pub(in crate::agent) struct ShortCuts {
    pub(in crate::agent) mode: ShortCut,
    /// The devices have been listed.
    is_listed: bool,
    /// What the latest list of devices says about each interface: its bridge, or the obstacle.
    listed: BTreeMap<IfIndex, Result<IfIndex, Obstacle>>,
    /// The interfaces that take the short cut.
    granted: BTreeSet<IfIndex>,
    /// Those that do not, although the list names no obstacle.
    refused: BTreeMap<IfIndex, Obstacle>,
    /// The latest failure to ask the kernel about programs has been logged.
    is_blind: bool,
    /// The devices that lead to other nodes.
    pub(in crate::agent) overlays: Overlays,
}

impl ShortCuts {
    /// The bridge of most of these interfaces.
    fn main_bridge(&self, endpoints: &BTreeSet<IfIndex>) -> Option<IfIndex> {
        let mut ports: BTreeMap<IfIndex, usize> = BTreeMap::new();
        for ifindex in endpoints {
            if let Some(Ok(bridge)) = self.listed.get(ifindex) {
                *ports.entry(*bridge).or_default() += 1;
            }
        }
        let largest = ports.into_iter().max_by_key(|(bridge, n)| (*n, Reverse(*bridge)));
        largest.map(|(bridge, _)| bridge)
    }
}

/// Whether connections between a pod and other pods of its node take the short cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShortCutStatus {
    /// No: `--short-cut off`, or the agent is an older one.
    #[default]
    Off,
    /// New connections do, to pods of which this is said too.
    On,
    /// No: the pod's annotation `netpol/short-cut` says so.
    Declined,
    /// Not yet: the interface has not been listed.
    NotListed,
    /// No: its MAC address is not known.
    NoMac,
    /// No: the interface is no port of a bridge.
    NoBridge,
    /// No: its bridge does not forward every packet to it and from it, or is not that of most pods.
    Bridge,
    /// No: the pod may forward.
    Forwards,
    /// No: its MTU differs from that of its bridge.
    Mtu,
    /// No: it has a queueing discipline, as a bandwidth limit needs.
    Queue,
    /// No: it has an XDP program, or a traffic control program of others.
    Program,
    /// No: a netfilter rule of others may match packets between pods of the node, or the rules cannot be read.
    Netfilter,
}

impl ShortCutStatus {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Off,
        Self::On,
        Self::Declined,
        Self::NotListed,
        Self::NoMac,
        Self::NoBridge,
        Self::Bridge,
        Self::Forwards,
        Self::Mtu,
        Self::Queue,
        Self::Program,
        Self::Netfilter,
    ];

    /// The value in JSON and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Declined => "declined",
            Self::NotListed => "not-listed",
            Self::NoMac => "no-mac",
            Self::NoBridge => "no-bridge",
            Self::Bridge => "bridge",
            Self::Forwards => "forwards",
            Self::Mtu => "mtu",
            Self::Queue => "queue",
            Self::Program => "program",
            Self::Netfilter => "netfilter",
        }
    }
}

impl From<Obstacle> for ShortCutStatus {
    fn from(obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::NoBridge => Self::NoBridge,
            Obstacle::Bridge => Self::Bridge,
            Obstacle::Mtu => Self::Mtu,
            Obstacle::Queue => Self::Queue,
            Obstacle::Program => Self::Program,
        }
    }
}

impl<K: Kernel> Agent<K> {
    /// Takes the obstacles from the list of devices.
    pub(in crate::agent) fn list_short_cuts(&mut self) {
        let devices = self.devices.by_ifindex.iter();
        self.short_cuts.is_listed = true;
        self.short_cuts.listed =
            devices.map(|(ifindex, device)| (*ifindex, device.short_cut)).collect();
        self.follow_short_cuts();
    }

    /// Asks for programs of others, and tells the state which interfaces take the short cut. Called every second too, because nothing
    /// tells that a TCX link is attached.
    pub(in crate::agent) fn follow_short_cuts(&mut self) {
        if !self.short_cuts.is_listed {
            return;
        }
        if self.short_cuts.mode == ShortCut::Off {
            self.clear_overlays();
            return;
        }
        match self.short_cuts.mode {
            ShortCut::Nodes => self.find_overlays(),
            ShortCut::On | ShortCut::Off => self.clear_overlays(),
        }
        match self.follow_netfilter() {
            Ground::Unknown => return,
            Ground::Clear => {}
            Ground::Blocked => {
                self.short_cuts.granted.clear();
                self.short_cuts.refused.clear();
                self.apply_delta(Delta::ShortCuts(BTreeSet::new()));
                if self.short_cuts.mode == ShortCut::Nodes {
                    self.follow_overlays(Err(OverlayState::Netfilter));
                }
                return;
            }
        }
        let endpoints: BTreeSet<IfIndex> =
            self.state.endpoints().map(|endpoint| endpoint.ifindex).collect();
        let main = self.short_cuts.main_bridge(&endpoints);
        let (mut granted, mut refused) = (BTreeSet::new(), BTreeMap::new());
        let mut failure = None;
        for ifindex in endpoints {
            match self.short_cuts.listed.get(&ifindex) {
                Some(Ok(bridge)) if Some(*bridge) == main => {}
                Some(Ok(_)) => {
                    refused.insert(ifindex, Obstacle::Bridge);
                    continue;
                }
                Some(Err(_)) | None => continue,
            }
            match self.kernel.has_foreign_programs(ifindex, DeviceRole::Pod) {
                Ok(false) => drop(granted.insert(ifindex)),
                Ok(true) => drop(refused.insert(ifindex, Obstacle::Program)),
                Err(error) => failure = Some(error.to_string()),
            }
        }
        if let (Some(error), false) = (&failure, self.short_cuts.is_blind) {
            warn!(%error, "the kernel does not report the programs of others: no short cut there");
        }
        self.short_cuts.is_blind = failure.is_some();
        self.short_cuts.granted.clone_from(&granted);
        self.short_cuts.refused = refused;
        self.apply_delta(Delta::ShortCuts(granted));
        if self.short_cuts.mode == ShortCut::Nodes {
            self.follow_overlays(main.ok_or(OverlayState::NoPods));
        }
    }

    /// Whether an endpoint takes the short cut.
    pub(in crate::agent) fn short_cut_of(
        &self,
        endpoint: &Endpoint,
        value: EndpointValue,
    ) -> ShortCutStatus {
        if value.takes_short_cut() {
            return ShortCutStatus::On;
        }
        if self.short_cuts.mode == ShortCut::Off {
            return ShortCutStatus::Off;
        }
        let pod = self.state.pod_of(endpoint);
        if pod.is_some_and(|pod| pod.declines_short_cut) {
            return ShortCutStatus::Declined;
        }
        if pod.is_some_and(|pod| pod.allows_forwarding) {
            return ShortCutStatus::Forwards;
        }
        if self.netfilter.ground() == Ground::Blocked {
            return ShortCutStatus::Netfilter;
        }
        let ShortCuts { listed, granted, refused, .. } = &self.short_cuts;
        match (listed.get(&endpoint.ifindex), refused.get(&endpoint.ifindex)) {
            (Some(Err(obstacle)), _) | (_, Some(obstacle)) => ShortCutStatus::from(*obstacle),
            _ if granted.contains(&endpoint.ifindex) => ShortCutStatus::NoMac,
            _ => ShortCutStatus::NotListed,
        }
    }
}
