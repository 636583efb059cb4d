//! The order of changes of `NODE_BACKENDS`: the backends of Services on the own node's network.
//!
//! In: the content before and after. Out: the operations of the step before the policy changes, and of the one after it. A connection
//! needs a rule for every backend, so while the policy changes a port has its old and its new backends: what both map states forbid
//! never passes. If the rules for the backends change in the same update, a new connection that both allow may drop in between.

use std::collections::{BTreeMap, BTreeSet};

use netpol_common::keys::{BackendValue, NodeKey};

use super::op::MapOp;
use crate::compile::MapState;

/// The backends of each port, in the order of their indexes.
type Ports = BTreeMap<NodeKey, Vec<BackendValue>>;

fn ports(map_state: &MapState) -> Ports {
    let mut ports = Ports::new();
    for (key, backend) in &map_state.node_backends {
        ports.entry(key.at(0)).or_default().push(*backend);
    }
    ports
}

/// Before the policy changes. A port that had none gets its backends after that, and one that will have none loses them now.
pub(super) fn begin(now: &MapState, new: &MapState) -> Vec<MapOp> {
    if now.node_backends == new.node_backends {
        return Vec::new();
    }
    let after = ports(new);
    let mut ops = Vec::new();
    for (port, old) in ports(now) {
        match after.get(&port) {
            // The last one first, because the first one that is missing ends the list.
            None => ops.extend(indexes(&port).take(old.len()).rev().map(MapOp::RemoveNodeBackend)),
            Some(new) if *new == old => {}
            Some(new) => {
                let behind = indexes(&port).skip(old.len()).zip(new);
                ops.extend(behind.map(|(key, backend)| MapOp::SetNodeBackend(key, *backend)));
            }
        }
    }
    ops
}

/// After the policy has changed.
pub(super) fn end(now: &MapState, new: &MapState) -> Vec<MapOp> {
    if now.node_backends == new.node_backends {
        return Vec::new();
    }
    let (before, after) = (ports(now), ports(new));
    let mut ops = Vec::new();
    for (port, wanted) in &after {
        let held = before.get(port).map_or([].as_slice(), Vec::as_slice);
        if held == wanted {
            continue;
        }
        // Each of the new ones stands behind the old ones until it has its own place.
        let places = indexes(port).zip(wanted).enumerate();
        let differing = places.filter(|(at, (_, backend))| held.get(*at) != Some(*backend));
        ops.extend(differing.map(|(_, (key, backend))| MapOp::SetNodeBackend(key, *backend)));
        let excess = held.len().saturating_sub(wanted.len());
        let excess = indexes(port).skip(wanted.len()).take(excess);
        ops.extend(excess.rev().map(MapOp::RemoveNodeBackend));
    }
    let known: BTreeSet<&NodeKey> = after.keys().collect();
    for (port, held) in before.iter().filter(|(port, _)| !known.contains(port)) {
        ops.extend(indexes(port).take(held.len()).rev().map(MapOp::RemoveNodeBackend));
    }
    ops
}

/// The keys of a port's backends.
fn indexes(port: &NodeKey) -> impl DoubleEndedIterator<Item = NodeKey> + ExactSizeIterator + use<> {
    let port = *port;
    (0..u8::MAX).map(move |index| port.at(index))
}
