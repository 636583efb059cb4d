//! Addresses for pods whose address is not known: those of workloads, and pods that have not been created.
//!
//! In: objects. Out: the same objects with a placeholder address for each such pod, twice: as they are at least connected
//! and as they are at most connected. An `ipBlock` that could contain the address of such a pod matches it in the second set
//! only, so a verdict that is equal in both does not depend on the address.
//! Must not: evaluate policies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use crate::model::{Action, ClusterRule, IpBlock, Object, Peer, Peers, Pod, PodPhase, Rule};

/// The placeholders of pods. No packet has an address of 0.0.0.0/8, or of the discard-only block `100::/64`.
const PODS_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(0, 64, 0, 0), 10);
const PODS_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x100, 0, 0, 0, 1, 0, 0, 0), 80);
/// The placeholders of pods that use the host's network.
const HOSTS_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(0, 128, 0, 0), 10);
const HOSTS_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x100, 0, 0, 0, 2, 0, 0, 0), 80);

/// The addresses that pods have unless the user says which: RFC 1918, RFC 6598 and RFC 4193.
const PRIVATE: [&str; 5] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];
/// The addresses that nodes can have.
const ANY: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// The node of pods that are not scheduled, in the set with most connections: any two of them can run on one node.
const SOME_NODE: &str = "?";

/// Two sets of objects between which the connections of pods without an address lie.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    /// The connections that are allowed for every address.
    pub certain: Vec<Object>,
    /// The connections that are allowed for some address; `None` if they are the same.
    pub possible: Option<Vec<Object>>,
    /// The policies as written, if their blocks are changed in the other sets.
    pub written: Vec<Object>,
}

/// Gives a placeholder to each pod that has no address and has not finished. The pods are in `pod_networks`; if there are
/// none, in any private network, with the families that the other pods have (IPv4 if there are no others).
pub fn with_placeholders(mut objects: Vec<Object>, pod_networks: &[IpNetwork]) -> Bounds {
    let lacks = |object: &Object| matches!(object, Object::Pod(pod) if lacks_address(pod));
    if !objects.iter().any(lacks) {
        return Bounds { certain: objects, possible: None, written: Vec::new() };
    }
    let families = families(&objects, pod_networks);
    let mut n_placed = 0_u32;
    for object in &mut objects {
        let Object::Pod(pod) = object else { continue };
        if lacks_address(pod) {
            n_placed += 1;
            place(pod, families, n_placed);
        }
    }
    let parse = |texts: &[&str]| texts.iter().filter_map(|text| text.parse().ok()).collect();
    let pods = if pod_networks.is_empty() { parse(&PRIVATE) } else { pod_networks.to_vec() };
    let ranges = [Range::new(PODS_V4, PODS_V6, pods), Range::new(HOSTS_V4, HOSTS_V6, parse(&ANY))];
    let mut differs = false;
    let mut written = Vec::new();
    let mut possible = objects.clone();
    for (object, possible) in objects.iter_mut().zip(&mut possible) {
        match (object, possible) {
            (Object::Policy(policy), Object::Policy(other)) => {
                written.push(Object::Policy(policy.clone()));
                let rules = [&mut policy.ingress, &mut policy.egress];
                for (rules, others) in
                    rules.into_iter().zip([&mut other.ingress, &mut other.egress])
                {
                    differs |= bound(rules, others, &ranges);
                }
            }
            (Object::ClusterPolicy(policy), Object::ClusterPolicy(other)) => {
                written.push(Object::ClusterPolicy(policy.clone()));
                let rules = [&mut policy.ingress, &mut policy.egress];
                for (rules, others) in
                    rules.into_iter().zip([&mut other.ingress, &mut other.egress])
                {
                    differs |= bound_actions(rules, others, &ranges);
                }
            }
            (Object::Pod(pod), Object::Pod(other)) if pod.node.is_empty() => {
                other.node = Arc::from(SOME_NODE);
                differs |= pod.host_network;
            }
            _ => {}
        }
    }
    Bounds { certain: objects, possible: differs.then_some(possible), written }
}

/// Whether an address is a placeholder.
pub fn is_placeholder(address: IpAddr) -> bool {
    [network(PODS_V4, PODS_V6), network(HOSTS_V4, HOSTS_V6)]
        .into_iter()
        .flatten()
        .flatten()
        .any(|range| range.contains(address))
}

fn network(v4: (Ipv4Addr, u8), v6: (Ipv6Addr, u8)) -> [Option<IpNetwork>; 2] {
    [
        Ipv4Network::new(v4.0, v4.1).ok().map(IpNetwork::V4),
        Ipv6Network::new(v6.0, v6.1).ok().map(IpNetwork::V6),
    ]
}

