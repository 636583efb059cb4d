//! The netfilter rules of others: whether packets between pods may meet one, which the short cut would pass over, and what other
//! NetworkPolicy engines have left on the node.
//!
//! In: what `netpol_datapath::netfilter` reads, and the pods of the node. Out: whether the node's pods may take the short cut.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use netpol_common::ids::IfIndex;
use netpol_datapath::netfilter::{
    Engine, Found, Judgement, NetfilterNews, Network, PodTraffic, RuleSet, judge,
};
use netpol_datapath::netlink::OverlayDevice;
use netpol_policy::dataplane::port::Kernel;
use netpol_policy::model::Pod;
use tracing::{info, warn};

use super::Agent;
use super::short_cuts::ShortCut;

/// What is known of the rules.
#[derive(Debug, Default)]
pub(in crate::agent) struct Netfilter {
    /// The rules, or why they cannot be read; `None` before the first look.
    rules: Option<Result<RuleSet, String>>,
    /// For which packets they have been judged, and the judgement. It is made only if the short cut is on.
    judged: Option<(PodTraffic, Judgement)>,
    /// The same for packets between pods of this node and of others, if there is a device that leads to them.
    judged_between_nodes: Option<(PodTraffic, Judgement)>,
    /// What was logged last.
    logged: Option<String>,
}

/// Whether something is in the way of the short cut, for all pods of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Ground {
    /// Nobody has looked yet: what an earlier run found counts.
    Unknown,
    /// Packets between pods meet no rule of others.
    Clear,
    /// They may meet one, or the rules cannot be read.
    Blocked,
}

impl Netfilter {
    /// Whether a rule is in the way of the short cut, as of the latest judgement.
    pub(in crate::agent) fn ground(&self) -> Ground {
        match (&self.rules, &self.judged) {
            (Some(Err(_)), _) => Ground::Blocked,
            (None, _) | (_, None) => Ground::Unknown,
            (_, Some((_, judgement))) if judgement.n_altering == 0 => Ground::Clear,
            _ => Ground::Blocked,
        }
    }

    /// The rules that packets between pods may meet; `None` if they have not been judged.
    pub(in crate::agent) fn judgement(&self) -> Option<&Judgement> {
        self.judged.as_ref().map(|(_, judgement)| judgement)
    }

    /// The rules that packets between pods of this node and of others may meet; `None` if they have not been judged.
    pub(in crate::agent) fn judgement_between_nodes(&self) -> Option<&Judgement> {
        self.judged_between_nodes.as_ref().map(|(_, judgement)| judgement)
    }

    /// Why the rules cannot be read.
    pub(in crate::agent) fn problem(&self) -> Option<&str> {
        self.rules.as_ref()?.as_ref().err().map(String::as_str)
    }

    /// Whether the rules have been read.
    pub(in crate::agent) fn is_read(&self) -> bool {
        matches!(self.rules, Some(Ok(_)))
    }

    /// The tables and chains of other engines.
    pub(in crate::agent) fn engines(&self) -> BTreeMap<Engine, Found> {
        match &self.rules {
            Some(Ok(rules)) => rules.engines().clone(),
            Some(Err(_)) | None => BTreeMap::new(),
        }
    }

    /// Logs what is in the way of the short cut, if it is something else than before.
    fn log(&mut self) {
        let problem = self.problem().map(str::to_owned);
        let rule = self.judgement().and_then(|judgement| judgement.altering.first());
        let reason = problem.or_else(|| rule.cloned());
        if reason == self.logged {
            return;
        }
        if let Some(reason) = &reason {
            warn!(%reason, "no short cut: a netfilter rule of others may match packets between pods, or the rules cannot be read");
        } else {
            info!("no netfilter rule of others is in the way of the short cut any more");
        }
        self.logged = reason;
    }
}

