//! Extensions of [`fastrand::Rng`].

use fastrand::Rng;

/// More ways to draw from a random number generator.
pub trait Draw {
    /// True with this probability.
    fn chance(&mut self, percent: u32) -> bool;

    /// One of the items.
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
