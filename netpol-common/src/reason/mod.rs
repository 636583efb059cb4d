//! Verdicts and their reasons: pass or drop, and why.
//!
//! A reason has a number, which counters and event records carry, and a name, which metrics and commands print. Nothing matches
//! reasons by a wildcard, so that a new one does not compile until every place that sorts them has an answer for it.

mod guide;

use core::fmt;

macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])* $variant:ident = $wire:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[doc = $doc])* $variant = $wire,)* }

        impl $name {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name that metrics and commands print.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// What the reason means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),*).trim_ascii(),)* }
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
        /// A rule allows the packet.
        Allowed = 2, "allowed";
        /// The packet belongs to a connection that was allowed.
        Flow = 3, "flow";
        /// The source is a process of the pod's own node.
        OwnNode = 4, "own-node";
        /// The pod reaches itself through a Service.
        Hairpin = 5, "hairpin";
        /// Egress to a Service or to the own node: decided after Service translation.
        Deferred = 6, "deferred";
        /// ARP from the pod's own address, or to the pod.
        Arp = 7, "arp";
        /// IPv6 neighbour or multicast listener discovery.
        NeighbourDiscovery = 8, "neighbour-discovery";
        /// An ICMP error about a live connection.
        IcmpError = 9, "icmp-error";
        /// The packet leaves the node, and its verdict was not deferred.
        NoEgressMark = 10, "no-egress-mark";
        /// The packet would be dropped, but the policies that isolate the pod are in audit mode.
        Audited = 11, "audited";
        /// The packet arrives at the node from an address that no pod of the node has.
        FromOutside = 12, "from-outside";
    }
}

reasons! {
    /// Why a packet is dropped.
    DropReason {
        /// A policy isolates the pod in this direction, and no rule allows the packet.
        NotAllowed = 128, "not-allowed";
        /// A rule denies the packet. NetworkPolicy has no such rules.
        Denied = 129, "denied";
        /// The packet belongs to a connection that a policy change has forbidden, or to one that began at a Service's address and whose backend is not allowed.
        Revoked = 130, "revoked";
        /// The pod's policy is not in force yet.
        Blocked = 131, "blocked";
        /// netpol's programs are attached to the interface, but no pod is known behind it.
        UnknownEndpoint = 132, "unknown-endpoint";
        /// The pod sends from an IP or MAC address that is not its own, announces such an address, or sends router advertisements or redirects.
        Spoofed = 133, "spoofed";
        /// The packet ends before its headers do.
        Truncated = 134, "truncated";
        /// An IP header has a wrong version or length.
        BadHeader = 135, "bad-header";
        /// The packet has more than eight IPv6 extension headers.
        ExtensionHeaders = 136, "extension-headers";
        /// A fragment arrived before the first fragment of its datagram, or more than 60 seconds after it.
        FragmentWithoutFirst = 137, "fragment-without-first";
        /// A fragment splits or overlaps the transport header.
        TinyFragment = 138, "tiny-fragment";
        /// The frame is neither IP nor ARP, or it has a VLAN tag.
        NotIp = 139, "not-ip";
        /// The packet goes to a Service or to the own node, and the pod that sent it is not known.
        UnknownEgressMark = 140, "unknown-egress-mark";
        /// The frame is addressed to the MAC address of another device, and a bridge has flooded it.
        OtherMac = 141, "other-mac";
        /// A packet with the address of a pod of this node as its source arrives through a device that is not the pod's.
        Impersonated = 142, "impersonated";
        /// The packet goes to a tunnel of a node, where what is inside would be judged by nobody.
        Tunnel = 143, "tunnel";
    }
}

impl PassReason {
    /// Whether packets with this reason are counted and reported.
    #[inline(always)]
    pub const fn is_reported(self) -> bool {
        match self {
            Self::Audited => true,
            Self::NotIsolated
            | Self::Allowed
            | Self::Flow
            | Self::OwnNode
            | Self::Hairpin
            | Self::Deferred
            | Self::Arp
            | Self::NeighbourDiscovery
            | Self::IcmpError
            | Self::NoEgressMark
            | Self::FromOutside => false,
        }
    }
}

impl DropReason {
    /// Whether a policy drops the packet. Otherwise the packet drops for what it is or where it comes from, whatever policies say.
    #[inline(always)]
    pub const fn is_policy(self) -> bool {
        match self {
            Self::NotAllowed | Self::Denied | Self::Revoked => true,
            Self::Blocked
            | Self::UnknownEndpoint
            | Self::Spoofed
            | Self::Truncated
            | Self::BadHeader
            | Self::ExtensionHeaders
            | Self::FragmentWithoutFirst
            | Self::TinyFragment
            | Self::NotIp
            | Self::UnknownEgressMark
            | Self::OtherMac
            | Self::Impersonated
            | Self::Tunnel => false,
        }
    }
}

/// Pass or drop, with the reason.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// The packet passes.
    Pass(PassReason),
    /// The packet is dropped.
    Drop(DropReason),
}

impl Verdict {
    /// Whether the packet passes.
    #[inline(always)]
    pub const fn is_pass(self) -> bool {
        matches!(self, Self::Pass(_))
    }

    /// The number of the reason; drops have 128 and above.
    #[inline(always)]
    pub const fn to_wire(self) -> u8 {
        match self {
            Self::Pass(reason) => reason as u8,
            Self::Drop(reason) => reason as u8,
        }
    }

    /// Whether the packet is counted and reported: drops, and what audit mode lets pass.
    #[inline(always)]
    pub const fn is_reported(self) -> bool {
        match self {
            Self::Pass(reason) => reason.is_reported(),
            Self::Drop(_) => true,
        }
    }

    /// The name of the reason.
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
