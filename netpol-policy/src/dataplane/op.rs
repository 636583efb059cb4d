//! Map operations, and what each does to an image.

use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::{Identity, IfIndex};
use netpol_common::keys::{AddressKey, PrefixKey};

use crate::compile::{AllowMap, AllowMapKey, EndpointMapState, MapState};

/// One insert or remove, atomic in the kernel; but for [`MapOp::SetAllow`] where old and new map only allow: each of their
/// entries comes and goes by itself, additions first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// Writes an endpoint's treatment.
    SetEndpoint(IfIndex, EndpointMapState),
    /// Forgets an endpoint: on its interface everything drops, also what belongs to its flows. These, its fragments and counters
    /// are gone when the interface is an endpoint again.
    RemoveEndpoint(IfIndex),
    /// Lets an interface send from an address.
    AddAddress(AddressKey),
    /// Ends that.
    RemoveAddress(AddressKey),
    /// Gives an address an identity.
    SetIdentity(Addr, Identity),
    /// Leaves an address to the prefixes.
    RemoveIdentity(Addr),
    /// Gives a prefix an identity.
    SetPrefix(PrefixKey, Identity),
    /// Leaves a prefix to shorter ones.
    RemovePrefix(PrefixKey),
    /// Replaces the allow map of one direction of an endpoint.
    SetAllow(AllowMapKey, Arc<AllowMap>),
    /// Removes an allow map: nothing is allowed by it.
    RemoveAllow(AllowMapKey),
    /// Defers egress to an address.
    AddDefer(Addr),
    /// Ends that.
    RemoveDefer(Addr),
    /// Binds an egress mark.
    SetEgressMark(u16, IfIndex),
    /// Unbinds it.
    RemoveEgressMark(u16),
    /// Makes every flow be decided again: the last operation of a change.
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

/// Performs an operation on an image.
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
        MapOp::SetEgressMark(egress_mark, ifindex) => {
            map_state.egress_marks.insert(*egress_mark, *ifindex);
        }
        MapOp::RemoveEgressMark(egress_mark) => {
            map_state.egress_marks.remove(egress_mark);
        }
        MapOp::BumpEpoch => {}
    }
}
