//! The table of identities of single addresses: its layout in memory, and the look-up of an address.
//!
//! In: words of memory. Out: the entry of an address. The agent writes the words while programs read them on other processors and
//! without a lock: by single stores into the memory of an array map, which both share. Must not: write.
//!
//! # Layout
//! Each family has its own table, at its index in [`IDENTITIES`](crate::maps::IDENTITIES): an array of *lines* of 64 bytes, the size
//! of a cache line. Line 0 is the [`Header`], the others are *buckets*. A hash with a random seed selects the home bucket of an
//! address. If the home bucket is full, the entry is in one of the next [`MAX_REACH`] buckets, and the last word of the home bucket
//! holds the largest distance of its entries: its *reach*. So most look-ups read one line, and know when there is no entry.
//!
//! # Concurrency
//! An entry never moves within a table. When it is full, a new table with all entries of the old one replaces it in one step.
//! So a reader finds every entry that exists during the whole look-up. It must also never take the identity of *another* address,
//! although entries come and go during the look-up, and although a processor may execute the loads of a line in any order (arm64).
//! Only a single word is always read as it was written.
//!
//! * An IPv4 entry is one word, which holds the address and the identity ([`V4`]).
//! * An IPv6 entry is three words ([`V6`]): two for the address, and the *state*. The words of the address never change after the
//!   first store, as long as the table exists: the slot of a removed entry is kept for the same address. So a reader sees the words
//!   of the address or, if it is too early, zero in place of one or both. The state therefore tells which words of the address are
//!   zero. A reader that looks for B and reads a state of A with the same zero words has read the words of B, and each is a word of
//!   A or zero. Where the word of B is zero, the word of A is zero, because the states agree. Where the word of B is not zero, the
//!   word that was read is not zero, so it is the word of A. So A is B.
//!
//! The reach of a home bucket is raised before an entry is written at that distance, and lowered after the entry is gone.
//! `tests/ordering` checks with a model that a reader is never misled, whatever the order of loads and stores.

mod entry;
mod find;
mod hash;
mod key;
mod line;

pub use entry::{Entry, Slot};
pub use find::find;
pub use key::{Key, V4, V6};
pub use line::{Header, LINE_WORDS, Line, MAX_REACH, REACH_WORD};

/// Families: an IPv4 table, and an IPv6 table.
pub const N_FAMILIES: u32 = 2;

/// The family of an address.
#[inline(always)]
pub const fn family(addr: &crate::addr::Addr) -> u32 {
    if addr.is_v4() { V4::FAMILY } else { V6::FAMILY }
}
