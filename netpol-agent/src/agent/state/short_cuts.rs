//! Which pods' packets may be redirected to each other, past the bridge and netfilter, and why the others' are not.

use std::collections::{BTreeMap, BTreeSet};

use netpol_common::ids::IfIndex;
use netpol_common::keys::EndpointValue;
use netpol_datapath::netlink::{Devices, Obstacle};
use netpol_policy::dataplane::port::Kernel;
use netpol_policy::store::{Delta, Endpoint};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::Agent;

/// Whether packets between pods of this node take the short cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ShortCut {
    /// All packets pass the bridge and netfilter.
    #[default]
    Off,
    /// Those of connections that nothing on the way has to see. Rules of netfilter that match packets between pods see them no more.
    On,
}

/// What is known of the interfaces.
#[derive(Debug, Default)]
pub(in crate::agent) struct ShortCuts {
    pub(in crate::agent) mode: ShortCut,
    /// What the latest list of devices says about each interface.
    found: BTreeMap<IfIndex, Result<(), Obstacle>>,
    /// The latest failure to ask the kernel about programs has been logged.
    is_blind: bool,
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
    /// No: its MTU differs from that of its bridge.
    Mtu,
    /// No: it has a queueing discipline, as a bandwidth limit needs.
    Queue,
    /// No: it has an XDP program, or a traffic control program of others.
    Program,
}

impl ShortCutStatus {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Off,
        Self::On,
        Self::Declined,
        Self::NotListed,
        Self::NoMac,
        Self::NoBridge,
        Self::Mtu,
        Self::Queue,
        Self::Program,
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
            Self::Mtu => "mtu",
            Self::Queue => "queue",
            Self::Program => "program",
        }
    }
}

impl From<Obstacle> for ShortCutStatus {
    fn from(obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::NoBridge => Self::NoBridge,
            Obstacle::Mtu => Self::Mtu,
            Obstacle::Queue => Self::Queue,
            Obstacle::Program => Self::Program,
        }
    }
}

impl<K: Kernel> Agent<K> {
    /// Takes the obstacles from the list of devices.
    pub(in crate::agent) fn list_short_cuts(&mut self, devices: &Devices) {
        let found = devices.by_ifindex.iter();
        self.short_cuts.found =
            found.map(|(ifindex, device)| (*ifindex, device.short_cut)).collect();
        self.follow_short_cuts();
    }

    /// Asks for programs of others, and tells the state which interfaces take the short cut.
    pub(in crate::agent) fn follow_short_cuts(&mut self) {
        if self.short_cuts.mode == ShortCut::Off {
            return;
        }
        let ports: Vec<IfIndex> = self
            .state
            .endpoints()
            .map(|endpoint| endpoint.ifindex)
            .filter(|ifindex| self.short_cuts.found.get(ifindex).is_some_and(Result::is_ok))
            .collect();
        let mut interfaces = BTreeSet::new();
        let mut failure = None;
        for ifindex in ports {
            match self.kernel.has_foreign_programs(ifindex) {
                Ok(false) => drop(interfaces.insert(ifindex)),
                Ok(true) => {
                    self.short_cuts.found.insert(ifindex, Err(Obstacle::Program));
                }
                Err(error) => {
                    self.short_cuts.found.remove(&ifindex);
                    failure = Some(error.to_string());
                }
            }
        }
        if let (Some(error), false) = (&failure, self.short_cuts.is_blind) {
            warn!(%error, "the kernel does not report the programs of others: no short cut there");
        }
        self.short_cuts.is_blind = failure.is_some();
        self.apply_delta(Delta::ShortCuts(interfaces));
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
        if self.state.pod_of(endpoint).is_some_and(|pod| pod.declines_short_cut) {
            return ShortCutStatus::Declined;
        }
        match self.short_cuts.found.get(&endpoint.ifindex) {
            None => ShortCutStatus::NotListed,
            Some(Err(obstacle)) => ShortCutStatus::from(*obstacle),
            Some(Ok(())) => ShortCutStatus::NoMac,
        }
    }
}
