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
    /// The problem and its effect: lower case, no full stop.
    pub message: String,
}

impl Diagnostic {
    /// The severity of its code.
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

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Part of the object is not in force as written: the API server would refuse it, or it exceeds the capacity of the maps.
    Error,
    /// Accepted, and read as the message says.
    Warning,
}

/// An enum of codes from one table: name, severity and meaning of each.
macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $text:literal $severity:ident: $meaning:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $(#[doc = $meaning] $variant,)* }

        impl $name {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code as users see it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The severity.
            pub const fn severity(self) -> $crate::model::Severity {
                match self { $(Self::$variant => $crate::model::Severity::$severity,)* }
            }

            /// The meaning, for the documentation.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}
pub(crate) use codes;

codes! {
    /// Stable codes of the findings on objects.
    Code {
        Malformed = "malformed" Error: "The value has the wrong type, or a required field is missing.";
        UnknownField = "unknown-field" Error: "A field that the API does not have. What holds it is not understood.";
        IgnoredField = "ignored-field" Warning: "A field that the API does not have, where it changes nothing (metadata).";
        InvalidName = "invalid-name" Error: "A name, key or value with the wrong syntax.";
        InvalidSelector = "invalid-selector" Error: "A label selector that the API server refuses.";
        InvalidBlock = "invalid-block" Error: "An address block or exception that cannot be read, or an exception outside its block.";
        InvalidPort = "invalid-port" Error: "A port, port name, protocol or range that the API server refuses.";
        InvalidPeer = "invalid-peer" Error: "A peer without any or with contradictory members.";
        Unsupported = "unsupported" Error: "A field of the API that netpol does not evaluate yet. What holds it is not understood.";
        InvalidPolicyTypes = "invalid-policy-types" Error: "A policy type that does not exist, or more than two.";
        InvalidAddress = "invalid-address" Error: "An address that cannot be read.";
        UnusualBlock = "unusual-block" Warning: "A block written in an unusual way (host bits, IPv4-mapped, leading zeros): read as the message says. In a file it is an error, because an API server refuses it from 1.36 on.";
        InvalidAnnotation = "invalid-annotation" Warning: "An annotation of netpol's with a value that it does not know.";
        OverCapacity = "over-capacity" Error: "A rule that does not fit into the maps of a node. It allows nothing; smaller policies stay in force.";
        ProgramsDetached = "programs-detached" Warning: "Another program of the node has removed netpol's programs from a device. They have been attached again.";
        NodeUnable = "node-unable" Error: "A node that cannot run the eBPF programs. Its pods start without policies, or not at all if netpol-cni is configured there.";
        Disconnected = "disconnected" Warning: "A running pod whose interface was deleted on its node, by the pod itself or by somebody else. It reaches nobody.";
        DefinedTwice = "defined-twice" Warning: "The object is defined more than once: one of the definitions counts.";
    }
}
