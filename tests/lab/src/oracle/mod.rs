//! An independent implementation of the semantics, written from SEMANTICS.md and CLUSTER-POLICY.md alone.
//!
//! In: raw JSON objects and a probe. Out: whether the connection may be made. It evaluates the JSON
//! anew for each probe and shares no code with netpol-policy, neither model nor conversion. Simple and slow; numbers in
//! brackets are items of SEMANTICS.md §1, those with a C items of CLUSTER-POLICY.md.

mod block;
mod cluster_policy;
mod labels;
mod pods;
mod policy;
mod ports;
mod services;
mod validity;

use std::net::IpAddr;

use serde_json::Value;

use crate::case::{End, Port, Probe, Protocol};
pub use block::{block_holds_block, has_host_bits};
use cluster_policy::Tier;
pub use cluster_policy::is_understood;
use pods::{ClusterModel, Counted};
pub use validity::problems;

/// The oracle for one set of objects.
#[derive(Debug)]
pub struct Oracle<'a> {
    cluster: ClusterModel<'a>,
    /// Connections of pods to their own node need a rule that allows them.
    judges_node: bool,
}

/// A connection as one of its ends sees it.
#[derive(Clone, Copy, Debug)]
struct Talk<'a> {
    /// The peer's address.
    remote: IpAddr,
    /// The pod that owns it.
    remote_pod: Option<&'a Value>,
    /// The destination pod.
    destination_pod: Option<&'a Value>,
    protocol: Protocol,
    /// The destination port.
    port: u16,
    /// The destination is a Service without backends.
    is_virtual: bool,
    /// Both ends are the same pod, which talks to itself through a Service.
    is_hairpin: bool,
    /// The node has translated the address of a Service to the destination.
    is_translated: bool,
}

/// How the packets get to the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Direct,
    ThroughService,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

impl<'a> Oracle<'a> {
    /// An oracle for these objects. Policies in audit mode decide nothing.
    pub fn new(objects: &'a [Value]) -> Self {
        Self { cluster: ClusterModel::new(objects, Counted::Enforced), judges_node: false }
    }

    /// An oracle for these objects as if no policy were in audit mode: what passes otherwise but not here is reported as
    /// audited.
    pub fn with_audited(objects: &'a [Value]) -> Self {
        Self { cluster: ClusterModel::new(objects, Counted::All), judges_node: false }
    }

    /// The same where connections of pods to their own node need a rule that allows them. A Service leads to a node only if every
    /// host-network pod behind it is allowed.
    #[must_use]
    pub fn judging_node(self) -> Self {
        Self { judges_node: true, ..self }
    }

    /// Whether the connection may be made: the source's egress and the destination's ingress both allow it (item 2). It is
    /// not made if the ends have no addresses of a common family, or if the destination pod has no such named port.
    pub fn allows(&self, probe: &Probe) -> bool {
        let Some((source, destination, port)) = self.connection(probe) else { return false };
        if !services::is_virtual(&self.cluster, destination) {
            return self.reaches(Route::Direct, source, (destination, port), probe.protocol);
        }
        // The policies of all pods behind a Service count.
        let behind = services::behind(&self.cluster, destination, port, probe.protocol);
        if !behind.is_empty() {
            let on_host =
                services::behind_on_host(&self.cluster, destination, port, probe.protocol);
            let source_pod = self.cluster.owner(source);
            let leaves = |(backend, number): (IpAddr, u16)| {
                let talk = Talk {
                    remote: backend,
                    remote_pod: None,
                    destination_pod: None,
                    protocol: probe.protocol,
                    port: number,
                    is_virtual: false,
                    is_hairpin: false,
                    is_translated: true,
                };
                self.end_allows(source_pod, Direction::Egress, &talk)
            };
            if self.judges_node && !on_host.into_iter().all(leaves) {
                return false;
            }
            return behind.into_iter().all(|backend| {
                self.reaches(Route::ThroughService, source, backend, probe.protocol)
            });
        }
        let talk = Talk {
            remote: destination,
            remote_pod: None,
            destination_pod: None,
            protocol: probe.protocol,
            port,
            is_virtual: true,
            is_hairpin: false,
            is_translated: false,
        };
        self.end_allows(self.cluster.owner(source), Direction::Egress, &talk)
    }

    /// Whether the connection may be made through a Service that has this destination.
    pub fn allows_through_service(&self, probe: &Probe) -> bool {
        self.connection(probe).is_some_and(|(source, destination, port)| {
            self.reaches(Route::ThroughService, source, (destination, port), probe.protocol)
        })
    }

