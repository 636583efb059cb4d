//! The agent's status, as `netpol-agent status` shows it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netpol_common::ids::{Direction, IfIndex};
use netpol_common::keys::EndpointValue;
use netpol_common::maps;
use netpol_policy::compile::Capacities;
use netpol_policy::dataplane::port::{DeviceRole, Kernel, Presence};
use netpol_policy::model::{Kind, ObjectName};
use netpol_policy::resolve::{PolicyKind, PolicyRef, isolating, selecting};
use netpol_policy::source::Health;
use netpol_policy::store::Endpoint;
use serde::{Deserialize, Serialize};

use super::foreign::NetfilterStatus;
use crate::agent::state::overlays::OverlayShortCut;
use crate::agent::state::publishing::PublishingOutcome;
use crate::agent::state::short_cuts::ShortCutStatus;
use crate::agent::state::{Agent, FromBefore, Uplink};

/// The agent's status, in numbers and names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Whether the watch of each kind of objects is up to date.
    pub sources: BTreeMap<Kind, SourceStatus>,
    /// The kinds without a complete list so far: nothing new is enforced while there is one.
    pub missing: Vec<Kind>,
    /// Whether the maps hold the policies of all known objects.
    pub is_in_force: bool,
    /// If only the policies of an earlier run are in force: how old they are.
    #[serde(default)]
    pub from_before: Option<FromBefore>,
    /// Age of the oldest change that is not in the maps yet, in milliseconds, accurate to about a second.
    pub lag_ms: Option<u64>,
    /// Generation of the policy in the kernel; `None` if it cannot be read.
    pub epoch: Option<u32>,
    /// Updates of the maps since the agent started.
    pub n_changes: u64,
    /// Objects by kind.
    pub n_objects: BTreeMap<Kind, usize>,
    /// Entries and capacity of the maps.
    pub maps: BTreeMap<String, MapStatus>,
    /// The policies that select an endpoint of this node.
    pub policies: Vec<PolicyStatus>,
    /// Endpoints attached through clsact filters that wait for migration to TCX links; `None` if that cannot be read.
    pub n_awaiting_migration: Option<usize>,
    /// Removed endpoints whose connections and counters wait for garbage collection.
    pub n_awaiting_gc: usize,
    /// Why the kernel does not report which programs are attached; `None` if it does. Then no endpoint is ready.
    #[serde(default)]
    pub blind: Option<String>,
    /// Devices through which packets leave the node.
    #[serde(default)]
    pub uplinks: Vec<UplinkStatus>,
    /// Times that others had detached programs, which were attached again: from pods' interfaces, and from uplinks.
    #[serde(default)]
    pub n_reattached: [u64; 2],
    /// The nftables table that drops deferred packets before devices that cannot judge them.
    #[serde(default)]
    pub exit_guard: ExitGuardStatus,
    /// The tunnels between nodes.
    #[serde(default)]
    pub tunnels: TunnelStatus,
    /// Whether connections with pods of other nodes take the short cut; empty with `--short-cut off`.
    #[serde(default)]
    pub overlay_short_cuts: Vec<OverlayShortCut>,
    /// Interfaces that lead into other network namespaces and belong to no known pod.
    #[serde(default)]
    pub unidentified: Vec<UnidentifiedStatus>,
    /// Addresses that nodes publish before the API reports them.
    #[serde(default)]
    pub publishing: PublishingStatus,
    /// The netfilter rules of others, and what other NetworkPolicy engines have left.
    #[serde(default)]
    pub netfilter: NetfilterStatus,
    /// The endpoints, by pod, and pods of this node without one.
    pub endpoints: Vec<EndpointStatus>,
    /// Diagnostics of the objects, as text.
    pub diagnostics: Vec<String>,
}

/// Whether pods can send packets through the tunnels between nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum TunnelStatus {
    /// This run of the agent has not read the node's devices yet: what an earlier run closed is closed.
    #[default]
    Unknown,
    /// IPIP, 6in4 and GRE to nodes drop, and UDP to these ports of nodes.
    Closed {
        /// The ports, ascending.
        ports: Vec<u16>,
    },
    /// Policies decide, as `--pod-tunnels allow` says.
    Open,
}

/// Addresses that nodes publish before the API reports them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishingStatus {
    /// What has become of publishing those of this node.
    #[serde(flatten)]
    pub outcome: PublishingOutcome,
    /// Pods of this node that are published now, or will be.
    pub n_pods: usize,
    /// The addresses that pods own only because their nodes publish them.
    pub believed: BTreeMap<IpAddr, ObjectName>,
}

/// An interface that leads into another network namespace and belongs to no known pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnidentifiedStatus {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// What happens to its packets.
    pub state: InterfaceState,
}

