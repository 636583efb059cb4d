//! Checks for address blocks.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use netpol_common::addr::Addr;

use super::checks::{BLOCK_COVERS_PODS, BLOCK_COVERS_SERVICE, EXCEPT_COVERS_BLOCK, ONE_FAMILY};
use super::context::{LocatedRule, ObjectSet};
use super::cover;
use super::finding::Report;
use super::level::Level;
use crate::model::{IpBlock, Peer, PodInWords};

/// The largest number of backends that a message names.
const MAX_BACKENDS: usize = 4;

pub(super) fn check(objects: &ObjectSet<'_>, rule: &LocatedRule<'_>, report: &mut Report) {
    let mut is_whole = [false, false];
    for (index, peer) in rule.peers().iter().enumerate() {
        let Peer::IpBlock(block) = peer else { continue };
        let field = || rule.block_field(index);
        if is_covered(block.cidr, &block.except) {
            let message = format!("except covers all of {}", block.cidr);
            report.add(&EXCEPT_COVERS_BLOCK, field(), message);
            continue;
        }
        if block.cidr.prefix() == 0 {
            let [v4, v6] = &mut is_whole;
            *(if block.cidr.is_ipv4() { v4 } else { v6 }) = true;
        }
        check_pods(objects, block, &field, report);
        check_services(objects, block, &field, report);
    }
    let (allowed, missing) = match is_whole {
        [true, false] => ("0.0.0.0/0", "::/0"),
        [false, true] => ("::/0", "0.0.0.0/0"),
        [true, true] | [false, false] => return,
    };
    if objects.is_dual_stack {
        let message = format!("allows {allowed}, but not {missing}");
        report.add(&ONE_FAMILY, rule.field(), message);
    }
}

fn check_pods(
    objects: &ObjectSet<'_>,
    block: &IpBlock,
    field: &dyn Fn() -> String,
    report: &mut Report,
) {
    let covered = within(&objects.pod_addresses, block);
    let Some((address, pod)) = covered.iter().copied().flatten().next() else { return };
    let address = address.to_ip();
    let more = match covered.iter().map(|slice| slice.len()).sum::<usize>().saturating_sub(1) {
        0 => String::new(),
        1 => " and 1 more pod address".to_owned(),
        n => format!(" and {n} more pod addresses"),
    };
    let level = if block.cidr.prefix() == 0 { Level::Info } else { BLOCK_COVERS_PODS.level };
    let message = format!("{} covers {address} of {}{more}", block.cidr, PodInWords(&pod.name));
    report.add_at(level, &BLOCK_COVERS_PODS, field(), message);
}

fn check_services(
    objects: &ObjectSet<'_>,
    block: &IpBlock,
    field: &dyn Fn() -> String,
    report: &mut Report,
) {
    if block.cidr.prefix() == 0 {
        return;
    }
    let covered = within(&objects.service_addresses, block);
    if let Some((address, service)) = covered.into_iter().flatten().next() {
        let address = address.to_ip();
        let backends: BTreeSet<String> = service
            .backends
            .iter()
            .map(|backend| SocketAddr::new(backend.address, backend.number).to_string())
            .collect();
        let backends = match (&service.selector, backends.is_empty()) {
            (_, false) => {
                let backends: Vec<String> = backends.into_iter().take(MAX_BACKENDS).collect();
                format!(", whose backends are {}", backends.join(", "))
            }
            (None, true) => {
                ", which has no selector: its EndpointSlices list its backends".to_owned()
            }
            (Some(selector), true) => format!(", whose backends are pods with {selector}"),
        };
        let name = &service.name;
        let message = format!("{} covers {address} of Service {name}{backends}", block.cidr);
        report.add(&BLOCK_COVERS_SERVICE, field(), message);
    }
}

/// The IPv4 addresses among all addresses. No IPv6 block contains them.
const MAPPED_V4: (Addr, Addr) = (Addr::from_v4([0; 4]), Addr::from_v4([255; 4]));

