//! The addresses of the own node, and the ports of it that are translated: the content of `OWN_NODE`.
//!
//! In: the node's addresses, the Services and the pods of the node. Out: the entries, at most as many as the map holds. A port
//! that does not fit counts as one that is not translated: connections to it are judged at the node's address.

use std::collections::BTreeSet;

use netpol_common::addr::Addr;
use netpol_common::ids::PortBe;
use netpol_common::keys::NodeKey;
use netpol_common::maps;

use crate::model::Transport;
use crate::store::ClusterState;

/// The entries for these ports. Addresses come first.
pub(in crate::compile) fn wanted(
    state: &ClusterState,
    ports: impl Iterator<Item = (Transport, u16)>,
) -> BTreeSet<NodeKey> {
    let addresses = state.own_addresses().iter().map(|ip| NodeKey::address(Addr::from(*ip)));
    let key = |(transport, number): (Transport, u16)| {
        NodeKey::port(transport.to_wire(), PortBe::new(number))
    };
    let ports: BTreeSet<NodeKey> = ports.map(key).collect();
    let capacity = usize::try_from(maps::MAX_OWN_NODE).unwrap_or(usize::MAX);
    addresses.chain(ports).take(capacity).collect()
}
