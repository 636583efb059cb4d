//! The incrementally updated map state equals the one compiled from scratch, after every change and in any order of changes.

use std::cell::Cell;
use std::sync::Arc;

use anyhow::{Result, ensure};
use fastrand::Rng;
use netpol_common::ids::IfIndex;
use netpol_lab::case::Case;
use netpol_lab::generator::Draw as _;
use netpol_policy::compile::{
    Capacities, Compilation, Compiled, MapState, Numbering, Shared, compile_within,
};
use netpol_policy::dataplane::{apply, diff};
use netpol_policy::manifests::parse;
use netpol_policy::model::{Object, ObjectName, Pod, PodPhase};
use netpol_policy::store::{
    Changes, ClusterState, Delta, Endpoint, OwnNodeEgress, PodEnd, PublishedPod,
};

use super::order::{self, named};

/// A cluster state and its map state, incremental and from scratch.
struct Both {
    state: ClusterState,
    changes: Changes,
    compiled: Compiled,
    map_state: MapState,
    n_updates: usize,
    /// Updates after which rules exceeded the capacity.
    n_lacking: usize,
    /// Updates with addresses that only their nodes publish.
    n_published: usize,
}

impl Both {
    fn within(capacities: Capacities) -> Self {
        Self {
            state: ClusterState::default(),
            changes: Changes::default(),
            compiled: Compiled::default().within(capacities),
            map_state: MapState::default(),
            n_updates: 0,
            n_lacking: 0,
            n_published: 0,
        }
    }

    fn apply(&mut self, delta: Delta) {
        // An endpoint may be removed from the maps before its event is compiled.
        if let Delta::RemoveEndpoint(ifindex) = &delta {
            self.map_state.endpoints.remove(ifindex);
        }
        self.changes.extend(self.state.apply(delta));
    }

    /// Updates incrementally and compares with a compile from scratch.
    fn update(&mut self) -> Result<()> {
        let changes = std::mem::take(&mut self.changes);
        let update = self.compiled.update(&self.state, &changes, &self.map_state);
        let before = self.map_state.clone();
        let ops = diff(&update.before, &update.after);
        for op in &ops {
            apply(op, &mut self.map_state);
        }
        ensure!(changes.matters() || self.n_updates == 0 || ops.is_empty(), "{ops:?} for nothing");
        ensure!(
            update.undone(&self.map_state) == before,
            "undoing the update gives another map state"
        );
        let mut completed = before;
        update.clone().complete(&mut completed);
        ensure!(
            completed == self.map_state,
            "the operations of {update:#?} give another map state"
        );
        let mut numbering = Numbering::default();
        let capacities = *self.compiled.capacities();
        let Compilation { map_state: expected, left_out, refused } =
            compile_within(&self.state, &mut numbering, &MapState::default(), &capacities);
        let found = self.compiled.left_out();
        ensure!(**found == left_out, "after {changes:#?} {found:?} are left out, not {left_out:?}");
        ensure!(*self.compiled.refused() == refused, "{refused:?} are refused");
        ensure!(fits(&self.map_state, &capacities), "too much for {capacities:?}");
        self.n_lacking += usize::from(!left_out.is_empty() || !refused.is_empty());
        let expected = named(&expected, |id| numbering.rule(id).cloned());
        let found = named(&self.map_state, |id| self.compiled.rule(id).cloned());
        let lacks: Vec<_> = expected.iter().filter(|line| !found.contains(line)).collect();
        let has: Vec<_> = found.iter().filter(|line| !expected.contains(line)).collect();
        ensure!(found == expected, "after {changes:#?} it lacks {lacks:#?}, but has {has:#?}");
        self.n_updates += 1;
        self.n_published += usize::from(self.state.published_addresses().next().is_some());
        Ok(())
    }
}

/// A rule with a port name has a peer set for each number that pods assign to the name, and its blocks apply to those pods only.
/// When the last such set was removed, pods that were in it only by a block once kept their identities.
#[test]
fn pods_leave_a_block_of_a_rule_with_a_port_name_when_the_rule_goes() -> Result<()> {
    let manifests = parse(
        "test.yaml",
        r"
{ apiVersion: v1, kind: Pod, metadata: { name: web, namespace: x, labels: { app: web } }, status: { podIP: 10.0.0.7 } }
---
apiVersion: v1
kind: Pod
metadata: { name: db, namespace: x, labels: { app: db } }
spec: { containers: [{ name: c, ports: [{ name: pg, containerPort: 5432 }] }] }
status: { podIP: 10.0.0.8 }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: to-db, namespace: x }
spec:
  podSelector: { matchLabels: { app: web } }
  policyTypes: [Egress]
  egress: [{ to: [{ ipBlock: { cidr: 10.0.0.0/24 } }], ports: [{ port: pg }] }]
",
    );
    let mut both = Both::within(Capacities::default());
    manifests.objects.into_iter().for_each(|sourced| both.apply(Delta::Upsert(sourced.object)));
    let ifindex = IfIndex(7);
    both.apply(Delta::UpsertEndpoint(Endpoint {
        ifindex,
        container_id: Arc::from("c"),
        pod: ObjectName::new("x", "web"),
        pod_uid: Arc::from(""),
        egress_mark: 0,
        addresses: Vec::new(),
        pod_end: PodEnd::default(),
    }));
    both.update()?;
    ensure!(both.map_state.identities.len() == 1, "{:?}", both.map_state);
    both.apply(Delta::RemoveEndpoint(ifindex));
    both.update()
}