impl<K: Kernel> Agent<K> {
    /// Takes over what was read.
    pub(in crate::agent) fn set_netfilter(&mut self, news: NetfilterNews) {
        let before = self.netfilter.engines();
        self.netfilter.rules = Some(match news {
            NetfilterNews::Rules(rules) => Ok(rules),
            NetfilterNews::NotRead(error) => Err(error),
        });
        self.netfilter.judged = None;
        self.netfilter.judged_between_nodes = None;
        for (engine, Found { n, names }) in &self.netfilter.engines() {
            if !before.contains_key(engine) {
                warn!(
                    engine = engine.as_str(),
                    n,
                    ?names,
                    "another NetworkPolicy engine has rules on this node: it may still drop packets"
                );
            }
        }
        self.follow_short_cuts();
    }

    /// Judges the rules again if they, or the pods, have changed.
    pub(in crate::agent) fn follow_netfilter(&mut self) -> Ground {
        if let Some(Ok(rules)) = &self.netfilter.rules {
            let near = self.pod_traffic();
            let far = self.traffic_between_nodes(&near);
            self.netfilter.judged = Some(judged(rules, near, self.netfilter.judged.take()));
            let before = self.netfilter.judged_between_nodes.take();
            self.netfilter.judged_between_nodes = far.map(|far| judged(rules, far, before));
        }
        self.netfilter.log();
        self.netfilter.ground()
    }

    /// The devices and networks of the pods of this node.
    fn pod_traffic(&self) -> PodTraffic {
        let mut traffic = PodTraffic::default();
        let devices = &self.devices.by_ifindex;
        let name = |ifindex: &IfIndex| Some((*ifindex, devices.get(ifindex)?.name.clone()));
        for endpoint in self.state.endpoints() {
            let device = devices.get(&endpoint.ifindex);
            let Some(bridge) = device.and_then(|device| device.short_cut.ok()) else { continue };
            traffic.bridges.extend(name(&bridge));
            traffic.ports.extend(name(&endpoint.ifindex));
            let pod = self.state.pod_of(endpoint);
            let reported = pod.into_iter().flat_map(Pod::addresses);
            let addresses = endpoint.addresses.iter().chain(reported);
            traffic.networks.extend(addresses.map(|address| Network::around(*address)));
        }
        // Pods have such addresses without being told.
        let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
        traffic.networks.insert(Network::around(IpAddr::V6(link_local)));
        traffic
    }

    /// The same, with the devices that lead to pods of other nodes and their networks; `None` if there are none.
    fn traffic_between_nodes(&self, near: &PodTraffic) -> Option<PodTraffic> {
        let devices = &self.short_cuts.overlays.devices;
        if devices.is_empty() || self.short_cuts.mode != ShortCut::Nodes {
            return None;
        }
        let mut traffic = near.clone();
        traffic.is_routed = true;
        // Chains of the families `bridge` and `netdev` may be those of the bridge itself.
        traffic.ports.extend(near.bridges.clone());
        for OverlayDevice { ifindex, prefixes, .. } in devices.values() {
            if let Some(device) = self.devices.by_ifindex.get(ifindex) {
                traffic.bridges.insert(*ifindex, device.name.clone());
                traffic.ports.insert(*ifindex, device.name.clone());
            }
            traffic.networks.extend(prefixes.iter().copied().map(Network::from));
        }
        Some(traffic)
    }
}

/// The judgement on these packets, which is made again if it was about others.
fn judged(
    rules: &RuleSet,
    traffic: PodTraffic,
    before: Option<(PodTraffic, Judgement)>,
) -> (PodTraffic, Judgement) {
    match before {
        Some(before) if before.0 == traffic => before,
        Some(_) | None => {
            let judgement = judge(rules, &traffic);
            (traffic, judgement)
        }
    }
}

#[cfg(test)]
mod tests {
    use netpol_common::mac::Mac;
    use netpol_datapath::netlink::{Device, Devices, Leads};
    use netpol_policy::dataplane::port::Framing;
    use netpol_policy::simulate::{PodOrIp, PortChoice, Probe};
    use netpol_policy::store::PodEnd;
    use netpol_proto::Response;

