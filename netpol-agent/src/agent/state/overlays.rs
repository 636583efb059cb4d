//! The devices through which packets may be redirected to pods of other nodes, and why the others may not be used.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use netpol_common::identities::{Key as _, V4};
use netpol_common::ids::IfIndex;
use netpol_common::keys::{Overlay, PrefixKey};
use netpol_common::mac::Mac;
use netpol_datapath::netlink::{LinkFacts, OverlayDevice};
use netpol_policy::dataplane::MapOp;
use netpol_policy::dataplane::port::{DeviceRole, Framing, Kernel};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::Agent;

/// The devices by family, and the networks behind them.
type Written = (BTreeMap<u32, Overlay>, BTreeSet<PrefixKey>);

/// What is known of these devices.
#[derive(Debug, Default)]
pub(in crate::agent) struct Overlays {
    /// Those that lead to the pods of other nodes, by family.
    pub(in crate::agent) devices: BTreeMap<u32, OverlayDevice>,
    /// Those that take the short cut, as they were written to the maps; `None` if they have to be written.
    written: Option<Written>,
    /// What is said of each.
    pub(in crate::agent) states: Vec<OverlayShortCut>,
}

/// Whether connections with pods of other nodes take the short cut, for one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayShortCut {
    /// The device that leads there.
    pub device: String,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// Whether they do.
    pub state: OverlayState,
    /// Number of networks behind the device.
    pub n_networks: usize,
}

/// Whether connections through the overlay take the short cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OverlayState {
    /// New ones of pods of this node that take the short cut do.
    On,
    /// No: no pod of this node is on a bridge.
    NoPods,
    /// No: rules of netfilter may match packets between pods, see `netfilter`.
    Netfilter,
    /// No: the MTU of the pods' bridge is larger than that of the device.
    Mtu,
    /// No: the device or the pods' bridge has an XDP program or a traffic control program of others, or the bridge a queueing discipline.
    Program,
    /// No: the MAC address of the device or of the pods' bridge is not known.
    NoMac,
}

impl OverlayState {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::On, Self::NoPods, Self::Netfilter, Self::Mtu, Self::Program, Self::NoMac];

    /// The value in JSON and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::NoPods => "no-pods",
            Self::Netfilter => "netfilter",
            Self::Mtu => "mtu",
            Self::Program => "program",
            Self::NoMac => "no-mac",
        }
    }
}

fn prefix(network: IpNetwork) -> PrefixKey {
    PrefixKey::of_network(network.network(), network.prefix())
}

impl<K: Kernel> Agent<K> {
    /// Finds the device of each family that leads to the most networks of pods of other nodes. All networks behind a vxlan device are
    /// such ones; of the networks behind gateways, only those that a Node object names.
    pub(in crate::agent) fn find_overlays(&mut self) {
        let mut found = self.devices.overlays.clone();
        if !self.devices.with_gateways.is_empty() {
            let ranges = self.state.nodes().flat_map(|node| &node.pod_ranges);
            let ranges: BTreeSet<PrefixKey> = ranges.map(|range| prefix(*range)).collect();
            for (family, device) in &self.devices.with_gateways {
                let prefixes: BTreeSet<_> =
                    device.prefixes.intersection(&ranges).copied().collect();
                let n_known = found.get(family).map_or(0, |known| known.prefixes.len());
                if prefixes.len() > n_known {
                    let OverlayDevice { ifindex, facts, .. } = *device;
                    found.insert(*family, OverlayDevice { ifindex, facts, prefixes });
                }
            }
        }
        self.short_cuts.overlays.devices = found;
    }

    /// Decides which devices to other nodes take the short cut from and to the pods of this bridge; `Err` if none does.
    pub(in crate::agent) fn follow_overlays(&mut self, bridge: Result<IfIndex, OverlayState>) {
        let judgement = self.netfilter.judgement_between_nodes();
        let is_blocked = judgement.is_some_and(|judgement| judgement.n_altering > 0);
        let bridge = if is_blocked { Err(OverlayState::Netfilter) } else { bridge };
        let bridge = bridge.and_then(|bridge| self.open_bridge(bridge));
        let mut wanted = Written::default();
        let mut states = Vec::new();
        for (family, device) in &self.short_cuts.overlays.devices {
            let found = bridge.and_then(|bridge| self.overlay(device, bridge));
            if let Ok(overlay) = found {
                wanted.0.insert(*family, overlay);
                wanted.1.extend(&device.prefixes);
            }
            let name = self.devices.by_ifindex.get(&device.ifindex).map(|found| found.name.clone());
            states.push(OverlayShortCut {
                device: name.unwrap_or_else(|| device.ifindex.to_string()),
                family: if *family == V4::FAMILY { "ipv4" } else { "ipv6" }.to_owned(),
                state: found.err().unwrap_or(OverlayState::On),
                n_networks: device.prefixes.len(),
            });
        }
        self.short_cuts.overlays.states = states;
        self.write_overlays(wanted);
    }