fn fits(map_state: &MapState, capacities: &Capacities) -> bool {
    let Capacities { n_prefixes, n_identities, n_allow_entries, n_deferred, .. } = *capacities;
    map_state.prefixes.len() <= n_prefixes.total
        && map_state.identities.len() <= n_identities.total
        && map_state.defer.len() <= n_deferred.total
        && map_state.allow.values().all(|map| map.len() <= n_allow_entries)
}

#[test]
fn an_incremental_map_state_equals_the_one_from_scratch() -> Result<()> {
    let whole = |_: &mut Rng| Capacities::default();
    let (n_updates, n_lacking) = follow(whole, |law| super::check(60, law))?;
    ensure!(n_updates > 1000, "too few updates to mean anything: {n_updates}");
    ensure!(n_lacking == 0, "{n_lacking} images did not fit");
    Ok(())
}

#[test]
fn an_incremental_map_state_equals_the_one_from_scratch_over_capacity() -> Result<()> {
    let few = |rng: &mut Rng| {
        let mut shared =
            || Shared { total: 1 + rng.usize(..12), of_namespace: 1 + rng.usize(..12) };
        Capacities {
            n_prefixes: shared(),
            n_identities: shared(),
            n_deferred: shared(),
            n_allow_entries: 1 + rng.usize(..24),
            n_times_each: 0,
            n_comparisons: Shared { total: 1 + rng.usize(..60), of_namespace: 1 + rng.usize(..60) },
            n_entries: Shared { total: 1 + rng.usize(..60), of_namespace: 1 + rng.usize(..60) },
        }
    };
    let (n_updates, n_lacking) = follow(few, |law| super::check(60, law))?;
    ensure!(n_lacking > n_updates / 10, "{n_lacking} of {n_updates} images did not fit");
    Ok(())
}

/// Checks generated clusters. Returns the number of updates, and of those over capacity.
fn follow(
    capacities: impl Fn(&mut Rng) -> Capacities,
    check: impl FnOnce(&dyn Fn(&[Case], &mut Rng) -> Result<()>) -> Result<()>,
) -> Result<(usize, usize)> {
    let (n_updates, n_lacking, n_published) = (Cell::new(0), Cell::new(0), Cell::new(0));
    check(&|cases, rng| {
        let name = cases.first().map(|case| case.name.clone()).unwrap_or_default();
        let history = order::history(cases);
        let endpoints = order::endpoints(&history);
        let gone: Vec<Delta> = endpoints
            .iter()
            .filter_map(|delta| {
                let Delta::UpsertEndpoint(endpoint) = delta else { return None };
                rng.chance(30).then_some(Delta::RemoveEndpoint(endpoint.ifindex))
            })
            .collect();
        let news = order::garbled(rng, &history);
        let coming = [endpoints.clone(), gone, endpoints].concat();
        let mut deltas = order::interleaved(rng, vec![news, coming]);
        deltas.extend(order::relisted(rng, &history));
        let mut both = Both::within(capacities(rng));
        if rng.chance(50) {
            both.state.set_own_node_egress(OwnNodeEgress::Judge);
        }
        for delta in deltas {
            both.apply(delta);
            if rng.chance(10) {
                for delta in published(rng, &both.state) {
                    both.apply(delta);
                }
            }
            if rng.chance(70) {
                both.update().map_err(|error| error.context(name.clone()))?;
            }
            if rng.chance(2) {
                both.compiled.forget();
                both.map_state.endpoints.remove(&IfIndex(100));
                both.changes.endpoints.insert(IfIndex(100));
            }
        }
        both.update().map_err(|error| error.context(name.clone()))?;
        n_updates.set(n_updates.get() + both.n_updates);
        n_lacking.set(n_lacking.get() + both.n_lacking);
        n_published.set(n_published.get() + both.n_published);
        Ok(())
    })?;
    let n = n_published.get();
    ensure!(n > n_updates.get() / 20, "too few updates with published addresses: {n}");
    Ok((n_updates.get(), n_lacking.get()))
}

/// A pod loses its reported address, and its node publishes that one or another pod's; in either order.
fn published(rng: &mut Rng, state: &ClusterState) -> Vec<Delta> {
    let pods: Vec<&Pod> = state.pods().filter(|pod| !pod.host_network).collect();
    let addresses: Vec<_> = state.owned_addresses().map(|(address, _)| address).collect();
    let Some(pod) = rng.choice(pods) else { return Vec::new() };
    let own = pod.reported_addresses.first().copied();
    let address = if rng.chance(70) { own } else { rng.choice(addresses) };
    let pod = Pod {
        uid: Arc::from("u"),
        node: Arc::from(rng.one_of(["n1", "n2"])),
        reported_addresses: [].into_iter().collect(),
        phase: PodPhase::Pending,
        ..pod.clone()
    };
    let said = PublishedPod {
        pod: pod.name.clone(),
        uid: Arc::clone(&pod.uid),
        addresses: address.into_iter().collect(),
    };
    let pods = if rng.chance(80) { vec![said] } else { Vec::new() };
    let said = Delta::PublishedAddresses { node: Arc::clone(&pod.node), pods };
    let mut deltas = vec![Delta::Upsert(Object::Pod(pod)), said];
    if rng.chance(50) {
        deltas.reverse();
    }
    deltas
}
