//! Items of `from` and `to`.

use serde_json::Value;

use super::super::{Direction, Talk, block, field, has_only, labels};
use super::{has_one_field, items, selected, selector_is_sound};
use crate::oracle::pods::ClusterModel;

/// Whether a peer is understood: exactly one known field, in a valid form (C6, C7). Domain names are not supported, so nobody
/// knows whom they mean.
pub(super) fn is_sound(peer: &Value, direction: Direction) -> bool {
    let fields: &[&str] = match direction {
        Direction::Ingress => &["namespaces", "pods"],
        Direction::Egress => &["namespaces", "pods", "networks", "nodes"],
    };
    has_only(peer, fields)
        && has_one_field(peer)
        && if let Some(networks) = field(peer, "networks") {
            let is_block =
                |item: &Value| item.as_str().is_some_and(|text| block::parse(text).is_some());
            networks
                .as_array()
                .is_some_and(|networks| !networks.is_empty() && networks.iter().all(is_block))
        } else if let Some(nodes) = field(peer, "nodes") {
            selector_is_sound(nodes)
        } else {
            selectors_are_sound(peer)
        }
}

fn selectors_are_sound(peer: &Value) -> bool {
    match field(peer, "pods") {
        None => field(peer, "namespaces").is_some_and(selector_is_sound),
        Some(pods) => {
            let is_given = |name| field(pods, name).is_some_and(selector_is_sound);
            has_only(pods, &["namespaceSelector", "podSelector"])
                && is_given("namespaceSelector")
                && is_given("podSelector")
        }
    }
}

/// Whether an understood peer is the peer of a connection. The destination of a Service without backends is unknown, so
/// it is no peer.
pub(super) fn matches(cluster: &ClusterModel<'_>, peer: &Value, talk: &Talk<'_>) -> bool {
    if talk.is_virtual {
        return false;
    }
    if field(peer, "networks").is_some() {
        return items(peer, "networks")
            .iter()
            .filter_map(|network| block::parse(network.as_str()?))
            .any(|network| network.holds(talk.remote));
    }
    if let Some(nodes) = field(peer, "nodes") {
        // The nodes' addresses, whoever answers there; never pods, whatever their labels (C7).
        return cluster.node_objects().any(|node| {
            labels::read(Some(nodes), &labels::of(node)).holds
                && ClusterModel::addresses_of_node(node).contains(&talk.remote)
        });
    }
    talk.remote_pod.is_some_and(|pod| selected(cluster, peer, Some(pod)).holds)
}
