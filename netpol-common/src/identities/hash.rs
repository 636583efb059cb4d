//! The hash that decides which bucket is the home of an address.

use super::line::halves;

/// Two odd numbers whose bits follow no pattern: those of the golden ratio, and of the square root of three.
const FACTORS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xbb67_ae85_84ca_a73b];

/// A permutation of all numbers.
#[inline(always)]
pub(super) const fn mix(number: u64) -> u64 {
    let product = number.wrapping_mul(FACTORS[0]);
    product ^ (product >> 32)
}

/// The upper half of a product depends on all bits of its factors.
#[inline(always)]
pub(super) const fn finish(number: u64) -> u32 {
    let [hash, _] = halves(mix(number).wrapping_mul(FACTORS[1]));
    hash
}
