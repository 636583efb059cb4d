//! What the agent tells about itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netpol_common::ids::Direction;
use netpol_common::keys::EndpointValue;
use netpol_common::maps;
use serde::{Deserialize, Serialize};

use super::{Agent, Kernel};
use netpol_policy::compile::Capacities;
use netpol_policy::model::{Kind, ObjectName};
use netpol_policy::resolve::isolating;
use netpol_policy::source::Health;

/// The agent's state in numbers and names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// How far each kind of objects is known.
    pub sources: BTreeMap<Kind, SourceStatus>,
    /// The kinds of which no complete list has arrived yet: nothing new is enforced while there is one.
    pub missing: Vec<Kind>,
    /// Whether the maps follow the known objects.
    pub is_in_force: bool,
    /// How long the oldest change has waited that the maps do not follow yet, accurate to about a second.
    pub lag_ms: Option<u64>,
    /// The generation of the policy in the kernel; `None` if it cannot be read.
    pub epoch: Option<u32>,
    /// Changes of the maps since the agent started.
    pub n_changes: u64,
    /// Objects by kind.
    pub n_objects: BTreeMap<Kind, usize>,
    /// How full the maps are that policies fill.
    pub maps: BTreeMap<String, MapStatus>,
    /// The policies that select an endpoint of this node.
    pub policies: Vec<PolicyStatus>,
    /// Endpoints whose programs hang on filters until the node is calm, though links would cost packets less; `None` if that
    /// cannot be read.
    pub n_on_filters: Option<usize>,
    /// Interfaces that are no endpoints any more, and whose connections are still in the maps for a moment.
    pub n_awaiting_gc: usize,
    /// The endpoints, by pod.
    pub endpoints: Vec<EndpointStatus>,
    /// Findings on objects, as text.
    pub diagnostics: Vec<String>,
}

/// How far a kind is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum SourceStatus {
    /// No complete list yet: nothing new is enforced.
    Listing,
    /// Listed, and changes arrive.
    Synced {
        /// Since the source last spoke, if only to say that nothing changed; accurate to about a second.
        heard_s: u64,
    },
    /// Out of date.
    Broken {
        /// The latest failure.
        error: String,
        /// Since the first failure; accurate to about a second.
        since_s: u64,
    },
}

fn capacity(of_map: u32) -> usize {
    usize::try_from(of_map).unwrap_or(usize::MAX)
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapStatus {
    /// Entries.
    pub n_entries: usize,
    /// Entries that may be in it.
    pub capacity: usize,
}

/// A policy, as far as it concerns this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Its name.
    pub policy: ObjectName,
    /// Endpoints of this node that it isolates, by direction.
    pub n_endpoints: BTreeMap<Direction, usize>,
    /// Its rules for which the maps have no room: they allow nothing.
    pub left_out: Vec<String>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// The pod.
    pub pod: ObjectName,
    /// The host side's interface index; 0 while it has not been found.
    pub ifindex: u32,
    /// The addresses that it may send from, or those of a pod that is not protected.
    pub addresses: Vec<IpAddr>,
    /// Whether its policy is in force.
    pub protection: Protection,
    /// Directions in which it is isolated.
    pub isolated: Vec<Direction>,
    /// Directions in which what would be dropped is only reported.
    pub audited: Vec<Direction>,
    /// May send from foreign addresses.
    pub forwards: bool,
    /// Entries of its allow maps, both directions.
    pub n_allow_entries: usize,
}

/// Whether an endpoint's policy is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protection {
    /// Its policy is in force.
    Ready,
    /// Nothing passes: its pod is not known yet.
    Blocked,
    /// Its interface has not been found, or has no programs yet.
    Unprotected,
}

