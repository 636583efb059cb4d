//! Compilation that follows the state change by change.
//!
//! In: the state, and the parts of it that can have changed. Out: a [`MapStateUpdate`], the part of the map state that
//! changes. Except for the numbers, the result is that of [`super::compile`] for the same state; tests hold this as a law.
//! Each stage keeps its result and repeats only the work for the changes of the stage before it:
//!
//! ```text
//! policies, endpoints ─▶ policy rules ─▶ peer sets ─▶ signatures of label classes ─▶ identities of addresses ─▶ allow maps
//!                         (resolve)                         ▲                            ▲
//! namespaces, label classes ──────────────────────────────────┘    addresses of pods ──────┘
//! ```
//! So another pod of an existing label class costs the entries of its addresses and nothing else. Must not: read what the
//! kernel holds beyond the map state that it is given.

mod addresses;
mod allow_maps;
mod identities;
mod peer_sets;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;
use netpol_common::addr::Addr;
use netpol_common::ids::{Direction, Identity, IfIndex, RuleId};
use netpol_common::keys::AddressKey;

use allow_maps::{AllowMaps, MapId};
use identities::{Identities, Life};
use peer_sets::PeerSets;
pub use update::MapStateUpdate;

use super::capacity::{self, Capacities, Deferred, Lack, LeftOut, OwnNode, RefusedServices};
use super::identity::{Changed, changed_by_update};
use super::map_state::{AllowMapKey, EndpointMapState, MapState};
use super::numbering::{Numbering, PeerSetId};
use super::prefixes::PrefixTable;
use super::{EgressPath, addresses, endpoint_map_state};
use crate::resolve::{EndpointPolicy, PolicyKind, PolicyRef, Resolver, RuleRef, TranslatedPort};
use crate::store::{Changes, ClusterState, LabelClassId};

/// The results of all stages for the current state.
#[derive(Debug, Default)]
pub struct Compiled {
    numbering: Numbering,
    has_begun: bool,
    resolver: Resolver,
    endpoints: BTreeMap<IfIndex, Local>,
    allow_maps: AllowMaps,
    peer_sets: PeerSets,
    prefixes: PrefixTable,
    identities: Identities,
    capacities: Capacities,
    path: EgressPath,
    /// The ports of the node that are translated for its pods.
    host_ports: BTreeSet<TranslatedPort>,
    refused: RefusedServices,
}

/// The allow maps and the egress mark of an endpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Local {
    /// By [`Direction::ALL`].
    maps: [Option<MapId>; 2],
    egress_mark: u16,
}

/// The inputs of the stages that can have changed.
#[derive(Debug, Default)]
struct Dirty {
    endpoints: BTreeSet<IfIndex>,
    /// By namespace; those that are gone have none.
    label_classes: BTreeMap<Arc<str>, BTreeSet<LabelClassId>>,
    addresses: BTreeSet<Addr>,
    deferred: BTreeSet<Addr>,
    /// Which ports the node translates for Services can differ.
    translated: bool,
}

impl Compiled {
    /// No results yet; identities and rules start at these numbers, which must be above all of those in maps of an earlier run.
    pub fn after(next_identity: Identity, next_rule: RuleId) -> Self {
        Self { numbering: Numbering::after(next_identity, next_rule), ..Self::default() }
    }

    /// The same for maps of another size.
    #[must_use]
    pub fn within(self, capacities: Capacities) -> Self {
        Self { capacities, ..self }
    }

    /// The capacity of the maps.
    pub fn capacities(&self) -> &Capacities {
        &self.capacities
    }

    /// The rules that exceed the capacity of the maps: the same list as before, and not an equal one, if nothing has changed.
    pub fn left_out(&self) -> &Arc<LeftOut> {
        self.allow_maps.all_left_out()
    }

    /// The Services that exceed the capacity of the maps.
    pub fn refused(&self) -> &RefusedServices {
        &self.refused
    }

    /// Whether a rule is left out of the allow map of an endpoint because of the capacity.
    pub fn is_over_capacity(&self, rule: &RuleRef, ifindex: IfIndex) -> bool {
        let maps = self.endpoints.get(&ifindex).map(|local| local.maps).unwrap_or_default();
        let of_direction = Direction::ALL.into_iter().zip(maps);
        of_direction
            .filter(|(direction, _)| *direction == rule.direction)
            .any(|(_, map)| map.is_some_and(|map| self.allow_maps.lacks(map, rule)))
    }

    /// Drops all results but the numbers in use, because the maps do not hold the last map state.
    pub fn forget(&mut self) {
        self.has_begun = false;
    }