/// What happens to the packets of an interface that belongs to no known pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InterfaceState {
    /// All drop: it has appeared just now, or its pod has been removed.
    Blocked,
    /// They pass unjudged.
    Open,
}

/// State of the watch of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum SourceStatus {
    /// No complete list yet: nothing new is enforced.
    Listing,
    /// Listed, and watched for changes.
    Synced {
        /// Seconds since the latest message of the source, bookmarks included; accurate to about a second.
        heard_s: u64,
    },
    /// The watch fails: the objects are out of date.
    Broken {
        /// The latest failure.
        error: String,
        /// Seconds since the first failure; accurate to about a second.
        since_s: u64,
    },
}

fn capacity(of_map: u32) -> usize {
    usize::try_from(of_map).unwrap_or(usize::MAX)
}

/// Entries and capacity of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapStatus {
    /// Entries that it holds.
    pub n_entries: usize,
    /// Most entries that it can hold.
    pub capacity: usize,
}

/// A policy that selects an endpoint of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Its kind and name.
    pub policy: PolicyRef,
    /// Number of endpoints of this node that it concerns, by direction.
    pub n_endpoints: BTreeMap<Direction, usize>,
    /// Whether it is deleted and stays in force until its namespace is gone.
    #[serde(default)]
    pub is_held: bool,
    /// Its rules that exceed the capacity of the maps: they allow nothing.
    pub left_out: Vec<String>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// The pod.
    pub pod: ObjectName,
    /// Index of the host's end of the veth pair; 0 until it has been found.
    pub ifindex: u32,
    /// The addresses from which it may send; the addresses of the pod if it is unprotected.
    pub addresses: Vec<IpAddr>,
    /// Whether its policy is in force.
    pub protection: Protection,
    /// How its programs are attached; `None` if they are not, or if that cannot be read.
    #[serde(default)]
    pub attached: Option<Attached>,
    /// Directions in which it is isolated.
    pub isolated: Vec<Direction>,
    /// Directions in audit mode: packets that would be dropped are only reported.
    pub audited: Vec<Direction>,
    /// Whether it may send from addresses that are not its own.
    pub forwards: bool,
    /// Whether its connections to other pods of the node take the short cut.
    #[serde(default)]
    pub short_cut: ShortCutStatus,
    /// Entries of its allow maps, both directions together.
    pub n_allow_entries: usize,
}

/// The nftables table that drops deferred packets before devices that cannot judge them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitGuardStatus {
    /// Whether it is in place.
    pub is_in_place: bool,
    /// Why it is not.
    pub problem: Option<String>,
    /// Number of devices before which deferred packets pass.
    pub n_exits: usize,
    /// Times that others had removed or changed it.
    pub n_recreated: u64,
}

/// A device through which packets leave the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// How its program is attached; `None` if it is not.
    pub attached: Option<Attached>,
}

/// Whether an endpoint's policy is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protection {
    /// Its policy is in force.
    Ready,
    /// All packets drop, because its pod is not known yet.
    Blocked,
    /// Its interface has not been found, or has no programs, or the kernel does not report them.
    Unprotected,
    /// Its interface is gone although the pod runs: the pod has deleted it, or somebody on the node has. It reaches nobody.
    Disconnected,
}

impl Protection {
    /// The value in JSON and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Blocked => "blocked",
            Self::Unprotected => "unprotected",
            Self::Disconnected => "disconnected",
        }
    }
}

/// How the programs of an endpoint are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attached {
    /// By TCX links.
    Tcx,
    /// By filters of a clsact queueing discipline: before Linux 6.6, or until the migration to TCX links.
    Clsact,
}