fn lacks_address(pod: &Pod) -> bool {
    // A pod on the host's network has the addresses of its node, if it is scheduled.
    pod.reported_addresses.is_empty()
        && !matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed)
        && (!pod.host_network || pod.node.is_empty())
}

/// Whether pods have IPv4 addresses, and whether they have IPv6 addresses.
fn families(objects: &[Object], pod_networks: &[IpNetwork]) -> [bool; 2] {
    let mut families = [false, false];
    let [v4, v6] = &mut families;
    for network in pod_networks {
        *(if network.is_ipv4() { &mut *v4 } else { &mut *v6 }) = true;
    }
    if pod_networks.is_empty() {
        for object in objects {
            let Object::Pod(pod) = object else { continue };
            for address in &pod.reported_addresses {
                *(if address.is_ipv4() { &mut *v4 } else { &mut *v6 }) = true;
            }
        }
    }
    if families == [false, false] { [true, false] } else { families }
}

fn place(pod: &mut Pod, [v4, v6]: [bool; 2], number: u32) {
    let ((first_v4, _), (first_v6, _)) =
        if pod.host_network { (HOSTS_V4, HOSTS_V6) } else { (PODS_V4, PODS_V6) };
    if v4 {
        let address = Ipv4Addr::from_bits(first_v4.to_bits() | number);
        pod.reported_addresses.push(IpAddr::V4(address));
    }
    if v6 {
        let address = Ipv6Addr::from_bits(first_v6.to_bits() | u128::from(number));
        pod.reported_addresses.push(IpAddr::V6(address));
    }
}

/// A range of placeholders, and the addresses that they stand for.
struct Range {
    placeholders: [Option<IpNetwork>; 2],
    meant: Vec<IpNetwork>,
}

impl Range {
    fn new(v4: (Ipv4Addr, u8), v6: (Ipv6Addr, u8), meant: Vec<IpNetwork>) -> Self {
        Self { placeholders: network(v4, v6), meant }
    }
}

/// Whether a block contains an address of which only a set of networks is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Containment {
    Never,
    Possible,
    Certain,
}

impl Containment {
    fn of(block: &IpBlock, networks: &[IpNetwork]) -> Self {
        let of_family = networks.iter().filter(|network| network.is_ipv4() == block.cidr.is_ipv4());
        let found: Vec<Self> = of_family.map(|network| Self::of_network(block, *network)).collect();
        match found.as_slice() {
            [] => Self::Never,
            found if found.iter().all(|found| *found == Self::Certain) => Self::Certain,
            found if found.iter().all(|found| *found == Self::Never) => Self::Never,
            _ => Self::Possible,
        }
    }

    fn of_network(block: &IpBlock, network: IpNetwork) -> Self {
        let contains = |outer: IpNetwork, inner: IpNetwork| {
            outer.prefix() <= inner.prefix() && outer.contains(inner.network())
        };
        let common = if contains(block.cidr, network) {
            network
        } else if contains(network, block.cidr) {
            block.cidr
        } else {
            return Self::Never;
        };
        if block.except.iter().any(|hole| contains(*hole, common)) {
            return Self::Never;
        }
        let is_whole = !block.except.iter().any(|hole| contains(common, *hole));
        if common == network && is_whole { Self::Certain } else { Self::Possible }
    }
}

/// Changes the blocks of accepting rules so that they contain the placeholders of the addresses that they contain for certain,
/// and those of `possible` so that they contain all that they can. Returns whether the two differ.
fn bound(certain: &mut Arc<[Rule]>, possible: &mut Arc<[Rule]>, ranges: &[Range]) -> bool {
    if !certain.iter().any(has_blocks) {
        return false;
    }
    let mut differs = false;
    let (rules, others) = (Arc::make_mut(certain), Arc::make_mut(possible));
    for (rule, other) in rules.iter_mut().zip(others) {
        *other = with_blocks(rule, ranges, Containment::Possible);
        *rule = with_blocks(rule, ranges, Containment::Certain);
        differs |= rule != other;
    }
    differs
}

