//! Findings on input objects.

use std::fmt;

use serde::Serialize;

use super::ObjectRef;

/// A finding on one field of one input object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// Which finding this is.
    pub code: Code,
    /// The object; its kind and name as far as they could be read.
    pub object: ObjectRef,
    /// Path of the field, such as `spec.ingress[0].ports[1].endPort`. Empty for the whole object.
    pub field: String,
    /// What is wrong and what netpol does about it: lower case, no full stop.
    pub message: String,
}

impl Diagnostic {
    /// How bad it is, which follows from the code.
    pub const fn severity(&self) -> Severity {
        self.code.severity()
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object)?;
        if !self.field.is_empty() {
            write!(f, "{} ", self.field)?;
        }
        write!(f, "{} [{}]", self.message, self.code.as_str())
    }
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Part of the object is not in force as written: the API server would refuse it.
    Error,
    /// Accepted, and read as the message says.
    Warning,
}

/// Stable codes of the findings on objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The value has the wrong type, or a required field is missing.
    Malformed,
    /// A field that the API does not have. What holds it is not understood.
    UnknownField,
    /// A field that the API does not have, where it changes nothing (metadata).
    IgnoredField,
    /// A name, key or value with the wrong syntax.
    InvalidName,
    /// A label selector that the API server refuses.
    InvalidSelector,
    /// An address block or exception that cannot be read, or an exception outside its block.
    InvalidBlock,
    /// A port, port name, protocol or range that the API server refuses.
    InvalidPort,
    /// A peer without any or with contradictory members.
    InvalidPeer,
    /// A policy type that does not exist, or more than two.
    InvalidPolicyTypes,
    /// An address that cannot be read.
    InvalidAddress,
    /// A block written in an unusual way (host bits, IPv4-mapped, leading zeros): read as the message says.
    UnusualBlock,
    /// An annotation of netpol's with a value that it does not know.
    InvalidAnnotation,
    /// The object is defined more than once: one of the definitions counts.
    DefinedTwice,
}

impl Code {
    /// The code as users see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownField => "unknown-field",
            Self::IgnoredField => "ignored-field",
            Self::InvalidName => "invalid-name",
            Self::InvalidSelector => "invalid-selector",
            Self::InvalidBlock => "invalid-block",
            Self::InvalidPort => "invalid-port",
            Self::InvalidPeer => "invalid-peer",
            Self::InvalidPolicyTypes => "invalid-policy-types",
            Self::InvalidAddress => "invalid-address",
            Self::UnusualBlock => "unusual-block",
            Self::InvalidAnnotation => "invalid-annotation",
            Self::DefinedTwice => "defined-twice",
        }
    }

    /// How bad it is.
    pub const fn severity(self) -> Severity {
        match self {
            Self::IgnoredField
            | Self::UnusualBlock
            | Self::InvalidAnnotation
            | Self::DefinedTwice => Severity::Warning,
            Self::Malformed
            | Self::UnknownField
            | Self::InvalidName
            | Self::InvalidSelector
            | Self::InvalidBlock
            | Self::InvalidPort
            | Self::InvalidPeer
            | Self::InvalidPolicyTypes
            | Self::InvalidAddress => Severity::Error,
        }
    }
}