impl<K: Kernel> Agent<K> {
    /// The agent's state as it is now.
    pub fn describe(&self) -> Status {
        let map_state = &self.map_state;
        let Capacities { n_prefixes, n_identities, n_allow_entries } = *self.compiled.capacities();
        let largest = map_state.allow.values().map(|map| map.len()).max().unwrap_or_default();
        let maps = [
            ("endpoints", map_state.endpoints.len(), capacity(maps::MAX_ENDPOINTS)),
            ("addresses", map_state.addresses.len(), capacity(maps::MAX_ADDRESSES)),
            // What policies may fill; what does not fit beside is left out.
            ("identities", map_state.identities.len(), n_identities),
            ("prefixes", map_state.prefixes.len(), n_prefixes),
            ("largest_allow_map", largest, n_allow_entries),
            // Two for each endpoint: there is room for as many again.
            ("allow_maps", map_state.allow.len(), capacity(2 * maps::MAX_ENDPOINTS)),
            ("defer", map_state.defer.len(), capacity(maps::MAX_DEFER)),
            // The first is "no egress mark".
            ("egress marks", map_state.egress_marks.len(), capacity(maps::N_EGRESS_MARKS - 1)),
        ];
        let map_status = |(name, n_entries, capacity): (&str, usize, usize)| {
            (name.to_owned(), MapStatus { n_entries, capacity })
        };
        let mut endpoints: Vec<_> =
            self.state.endpoints().map(|endpoint| self.describe_endpoint(endpoint)).collect();
        endpoints.extend(self.unprotected().map(|pod| EndpointStatus {
            pod: pod.name.clone(),
            ifindex: 0,
            addresses: pod.addresses().to_vec(),
            protection: Protection::Unprotected,
            isolated: Vec::new(),
            audited: Vec::new(),
            forwards: false,
            n_allow_entries: 0,
        }));
        endpoints.sort();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sources: Kind::ALL
                .into_iter()
                .map(|kind| (kind, self.source_status(self.freshness.of(kind))))
                .collect(),
            missing: self.freshness.missing(),
            is_in_force: !self.is_stale() && self.freshness.missing().is_empty(),
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
            n_on_filters: self.kernel.on_filters().ok().map(|on_filters| on_filters.len()),
            n_awaiting_gc: self.kernel.n_awaiting_gc(),
            endpoints,
            diagnostics: self.diagnostics.iter().map(ToString::to_string).collect(),
        }
    }

    fn describe_endpoint(&self, endpoint: &netpol_policy::store::Endpoint) -> EndpointStatus {
        let value = self.map_state.endpoints.get(&endpoint.ifindex).map(|endpoint| endpoint.value);
        let protection = match value {
            _ if self.adoption.is_bare(endpoint.ifindex) => Protection::Unprotected,
            Some(value) if value.state == EndpointValue::READY => Protection::Ready,
            Some(_) => Protection::Blocked,
            None => Protection::Unprotected,
        };
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
            isolated: directions(&|direction| value.is_isolated(direction)),
            audited: directions(&|direction| value.is_audited(direction)),
            forwards: value.forwards(),
            n_allow_entries: own_maps.map(|(_, map)| map.len()).sum(),
        }
    }

    fn describe_policies(&self) -> Vec<PolicyStatus> {
        let mut by_policy: BTreeMap<&ObjectName, BTreeMap<Direction, usize>> = BTreeMap::new();
        for pod in self.state.endpoints().filter_map(|endpoint| self.state.pod_of(endpoint)) {
            for direction in Direction::ALL {
                for policy in isolating(&self.state, pod, direction).1 {
                    *by_policy.entry(&policy.name).or_default().entry(direction).or_default() += 1;
                }
            }
        }
        let status = |(policy, n_endpoints): (&ObjectName, _)| PolicyStatus {
            policy: policy.clone(),
            n_endpoints,
            left_out: self
                .left_out
                .keys()
                .filter(|rule| rule.policy.name == *policy)
                .map(|rule| format!("{}[{}]", rule.direction, rule.index))
                .collect(),
        };
        by_policy.into_iter().map(status).collect()
    }

    /// Why nothing is known of a pod, for whoever waits for it.
    pub(super) fn why_unknown(&self, pod: &ObjectName) -> String {
        match self.freshness.of(Kind::Pod) {
            Health::Broken { since, error } => {
                let broken_s = self.latencies.since(*since).as_secs();
                format!(
                    "pod {pod} is not known, and for {broken_s} s the API server tells of no pods: {error}"
                )
            }
            Health::Listing | Health::Synced { .. } => format!("pod {pod} is not known yet"),
        }
    }

    fn source_status(&self, health: &Health) -> SourceStatus {
        match health {
            Health::Listing => SourceStatus::Listing,
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
