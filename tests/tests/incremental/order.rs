//! The state depends on the objects only, not on the order of events; and the map state depends on the state only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Result, ensure};
use fastrand::Rng;
use netpol_common::ids::{Identity, IfIndex, RuleId};
use netpol_lab::case::Case;
use netpol_lab::generator::Draw as _;
use netpol_lab::oracles::read;
use netpol_policy::compile::{MapState, Numbering, compile};
use netpol_policy::model::{Kind, Object, ObjectRef, Pod};
use netpol_policy::resolve::RuleRef;
use netpol_policy::store::{ClusterState, Delta, Endpoint, List, PodEnd};

/// The versions that an object went through; `None` is its absence.
pub(crate) type History = BTreeMap<ObjectRef, Vec<Option<Object>>>;

/// The versions of each object in a sequence of cases.
pub(crate) fn history(cases: &[Case]) -> History {
    let states: Vec<BTreeMap<ObjectRef, Object>> = cases
        .iter()
        .map(|case| {
            let objects = read(&case.objects).0.into_iter();
            objects.map(|object| (object.object_ref(), object)).collect()
        })
        .collect();
    let known: BTreeSet<&ObjectRef> = states.iter().flat_map(BTreeMap::keys).collect();
    let versions = |name: &ObjectRef| {
        let mut versions: Vec<Option<Object>> = Vec::new();
        for state in &states {
            let version = state.get(name).cloned();
            if versions.last() != Some(&version) {
                versions.push(version);
            }
        }
        versions
    };
    known.into_iter().map(|name| (name.clone(), versions(name))).collect()
}

/// The last versions, one delta each, sorted by name.
fn sorted(history: &History) -> Vec<Delta> {
    history
        .values()
        .filter_map(|versions| versions.last().cloned().flatten())
        .map(Delta::Upsert)
        .collect()
}

/// Events as over a bad connection: versions are dropped or repeated, objects come in any order, unknown objects are deleted,
/// and deletions of predecessors come late.
pub(crate) fn garbled(rng: &mut Rng, history: &History) -> Vec<Delta> {
    let mut queues: Vec<Vec<Delta>> = Vec::new();
    for (name, versions) in history {
        let mut queue = Vec::new();
        let mut uids = Vec::new();
        for (index, version) in versions.iter().enumerate() {
            let is_last = index + 1 == versions.len();
            if !is_last && rng.chance(40) {
                continue;
            }
            let n_times = if rng.chance(20) { 2 } else { 1 };
            for _ in 0..n_times {
                queue.push(match version {
                    Some(object) => Delta::Upsert(object.clone()),
                    None => Delta::Remove { object: name.clone(), uid: None },
                });
            }
            if let Some(Object::Pod(pod)) = version {
                let mut old = uids.iter().rev().filter(|uid: &&Arc<str>| **uid != pod.uid);
                if let Some(uid) = old.next().filter(|uid| !uid.is_empty() && !pod.uid.is_empty()) {
                    queue.push(Delta::Remove { object: name.clone(), uid: Some(Arc::clone(uid)) });
                }
                uids.push(Arc::clone(&pod.uid));
            }
        }
        if rng.chance(10) {
            queue.insert(0, Delta::Remove { object: name.clone(), uid: None });
        }
        queues.push(queue);
    }
    interleaved(rng, queues)
}

/// Merges queues at random; each keeps its order.
pub(crate) fn interleaved(rng: &mut Rng, queues: Vec<Vec<Delta>>) -> Vec<Delta> {
    let mut order: Vec<usize> = Vec::new();
    for (index, queue) in queues.iter().enumerate() {
        order.extend(std::iter::repeat_n(index, queue.len()));
    }
    rng.shuffle(&mut order);
    let mut queues: Vec<_> = queues.into_iter().map(Vec::into_iter).collect();
    order.into_iter().filter_map(|index| queues.get_mut(index)?.next()).collect()
}

/// Complete lists, as after a lost watch, after older events.
pub(crate) fn relisted(rng: &mut Rng, history: &History) -> Vec<Delta> {
    let mut deltas = garbled(rng, history);
    deltas.truncate(rng.usize(..=deltas.len()));
    let mut kinds = Kind::ALL;
    rng.shuffle(&mut kinds);
    for kind in kinds {
        let of_kind = history.iter().filter(|(name, _)| name.kind == kind);
        let mut objects: Vec<Object> =
            of_kind.filter_map(|(_, versions)| versions.last().cloned().flatten()).collect();
        rng.shuffle(&mut objects);
        deltas.push(Delta::Replace(List::new(kind, objects, Vec::new())));
    }
    deltas
}

