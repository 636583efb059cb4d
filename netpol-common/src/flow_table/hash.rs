//! The bucket and the mark of a flow.

use crate::ids::IfIndex;
use crate::keys::FlowKey;
use crate::maps;

/// The bucket of a flow, and the mark of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowHash {
    /// Index of the bucket.
    pub bucket: u32,
    /// The interface, and from bit 32 on 16 bits of the hash, the protocol and the stage. Not zero.
    pub mark: u64,
}

/// The bucket and the mark of a flow in a table with `bucket_mask + 1` buckets, a power of two. `seed` is the table's.
#[inline(always)]
pub const fn hash(key: &FlowKey, seed: u64, bucket_mask: u32) -> FlowHash {
    let [ifindex, a, b, c, d, ports, rest] = *key.words();
    let hash = mix(seed ^ wide(ifindex, ports));
    let hash = mix(hash ^ wide(a, b));
    let hash = mix(hash ^ wide(c, d) ^ wide(0, rest << 8));
    let mark = wide(ifindex, rest << 16) | ((hash >> 16) & (0xffff << 32));
    #[expect(clippy::cast_possible_truncation, reason = "the mask selects low bits")]
    FlowHash { bucket: hash as u32 & bucket_mask, mark }
}

#[inline(always)]
const fn wide(low: u32, high: u32) -> u64 {
    low as u64 | ((high as u64) << 32)
}

/// Lets each bit of the number change many bits of the result. A multiplication carries bits upwards only, so the high bits are
/// folded down before it and after it.
#[inline(always)]
const fn mix(number: u64) -> u64 {
    let product = (number ^ (number >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 32)
}

/// The ports of a key in the form of [`FlowSlot::ports`](super::FlowSlot::ports).
#[inline(always)]
pub const fn ports(key: &FlowKey) -> u32 {
    let [.., ports, _] = *key.words();
    ports
}

/// The interface in a mark; 0 for a free slot.
#[inline(always)]
pub const fn owner(mark: u64) -> IfIndex {
    let [i0, i1, i2, i3, ..] = mark.to_le_bytes();
    IfIndex(u32::from_le_bytes([i0, i1, i2, i3]))
}

/// The element of [`FLOW_COUNTS`](maps::FLOW_COUNTS) that counts the flows of an endpoint.
#[inline(always)]
pub const fn count_index(ifindex: IfIndex) -> u32 {
    ifindex.0 % maps::N_FLOW_COUNTS
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::addr::Addr;
    use crate::ids::Protocol;

    #[test]
    fn similar_flows_spread_over_all_buckets() {
        let n_buckets = 64_u32;
        let check = |keys: Vec<FlowKey>| {
            let mut by_bucket = [0_u32; 64];
            for key in &keys {
                let bucket =
                    usize::try_from(hash(key, 0x1234_5678_9abc_def1, n_buckets - 1).bucket)
                        .unwrap();
                by_bucket[bucket] += 1;
            }
            // An even distribution has 100 in each; this is six standard deviations.
            assert!(by_bucket.iter().all(|n| (40..=160).contains(n)), "{by_bucket:?}");
        };
        let key = |ifindex, addr, ports, protocol| {
            FlowKey::new(IfIndex(ifindex), addr, ports, protocol, FlowKey::AT_POD)
        };
        let v4 = |n: u32| Addr::from_v4_word(n.to_be());
        let v6 = |n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            Addr([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d])
        };
        let numbers = 0..6400_u32;
        check(numbers.clone().map(|n| key(7, v4(0x0a00_0000 + n), 80, Protocol::TCP)).collect());
        check(numbers.clone().map(|n| key(7, v6(n), 80, Protocol::TCP)).collect());
        check(numbers.clone().map(|n| key(7, v4(1), n << 16, Protocol::UDP)).collect());
        check(numbers.clone().map(|n| key(7, v4(1), n, Protocol::UDP)).collect());
        check(numbers.map(|n| key(n + 1, v4(1), 80, Protocol::UDP)).collect());
    }
}
