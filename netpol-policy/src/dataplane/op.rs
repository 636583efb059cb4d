//! Map operations, and what each does to an image.

use std::sync::Arc;

use netpol_common::addr::Addr;
use netpol_common::ids::{Identity, IfIndex};
use netpol_common::keys::{AddressKey, PrefixKey};

use crate::compile::{AllowMap, AllowMapKey, EndpointImage, Image};

/// One insert or remove, atomic in the kernel; but for [`MapOp::SetAllow`] where old and new map only allow: each of their
/// entries comes and goes by itself, additions first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// Writes an endpoint's treatment.
    SetEndpoint(IfIndex, EndpointImage),
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
    /// Binds a ticket.
    SetTicket(u16, IfIndex),
    /// Unbinds it.
    RemoveTicket(u16),
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
pub fn apply(op: &MapOp, image: &mut Image) {
    match op {
        MapOp::SetEndpoint(ifindex, endpoint) => {
            image.endpoints.insert(*ifindex, endpoint.clone());
        }
        MapOp::RemoveEndpoint(ifindex) => {
            image.endpoints.remove(ifindex);
        }
        MapOp::AddAddress(key) => {
            image.addresses.insert(*key);
        }
        MapOp::RemoveAddress(key) => {
            image.addresses.remove(key);
        }
        MapOp::SetIdentity(addr, identity) => {
            image.identities.insert(*addr, *identity);
        }
        MapOp::RemoveIdentity(addr) => {
            image.identities.remove(addr);
        }
        MapOp::SetPrefix(key, identity) => {
            image.prefixes.insert(*key, *identity);
        }
        MapOp::RemovePrefix(key) => {
            image.prefixes.remove(key);
        }
        MapOp::SetAllow(key, map) => {
            image.allow.insert(*key, Arc::clone(map));
        }
        MapOp::RemoveAllow(key) => {
            image.allow.remove(key);
        }
        MapOp::AddDefer(addr) => {
            image.defer.insert(*addr);
        }
        MapOp::RemoveDefer(addr) => {
            image.defer.remove(addr);
        }
        MapOp::SetTicket(ticket, ifindex) => {
            image.tickets.insert(*ticket, *ifindex);
        }
        MapOp::RemoveTicket(ticket) => {
            image.tickets.remove(ticket);
        }
        MapOp::BumpEpoch => {}
    }
}
