//! Map values with a check word, by which a reader notices that it has read parts of different values.
//!
//! The kernel gives the element of a removed or replaced entry to another key at once, also while a program still reads it: in LRU
//! maps always, in hash maps without preallocation since Linux 6.1. Such a program may read any mixture of the old and the new
//! value, in any order of bytes. So these values carry a check word of key and value. A reader copies the value and then checks the
//! copy. One mixture in 2^32 passes the check. The kernel's own look-up relies on a hash of 32 bits in the same situation.

/// Odd numbers without a pattern, one for each word of a key and a value: `SplitMix64` from 0, with the lowest bit set.
const FACTORS: [u64; 12] = [
    0xe220_a839_7b1d_cdaf,
    0x6e78_9e6a_a1b9_65f5,
    0x06c4_5d18_8009_454f,
    0xf88b_b8a8_724c_81ed,
    0x1b39_896a_51a8_749b,
    0x53cb_9f0c_747e_a2eb,
    0x2c82_9abe_1f45_32e1,
    0xc584_133a_c916_ab3d,
    0x3ee5_7890_41c9_8ac3,
    0xf3b8_488c_368c_b0a7,
    0x657e_ecdd_3cb1_3d09,
    0xc2d3_26e0_055b_def7,
];

/// The check word of a key and a value, both in words: the upper half of a sum of products. A processor makes the products side by
/// side, so this takes a third of the time of [`hash_words`]. Words can be chosen so that they have the same check word, which is no
/// harm where the kernel has compared the keys.
#[inline(always)]
pub(super) fn check_word<const K: usize, const V: usize>(key: &[u32; K], value: &[u32; V]) -> u32 {
    const { assert!(K + V <= FACTORS.len(), "each word needs a factor") };
    let words = key.iter().chain(value);
    let products = words.zip(&FACTORS).map(|(word, factor)| u64::from(*word).wrapping_mul(*factor));
    (products.fold(0, u64::wrapping_add) >> 32) as u32
}

/// A hash of two rows of words.
#[inline(always)]
pub(super) fn hash_words<const A: usize, const B: usize>(a: &[u32; A], b: &[u32; B]) -> u32 {
    let hash = a.iter().fold(0, mix);
    let hash = b.iter().fold(hash, mix);
    // The last word has been multiplied once, which does not spread it over the upper half yet.
    (mix(hash, &0) >> 32) as u32
}

/// Multiplication carries bits upwards. BPF multiplies by a signed number of 32 bits in one instruction.
#[inline(always)]
fn mix(hash: u64, word: &u32) -> u64 {
    (hash ^ u64::from(*word)).wrapping_mul(0xffff_ffff_9e37_79b1)
}

/// Defines the value of a map with a check word.
macro_rules! checked {
    ($(#[$meta:meta])* pub struct $name:ident {
        key: $key:ty as [u32; $n_key:literal],
        value: $value:ty as [u32; $n_value:literal],
    }) => {
        wire! {
            $(#[$meta])*
            pub struct $name {
                /// The value.
                pub value: $value,
                /// The check word of key and value.
                pub check: u32,
            }
        }

        impl $name {
            /// A value for this key.
            #[inline(always)]
            pub fn new(key: &$key, value: $value) -> Self {
                Self { value, check: Self::check_word(key, &value) }
            }

            /// The value, if all of it belongs to this key.
            #[inline(always)]
            pub fn value_of(&self, key: &$key) -> Option<&$value> {
                if self.check == Self::check_word(key, &self.value) {
                    Some(&self.value)
                } else {
                    None
                }
            }

            /// The check word of a key and a value.
            #[inline(always)]
            pub fn check_word(key: &$key, value: &$value) -> u32 {
                let key: [u32; $n_key] = zerocopy::transmute!(*key);
                let value: [u32; $n_value] = zerocopy::transmute!(*value);
                $crate::keys::check::check_word(&key, &value)
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use crate::addr::Addr;
    use crate::ids::{IfIndex, PortBe, Protocol};
    use crate::keys::{BackendEntry, BackendValue, FlowKey};

    /// Flows and backends that differ in few bits, which is the worst case for a hash.
    fn backends() -> Vec<(FlowKey, BackendValue)> {
        let addr = |last| Addr::from_v4([10, 0, 0, last]);
        let three = || 0..3_u8;
        let numbers = three().flat_map(|a| {
            three().flat_map(move |b| three().flat_map(move |c| three().map(move |d| (a, b, c, d))))
        });
        let mut all = Vec::new();
        for (ports, stage, last, port) in numbers {
            let key = FlowKey::new(IfIndex(7), addr(1), ports.into(), Protocol::TCP, stage);
            let port = PortBe::new([0, 1, 256][usize::from(port)]);
            all.push((key, BackendValue { addr: addr(last), port, pad: [0; 2] }));
        }
        all
    }

    #[test]
    fn a_mixture_of_two_values_belongs_to_neither_key() {
        let words = |(key, value): (FlowKey, BackendValue)| -> [u32; 6] {
            zerocopy::transmute!(BackendEntry::new(&key, value))
        };
        let all = backends();
        for old in &all {
            for new in &all {
                let (before, after) = (words(*old), words(*new));
                for seen in 0..64_u32 {
                    let word = |at: usize| if seen >> at & 1 == 0 { before[at] } else { after[at] };
                    let read: BackendEntry =
                        zerocopy::transmute!(core::array::from_fn::<_, 6, _>(word));
                    for (key, _) in [old, new] {
                        let Some(value) = read.value_of(key) else { continue };
                        let found = (*key, *value);
                        assert!(found == *old || found == *new, "{old:?} {new:?} {seen:b}");
                    }
                }
            }
        }
        for (key, value) in all {
            assert_eq!(BackendEntry::new(&key, value).value_of(&key), Some(&value));
        }
    }
}
