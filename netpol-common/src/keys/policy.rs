//! Policy: identities of address blocks, and the entries of allow maps.

use core::net::IpAddr;

use crate::addr::Addr;
use crate::ids::{Identity, PortBe, Protocol, RuleId};

wire! {
    /// Key of PREFIXES, a longest-prefix trie over both families.
    pub struct PrefixKey {
        /// Leading bits of `addr` that must match: 0 to 128, for IPv4 96 more than its own prefix length. Native byte order.
        pub prefix_len_bits: u32,
        /// The prefix, host bits zero.
        pub addr: Addr,
    }
}

impl PrefixKey {
    /// The key for the look-up of an address.
    #[inline(always)]
    pub const fn lookup(addr: Addr) -> Self {
        Self { prefix_len_bits: 128, addr }
    }

    /// The prefix of a network, whose prefix length is that of its own family.
    pub fn of_network(address: IpAddr, prefix_len: u8) -> Self {
        let unmapped = if address.is_ipv4() { Addr::V4_PREFIX_BITS } else { 0 };
        Self::containing(address.into(), u32::from(prefix_len) + u32::from(unmapped))
    }

    /// The prefix of this length that contains an address; of more than 128 bits there is none, and the address itself is taken.
    pub const fn containing(addr: Addr, prefix_len_bits: u32) -> Self {
        let len = if prefix_len_bits > 128 { 128 } else { prefix_len_bits };
        let mask = match u128::MAX.checked_shl(128 - len) {
            Some(mask) => mask,
            None => 0,
        };
        let bits = u128::from_be_bytes(addr.0) & mask;
        Self { prefix_len_bits: len, addr: Addr(bits.to_be_bytes()) }
    }
}

wire! {
    /// Key of an allow map: a peer, a protocol and a port.
    ///
    /// The map is a longest-prefix trie, so a field can only be a wildcard together with all fields after it: low bits of the port, the
    /// whole port, or the port and the protocol.
    pub struct AllowKey {
        /// Leading bits of the fields below that must match: [`AllowKey::ALL_PROTOCOLS_BITS`],
        /// or [`AllowKey::ALL_PORTS_BITS`] to [`AllowKey::FULL_BITS`]. Native byte order.
        pub prefix_len_bits: u32,
        /// The identity of the peer, native byte order. All of it must match.
        pub identity: Identity,
        /// The IP protocol.
        pub protocol: Protocol,
        /// Zero; matched together with the protocol.
        pub pad: u8,
        /// Destination port: the pod's for ingress, the peer's for egress.
        pub port: PortBe,
    }
}

impl AllowKey {
    /// Every protocol and port of an identity.
    pub const ALL_PROTOCOLS_BITS: u32 = 32;
    /// Every port of one protocol.
    pub const ALL_PORTS_BITS: u32 = 48;
    /// One port.
    pub const FULL_BITS: u32 = 64;

    /// The key for the look-up of a packet.
    #[inline(always)]
    pub const fn lookup(identity: Identity, protocol: Protocol, port: PortBe) -> Self {
        let [hi, lo] = port.0;
        let last = u32::from_ne_bytes([protocol.0, 0, hi, lo]);
        zerocopy::transmute!([Self::FULL_BITS, identity.0, last])
    }
}

wire! {
    /// Value of an allow map.
    pub struct AllowValue {
        /// The rule behind the entry, for explanations.
        pub rule: RuleId,
        /// [`AllowValue::ALLOW`], [`AllowValue::DENY`], [`AllowValue::DEFAULT`], [`AllowValue::AUDIT`] or [`AllowValue::CLOSED`].
        pub verdict: u8,
        /// Zero.
        pub pad: [u8; 3],
    }
}

impl AllowValue {
    /// The packet may pass.
    pub const ALLOW: u8 = 1;
    /// The packet must not pass, whatever less specific entries say.
    pub const DENY: u8 = 0;

    /// No rule decides for this identity, although an entry of [`Identity::ANY`] may match: the verdict is that of no entry. Its
    /// rule, if it has one, is that of an audited policy: it would deny what NetworkPolicies always allow.
    pub const DEFAULT: u8 = 2;
    /// The packet passes and is reported: a rule of an audited policy would deny it.
    pub const AUDIT: u8 = 3;
    /// No rule decides, and NetworkPolicies isolate the pod: dropped, whatever the entry of the endpoint says of packets without an
    /// entry. What NetworkPolicies always allow passes.
    pub const CLOSED: u8 = 4;
    /// The value with the meaning of no entry.
    pub const DEFAULT_VALUE: Self =
        Self { rule: RuleId::NONE, verdict: Self::DEFAULT, pad: [0; 3] };

    /// An allowing value.
    pub const fn allow(rule: RuleId) -> Self {
        Self { rule, verdict: Self::ALLOW, pad: [0; 3] }
    }

    /// A value that reports.
    pub const fn audit(rule: RuleId) -> Self {
        Self { rule, verdict: Self::AUDIT, pad: [0; 3] }
    }

    /// [`Self::DEFAULT`], which reports what NetworkPolicies always allow.
    pub const fn audited_default(rule: RuleId) -> Self {
        Self { rule, verdict: Self::DEFAULT, pad: [0; 3] }
    }

    /// [`Self::CLOSED`].
    pub const CLOSED_VALUE: Self = Self { rule: RuleId::NONE, verdict: Self::CLOSED, pad: [0; 3] };

    /// A denying value.
    pub const fn deny(rule: RuleId) -> Self {
        Self { rule, verdict: Self::DENY, pad: [0; 3] }
    }
}
