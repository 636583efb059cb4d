//! Draws that the generator makes often.

use fastrand::Rng;

/// More ways to draw from a generator of random numbers.
pub trait Draw {
    /// True in so many cases of a hundred.
    fn chance(&mut self, percent: u32) -> bool;

    /// One of at least one item.
    fn one_of<T: Copy, const N: usize>(&mut self, items: [T; N]) -> T;
}

impl Draw for Rng {
    fn chance(&mut self, percent: u32) -> bool {
        self.u32(..100) < percent
    }

    #[expect(clippy::indexing_slicing, reason = "the index is below the length, which is above 0")]
    fn one_of<T: Copy, const N: usize>(&mut self, items: [T; N]) -> T {
        const { assert!(N > 0) };
        items[self.usize(..N)]
    }
}