/// The addresses that a block contains, of a sorted list, as parts of the list. The work depends on the number of exceptions, not
/// on that of addresses.
fn within<'a, T>(addresses: &'a [(Addr, T)], block: &IpBlock) -> Vec<&'a [(Addr, T)]> {
    let mut holes: Vec<(Addr, Addr)> = block.except.iter().map(|hole| ends(*hole)).collect();
    if block.cidr.is_ipv6() {
        holes.push(MAPPED_V4);
    }
    holes.sort_unstable();
    let (first, last) = ends(block.cidr);
    let position = |addr: Addr| addresses.partition_point(|(other, _)| *other < addr);
    let behind = |addr: Addr| addresses.partition_point(|(other, _)| *other <= addr);
    let end = behind(last);
    let mut next = position(first);
    let mut parts = Vec::new();
    for (first, last) in holes {
        parts.extend(addresses.get(next..position(first).min(end)));
        next = next.max(behind(last));
    }
    parts.extend(addresses.get(next..end));
    parts.retain(|part| !part.is_empty());
    parts
}

/// The first and the last address of a network.
fn ends(network: IpNetwork) -> (Addr, Addr) {
    let (first, last) = match network {
        IpNetwork::V4(network) => (IpAddr::V4(network.network()), IpAddr::V4(network.broadcast())),
        IpNetwork::V6(network) => (IpAddr::V6(network.network()), IpAddr::V6(network.broadcast())),
    };
    (Addr::from(first), Addr::from(last))
}

/// Whether the excluded blocks together cover the network.
fn is_covered(network: IpNetwork, excluded: &[IpNetwork]) -> bool {
    let inside: Vec<IpNetwork> =
        excluded.iter().copied().filter(|block| cover::network(network, *block)).collect();
    if excluded.iter().any(|block| cover::network(*block, network)) {
        return true;
    }
    // Each half must be covered. Without an excluded block inside the network neither is.
    !inside.is_empty()
        && halves(network)
            .is_some_and(|halves| halves.into_iter().all(|half| is_covered(half, &inside)))
}

/// The two halves of a network; `None` for a single address.
fn halves(network: IpNetwork) -> Option<[IpNetwork; 2]> {
    let prefix = network.prefix().checked_add(1)?;
    let upper = match network.network() {
        IpAddr::V4(address) => {
            let bit = 1_u32.checked_shl(32_u32.checked_sub(u32::from(prefix))?)?;
            IpAddr::V4((address.to_bits() | bit).into())
        }
        IpAddr::V6(address) => {
            let bit = 1_u128.checked_shl(128_u32.checked_sub(u32::from(prefix))?)?;
            IpAddr::V6((address.to_bits() | bit).into())
        }
    };
    Some([IpNetwork::new(network.network(), prefix).ok()?, IpNetwork::new(upper, prefix).ok()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cidr: &str, except: &[&str], expected: &[&str]) {
        let all = [
            "10.0.0.1",
            "10.0.0.2",
            "10.0.1.1",
            "10.0.2.1",
            "10.1.0.1",
            "192.0.2.1",
            "::1",
            "fd00::1",
        ];
        let mut addresses: Vec<(Addr, usize)> = (0..)
            .zip(all)
            .map(|(at, of)| (Addr::from(of.parse::<IpAddr>().unwrap()), at))
            .collect();
        addresses.sort_unstable();
        let block = IpBlock {
            cidr: cidr.parse().unwrap(),
            except: except.iter().map(|hole| hole.parse().unwrap()).collect(),
        };
        let found = within(&addresses, &block);
        let mut found: Vec<&str> = found.into_iter().flatten().map(|(_, at)| all[*at]).collect();
        found.sort_by_key(|found| all.iter().position(|of| of == found));
        assert_eq!(found, expected, "{block}");
        let contained = all.into_iter().filter(|of| block.contains(of.parse().unwrap()));
        assert!(contained.eq(expected.iter().copied()), "{block}");
    }

    #[test]
    fn the_addresses_of_a_block_are_those_outside_its_exceptions() {
        check("10.0.0.0/16", &[], &["10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.2.1"]);
        check("10.0.0.0/16", &["10.0.1.0/24"], &["10.0.0.1", "10.0.0.2", "10.0.2.1"]);
        check("10.0.0.0/8", &["10.0.0.0/16", "10.0.1.0/24"], &["10.1.0.1"]);
        check("10.0.0.0/8", &["10.0.2.0/24", "10.0.0.2/32"], &["10.0.0.1", "10.0.1.1", "10.1.0.1"]);
        check("10.0.0.0/16", &["10.0.0.0/8"], &[]);
        check("0.0.0.0/0", &["10.0.0.0/8"], &["192.0.2.1"]);
        check("::/0", &[], &["::1", "fd00::1"]);
        check("::/0", &["fd00::/8"], &["::1"]);
        check("172.16.0.0/12", &[], &[]);
    }
}
