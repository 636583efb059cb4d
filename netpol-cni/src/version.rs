//! Versions of the CNI specification that the plugin supports.
//!
//! In: the `cniVersion` of a configuration or of another plugin. Out: an ordered enum.

use std::fmt;

use serde::{Serialize, Serializer};

/// A version of the specification, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpecVersion {
    /// Interfaces in results, chained plugins.
    V0_3_0,
    /// As 0.3.0, with a typographical error corrected.
    V0_3_1,
    /// CHECK, and `prevResult` on DEL.
    V0_4_0,
    /// No `version` in `ips`.
    V1_0_0,
    /// GC, STATUS, and more fields in results.
    V1_1_0,
}

impl SpecVersion {
    /// All supported versions, oldest first.
    pub const ALL: [Self; 5] =
        [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest, used if the caller names no version.
    pub const LATEST: Self = Self::V1_1_0;

    /// The value of `cniVersion`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Parses the value of `cniVersion`; `None` if it is no supported version.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for SpecVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_and_parsed() {
        assert!(SpecVersion::ALL.is_sorted());
        for version in SpecVersion::ALL {
            assert_eq!(SpecVersion::parse(version.as_str()), Some(version));
        }
        for unknown in ["0.2.0", "1.2.0", "", "1"] {
            assert_eq!(SpecVersion::parse(unknown), None);
        }
    }
}
