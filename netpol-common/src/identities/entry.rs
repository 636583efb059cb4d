//! What a table says of an address.

use crate::ids::Identity;

/// What a table says of an address.
///
/// Nothing is 0. The number behind [`Identity::LAST`] stands for an entry that says [`Identity::NONE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(pub u32);

impl Entry {
    /// The address has no entry.
    pub const ABSENT: Self = Self(0);
    const NONE: Self = Self(Identity::LAST.0 + 1);

    /// The entry that says this identity.
    #[inline(always)]
    pub const fn of(identity: Identity) -> Self {
        if identity.0 == Identity::NONE.0 { Self::NONE } else { Self(identity.0) }
    }

    /// What it says, if it is one.
    #[inline(always)]
    pub const fn identity(self) -> Option<Identity> {
        match self {
            Self::ABSENT => None,
            Self::NONE => Some(Identity::NONE),
            Self(identity) => Some(Identity(identity)),
        }
    }

    /// Whether the address has an entry.
    #[inline(always)]
    pub const fn is_present(self) -> bool {
        self.0 != Self::ABSENT.0
    }
}

/// What stands in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot<K> {
    /// Nothing, since the table was made: any address may have it.
    Free,
    /// An address, with its entry, or with [`Entry::ABSENT`] where the slot is only kept for it.
    Of(K, Entry),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_what_it_was_made_of() {
        for identity in [Identity::NONE, Identity::ANY, Identity::FIRST, Identity::LAST] {
            assert_eq!(Entry::of(identity).identity(), Some(identity));
            assert!(Entry::of(identity).is_present());
        }
        assert_eq!(Entry::ABSENT.identity(), None);
    }
}