impl Attached {
    /// The value in JSON and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// How the programs are attached; `None` if one is missing.
const fn attached_by(presence: Presence) -> Option<Attached> {
    match presence {
        Presence::Links => Some(Attached::Tcx),
        Presence::Filters => Some(Attached::Clsact),
        Presence::Missing | Presence::NoDevice => None,
    }
}

impl<K: Kernel> Agent<K> {
    /// The current status.
    pub fn describe(&self) -> Status {
        let map_state = &self.map_state;
        let Capacities { n_prefixes, n_identities, n_allow_entries, n_deferred, .. } =
            *self.compiled.capacities();
        let largest = map_state.allow.values().map(|map| map.len()).max().unwrap_or_default();
        let maps = [
            ("endpoints", map_state.endpoints.len(), capacity(maps::MAX_ENDPOINTS)),
            ("addresses", map_state.addresses.len(), capacity(maps::MAX_ADDRESSES / 2)),
            // The share of these maps that policies may fill.
            ("identities", map_state.identities.len(), n_identities.total),
            ("prefixes", map_state.prefixes.len(), n_prefixes.total),
            ("largest_allow_map", largest, n_allow_entries),
            // Two for each endpoint. The map has slots for twice as many.
            ("allow_maps", map_state.allow.len(), capacity(2 * maps::MAX_ENDPOINTS)),
            ("defer", map_state.defer.len(), n_deferred.total),
            // Mark 0 means that an endpoint has none.
            ("egress_marks", map_state.egress_marks.len(), capacity(maps::N_EGRESS_MARKS - 1)),
        ];
        let map_status = |(name, n_entries, capacity): (&str, usize, usize)| {
            (name.to_owned(), MapStatus { n_entries, capacity })
        };
        let presence = self.kernel.presence(&self.guarded());
        let blind = presence.as_ref().err().map(ToString::to_string);
        let presence = presence.unwrap_or_default();
        let mut endpoints: Vec<_> = self
            .state
            .endpoints()
            .map(|endpoint| self.describe_endpoint(endpoint, &presence))
            .collect();
        let unprotected = self.unprotected().map(|pod| (pod, Protection::Unprotected));
        let disconnected = self.disconnected().map(|pod| (pod, Protection::Disconnected));
        endpoints.extend(unprotected.chain(disconnected).map(|(pod, protection)| EndpointStatus {
            pod: pod.name.clone(),
            ifindex: 0,
            addresses: pod.addresses().to_vec(),
            protection,
            attached: None,
            isolated: Vec::new(),
            audited: Vec::new(),
            forwards: false,
            short_cut: ShortCutStatus::Off,
            n_allow_entries: 0,
        }));
        endpoints.sort();
        Status {
            version: netpol_proto::build::version().to_owned(),
            sources: self.describe_sources(),
            missing: self.freshness.missing(),
            is_in_force: !self.is_stale() && self.freshness.missing().is_empty(),
            from_before: self.in_force_from_before(),
            lag_ms: self
                .latencies
                .lag()
                .map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
            epoch: self.kernel.epoch().ok().map(|epoch| epoch.0),
            n_changes: self.n_applied,
            n_objects: Kind::ALL
                .into_iter()
                .map(|kind| (kind, self.state.references(kind).len()))
                .collect(),
            maps: maps.into_iter().map(map_status).collect(),
            policies: self.describe_policies(),
            n_awaiting_migration: self
                .kernel
                .awaiting_migration()
                .ok()
                .map(|waiting| waiting.len()),
            n_awaiting_gc: self.kernel.n_awaiting_gc(),
            blind,
            uplinks: self.describe_uplinks(&presence),
            exit_guard: self.describe_exit_guard(),
            n_reattached: [self.detached.n_pods, self.detached.n_uplinks],
            tunnels: self.tunnels.describe(),
            overlay_short_cuts: self.short_cuts.overlays.states.clone(),
            unidentified: self.describe_unidentified(),
            publishing: self.describe_publishing(),
            netfilter: self.describe_netfilter(),
            endpoints,
            diagnostics: self.diagnostics.iter().map(ToString::to_string).collect(),
        }
    }

    fn describe_exit_guard(&self) -> ExitGuardStatus {
        ExitGuardStatus {
            is_in_place: matches!(self.exits.in_place, Some(Ok(()))),
            problem: self.exits.in_place.clone().and_then(Result::err),
            n_exits: self.exits.all().len(),
            n_recreated: self.exits.n_recreated,
        }
    }

    fn describe_publishing(&self) -> PublishingStatus {
        let believed = self.state.published_addresses();
        PublishingStatus {
            outcome: self.publishing.outcome(),
            n_pods: self.publishing.n_wanted(),
            believed: believed.map(|(address, pod)| (address, pod.name.clone())).collect(),
        }
    }

