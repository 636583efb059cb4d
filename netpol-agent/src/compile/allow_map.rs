//! One direction of one endpoint as entries of an allow map.

use std::sync::Arc;

use netpol_common::ids::{Identity, PortBe, Protocol, RuleId};
use netpol_common::keys::{AllowKey, AllowValue};

use super::image::AllowMap;
use super::port_ranges::port_prefixes;
use crate::resolve::{Grant, PeerSet, PortSet};

/// The union of the grants, each with its rule's number. Where several rules open the same entry, the first one is
/// named. `members` tells the identities whose addresses are in a peer set.
pub(super) fn build<'a, I: Iterator<Item = &'a Identity>>(
    grants: impl Iterator<Item = (RuleId, &'a Arc<Grant>)>,
    members: impl Fn(&Arc<PeerSet>) -> I,
) -> AllowMap {
    let mut map = AllowMap::new();
    for (rule, grant) in grants {
        match &grant.peers {
            None => open(&mut map, Identity::ANY, &grant.ports, rule),
            Some(peers) => {
                for identity in members(peers) {
                    open(&mut map, *identity, &grant.ports, rule);
                }
            }
        }
    }
    map
}

fn open(map: &mut AllowMap, identity: Identity, ports: &PortSet, rule: RuleId) {
    let mut insert = |protocol, port, prefix_len_bits| {
        let key = AllowKey { prefix_len_bits, identity, protocol, pad: 0, port: PortBe::new(port) };
        map.entry(key).or_insert(AllowValue::allow(rule));
    };
    match ports {
        PortSet::All => insert(Protocol(0), 0, AllowKey::ALL_PROTOCOLS_BITS),
        PortSet::AnyOf(items) => {
            for item in items {
                let protocol = item.transport.to_wire();
                match item.range {
                    None => insert(protocol, 0, AllowKey::ALL_PORTS_BITS),
                    Some(range) => {
                        for (port, bits) in port_prefixes(range) {
                            insert(protocol, port, AllowKey::ALL_PORTS_BITS + bits);
                        }
                    }
                }
            }
        }
    }
}
