//! The first frame of a connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader,
};
use netpol_common::addr::Addr;

use crate::model::Transport;

/// The port that every simulated client uses.
const CLIENT_PORT: u16 = 50_321;
/// Time to live of simulated packets, hops.
const TTL: u8 = 64;

/// A frame that opens a connection: a TCP SYN, a UDP datagram or an SCTP INIT, with its Ethernet header. Checksums are zero,
/// because `decide()` does not read them.
pub(super) fn opening(
    source: IpAddr,
    destination: IpAddr,
    transport: Transport,
    port: u16,
) -> Vec<u8> {
    let mut segment = Vec::with_capacity(20);
    let protocol = match transport {
        Transport::Tcp => {
            let mut header = TcpHeader::new(CLIENT_PORT, port, 1, 64_240);
            header.syn = true;
            segment.extend_from_slice(&header.to_bytes());
            IpNumber::TCP
        }
        Transport::Udp => {
            let header = UdpHeader {
                source_port: CLIENT_PORT,
                destination_port: port,
                length: 8,
                checksum: 0,
            };
            segment.extend_from_slice(&header.to_bytes());
            IpNumber::UDP
        }
        Transport::Sctp => {
            segment.extend_from_slice(&CLIENT_PORT.to_be_bytes());
            segment.extend_from_slice(&port.to_be_bytes());
            // Verification tag 0 and no checksum, then an INIT chunk with a window and one stream each way.
            segment.extend_from_slice(&[0; 8]);
            segment.extend_from_slice(&[1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1]);
            segment.extend_from_slice(&[0, 0, 0, 1]);
            IpNumber::SCTP
        }
    };
    let mut frame = Vec::with_capacity(14 + 40 + segment.len());
    let mut ethernet = Ethernet2Header {
        source: [2, 0, 0, 0, 0, 1],
        destination: [2, 0, 0, 0, 0, 2],
        ether_type: EtherType::IPV4,
    };
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend_from_slice(&ethernet.to_bytes());
            frame.extend_from_slice(&ipv4(source, destination, protocol, segment.len()));
        }
        (source, destination) => {
            ethernet.ether_type = EtherType::IPV6;
            frame.extend_from_slice(&ethernet.to_bytes());
            let [source, destination] = [source, destination].map(as_v6);
            frame.extend_from_slice(&ipv6(source, destination, protocol, segment.len()));
        }
    }
    frame.extend_from_slice(&segment);
    frame
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    Ipv6Addr::from_octets(Addr::from(address).0)
}

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: IpNumber, len_bytes: usize) -> Vec<u8> {
    let header = Ipv4Header {
        total_len: u16::try_from(Ipv4Header::MIN_LEN + len_bytes).unwrap_or(u16::MAX),
        time_to_live: TTL,
        protocol,
        source: source.octets(),
        destination: destination.octets(),
        ..Ipv4Header::default()
    };
    header.to_bytes().to_vec()
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: IpNumber, len_bytes: usize) -> Vec<u8> {
    let header = Ipv6Header {
        payload_length: u16::try_from(len_bytes).unwrap_or(u16::MAX),
        next_header: protocol,
        hop_limit: TTL,
        source: source.octets(),
        destination: destination.octets(),
        ..Ipv6Header::default()
    };
    header.to_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use netpol_common::packet::{Packet, Parsed, parse};

    use super::*;

    #[track_caller]
    fn check(source: &str, destination: &str, transport: Transport) {
        let [source, destination] =
            [source, destination].map(|text| text.parse::<IpAddr>().unwrap());
        let frame = opening(source, destination, transport, 443);
        let mut packet = Packet::EMPTY;
        assert_eq!(parse(frame.as_slice(), &mut packet), Parsed::Ip);
        assert_eq!(packet.src.to_ip(), source);
        assert_eq!(packet.dst.to_ip(), destination);
        assert_eq!(packet.protocol, transport.to_wire());
        assert_eq!(packet.dst_port.get(), 443);
        assert!(etherparse::PacketHeaders::from_ethernet_slice(&frame).is_ok());
    }

    #[test]
    fn our_parser_and_etherparse_read_the_frames() {
        for transport in Transport::ALL {
            check("10.0.0.1", "10.0.0.2", transport);
            check("fd00::1", "fd00::2", transport);
        }
    }
}