/// An endpoint for each pod with an address in the last state; its interface index depends on the name only.
pub(crate) fn endpoints(history: &History) -> Vec<Delta> {
    let last_pod = |versions: &Vec<Option<Object>>| -> Option<Pod> {
        match versions.last().cloned().flatten() {
            Some(Object::Pod(pod)) => Some(pod),
            _ => None,
        }
    };
    let number = 100_u32..;
    let egress_mark = 1_u16..;
    history
        .values()
        .zip(number.zip(egress_mark))
        .filter_map(|(versions, numbers)| Some((last_pod(versions)?, numbers)))
        .filter(|(pod, _)| !pod.addresses().is_empty())
        .map(|(pod, (number, egress_mark))| {
            Delta::UpsertEndpoint(Endpoint {
                ifindex: IfIndex(number),
                container_id: Arc::from(format!("sandbox-{number}")),
                pod: pod.name.clone(),
                pod_uid: Arc::clone(&pod.uid),
                egress_mark,
                addresses: Vec::new(),
                pod_end: PodEnd::default(),
            })
        })
        .collect()
}

/// Applies a delta and checks that it reports changes exactly if it changed the state.
pub(crate) fn apply(state: &mut ClusterState, delta: Delta) -> Result<()> {
    let before = format!("{state:?}");
    let text = format!("{delta:?}");
    let changes = state.apply(delta);
    let differs = before != format!("{state:?}");
    ensure!(
        differs != changes.is_empty(),
        "{text} changed the state: {differs}, but reports {changes:?}"
    );
    Ok(())
}

/// A map state with names instead of numbers: an identity is named by its first address or prefix.
pub(crate) fn named(map_state: &MapState, rule: impl Fn(RuleId) -> Option<RuleRef>) -> Vec<String> {
    let mut names: BTreeMap<Identity, String> = BTreeMap::new();
    for (addr, identity) in &map_state.identities {
        names.entry(*identity).or_insert_with(|| format!("that of {addr}"));
    }
    for (prefix, identity) in &map_state.prefixes {
        names.entry(*identity).or_insert_with(|| format!("that of {prefix:?}"));
    }
    names.insert(Identity::NONE, "none".to_owned());
    names.insert(Identity::ANY, "any".to_owned());
    let name = |identity: &Identity| names.get(identity).cloned().unwrap_or_default();
    let mut lines = Vec::new();
    lines.extend(map_state.endpoints.iter().map(|endpoint| format!("{endpoint:?}")));
    lines.extend(map_state.addresses.iter().map(|address| format!("{address:?}")));
    lines.extend(map_state.defer.iter().map(|addr| format!("defer {addr}")));
    lines.extend(map_state.own_node.iter().map(|key| format!("own node {key:?}")));
    lines.extend(map_state.node_backends.iter().map(|backend| format!("backend {backend:?}")));
    lines.extend(
        map_state.egress_marks.iter().map(|egress_mark| format!("egress mark {egress_mark:?}")),
    );
    lines.extend(map_state.identities.iter().map(|(addr, id)| format!("{addr} is {}", name(id))));
    lines.extend(
        map_state.prefixes.iter().map(|(prefix, id)| format!("{prefix:?} is {}", name(id))),
    );
    for (key, map) in &map_state.allow {
        lines.push(format!("{key:?}"));
        for (entry, value) in &**map {
            let rule = rule(value.rule).map(|rule| rule.to_string());
            lines.push(format!(
                "{key:?} {} {:?} by {rule:?}",
                name(&entry.identity),
                (entry.prefix_len_bits, entry.protocol, entry.port, value.verdict),
            ));
        }
    }
    lines.sort();
    lines
}

#[test]
fn state_and_map_state_do_not_depend_on_the_order_of_events() -> Result<()> {
    super::check(60, |cases, rng| {
        let Some(Case { name, .. }) = cases.first() else { return Ok(()) };
        let history = history(cases);
        let (mut expected, mut numbering) = (ClusterState::default(), Numbering::default());
        for delta in sorted(&history).into_iter().chain(endpoints(&history)) {
            apply(&mut expected, delta)?;
        }
        let map_state = compile(&expected, &mut numbering, &MapState::default());
        let expected_image = named(&map_state, |id| numbering.rule(id).cloned());
        let expected = format!("{expected:?}");

        let mut reversed = sorted(&history);
        reversed.reverse();
        let orders = [
            ("reversed", reversed),
            ("garbled", garbled(rng, &history)),
            ("relisted", relisted(rng, &history)),
        ];
        for (order, deltas) in orders {
            let deltas = interleaved(rng, vec![deltas, endpoints(&history)]);
            let (mut state, mut numbering) = (ClusterState::default(), Numbering::default());
            let mut map_state = MapState::default();
            for delta in deltas {
                apply(&mut state, delta)?;
                if rng.chance(15) {
                    map_state = compile(&state, &mut numbering, &map_state);
                }
            }
            ensure!(format!("{state:?}") == expected, "{name}: {order} events give another state");
            map_state = compile(&state, &mut numbering, &map_state);
            let found = named(&map_state, |id| numbering.rule(id).cloned());
            ensure!(
                found == expected_image,
                "{name}: {order} events give another map state:\n{:#?}",
                found.iter().filter(|line| !expected_image.contains(line)).collect::<Vec<_>>(),
            );
        }
        Ok(())
    })
}
