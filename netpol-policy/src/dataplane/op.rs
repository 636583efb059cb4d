//! Map operations and their effect on a map state.

use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::{Identity, IfIndex};
use netpol_common::keys::{AddressKey, BackendValue, NodeKey, PrefixKey};

use crate::compile::{AllowMap, AllowMapKey, EndpointMapState, MapState};

/// One insert or remove, atomic in the kernel. The exception is [`MapOp::SetAllow`] where the old and the new map only allow:
/// their entries are written one by one, additions first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// Writes the entry of an endpoint.
    SetEndpoint(IfIndex, EndpointMapState),
    /// Removes an endpoint: every packet at its interface drops, those of its flows included. Its flows, fragments and counters
    /// are removed before the interface is an endpoint again.
    RemoveEndpoint(IfIndex),
    /// Allows an interface to send from an address.
    AddAddress(AddressKey),
    /// Forbids it.
    RemoveAddress(AddressKey),
    /// Gives an address an identity.
    SetIdentity(Addr, Identity),
    /// Removes the own entry of an address, so that its longest prefix counts.
    RemoveIdentity(Addr),
    /// Gives a prefix an identity.
    SetPrefix(PrefixKey, Identity),
    /// Removes a prefix, so that the next shorter one counts.
    RemovePrefix(PrefixKey),
    /// Replaces the allow map of one direction of an endpoint.
    SetAllow(AllowMapKey, Arc<AllowMap>),
    /// Removes an allow map: without one, the direction allows nothing.
    RemoveAllow(AllowMapKey),
    /// Defers the egress verdict for a destination.
    AddDefer(Addr),
    /// No longer defers it.
    RemoveDefer(Addr),
    /// Names an address of the own node, or a port that it translates.
    AddNode(NodeKey),
    /// No longer names it.
    RemoveNode(NodeKey),
    /// Names a backend on the own node's network of a port of a Service.
    SetNodeBackend(NodeKey, BackendValue),
    /// No longer names it.
    RemoveNodeBackend(NodeKey),
    /// Binds an egress mark to an interface.
    SetEgressMark(u16, IfIndex),
    /// Unbinds it.
    RemoveEgressMark(u16),
    /// Starts a new policy generation, so that every flow is decided again: the last operation of a change.
    BumpEpoch,
}

impl MapOp {
    /// Whether it gives an address or a prefix another identity.
    pub(super) fn moves_address(&self) -> bool {
        matches!(
            self,
            Self::SetIdentity(..)
                | Self::RemoveIdentity(_)
                | Self::SetPrefix(..)
                | Self::RemovePrefix(_)
        )
    }
}

/// Performs an operation on a map state.
pub fn apply(op: &MapOp, map_state: &mut MapState) {
    match op {
        MapOp::SetEndpoint(ifindex, endpoint) => {
            map_state.endpoints.insert(*ifindex, endpoint.clone());
        }
        MapOp::RemoveEndpoint(ifindex) => {
            map_state.endpoints.remove(ifindex);
        }
        MapOp::AddAddress(key) => {
            map_state.addresses.insert(*key);
        }
        MapOp::RemoveAddress(key) => {
            map_state.addresses.remove(key);
        }
        MapOp::SetIdentity(addr, identity) => {
            map_state.identities.insert(*addr, *identity);
        }
        MapOp::RemoveIdentity(addr) => {
            map_state.identities.remove(addr);
        }
        MapOp::SetPrefix(key, identity) => {
            map_state.prefixes.insert(*key, *identity);
        }
        MapOp::RemovePrefix(key) => {
            map_state.prefixes.remove(key);
        }
        MapOp::SetAllow(key, map) => {
            map_state.allow.insert(*key, Arc::clone(map));
        }
        MapOp::RemoveAllow(key) => {
            map_state.allow.remove(key);
        }
        MapOp::AddDefer(addr) => {
            map_state.defer.insert(*addr);
        }
        MapOp::RemoveDefer(addr) => {
            map_state.defer.remove(addr);
        }
        MapOp::AddNode(key) => {
            map_state.own_node.insert(*key);
        }
        MapOp::RemoveNode(key) => {
            map_state.own_node.remove(key);
        }
        MapOp::SetNodeBackend(key, backend) => {
            map_state.node_backends.insert(*key, *backend);
        }
        MapOp::RemoveNodeBackend(key) => {
            map_state.node_backends.remove(key);
        }
        MapOp::SetEgressMark(egress_mark, ifindex) => {
            map_state.egress_marks.insert(*egress_mark, *ifindex);
        }
        MapOp::RemoveEgressMark(egress_mark) => {
            map_state.egress_marks.remove(egress_mark);
        }
        MapOp::BumpEpoch => {}
    }
}
