//! Lines of a table: a header and buckets, both made of words.

/// Words of 8 bytes in a line.
pub const LINE_WORDS: usize = 8;
/// The largest distance of an entry from its home bucket.
pub const MAX_REACH: u32 = 7;
/// The word of a bucket that holds its reach: the largest distance of entries whose home bucket it is.
pub const REACH_WORD: usize = LINE_WORDS - 1;

/// One line of a table.
pub trait Line: Copy {
    /// Loads one of its [`LINE_WORDS`] words in one step.
    fn word(self, index: usize) -> u64;
}

/// Line 0: the parameters of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The number of buckets, a power of two, less one.
    pub mask: u32,
    /// The seed of the hash.
    pub seed: u64,
}

impl Header {
    /// The header in a line.
    #[inline(always)]
    pub fn read(line: impl Line) -> Self {
        let [_, mask] = halves(line.word(0));
        Self { mask, seed: line.word(1) }
    }

    /// The first words of its line.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 2] {
        [word([0, self.mask]), self.seed]
    }

    /// The number of the line at this distance from the home bucket of a hash.
    #[inline(always)]
    pub const fn line(&self, hash: u32, distance: u32) -> u32 {
        (hash.wrapping_add(distance) & self.mask) + 1
    }
}

/// The upper and the lower half.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the other half is beside it")]
pub(super) const fn halves(word: u64) -> [u32; 2] {
    [(word >> 32) as u32, word as u32]
}

/// The word with these halves.
#[inline(always)]
pub(super) const fn word([upper, lower]: [u32; 2]) -> u64 {
    (upper as u64) << 32 | lower as u64
}
