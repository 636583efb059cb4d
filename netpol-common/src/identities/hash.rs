//! The hash that selects the home bucket of an address.

use super::line::halves;

/// Odd numbers with irregular bits: from the golden ratio, and from the square root of three.
const FACTORS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xbb67_ae85_84ca_a73b];

/// A permutation of the numbers of 64 bits.
#[inline(always)]
pub(super) const fn mix(number: u64) -> u64 {
    let product = number.wrapping_mul(FACTORS[0]);
    product ^ (product >> 32)
}

/// The upper half of a product, which depends on all bits of its factors.
#[inline(always)]
pub(super) const fn finish(number: u64) -> u32 {
    let [hash, _] = halves(mix(number).wrapping_mul(FACTORS[1]));
    hash
}
