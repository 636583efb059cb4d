//! The table of identities of single addresses: how it lies in memory, and how an address is found there.
//!
//! In: words of memory. Out: what they say of an address. The agent writes the words while programs read them, on other
//! processors and without a lock: by single stores into the memory of an array map, which both share. Must not: write.
//!
//! # Layout
//! A family has a table of its own, at its place in [`crate::maps::IDENTITIES`]: an array of *lines* of 64 bytes, as the
//! processor's cache has them. Line 0 is the [`Header`], all others are *buckets*. An address has its home bucket, by a hash
//! with a random seed. If that is full, its entry stands in one of the [`MAX_REACH`] buckets behind it, and the last word of
//! the home bucket says how far one has to look: its *reach*. So most questions are answered by one line, and what is not
//! there is known not to be there.
//!
//! # What a reader can see
//! An entry never moves within a table. When there is no room, a new table with all that the old one has takes its place in one
//! step. So a reader that comes upon an address that has an entry all the while finds that entry. It remains that it must never
//! take the identity of *another* address, although entries go and come while it reads, and although a processor may read the
//! words of a line in another order than it was told to (arm64). A word by itself is always read as it was written.
//!
//! * An IPv4 entry is one word, that holds the address and the identity ([`V4`]).
//! * An IPv6 entry is three words ([`V6`]): two of the address, and the *state*. From the first store on, the words of the
//!   address never change for as long as the table lives: the slot of an entry that is removed is kept for that very address,
//!   until the table is replaced. So whoever reads them sees what they are, A0 and A1, or, if he comes too early, zeros in
//!   place of one or of both. Too early can he only be for an address with a word that is not zero where he reads a zero.
//!   That is what the state tells too: which words of its address are zero. A reader that looks for B and has read a state of
//!   A that agrees with B in that has the words of B before him, and each of them is A's or zero. Where B's word is zero, A's
//!   is too, says the state. Where it is not, what was read there is not zero, and so it is A's. So A is B.
//!
//! The reach of a home is raised before an entry is written that far from it, and lowered after such an entry is gone.

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