    fn describe_endpoint(
        &self,
        endpoint: &Endpoint,
        presence: &BTreeMap<IfIndex, Presence>,
    ) -> EndpointStatus {
        let value = self.map_state.endpoints.get(&endpoint.ifindex).map(|endpoint| endpoint.value);
        let found = presence.get(&endpoint.ifindex).copied();
        let protection = match (value, found) {
            _ if self.adoption.is_detached(endpoint.ifindex) => Protection::Unprotected,
            (None, _) | (_, Some(Presence::Missing)) => Protection::Unprotected,
            // No packet passes a device that is gone; the next list of devices removes the endpoint.
            (_, Some(Presence::NoDevice)) => Protection::Blocked,
            (Some(value), _) if value.state != EndpointValue::READY => Protection::Blocked,
            (Some(_), Some(Presence::Links | Presence::Filters)) => Protection::Ready,
            // Nobody has looked at it.
            (Some(_), None) => Protection::Unprotected,
        };
        let attached = found.and_then(attached_by);
        let value = value.unwrap_or(EndpointValue::blocked());
        let directions = |holds: &dyn Fn(Direction) -> bool| {
            Direction::ALL.into_iter().filter(|d| holds(*d)).collect()
        };
        let own_addresses =
            self.map_state.addresses.iter().filter(|key| key.ifindex == endpoint.ifindex);
        let own_maps =
            self.map_state.allow.iter().filter(|(key, _)| key.ifindex == endpoint.ifindex);
        EndpointStatus {
            pod: endpoint.pod.clone(),
            ifindex: endpoint.ifindex.0,
            addresses: own_addresses.map(|key| key.addr.to_ip()).collect(),
            protection,
            attached,
            isolated: directions(&|direction| value.is_isolated(direction)),
            audited: directions(&|direction| value.is_audited(direction)),
            forwards: value.forwards(),
            short_cut: self.short_cut_of(endpoint, value),
            n_allow_entries: own_maps.map(|(_, map)| map.len()).sum(),
        }
    }

    /// The interfaces of no known pod. The kernel is asked, because a removed pod's interface keeps its programs.
    fn describe_unidentified(&self) -> Vec<UnidentifiedStatus> {
        let devices = self.unidentified().map(|(ifindex, _)| (ifindex, DeviceRole::Pod));
        let presence = self.kernel.presence(&devices.collect()).unwrap_or_default();
        let state = |ifindex| match presence.get(&ifindex)? {
            Presence::Links | Presence::Filters => Some(InterfaceState::Blocked),
            Presence::Missing => Some(InterfaceState::Open),
            Presence::NoDevice => None,
        };
        let mut found = Vec::new();
        for (ifindex, name) in self.unidentified() {
            found.extend(state(ifindex).map(|state| UnidentifiedStatus {
                name: name.to_owned(),
                ifindex: ifindex.0,
                state,
            }));
        }
        found
    }

    /// The uplinks. A device that has become an endpoint since it was listed is none.
    fn describe_uplinks(&self, presence: &BTreeMap<IfIndex, Presence>) -> Vec<UplinkStatus> {
        let uplinks = self.uplinks.iter();
        let uplinks = uplinks.filter(|(ifindex, _)| self.state.endpoint(**ifindex).is_none());
        let status = |(ifindex, uplink): (&IfIndex, &Uplink)| UplinkStatus {
            name: uplink.name.clone(),
            ifindex: ifindex.0,
            attached: presence.get(ifindex).copied().and_then(attached_by),
        };
        uplinks.map(status).collect()
    }

    fn describe_policies(&self) -> Vec<PolicyStatus> {
        let mut by_policy: BTreeMap<PolicyRef, BTreeMap<Direction, usize>> = BTreeMap::new();
        for pod in self.state.endpoints().filter_map(|endpoint| self.state.pod_of(endpoint)) {
            for direction in Direction::ALL {
                let (default, policies) = isolating(&self.state, pod, direction);
                let cluster = selecting(&self.state, pod, direction, default).into_iter();
                let cluster = cluster.map(|policy| PolicyRef::cluster_policy(&policy.name));
                let policies = policies.iter().map(|of| PolicyRef::network_policy(&of.name));
                for policy in policies.chain(cluster) {
                    *by_policy.entry(policy).or_default().entry(direction).or_default() += 1;
                }
            }
        }
        let status = |(policy, n_endpoints): (PolicyRef, _)| PolicyStatus {
            n_endpoints,
            is_held: policy.kind == PolicyKind::NetworkPolicy && self.held.contains(&policy.name),
            left_out: self
                .left_out
                .keys()
                .filter(|rule| rule.policy == policy)
                .map(|rule| format!("{}[{}]", rule.direction, rule.index))
                .collect(),
            policy,
        };
        by_policy.into_iter().map(status).collect()
    }

    fn describe_sources(&self) -> BTreeMap<Kind, SourceStatus> {
        let kinds = self.freshness.kinds().into_iter();
        kinds.map(|kind| (kind, self.source_status(self.freshness.of(kind)))).collect()
    }

    fn source_status(&self, health: &Health) -> SourceStatus {
        match health {
            Health::Listing | Health::Unserved => SourceStatus::Listing,
            Health::Synced { since: _, heard } => {
                SourceStatus::Synced { heard_s: self.latencies.since(*heard).as_secs() }
            }
            Health::Broken { since, error } => SourceStatus::Broken {
                error: error.to_string(),
                since_s: self.latencies.since(*since).as_secs(),
            },
        }
    }
}
