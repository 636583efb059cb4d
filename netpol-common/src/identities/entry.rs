//! The entry of an address.

use crate::ids::Identity;

/// The entry of an address: its identity, or 0 if there is no entry. An entry of [`Identity::NONE`] has the number after
/// [`Identity::LAST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(pub u32);

impl Entry {
    /// The address has no entry.
    pub const ABSENT: Self = Self(0);
    const NONE: Self = Self(Identity::LAST.0 + 1);

    /// The entry of this identity.
    #[inline(always)]
    pub const fn of(identity: Identity) -> Self {
        if identity.0 == Identity::NONE.0 { Self::NONE } else { Self(identity.0) }
    }

    /// The identity, if there is an entry.
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

/// The content of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot<K> {
    /// It has been empty since the table was created. Any address may use it.
    Free,
    /// It belongs to an address, with its entry, or with [`Entry::ABSENT`] if it is only kept for the address.
    Of(K, Entry),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_holds_its_identity() {
        for identity in [Identity::NONE, Identity::ANY, Identity::FIRST, Identity::LAST] {
            assert_eq!(Entry::of(identity).identity(), Some(identity));
            assert!(Entry::of(identity).is_present());
        }
        assert_eq!(Entry::ABSENT.identity(), None);
    }
}
