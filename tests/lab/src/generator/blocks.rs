//! Address blocks with exceptions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::{Cluster, Draw as _, Rng, set, set_nothing};

/// Addresses outside of the cluster.
pub(super) const OUTSIDE: [&str; 6] =
    ["192.0.2.1", "192.0.2.128", "198.51.100.7", "2001:db8::1", "2001:db8:0:1::9", "8.8.8.8"];

/// An `ipBlock` around an address of the cluster or outside.
pub(super) fn block(rng: &mut Rng, cluster: &Cluster) -> Value {
    let centre = centre(rng, cluster);
    let length = length(rng, centre, 0);
    let mut block = json!({ "cidr": written(rng, centre, length) });
    let width = width(centre);
    if length < width && rng.chance(60) {
        let mut except = Vec::new();
        for _ in 0..rng.one_of([1, 1, 2, 3]) {
            // Around the centre, another address in the block, or the block's first or last address.
            let other = self::centre(rng, cluster);
            let inner = match rng.usize(..4) {
                0 => Some(other).filter(|other| holds(centre, length, *other)),
                1 => Some(edge(centre, length, rng.one_of([0, u128::MAX]))),
                _ => None,
            };
            let inner = inner.unwrap_or(centre);
            let hole_length = self::length(rng, inner, length + 1);
            except.push(json!(written(rng, inner, hole_length)));
        }
        set(&mut block, "except", json!(except));
    } else {
        set_nothing(rng, &mut block, "except");
    }
    block
}

/// A network around an address of the cluster or outside. Those of one cluster often contain each other, because there are few
/// addresses.
pub(super) fn network(rng: &mut Rng, cluster: &Cluster) -> String {
    let centre = centre(rng, cluster);
    let length = length(rng, centre, 0);
    written(rng, centre, length)
}

/// An address of a pod, of a node, or outside.
fn centre(rng: &mut Rng, cluster: &Cluster) -> IpAddr {
    let pods: Vec<&String> = cluster.pods.iter().flat_map(|pod| &pod.addresses).collect();
    let chosen = match rng.usize(..10) {
        0..=5 => rng.choice(&pods).map_or("10.244.0.1", |address| address.as_str()),
        6 => rng.one_of(["192.168.7.1", "192.168.7.2", "fd00:192:168:7::1"]),
        _ => rng.one_of(OUTSIDE),
    };
    chosen.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn length(rng: &mut Rng, address: IpAddr, at_least: u32) -> u32 {
    let v4 = [0, 1, 8, 12, 16, 22, 23, 24, 25, 26, 28, 30, 31, 32];
    let v6 = [0, 1, 7, 16, 32, 48, 63, 64, 65, 80, 95, 96, 120, 127, 128];
    let length = if address.is_ipv4() { rng.one_of(v4) } else { rng.one_of(v6) };
    length.max(at_least).min(width(address))
}

const fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address with these bits, in the family of `like`.
fn with_bits(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => {
            let low = u32::try_from(bits & u128::from(u32::MAX)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(low))
        }
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

fn host_mask(address: IpAddr, length: u32) -> u128 {
    1_u128.checked_shl(width(address) - length).unwrap_or(0).wrapping_sub(1)
}

fn holds(address: IpAddr, length: u32, other: IpAddr) -> bool {
    address.is_ipv4() == other.is_ipv4()
        && (bits(address) ^ bits(other)) & !host_mask(address, length) == 0
}

/// The first (`host_bits` all zeros) or last (all ones) address of a block.
fn edge(address: IpAddr, length: u32, host_bits: u128) -> IpAddr {
    let mask = host_mask(address, length);
    with_bits(address, (bits(address) & !mask) | (host_bits & mask))
}

/// The addresses at the edges of a block, inside and outside; none if it is malformed.
pub(super) fn edges(block: &str) -> Vec<IpAddr> {
    let Some((address, length)) = block.split_once('/') else { return Vec::new() };
    let (Ok(address), Ok(length)) = (address.parse::<IpAddr>(), length.parse::<u32>()) else {
        return Vec::new();
    };
    if length > width(address) {
        return Vec::new();
    }
    let (first, last) = (edge(address, length, 0), edge(address, length, u128::MAX));
    let before = with_bits(address, bits(first).wrapping_sub(1));
    let after = with_bits(address, bits(last).wrapping_add(1));
    // An IPv4-mapped address is the IPv4 address.
    [first, last, before, after].map(|address| address.to_canonical()).to_vec()
}

/// The block as text: mostly canonical, sometimes in a form that only older API servers accept.
fn written(rng: &mut Rng, address: IpAddr, length: u32) -> String {
    let network = edge(address, length, 0);
    match (rng.usize(..30), network) {
        (0, _) => format!("{address}/{length}"),
        (1, IpAddr::V4(v4)) => format!("::ffff:{v4}/{}", length + 96),
        (2, IpAddr::V4(v4)) => {
            let [a, b, c, d] = v4.octets();
            format!("{a:03}.{b}.{c:02}.{d}/{length}")
        }
        (3, IpAddr::V6(v6)) => {
            let segments: Vec<String> =
                v6.segments().iter().map(|segment| format!("{segment:04X}")).collect();
            format!("{}/{length}", segments.join(":"))
        }
        _ => format!("{network}/{length}"),
    }
}
