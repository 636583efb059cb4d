//! Address blocks.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::checks::{BLOCK_COVERS_PODS, BLOCK_COVERS_SERVICE, HOLES_COVER_BLOCK, ONE_FAMILY};
use super::{Level, Place, Report, Surroundings, cover};
use crate::model::{IpBlock, Peer};

pub(super) fn check(around: &Surroundings<'_>, place: &Place<'_>, report: &mut Report<'_>) {
    let mut is_whole = [false, false];
    for (index, peer) in place.peers().iter().enumerate() {
        let Peer::IpBlock(block) = peer else { continue };
        let field = || format!("{}.ipBlock", place.peer_field(index));
        if is_covered(block.cidr, &block.except) {
            let message = format!("the exceptions leave nothing of {}", block.cidr);
            report.add(&HOLES_COVER_BLOCK, field(), message);
            continue;
        }
        if block.cidr.prefix() == 0 {
            let [v4, v6] = &mut is_whole;
            *(if block.cidr.is_ipv4() { v4 } else { v6 }) = true;
        }
        check_pods(around, block, field(), report);
        check_services(around, block, field(), report);
    }
    let missing = match is_whole {
        [true, false] => "::/0",
        [false, true] => "0.0.0.0/0",
        [true, true] | [false, false] => return,
    };
    if around.is_dual_stack {
        let message = format!("is for all addresses of one family: there is no {missing}");
        report.add(&ONE_FAMILY, place.field(), message);
    }
}

fn check_pods(around: &Surroundings<'_>, block: &IpBlock, field: String, report: &mut Report<'_>) {
    let mut covered =
        around.state.owned_addresses().filter(|(address, _)| block.contains(*address));
    let Some((address, pod)) = covered.next() else { return };
    let more = match covered.count() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let level = if block.cidr.prefix() == 0 { Level::Info } else { BLOCK_COVERS_PODS.level };
    let message = format!("{} covers {address} of pod {}{more}", block.cidr, pod.name);
    report.add_at(level, &BLOCK_COVERS_PODS, field, message);
}

fn check_services(
    around: &Surroundings<'_>,
    block: &IpBlock,
    field: String,
    report: &mut Report<'_>,
) {
    if block.cidr.prefix() == 0 {
        return;
    }
    let covered = around.state.services().find_map(|service| {
        let address = service.addresses.iter().find(|address| block.contains(**address))?;
        Some((service, address))
    });
    if let Some((service, address)) = covered {
        let message = format!("{} covers {address} of Service {}", block.cidr, service.name);
        report.add(&BLOCK_COVERS_SERVICE, field, message);
    }
}

/// Whether the holes together leave nothing of the network.
fn is_covered(network: IpNetwork, holes: &[IpNetwork]) -> bool {
    let inside: Vec<IpNetwork> =
        holes.iter().copied().filter(|hole| cover::network(network, *hole)).collect();
    if holes.iter().any(|hole| cover::network(*hole, network)) {
        return true;
    }
    // Each half has to be covered; without a hole inside there is nothing to look for.
    !inside.is_empty()
        && halves(network)
            .is_some_and(|halves| halves.into_iter().all(|half| is_covered(half, &inside)))
}

/// `None` for a single address.
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
