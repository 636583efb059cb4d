//! Port ranges as prefixes, because an allow map is a longest-prefix trie.

use crate::model::PortRange;

/// Bits of a port.
const PORT_BITS: u32 = 16;

/// Splits a range into aligned blocks, see `aligned_blocks`. At most 30 of them.
pub fn port_prefixes(range: PortRange) -> Vec<(u16, u32)> {
    aligned_blocks(range.first(), range.last())
}

/// Number of blocks of [`port_prefixes`].
pub(super) fn n_port_prefixes(range: PortRange) -> usize {
    blocks(range.first(), range.last()).count()
}

/// Splits `first..=last` into the fewest aligned blocks: pairs of the first port, host byte order, and the number of leading
/// bits that all ports of the block share, in rising order.
pub(super) fn aligned_blocks(first: u16, last: u16) -> Vec<(u16, u32)> {
    blocks(first, last).collect()
}

fn blocks(first: u16, last: u16) -> impl Iterator<Item = (u16, u32)> {
    let last = u32::from(last);
    let mut first = u32::from(first);
    std::iter::from_fn(move || {
        if first > last {
            return None;
        }
        // The largest block that starts here (alignment) and does not reach beyond the end.
        let mut host_bits = first.trailing_zeros().min(PORT_BITS);
        while first + (1 << host_bits) - 1 > last {
            host_bits -= 1;
        }
        let port = u16::try_from(first).ok()?;
        first += 1 << host_bits;
        Some((port, PORT_BITS - host_bits))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(first: u16, last: u16, expected: &[(u16, u32)]) {
        assert_eq!(port_prefixes(PortRange::new(first, last).unwrap()), expected);
    }

    #[test]
    fn ranges_split_into_aligned_blocks() {
        check(80, 80, &[(80, 16)]);
        check(80, 81, &[(80, 15)]);
        check(81, 82, &[(81, 16), (82, 16)]);
        check(32768, 65535, &[(32768, 1)]);
        check(1, 3, &[(1, 16), (2, 15)]);
        assert_eq!(port_prefixes(PortRange::new(1, 65535).unwrap()).len(), 16);
        assert_eq!(port_prefixes(PortRange::new(1, 65534).unwrap()).len(), 30);
    }

    proptest! {
        #[test]
        fn blocks_cover_exactly_the_range(first in 1_u16.., len: u16, port: u16) {
            let range = PortRange::new(first, first.saturating_add(len)).unwrap();
            let n_holding = port_prefixes(range)
                .iter()
                .filter(|(start, bits)| u32::from(port) >> (PORT_BITS - bits) == u32::from(*start) >> (PORT_BITS - bits))
                .count();
            prop_assert_eq!(n_holding, usize::from(range.contains(port)));
        }
    }
}