/// As [`bound`] for rules with actions. A Pass rule of which it is not certain what it matches denies all that in `certain`, and
/// accepts it in `possible`, because nothing is known about the rules after it.
fn bound_actions(
    certain: &mut Arc<[ClusterRule]>,
    possible: &mut Arc<[ClusterRule]>,
    ranges: &[Range],
) -> bool {
    if !certain.iter().any(|listed| has_blocks(&listed.rule)) {
        return false;
    }
    let mut differs = false;
    let [mut lower, mut upper] = [Vec::new(), Vec::new()];
    for listed in certain.iter() {
        let for_certain = with_blocks(&listed.rule, ranges, Containment::Certain);
        let perhaps = with_blocks(&listed.rule, ranges, Containment::Possible);
        let is_same = for_certain == perhaps;
        differs |= !is_same;
        let with = |action, rule: &Rule| ClusterRule {
            name: Arc::clone(&listed.name),
            action,
            rule: rule.clone(),
        };
        for (rules, action) in [(&mut lower, Action::Deny), (&mut upper, Action::Accept)] {
            let is_other_than_pass = listed.action != Action::Pass || is_same;
            rules.push(if is_other_than_pass && listed.action != action {
                with(listed.action, &for_certain)
            } else {
                with(action, &perhaps)
            });
        }
    }
    (*certain, *possible) = (lower.into(), upper.into());
    differs
}

fn has_blocks(rule: &Rule) -> bool {
    match &rule.peers {
        Peers::All => false,
        Peers::AnyOf(peers) => peers.iter().any(|peer| matches!(peer, Peer::IpBlock(_))),
    }
}

/// The rule with blocks that contain the placeholders which they contain at least as certainly as `wanted`, and no others.
fn with_blocks(rule: &Rule, ranges: &[Range], wanted: Containment) -> Rule {
    let Peers::AnyOf(peers) = &rule.peers else { return rule.clone() };
    let mut changed = Vec::new();
    for peer in peers {
        match peer {
            Peer::IpBlock(block) => push_block(block, ranges, wanted, &mut changed),
            Peer::Pods { .. } | Peer::Nodes(_) => changed.push(peer.clone()),
        }
    }
    Rule { index: rule.index, peers: Peers::AnyOf(changed), ports: rule.ports.clone() }
}

/// Adds the block, with the placeholders that it contains at least as certainly as `wanted`, and no others.
fn push_block(block: &IpBlock, ranges: &[Range], wanted: Containment, peers: &mut Vec<Peer>) {
    let mut reduced = block.clone();
    let mut added = Vec::new();
    for Range { placeholders, meant } in ranges {
        let found = Containment::of(block, meant);
        let is_wanted = found == Containment::Certain || found == wanted;
        let of_family = placeholders.iter().flatten();
        for range in of_family.filter(|range| range.is_ipv4() == block.cidr.is_ipv4()) {
            let holds = block.contains(range.network());
            if holds && !is_wanted {
                reduced.except.push(*range);
            } else if is_wanted && !holds {
                added.push(Peer::IpBlock(IpBlock { cidr: *range, except: Vec::new() }));
            }
        }
    }
    reduced.except.sort();
    peers.push(Peer::IpBlock(reduced));
    peers.append(&mut added);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cidr: &str, except: &[&str], networks: &[&str], expected: Containment) {
        let block = IpBlock {
            cidr: cidr.parse().unwrap(),
            except: except.iter().map(|hole| hole.parse().unwrap()).collect(),
        };
        let networks: Vec<IpNetwork> = networks.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(Containment::of(&block, &networks), expected, "{block} {networks:?}");
    }

    #[test]
    fn a_block_contains_an_unknown_address_for_certain_perhaps_or_never() {
        use Containment::{Certain, Never, Possible};
        check("0.0.0.0/0", &[], &PRIVATE, Certain);
        check("::/0", &[], &PRIVATE, Certain);
        check("0.0.0.0/0", &["10.0.0.0/8"], &PRIVATE, Possible);
        check("0.0.0.0/0", &["10.0.0.0/8"], &["10.244.0.0/16"], Never);
        check("0.0.0.0/0", &["10.244.7.0/24"], &["10.244.0.0/16"], Possible);
        check("10.0.0.0/8", &["10.1.0.0/16"], &["10.244.0.0/16"], Certain);
        check("10.0.0.0/8", &[], &PRIVATE, Possible);
        check("10.0.0.0/8", &["10.0.0.0/8"], &PRIVATE, Never);
        check("8.8.8.8/32", &[], &PRIVATE, Never);
        check("8.8.8.8/32", &[], &ANY, Possible);
        check("::/0", &[], &["10.244.0.0/16"], Never);
    }

    #[test]
    fn placeholders_are_recognised() {
        for (address, expected) in [
            ("0.64.0.1", true),
            ("0.128.255.255", true),
            ("100::1:0:0:1", true),
            ("100::2:0:0:1", true),
            ("0.0.0.0", false),
            ("10.0.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(is_placeholder(address.parse().unwrap()), expected, "{address}");
        }
    }
}