    /// The bridge of the pods, if packets can be redirected past it.
    fn open_bridge(&self, bridge: IfIndex) -> Result<LinkFacts, OverlayState> {
        let facts = self.devices.bridges.get(&bridge).ok_or(OverlayState::NoPods)?;
        if facts.has_xdp || facts.is_queued || self.has_programs(bridge) {
            return Err(OverlayState::Program);
        }
        Ok(*facts)
    }

    /// Whether a device has traffic control programs of others. One of which the kernel does not tell may have some.
    fn has_programs(&self, device: IfIndex) -> bool {
        let role = DeviceRole::Uplink(Framing::Ethernet);
        self.kernel.has_foreign_programs(device, role).unwrap_or(true)
    }

    /// Removes the devices of an earlier run, if there are any.
    pub(in crate::agent) fn clear_overlays(&mut self) {
        self.write_overlays(Written::default());
    }

    /// The device for the programs, unless it may not be used.
    fn overlay(&self, device: &OverlayDevice, bridge: LinkFacts) -> Result<Overlay, OverlayState> {
        if bridge.mac == Mac::UNKNOWN || device.facts.mac == Mac::UNKNOWN {
            return Err(OverlayState::NoMac);
        }
        if bridge.mtu > device.facts.mtu {
            return Err(OverlayState::Mtu);
        }
        if device.facts.has_xdp || self.has_programs(device.ifindex) {
            return Err(OverlayState::Program);
        }
        Ok(Overlay::new(device.ifindex, bridge.mac, device.facts.mac))
    }

    /// Tells the programs which devices to other nodes take the short cut.
    fn write_overlays(&mut self, wanted: Written) {
        let known = &mut self.short_cuts.overlays.written;
        if known.as_ref() == Some(&wanted) {
            return;
        }
        let is_news = known.take().is_some() || !wanted.0.is_empty();
        let (devices, networks) = &wanted;
        let mut written = self.kernel.set_overlay(devices, networks);
        // Without a device no packet of a flow goes there. With one, a flow may be to a network that is elsewhere now.
        if !devices.is_empty() {
            written = written.and_then(|()| self.perform(&[MapOp::BumpEpoch]));
        }
        if let Err(error) = written {
            let error = &error as &dyn std::error::Error;
            warn!(error, "the devices that lead to other nodes are not in the maps");
            return;
        }
        if is_news {
            let (n_devices, n_networks) = (devices.len(), networks.len());
            info!(n_devices, n_networks, "short cut to pods of other nodes in force");
        }
        self.short_cuts.overlays.written = Some(wanted);
    }
}

#[cfg(test)]
mod tests {
    use netpol_common::identities::V6;
    use netpol_policy::model::{Labels, Node, Object};
    use netpol_policy::store::Delta;

    use super::*;
    use crate::agent::tests::fixture;

    fn device(ifindex: u32, networks: &[&str]) -> OverlayDevice {
        let facts = LinkFacts {
            mac: Mac::new([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            has_xdp: false,
            is_queued: false,
        };
        OverlayDevice { ifindex: IfIndex(ifindex), facts, prefixes: keys(networks) }
    }

    fn keys(networks: &[&str]) -> BTreeSet<PrefixKey> {
        networks.iter().map(|network| prefix(network.parse().unwrap())).collect()
    }

    #[test]
    fn networks_behind_gateways_count_where_a_node_has_its_pods_there() {
        let mut fixture = fixture();
        let agent = &mut fixture.agent;
        let vxlan = device(5, &["10.244.1.0/24"]);
        agent.devices.overlays = BTreeMap::from([(V4::FAMILY, vxlan.clone())]);
        agent.devices.with_gateways = vec![
            (V4::FAMILY, device(2, &["10.244.2.0/24", "10.244.3.0/24", "198.51.100.0/24"])),
            (V6::FAMILY, device(2, &["fd00:2::/64", "2001:db8::/32"])),
        ];
        agent.find_overlays();
        assert_eq!(agent.short_cuts.overlays.devices, [(V4::FAMILY, vxlan)].into());

        let ranges = ["10.244.2.0/24", "10.244.3.0/24", "10.244.4.0/24", "fd00:2::/64"];
        let node = Node {
            name: "n2".into(),
            labels: Labels::new(),
            addresses: Vec::new(),
            pod_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        };
        agent.apply_delta(Delta::Upsert(Object::Node(node)));
        agent.find_overlays();
        let expected = [
            (V4::FAMILY, device(2, &["10.244.2.0/24", "10.244.3.0/24"])),
            (V6::FAMILY, device(2, &["fd00:2::/64"])),
        ];
        assert_eq!(agent.short_cuts.overlays.devices, expected.into());
    }
}