    use super::*;
    use crate::agent::fake_kernel::FakeKernel;
    use crate::agent::state::short_cuts::ShortCutStatus;
    use crate::agent::tests::{Fixture, fixture, full_lists, pod, update};

    /// One pod at a bridge, whose agent has the short cut on.
    fn with_a_pod_at_a_bridge() -> Fixture {
        let mut fixture = fixture();
        fixture.agent = fixture.agent.with_short_cut(ShortCut::On);
        let end = PodEnd { mac: Mac::new([2, 0, 0, 0, 0, 7]), link_local: Vec::new() };
        fixture.agent.kernel.pod_ends.insert(IfIndex(7), end);
        drop(fixture.agent.update(full_lists()));
        drop(fixture.agent.update(update(pod("a"))));
        assert_eq!(fixture.add().try_recv(), Ok(Response::Ok));
        let device = |name: &str, leads, short_cut| Device {
            name: name.to_owned(),
            leads,
            is_up: true,
            has_carrier: true,
            short_cut,
            has_address: false,
            framing: Framing::Ethernet,
        };
        let bridge = Err(netpol_datapath::netlink::Obstacle::NoBridge);
        let by_ifindex = [
            (IfIndex(2), device("cni0", Leads::ToPorts, bridge)),
            (IfIndex(7), device("veth7", Leads::ToNamespace, Ok(IfIndex(2)))),
        ];
        let devices = Devices { by_ifindex: by_ifindex.into(), ..Devices::default() };
        fixture.agent.set_devices(devices, |_| true, fixture.now);
        fixture.agent.sync();
        fixture
    }

    fn state(agent: &mut Agent<FakeKernel>) -> ShortCutStatus {
        agent.sync();
        agent.describe().endpoints[0].short_cut
    }

    #[test]
    fn no_pod_takes_the_short_cut_before_the_rules_are_read_or_while_they_cannot_be() {
        let mut fixture = with_a_pod_at_a_bridge();
        let agent = &mut fixture.agent;
        assert_eq!(state(agent), ShortCutStatus::NotListed);
        agent.set_netfilter(NetfilterNews::Rules(RuleSet::default()));
        assert_eq!(state(agent), ShortCutStatus::On);
        agent.set_netfilter(NetfilterNews::NotRead("not permitted".to_owned()));
        assert_eq!(state(agent), ShortCutStatus::Netfilter);
        assert_eq!(agent.describe().netfilter.problem.as_deref(), Some("not permitted"));
        agent.look_at_programs(fixture.now);
        assert_eq!(state(agent), ShortCutStatus::Netfilter);
        agent.set_netfilter(NetfilterNews::Rules(RuleSet::default()));
        assert_eq!(state(agent), ShortCutStatus::On);
    }

    #[test]
    fn a_program_of_another_engine_is_named_where_the_verdict_is_to_allow() {
        let mut fixture = with_a_pod_at_a_bridge();
        let agent = &mut fixture.agent;
        let probe = |to: &str| Probe {
            from: "10.9.9.9".parse::<PodOrIp>().unwrap(),
            to: to.parse::<PodOrIp>().unwrap(),
            port: PortChoice::Number(80),
            transport: netpol_policy::model::Transport::Tcp,
        };
        assert_eq!(agent.explain_on_node(&probe("x/a")).diagnostics, Vec::<String>::new());
        agent.kernel.with_foreign_programs.insert(IfIndex(7));
        assert_eq!(
            agent.explain_on_node(&probe("x/a")).diagnostics,
            [
                "another program may still drop this: the traffic control program of cilium, \"cil_from_contai\", on the interface of x/a"
            ]
        );
        assert_eq!(agent.explain_on_node(&probe("10.9.9.8")).diagnostics, Vec::<String>::new());
    }
}