    fn reaches(
        &self,
        route: Route,
        source: IpAddr,
        (destination, port): (IpAddr, u16),
        protocol: Protocol,
    ) -> bool {
        let (source_pod, destination_pod) =
            (self.cluster.owner(source), self.cluster.owner(destination));
        // A pod always reaches itself [3], but through a Service only if no cluster policy denies it (C10).
        let is_hairpin = source == destination || same(source_pod, destination_pod);
        if is_hairpin && route == Route::Direct {
            return true;
        }
        let talk = |remote, remote_pod| Talk {
            remote,
            remote_pod,
            destination_pod,
            protocol,
            port,
            is_virtual: false,
            is_hairpin,
            is_translated: route == Route::ThroughService,
        };
        self.end_allows(source_pod, Direction::Egress, &talk(destination, destination_pod))
            && self.end_allows(destination_pod, Direction::Ingress, &talk(source, source_pod))
    }

    /// Source address, destination address and destination port of the packets; `None` if there is no connection.
    pub fn connection(&self, probe: &Probe) -> Option<(IpAddr, IpAddr, u16)> {
        let (source, destination) = self.addresses(&probe.from, &probe.to)?;
        let port = match &probe.port {
            Port::Number(number) => *number,
            Port::Name(name) => {
                let pod = self.cluster.named(&probe.to).or(self.cluster.owner(destination))?;
                *ports::declared(pod, name, probe.protocol).first()?
            }
        };
        Some((source, destination, port))
    }

    /// Whether one end allows it; an end that is no pod has no policy. The tiers are asked in order; if none decides, it is
    /// allowed (C1).
    fn end_allows(&self, pod: Option<&Value>, direction: Direction, talk: &Talk<'_>) -> bool {
        let Some(pod) = pod else { return true };
        let needs_rule = self.judges_node && direction == Direction::Egress;
        let is_own_node =
            !talk.is_virtual && !needs_rule && self.cluster.is_own_node(pod, talk.remote);
        // Ingress peers of cluster policies are pods, so none denies what comes from the own node (C11). What a Service leads to
        // the own node is not judged: docs/design/cluster-policies.md names the limit.
        if is_own_node && (direction == Direction::Ingress || talk.is_translated) {
            return true;
        }
        let cluster_tier = |tier| cluster_policy::says(&self.cluster, tier, pod, direction, talk);
        let is_exempt = is_own_node || talk.is_hairpin;
        cluster_tier(Tier::Admin)
            .or_else(|| {
                let allows = self.network_policies_allow(pod, direction, talk)?;
                Some(allows || is_exempt)
            })
            .or_else(|| cluster_tier(Tier::Baseline))
            .unwrap_or(true)
    }

    /// Whether the network policies of the pod's namespace allow it; `None` if none isolates the pod.
    fn network_policies_allow(
        &self,
        pod: &Value,
        direction: Direction,
        talk: &Talk<'_>,
    ) -> Option<bool> {
        let mut isolated = None;
        for policy in self.cluster.policies_of(pod) {
            match policy::says(&self.cluster, policy, pod, direction, talk) {
                policy::Says::Nothing => {}
                policy::Says::Deny => isolated = Some(false),
                // Union: one rule of one policy is enough [1].
                policy::Says::Allow => return Some(true),
            }
        }
        isolated
    }

    /// Source and destination address of the packets, of one family.
    pub fn addresses(&self, from: &End, to: &End) -> Option<(IpAddr, IpAddr)> {
        let (from, to) = (self.cluster.candidates(from), self.cluster.candidates(to));
        let pairs = to.iter().flat_map(|target| from.iter().map(move |source| (*source, *target)));
        pairs.into_iter().find(|(source, target)| source.is_ipv4() == target.is_ipv4())
    }
}

fn same(one: Option<&Value>, other: Option<&Value>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if std::ptr::eq(one, other))
}

/// A field of a JSON object; null counts as absent, as for the API's Go types.
fn field<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.get(name).filter(|value| !value.is_null())
}

/// The string at a path of fields.
fn text<'v>(value: &'v Value, path: &[&str]) -> Option<&'v str> {
    let mut value = value;
    for name in path {
        value = field(value, name)?;
    }
    value.as_str()
}

/// The list at a path of fields; empty if absent.
fn list<'v>(value: &'v Value, path: &[&str]) -> &'v [Value] {
    let mut value = value;
    for name in path {
        let Some(inner) = field(value, name) else { return &[] };
        value = inner;
    }
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Whether a JSON object has only these fields; null and absent have none.
fn has_only(value: &Value, fields: &[&str]) -> bool {
    value.is_null()
        || value.as_object().is_some_and(|map| map.keys().all(|key| fields.contains(&key.as_str())))
}
