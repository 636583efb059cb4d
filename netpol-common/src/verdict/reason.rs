//! The words for a verdict, with their numbers on the wire.

use core::fmt;

macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $wire:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant = $wire,)* }

        impl $name {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The reason as metrics and logs spell it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl TryFrom<u8> for $name {
            type Error = u8;

            fn try_from(wire: u8) -> Result<Self, u8> {
                match wire { $($wire => Ok(Self::$variant),)* other => Err(other) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }
    };
}

reasons! {
    /// Why a packet passes.
    PassReason {
        /// No policy isolates the pod in this direction.
        NotIsolated = 1, "not-isolated";
        /// A rule allows it.
        Allowed = 2, "allowed";
        /// It belongs to a connection that was allowed.
        Flow = 3, "flow";
        /// The source is a process of the pod's own node.
        OwnNode = 4, "own-node";
        /// The pod reaches itself through a Service.
        Hairpin = 5, "hairpin";
        /// Egress to a Service or to the own node: decided after Service translation, if at all.
        Deferred = 6, "deferred";
        /// ARP from the pod's own address, or to the pod.
        Arp = 7, "arp";
        /// IPv6 neighbour or multicast listener discovery.
        NeighbourDiscovery = 8, "neighbour-discovery";
        /// An ICMP error about a live connection.
        IcmpError = 9, "icmp-error";
        /// Leaves the node and is no deferred packet.
        NoEgressMark = 10, "no-egress mark";
        /// Would be dropped, but the policies that isolate the pod are only audited.
        Audited = 11, "audited";
    }
}

reasons! {
    /// Why a packet is dropped.
    DropReason {
        /// A policy isolates the pod and no rule allows this.
        NotAllowed = 128, "not-allowed";
        /// An entry that denies.
        Denied = 129, "denied";
        /// A policy change forbade the connection.
        Revoked = 130, "revoked";
        /// The pod's policy is not in force yet.
        Blocked = 131, "blocked";
        /// The interface is no endpoint although the program hangs there.
        UnknownEndpoint = 132, "unknown-endpoint";
        /// The source address is not the pod's.
        Spoofed = 133, "spoofed";
        /// The packet ends before its headers do.
        Truncated = 134, "truncated";
        /// A header contradicts itself.
        BadHeader = 135, "bad-header";
        /// More IPv6 extension headers than are walked.
        ExtensionHeaders = 136, "extension-headers";
        /// A fragment whose datagram's first fragment was not seen.
        FragmentWithoutFirst = 137, "fragment-without-first";
        /// A fragment that splits or rewrites the transport header.
        TinyFragment = 138, "tiny-fragment";
        /// Neither IP nor ARP, or a tagged frame, to or from an isolated pod.
        NotIp = 139, "not-ip";
        /// A deferred packet whose endpoint is gone.
        UnknownEgressMark = 140, "unknown-egress-mark";
    }
}

/// What happens to a packet.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It goes on.
    Pass(PassReason),
    /// It ends here.
    Drop(DropReason),
}

impl Verdict {
    /// Whether the packet goes on.
    #[inline(always)]
    pub const fn is_pass(self) -> bool {
        matches!(self, Self::Pass(_))
    }

    /// The number of the reason; 128 and above are drops.
    #[inline(always)]
    pub const fn to_wire(self) -> u8 {
        match self {
            Self::Pass(reason) => reason as u8,
            Self::Drop(reason) => reason as u8,
        }
    }

    /// Whether the packet is counted and reported: drops, and would-be drops of an audit.
    #[inline(always)]
    pub const fn is_reported(self) -> bool {
        matches!(self, Self::Drop(_) | Self::Pass(PassReason::Audited))
    }

    /// The reason in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass(reason) => reason.as_str(),
            Self::Drop(reason) => reason.as_str(),
        }
    }
}

impl TryFrom<u8> for Verdict {
    type Error = u8;

    fn try_from(wire: u8) -> Result<Self, u8> {
        PassReason::try_from(wire)
            .map(Self::Pass)
            .or_else(|_| DropReason::try_from(wire).map(Self::Drop))
    }
}