    /// The rule behind a number, if it is in force.
    pub fn rule(&self, id: RuleId) -> Option<&RuleRef> {
        self.numbering.rule(id)
    }

    /// Every rule in force with its number.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &RuleRef)> {
        self.numbering.rules()
    }

    /// How many rules have got numbers so far. Grows when a rule comes into force.
    pub fn n_numbered_rules(&self) -> u32 {
        self.numbering.n_numbered_rules()
    }

    /// How many identities addresses and prefixes have.
    pub fn n_identities(&self) -> usize {
        self.identities.len()
    }

    /// Follows the state. `known` is the content of the maps: the last map state, except for endpoints that were blocked or
    /// removed since, which `changes` names. After [`Self::forget`] it can be anything.
    pub fn update(
        &mut self,
        state: &ClusterState,
        changes: &Changes,
        known: &MapState,
    ) -> MapStateUpdate {
        if self.has_begun && !changes.everything {
            let dirty = self.dirty(state, changes);
            return self.advance(state, dirty, known);
        }
        let mut numbering = std::mem::take(&mut self.numbering);
        numbering.begin_anew();
        let capacities = self.capacities;
        *self = Self { numbering, has_begun: true, capacities, ..Self::default() };
        let dirty = Dirty {
            endpoints: state.endpoints().map(|endpoint| endpoint.ifindex).collect(),
            deferred: capacity::wanted_defer(state),
            translated: true,
            ..Dirty::default()
        };
        let mut update = self.advance(state, dirty, &MapState::default());
        update.before = known.clone();
        update
    }

    fn dirty(&mut self, state: &ClusterState, changes: &Changes) -> Dirty {
        let Changes {
            n_objects: _,
            everything: _,
            addresses,
            label_classes,
            namespaces,
            policies,
            cluster_policies,
            nodes,
            endpoints,
            deferred,
            translated,
        } = changes;
        let mut dirty = Dirty {
            endpoints: endpoints.clone(),
            label_classes: BTreeMap::new(),
            addresses: addresses.clone(),
            deferred: deferred.clone(),
            // Which node has an address decides which host ports are translated there.
            translated: *translated || *nodes,
        };
        for id in label_classes {
            let namespace =
                state.label_class(*id).map(|label_class| Arc::clone(&label_class.namespace));
            dirty.label_classes.entry(namespace.unwrap_or_default()).or_default().insert(*id);
        }
        let all = || state.endpoints().map(|endpoint| endpoint.ifindex);
        let mut resolve_again = |policy: &PolicyRef| match policy.kind {
            PolicyKind::NetworkPolicy => {
                dirty.endpoints.extend(state.endpoints_in(&policy.name.namespace));
            }
            PolicyKind::ClusterNetworkPolicy => dirty.endpoints.extend(all()),
        };
        let of_cluster = cluster_policies.iter().map(|name| PolicyRef::cluster_policy(name));
        for policy in policies.iter().map(PolicyRef::network_policy).chain(of_cluster) {
            self.resolver.forget(&policy);
            resolve_again(&policy);
        }
        if !label_classes.is_empty() {
            self.resolver.forget_renumbered(state).iter().for_each(&mut resolve_again);
        }
        if *nodes {
            self.resolver.forget_nodes().iter().for_each(&mut resolve_again);
        }
        for namespace in namespaces {
            let all = state.label_classes_in(namespace);
            dirty.label_classes.entry(Arc::clone(namespace)).or_default().extend(all);
            // It may have permitted its pods to forward, and ClusterNetworkPolicies may select them or not.
            dirty.endpoints.extend(state.endpoints_in(namespace));
        }
        dirty
    }

    fn advance(&mut self, state: &ClusterState, dirty: Dirty, known: &MapState) -> MapStateUpdate {
        let Dirty { mut endpoints, label_classes, addresses, deferred, translated } = dirty;
        let mut update = MapStateUpdate::default();
        if !deferred.is_empty() && self.follow_deferred(state, &deferred, known, &mut update) {
            endpoints.extend(state.endpoints().map(|endpoint| endpoint.ifindex));
        }
        let ported = translated || !endpoints.is_empty();
        let host_ports = ported.then(|| capacity::host_ports(state));
        if let Some(host_ports) = host_ports
            && (translated || host_ports != self.host_ports)
        {
            self.host_ports = host_ports;
            let OwnNode { keys, backends } = capacity::wanted_own_node(state, &self.host_ports);
            update.set_own_node(known, keys);
            update.set_node_backends(known, backends);
        }
        let left = self.follow_endpoints(state, &endpoints, known, &mut update);
        for (namespace, label_classes) in label_classes {
            self.peer_sets.review(state, &namespace, label_classes);
        }
        self.leave_out_over_capacity(state);
        // Only now, because a rule that was left out can have put a set in force again, whose identities would be lost.
        for set in left {
            self.peer_sets.leave(set);
        }
        self.peer_sets.evaluate(state);
        let ranges = self.follow_blocks(known, &mut update);
        let concerned = self.concerned(state, &addresses, &ranges, known);
        self.follow_addresses(state, concerned, known, &mut update);
        self.follow_identities();
        self.follow_allow_maps(known, &mut update);
        self.renumber_ambiguous(known, &mut update);
        update
    }

    /// Updates DEFER. Returns whether the endpoints have to be written again.
    fn follow_deferred(
        &mut self,
        state: &ClusterState,
        changed: &BTreeSet<Addr>,
        known: &MapState,
        update: &mut MapStateUpdate,
    ) -> bool {
        let reduced = capacity::reduced_defer(state, self.capacities.n_deferred);
        let path = EgressPath::of(reduced.as_ref());
        let before = std::mem::replace(&mut self.path, path);
        if (before, path) == (EgressPath::ByAddress, EgressPath::ByAddress) {
            update.set_deferred(known, changed, |addr| state.is_deferred(addr));
            return false;
        }
        let Deferred { addresses, refused } =
            reduced.unwrap_or_else(|| capacity::whole_defer(state));
        let differing = known.defer.symmetric_difference(&addresses).copied().collect();
        update.set_deferred(known, &differing, |addr| addresses.contains(&addr));
        self.refused = refused;
        before != path
    }

    /// Resolves endpoints anew. New uses of an allow map begin before old ones end, so that a map that stays in use is kept.
    /// Returns the peer sets of maps that are gone, once for each map.
    fn follow_endpoints(
        &mut self,
        state: &ClusterState,
        endpoints: &BTreeSet<IfIndex>,
        known: &MapState,
        update: &mut MapStateUpdate,
    ) -> Vec<PeerSetId> {
        let mut ended = Vec::new();
        let mut left = Vec::new();
        for ifindex in endpoints {
            let old = self.endpoints.remove(ifindex).unwrap_or_default();
            update.set_egress_mark(known, old.egress_mark, None);
            ended.push((*ifindex, old));
            let all = AddressKey { ifindex: *ifindex, addr: Addr::UNSPECIFIED }..=AddressKey {
                ifindex: *ifindex,
                addr: Addr([0xff; 16]),
            };
            update.before.addresses.extend(known.addresses.range(all));
        }
        let mut resolved = HashMap::new();
        self.resolver.begin();
        for ifindex in endpoints {
            let new = self.begin_endpoint(state, *ifindex, known, &mut resolved, update);
            if let Some(new) = new {
                self.endpoints.insert(*ifindex, new);
            }
        }
        for (ifindex, old) in ended {
            let new = self.endpoints.get(&ifindex).copied().unwrap_or_default();
            for ((direction, old), new) in Direction::ALL.into_iter().zip(old.maps).zip(new.maps) {
                let key = AllowMapKey::new(ifindex, direction);
                if let Some(old) = old.filter(|old| Some(*old) != new) {
                    self.allow_maps.close(key, old, &mut self.numbering, |set| left.push(set));
                }
                // A map that is still to be built is set by `follow_allow_maps`.
                let content = new.and_then(|new| self.allow_maps.content(new));
                update.set_allow(known, key, content);
            }
        }
        left
    }

    fn begin_endpoint(
        &mut self,
        state: &ClusterState,
        ifindex: IfIndex,
        known: &MapState,
        resolved: &mut HashMap<(Option<LabelClassId>, bool), EndpointPolicy>,
        update: &mut MapStateUpdate,
    ) -> Option<Local> {
        let Some(endpoint) = state.endpoint(ifindex) else {
            update.set_endpoint(known, ifindex, None);
            return None;
        };
        let Some(pod) = state.pod_of(endpoint) else {
            update.set_endpoint(
                known,
                ifindex,
                Some(EndpointMapState::blocked(&endpoint.container_id)),
            );
            return None;
        };
        // Policies treat all pods of a label class alike, except for host-network pods.
        let alike = (state.label_class_of(pod), pod.host_network);
        let policy = resolved.entry(alike).or_insert_with(|| self.resolver.resolve(state, pod));
        let after = endpoint_map_state(state, endpoint, (pod, policy), self.path);
        update.set_endpoint(known, ifindex, Some(after));
        update.after.addresses.extend(addresses(state, endpoint, pod, ifindex));
        if endpoint.egress_mark != 0 {
            update.set_egress_mark(known, endpoint.egress_mark, Some(ifindex));
        }
        let maps = Direction::ALL.map(|direction| {
            let of = policy.direction(direction);
            (!of.allows_everything()).then(|| {
                let key = AllowMapKey::new(ifindex, direction);
                let peer_sets = &mut self.peer_sets;
                let rules = (of.default, &of.rules);
                self.allow_maps.open(key, rules, &mut self.numbering, |set, peers| {
                    peer_sets.enter(state, set, peers);
                })
            })
        });
        Some(Local { maps, egress_mark: endpoint.egress_mark })
    }

    /// Leaves out the rules whose peers exceed the capacity, and puts back those that fit by now.
    fn leave_out_over_capacity(&mut self, state: &ClusterState) {
        let Self { allow_maps, peer_sets, capacities, .. } = self;
        let fits = |peer_sets: &PeerSets| {
            capacity::fits(state, peer_sets.n_blocks(), peer_sets.n_comparisons(), capacities)
        };
        let is_reviewed = peer_sets.take_reviewed();
        if allow_maps.left_out().is_empty() {
            if fits(peer_sets) {
                return;
            }
            peer_sets.count_comparisons(state);
            if fits(peer_sets) {
                return;
            }
        }
        // Without other rules, a change of pods affects only what depends on pods: their number, and their label classes.
        if !allow_maps.has_changed()
            && !is_reviewed
            && capacities.n_identities.fits(state.n_addresses())
        {
            let is_for_pods = |lack: &Lack| matches!(lack, Lack::Identities);
            if !allow_maps.left_out().values().any(is_for_pods) {
                return;
            }
        }
        let left_out = capacity::left_out(state, allow_maps.rules(), capacities);
        let (entered, left) = allow_maps.leave_out(left_out);
        for (set, peers) in entered {
            peer_sets.enter(state, set, &peers);
        }
        for set in left {
            peer_sets.leave(set);
        }
    }

    /// Passes new and removed identities on to the peer sets and the allow maps.
    fn follow_identities(&mut self) {
        let Self { identities, peer_sets, allow_maps, numbering, .. } = self;
        identities.take_changed(|life, identity, signature| {
            allow_maps.touch(signature);
            match life {
                Life::Born => peer_sets.add_identity(signature, identity),
                Life::Gone => {
                    peer_sets.remove_identity(signature, identity);
                    numbering.forget_identity(signature);
                }
            }
        });
    }

    fn follow_allow_maps(&mut self, known: &MapState, update: &mut MapStateUpdate) {
        for (key, map) in self.allow_maps.build(&self.peer_sets, &self.capacities) {
            update.keep_endpoint(known, key.ifindex);
            update.set_allow(known, key, Some(&map));
        }
    }

    /// Gives fresh numbers to identities that would have two meanings during the change: those that keep owners while an
    /// allow map changes their verdicts and addresses change their identities. See [`super::identity::ambiguous`].
    fn renumber_ambiguous(&mut self, known: &MapState, update: &mut MapStateUpdate) {
        if !update.moves_addresses() {
            return;
        }
        let mut ambiguous = match changed_by_update(&update.before, &update.after) {
            Changed::These(changed) => changed,
            Changed::All => self.identities.held().collect(),
        };
        self.identities.retain_held(&mut ambiguous);
        let mut renumbered: BTreeMap<Identity, Identity> = BTreeMap::new();
        for old in ambiguous {
            let Some(signature) = self.identities.signature(old).cloned() else { continue };
            let new = self.numbering.renew_identity(&signature);
            self.identities.renumber(old, new);
            self.peer_sets.remove_identity(&signature, old);
            self.peer_sets.add_identity(&signature, new);
            self.allow_maps.touch(&signature);
            renumbered.insert(old, new);
        }
        if renumbered.is_empty() {
            return;
        }
        for identity in
            update.after.identities.values_mut().chain(update.after.prefixes.values_mut())
        {
            if let Some(new) = renumbered.get(identity) {
                *identity = *new;
            }
        }
        for (addr, identity) in &known.identities {
            let is_untouched = !update.before.identities.contains_key(addr);
            if let Some(new) = renumbered.get(identity).filter(|_| is_untouched) {
                update.set_identity(known, *addr, Some(*new));
            }
        }
        for (prefix, identity) in &known.prefixes {
            let is_untouched = !update.before.prefixes.contains_key(prefix);
            if let Some(new) = renumbered.get(identity).filter(|_| is_untouched) {
                update.set_prefix(known, *prefix, Some(*new));
            }
        }
        self.follow_allow_maps(known, update);
    }
}
