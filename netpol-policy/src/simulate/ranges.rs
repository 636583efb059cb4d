//! Ranges of addresses that no object distinguishes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netpol_common::addr::Addr;

use crate::model::{Peer, Peers};
use crate::store::ClusterState;

/// The first and the last address of a range.
pub(super) type Range = (IpAddr, IpAddr);

/// Divides a network into ranges within which every address has the same verdicts: no policy's block, pod, node or Service
/// begins or ends inside one.
pub(super) fn within(state: &ClusterState, network: IpNetwork) -> Vec<Range> {
    let (first, last) = ends(network);
    let mut starts: BTreeSet<u128> = BTreeSet::from([first]);
    let mut cut = |first: u128, last: u128| {
        starts.insert(first);
        starts.extend(last.checked_add(1));
    };
    for network in not_unicast() {
        let (first, last) = ends(network);
        cut(first, last);
    }
    for address in special(state) {
        cut(bits(address), bits(address));
    }
    for network in blocks(state) {
        let (first, last) = ends(network);
        cut(first, last);
    }
    let starts: Vec<u128> = starts.range(first..=last).copied().collect();
    let lasts = starts.iter().skip(1).map(|next| next - 1).chain([last]);
    let ranges = starts.iter().zip(lasts).map(|(first, last)| (address(*first), address(last)));
    ranges.filter(|(first, _)| first.is_ipv4() == network.is_ipv4()).collect()
}

/// The first addresses of the ranges that the blocks of policies distinguish, sorted.
pub(super) fn starts(state: &ClusterState) -> Vec<Addr> {
    let mut starts = BTreeSet::new();
    for network in blocks(state) {
        let (first, last) = ends(network);
        starts.insert(first);
        starts.extend(last.checked_add(1));
    }
    starts.into_iter().map(|bits| Addr::from(address(bits))).collect()
}

/// Every block and every exception of the policies.
fn blocks(state: &ClusterState) -> impl Iterator<Item = IpNetwork> {
    let network = state.policies().flat_map(|policy| policy.ingress.iter().chain(&*policy.egress));
    let cluster = state.cluster_policies();
    let cluster = cluster.flat_map(|policy| policy.ingress.iter().chain(&*policy.egress));
    let rules = network.chain(cluster.map(|listed| &listed.rule));
    let peers = rules.flat_map(|rule| match &rule.peers {
        Peers::All => [].as_slice(),
        Peers::AnyOf(peers) => peers.as_slice(),
    });
    peers.flat_map(|peer| match peer {
        Peer::IpBlock(block) => {
            let networks: Vec<IpNetwork> =
                [block.cidr].into_iter().chain(block.except.clone()).collect();
            networks
        }
        Peer::Pods { .. } | Peer::Nodes(_) => Vec::new(),
    })
}

/// The ranges of both families that hold no address of a pod, node or Service.
pub(super) fn external(state: &ClusterState) -> Vec<Range> {
    let special: BTreeSet<IpAddr> = special(state).collect();
    let whole = ["0.0.0.0/0", "::/0"].iter().filter_map(|text| text.parse().ok());
    whole
        .flat_map(|network| within(state, network))
        .filter(|(first, _)| {
            let is_unicast = !not_unicast().any(|network| network.contains(*first));
            !special.contains(first) && is_unicast
        })
        .collect()
}

/// Adds a range to others, together with the last of these if it follows on that.
pub(super) fn push(ranges: &mut Vec<Range>, range: Range) {
    match ranges.last_mut() {
        Some((first, last))
            if first.is_ipv4() == range.0.is_ipv4()
                && bits(*last).checked_add(1) == Some(bits(range.0)) =>
        {
            *last = range.1;
        }
        Some(_) | None => ranges.push(range),
    }
}

/// A range as text: an address, a block, or the first and the last address.
pub(super) fn in_words((first, last): Range) -> String {
    if first == last {
        return first.to_string();
    }
    let n_different = (bits(first) ^ bits(last)).trailing_ones();
    let n_bits: u32 = if first.is_ipv4() { 32 } else { 128 };
    let prefix = u8::try_from(n_bits.saturating_sub(n_different)).unwrap_or(0);
    match IpNetwork::new(first, prefix) {
        Ok(network) if ends(network) == (bits(first), bits(last)) => network.to_string(),
        Ok(_) | Err(_) => format!("{first}-{last}"),
    }
}

fn special(state: &ClusterState) -> impl Iterator<Item = IpAddr> {
    let owned = state.owned_addresses().map(|(address, _)| address);
    let of_nodes = state.nodes().flat_map(|node| node.addresses.iter().copied());
    let of_hosts = state.pods_on_host().flat_map(|pod| pod.reported_addresses.iter().copied());
    let of_services = state.services().flat_map(|service| service.addresses.iter().copied());
    owned.chain(of_nodes).chain(of_hosts).chain(of_services)
}

/// The networks whose addresses are no source and no destination of a connection, and the IPv4-mapped addresses.
fn not_unicast() -> impl Iterator<Item = IpNetwork> {
    let texts = [
        "0.0.0.0/8",
        "127.0.0.0/8",
        "224.0.0.0/3",
        "::/8",
        "ff00::/8",
        "::ffff:0:0/96",
        "100::/64",
    ];
    texts.into_iter().filter_map(|text| text.parse().ok())
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(bits: u128) -> IpAddr {
    IpAddr::V6(bits.into()).to_canonical()
}

/// The first and the last address.
fn ends(network: IpNetwork) -> (u128, u128) {
    let first = bits(network.network());
    let n_host_bits = match network {
        IpNetwork::V4(network) => 32 - network.prefix(),
        IpNetwork::V6(network) => 128 - network.prefix(),
    };
    let host = u128::MAX.checked_shr(128 - u32::from(n_host_bits)).unwrap_or(0);
    (first, first | host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::parse;
    use crate::store::Delta;

    const OBJECTS: &str = r"
{ apiVersion: v1, kind: Pod, metadata: { name: a }, status: { podIP: 10.0.0.1 } }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: a }
spec: { podSelector: {}, ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.0/8, except: [10.128.0.0/9] } }] }] }
";

    fn state() -> ClusterState {
        let mut state = ClusterState::default();
        for read in parse("x", OBJECTS).objects {
            drop(state.apply(Delta::Upsert(read.object)));
        }
        state
    }

    #[test]
    fn a_network_is_divided_where_a_block_or_an_object_begins_or_ends() {
        let ranges = within(&state(), "10.0.0.0/7".parse().unwrap());
        let words: Vec<String> = ranges.into_iter().map(in_words).collect();
        assert_eq!(
            words,
            ["10.0.0.0", "10.0.0.1", "10.0.0.2-10.127.255.255", "10.128.0.0/9", "11.0.0.0/8",]
        );
    }

    #[test]
    fn external_addresses_belong_to_no_object() {
        let ranges = external(&state());
        let pod: IpAddr = "10.0.0.1".parse().unwrap();
        assert!(!ranges.iter().any(|(first, last)| *first <= pod && pod <= *last));
        assert!(ranges.iter().any(|range| in_words(*range) == "10.128.0.0/9"));
        assert!(ranges.iter().any(|(first, _)| first.is_ipv6()));
    }
}
