//! Packets that traverse the hooks of a node, and the verdict at each hook.
//!
//! A simulated cluster fills the maps. Any packet can be sent: replies, echoes, packets in the middle of a connection, and
//! packets with Service NAT.

mod maps;
mod packet;

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use netpol_common::ids::{Hook, IfIndex, Nanos};
use netpol_common::reason::{PassReason, Verdict};
use netpol_common::verdict::{DEFAULT_MARK_MASK, HookContext};
use netpol_policy::model::{Object, Pod};
use netpol_policy::resolve::is_own_node;
use netpol_policy::simulate::{Cluster, Datapath as _, Engine, Judged};
use netpol_policy::store::{ClusterState, OwnNodeEgress};

pub use maps::SharedMaps;
pub use packet::{ACK, Packet, SYN, SYN_ACK, Segment};

/// The uplink's interface.
const UPLINK: IfIndex = IfIndex(2);
/// The pods' gateway: source address of a hairpin packet, which a pod sends to itself through a Service.
const GATEWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 0, 1));

/// A cluster and its maps.
pub struct Wire {
    /// The objects.
    pub cluster: Cluster,
    maps: SharedMaps,
}

/// Service NAT between two hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// None.
    None,
    /// DNAT: the sender sees this virtual address as destination.
    Destination(IpAddr),
    /// Reverse NAT of the answer: the receiver sees this virtual address as source.
    Source(IpAddr),
}

/// The verdicts of the hooks; `None` for hooks that the packet does not traverse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// At the sender's interface.
    pub egress: Option<Stop>,
    /// Where the packet leaves the node.
    pub uplink: Option<Stop>,
    /// At the receiver's interface.
    pub ingress: Option<Stop>,
}

/// A hook's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Whether the packet passes.
    pub passes: bool,
    /// The reason, if the engine gives one.
    pub verdict: Option<Verdict>,
}

impl Walk {
    /// Whether the packet arrives.
    pub fn passes(&self) -> bool {
        [self.egress, self.uplink, self.ingress].iter().flatten().all(|stop| stop.passes)
    }

    /// The deciding reason: of the hook that drops, else of the last one.
    pub fn reason(&self) -> Option<&'static str> {
        let stops = [self.egress, self.uplink, self.ingress];
        let drop = stops.iter().flatten().find(|stop| !stop.passes);
        let knows = |stop: &&Stop| stop.verdict != Some(Verdict::Pass(PassReason::NoEgressMark));
        let last = stops.iter().rev().flatten().find(knows);
        drop.or(last)?.verdict.map(Verdict::as_str)
    }
}

impl Wire {
    /// An empty cluster over these maps.
    pub fn new(maps: SharedMaps) -> Self {
        Self { cluster: Cluster::new(Engine::Datapath(Box::new(maps.clone()))), maps }
    }

    /// The same where connections of pods to their own node need a rule that allows them.
    #[must_use]
    pub fn judging_node(self) -> Self {
        Self { cluster: self.cluster.with_own_node_egress(OwnNodeEgress::Judge), ..self }
    }

    /// Replaces all objects.
    ///
    /// # Errors
    /// The maps refuse a change.
    pub fn set(&mut self, objects: Vec<Object>) -> Result<()> {
        self.cluster.set(objects).context("changing the maps")
    }

    /// The operations since the last call.
    pub fn take_ops(&self) -> Vec<netpol_policy::dataplane::MapOp> {
        self.maps.take_ops()
    }

    /// Removes all flows.
    ///
    /// # Errors
    /// The maps refuse the change.
    pub fn forget_flows(&mut self) -> Result<()> {
        self.maps.forget_flows().context("forgetting flows")
    }

    /// Sends a packet with real addresses; `nat` is the address that one end sees instead.
    ///
    /// # Errors
    /// The engine fails.
    pub fn send(&mut self, packet: &Packet, nat: Nat, now: Nanos) -> Result<Walk> {
        let maps = self.maps.clone();
        let judge = |packet: &Packet, seen: &HookContext| -> Result<(Stop, Judged)> {
            let (judged, verdict) = maps.observe(&packet.frame(), seen).context("judging")?;
            Ok((Stop { passes: judged.passes, verdict }, judged))
        };
        send(self.cluster.state(), packet, nat, now, &judge)
    }
}

/// A function that returns a hook's verdict on a packet, and its mark.
pub type Judge<'j> = &'j dyn Fn(&Packet, &HookContext) -> Result<(Stop, Judged)>;

/// Sends a packet through hooks whose verdicts come from `judge`.
///
/// # Errors
/// Those of `judge`.
pub fn send(
    state: &ClusterState,
    packet: &Packet,
    nat: Nat,
    now: Nanos,
    judge: Judge<'_>,
) -> Result<Walk> {
    let mut walk = Walk::default();
    let (mut mark, mut flow_handle) = (0, 0);
    let (from, to) = (state.owner(packet.src), state.owner(packet.dst));
    let is_hairpin = from.is_some_and(|from| to.is_some_and(|to| from.name == to.name));
    if is_hairpin && nat == Nat::None {
        return Ok(walk);
    }
    let source = from.and_then(|pod| interface(state, pod)).unwrap_or(UPLINK);
    if let Some(pod) = from {
        let sent = match nat {
            Nat::Destination(vip) => Packet { dst: vip, ..*packet },
            Nat::None | Nat::Source(_) => *packet,
        };
        let (stop, judged) =
            judge(&sent, &hook_context(Hook::PodEgress, source, source.0, 0, now))?;
        walk.egress = Some(stop);
        (mark, flow_handle) = (judged.mark, judged.flow_handle);
        if !stop.passes || (to.is_none() && is_own_node(state, pod, packet.dst)) {
            return Ok(walk);
        }
    }
    let Some(pod) = to else {
        let seen = hook_context(Hook::UplinkEgress, UPLINK, source.0, mark, now);
        let seen = HookContext { flow_handle, ..seen };
        walk.uplink = Some(judge(packet, &seen)?.0);
        return Ok(walk);
    };
    let destination = interface(state, pod).unwrap_or(UPLINK);
    let is_from_node = from.is_none() && is_own_node(state, pod, packet.src);
    let came_in = if is_from_node { 0 } else { source.0 };
    let received = match nat {
        Nat::Source(vip) => Packet { src: vip, ..*packet },
        Nat::None | Nat::Destination(_) if is_hairpin => Packet { src: GATEWAY, ..*packet },
        Nat::None | Nat::Destination(_) => *packet,
    };
    let seen = hook_context(Hook::PodIngress, destination, came_in, mark, now);
    let seen = HookContext { flow_handle, ..seen };
    walk.ingress = Some(judge(&received, &seen)?.0);
    Ok(walk)
}

/// The interface of a pod.
fn interface(state: &ClusterState, pod: &Pod) -> Option<IfIndex> {
    let is_its = |endpoint: &&netpol_policy::store::Endpoint| {
        endpoint.pod == pod.name && state.pod_of(endpoint).is_some()
    };
    state.endpoints().find(is_its).map(|endpoint| endpoint.ifindex)
}

/// The context of a hook: `came_in` is the interface through which the packet entered the node, 0 if the node sent it.
pub const fn hook_context(
    hook: Hook,
    ifindex: IfIndex,
    came_in: u32,
    mark: u32,
    now: Nanos,
) -> HookContext {
    HookContext {
        hook,
        ifindex,
        ingress_ifindex: came_in,
        has_socket: came_in == 0,
        is_tagged: false,
        mark,
        mark_mask: DEFAULT_MARK_MASK,
        flow_handle: 0,
        now,
    }
}
