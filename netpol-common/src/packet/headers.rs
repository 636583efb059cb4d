//! Headers of packets, in bytes and network byte order.

use zerocopy::FromBytes;

use crate::addr::Addr;

macro_rules! header {
    ($(#[$meta:meta])* struct $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(FromBytes)]
        #[repr(C, align(4))]
        pub(super) struct $name { $(pub(super) $field: $type,)* }
    };
}

header! {
    /// RFC 826, for Ethernet and IPv4, without the target.
    struct ArpHeader {
        hardware_type: [u8; 2],
        protocol_type: [u8; 2],
        hardware_len: u8,
        protocol_len: u8,
        operation: [u8; 2],
        sender_hardware: [u8; 6],
        sender_protocol: [u8; 4],
        target: [u8; 2],
    }
}

header! {
    /// RFC 791, without options.
    struct Ipv4Header {
        version_ihl: u8,
        service: u8,
        total_len: [u8; 2],
        id: [u8; 2],
        flags_offset: [u8; 2],
        ttl: u8,
        protocol: u8,
        checksum: [u8; 2],
        src: [u8; 4],
        dst: [u8; 4],
    }
}

header! {
    /// RFC 8200.
    struct Ipv6Header {
        version_class_flow: [u8; 4],
        payload_len: [u8; 2],
        next_header: u8,
        hop_limit: u8,
        src: [u8; 16],
        dst: [u8; 16],
    }
}

header! {
    /// First 8 bytes of every IPv6 extension header; all of a fragment header.
    struct ExtensionHeader {
        next_header: u8,
        len: u8,
        offset_flags: [u8; 2],
        id: [u8; 4],
    }
}

header! {
    /// First 8 bytes of TCP, UDP, SCTP, ICMP and ICMPv6. In ICMP, `first` starts with the type.
    struct TransportHead {
        first: [u8; 2],
        second: [u8; 2],
        third: [u8; 2],
        fourth: [u8; 2],
    }
}

header! {
    /// The rest of a TCP header without options.
    struct TcpTail {
        acknowledgement: [u8; 4],
        offset: u8,
        flags: u8,
        window: [u8; 2],
        checksum: [u8; 2],
        urgent: [u8; 2],
    }
}

header! {
    /// The rest of SCTP's common header.
    struct SctpTail {
        checksum: [u8; 4],
    }
}

/// Type of ICMPv6 (RFC 4861).
pub(super) const NEIGHBOUR_SOLICITATION: u8 = 135;
/// Type of ICMPv6 (RFC 4861).
pub(super) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Whether an ICMPv6 message of this type claims its target for its sender: an advertisement, or a solicitation without a sender, which
/// asks whether the address is free.
#[inline(always)]
pub(super) const fn claims_target(icmp_type: u8, source: &Addr) -> bool {
    icmp_type == NEIGHBOUR_ADVERTISEMENT
        || (icmp_type == NEIGHBOUR_SOLICITATION && source.is_unspecified())
}
