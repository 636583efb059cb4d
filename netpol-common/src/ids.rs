//! Numbers and enums that the other modules share.

use core::fmt;

macro_rules! number {
    ($(#[$meta:meta])* pub struct $name:ident(pub $inner:ty);) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, zerocopy::FromBytes,
            zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        #[repr(transparent)]
        pub struct $name(pub $inner);
    };
}

number! {
    /// Number of a set of addresses that every local endpoint treats alike.
    pub struct Identity(pub u32);
}

impl Identity {
    /// The address is in no peer set. Only entries of [`Identity::ANY`] can allow it.
    pub const NONE: Self = Self(0);
    /// The identity in entries of rules without peers.
    pub const ANY: Self = Self(1);
    /// The first number that stands for a peer-set signature.
    pub const FIRST: Self = Self(2);
    /// The last number of a signature. [`crate::identities`] uses the number after it.
    pub const LAST: Self = Self(u32::MAX - 1);
}

number! {
    /// Index of a network device of this node.
    pub struct IfIndex(pub u32);
}

impl IfIndex {
    /// Bits of the number of a pod interface to which packets are redirected.
    pub const REDIRECT_BITS: u32 = 23;
}

impl fmt::Display for IfIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

number! {
    /// Number of the policy rule behind an allow entry. User space has the names.
    pub struct RuleId(pub u32);
}

impl RuleId {
    /// No rule.
    pub const NONE: Self = Self(0);
}

number! {
    /// Generation of the policy. It wraps, so only equality is meaningful.
    pub struct Epoch(pub u32);
}

number! {
    /// Monotonic kernel time in nanoseconds (`bpf_ktime_get_coarse_ns`, `CLOCK_MONOTONIC_COARSE`).
    pub struct Nanos(pub u64);
}

number! {
    /// An IP protocol number.
    pub struct Protocol(pub u8);
}

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// IPv4 in IP.
    pub const IPIP: Self = Self(4);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// IPv6 in IP.
    pub const IPV6: Self = Self(41);
    /// GRE.
    pub const GRE: Self = Self(47);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ICMP => f.write_str("ICMP"),
            Self::TCP => f.write_str("TCP"),
            Self::UDP => f.write_str("UDP"),
            Self::ICMPV6 => f.write_str("ICMPv6"),
            Self::SCTP => f.write_str("SCTP"),
            Self(number) => write!(f, "protocol {number}"),
        }
    }
}

number! {
    /// A port in network byte order.
    pub struct PortBe(pub [u8; 2]);
}

impl PortBe {
    /// No port.
    pub const ZERO: Self = Self([0; 2]);

    /// From host byte order.
    #[inline(always)]
    pub const fn new(port: u16) -> Self {
        Self(port.to_be_bytes())
    }

    /// In host byte order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be_bytes(self.0)
    }
}

/// Direction of a packet or a rule **for the pod**.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
#[repr(u8)]
pub enum Direction {
    /// Towards the pod.
    Ingress = 0,
    /// From the pod.
    Egress = 1,
}

impl Direction {
    /// Both directions.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The number on the wire.
    #[inline(always)]
    pub const fn to_wire(self) -> u8 {
        self as u8
    }

    /// The direction with this number, of which only the lowest bit counts.
    #[inline(always)]
    pub const fn from_bit(wire: u8) -> Self {
        if wire & 1 == 0 { Self::Ingress } else { Self::Egress }
    }

    /// The bit of this direction in a set of directions.
    #[inline(always)]
    pub const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The other direction.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }

    /// The name in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl TryFrom<u8> for Direction {
    type Error = u8;

    fn try_from(wire: u8) -> Result<Self, u8> {
        match wire {
            0 => Ok(Self::Ingress),
            1 => Ok(Self::Egress),
            other => Err(other),
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a program is attached.
///
/// This is not a [`Direction`]: packets from a pod arrive at TC *ingress* of its host veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// TC ingress of a pod's host veth: program `pod_egress`.
    PodEgress,
    /// TC egress of a pod's host veth: program `pod_ingress`.
    PodIngress,
    /// TC egress of any other device of the host: program `uplink_egress`.
    UplinkEgress,
    /// TC ingress of the same devices: program `uplink_ingress`.
    UplinkIngress,
}

impl Hook {
    /// The direction for the pod of the hook's device. An uplink has no pod.
    #[inline(always)]
    pub const fn direction(self) -> Option<Direction> {
        match self {
            Self::PodEgress => Some(Direction::Egress),
            Self::PodIngress => Some(Direction::Ingress),
            Self::UplinkEgress | Self::UplinkIngress => None,
        }
    }
}
