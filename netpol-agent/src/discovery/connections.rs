//! The present connections of a pod, from the socket tables of its network namespace.
//!
//! In: the text of `/proc/net/{tcp,tcp6,udp,udp6}`. Out: each connection with its direction: a connection to a port on which
//! the pod listens was begun by the peer. UDP sockets that are not connected have no peer: their ports tell whether peers begin.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use netpol_common::ids::{Direction, Protocol};

/// The tables of the calling thread's network namespace.
const FOLDER: &str = "/proc/thread-self/net";

/// The ports that the kernel chooses for sockets that ask for none.
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Socket states, as `include/net/tcp_states.h` numbers them.
const ESTABLISHED: u8 = 1;
const SYN_RECEIVED: u8 = 3;
const FIN_WAIT_1: u8 = 4;
const FIN_WAIT_2: u8 = 5;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const LISTEN: u8 = 10;

/// A connection, with directions from the pod's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Direction in which it began: `Ingress` if the peer began it.
    pub origin: Direction,
    /// The pod's port.
    pub local_port: u16,
    /// The remote address and port.
    pub remote: SocketAddr,
}

/// The sockets of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// The connections.
    pub connections: Vec<Connection>,
    /// The ports of UDP sockets that are not connected, with the direction in which their flows begin: to a port that the pod
    /// has chosen, the peer sends first; from a port that the kernel has chosen, the pod does.
    pub udp_ports: BTreeMap<u16, Direction>,
}

/// The sockets of the calling thread's network namespace. A table that cannot be read counts as empty.
pub(super) fn here() -> Sockets {
    let read = |name: &str| std::fs::read_to_string(Path::new(FOLDER).join(name));
    let table =
        |names: [&str; 2]| -> String { names.map(|name| read(name).unwrap_or_default()).concat() };
    let mut connections = tcp(&table(["tcp", "tcp6"]));
    let of_udp = table(["udp", "udp6"]);
    connections.extend(udp(&of_udp));
    let range = std::fs::read_to_string(PORT_RANGE).unwrap_or_default();
    Sockets { connections, udp_ports: udp_ports(&of_udp, &range) }
}

/// `range` is the text of the sysctl `ip_local_port_range`.
fn udp_ports(table: &str, range: &str) -> BTreeMap<u16, Direction> {
    let mut range = range.split_whitespace().map(str::parse);
    let (first, last) = match (range.next(), range.next()) {
        (Some(Ok(first)), Some(Ok(last))) => (first, last),
        _ => (32_768, 60_999),
    };
    let direction = |port: u16| {
        if (first..=last).contains(&port) { Direction::Egress } else { Direction::Ingress }
    };
    let open = table.lines().filter_map(socket).filter(|socket| socket.remote.port() == 0);
    open.map(|socket| (socket.local.port(), direction(socket.local.port()))).collect()
}

/// A parsed line of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
}

fn tcp(table: &str) -> Vec<Connection> {
    let sockets: Vec<Socket> = table.lines().filter_map(socket).collect();
    let listening: BTreeSet<u16> = sockets
        .iter()
        .filter(|socket| socket.state == LISTEN)
        .map(|socket| socket.local.port())
        .collect();
    let live = sockets.iter().filter(|socket| {
        matches!(
            socket.state,
            ESTABLISHED | SYN_RECEIVED | FIN_WAIT_1 | FIN_WAIT_2 | CLOSE_WAIT | LAST_ACK
        )
    });
    let connection = |socket: &Socket| Connection {
        protocol: Protocol::TCP,
        origin: if listening.contains(&socket.local.port()) {
            Direction::Ingress
        } else {
            Direction::Egress
        },
        local_port: socket.local.port(),
        remote: socket.remote,
    };
    live.filter(|socket| !socket.remote.ip().is_loopback()).map(connection).collect()
}

/// A connected UDP socket counts as a client's, because servers usually answer all clients from one unconnected socket.
fn udp(table: &str) -> Vec<Connection> {
    let sockets = table.lines().filter_map(socket);
    let connected = sockets.filter(|socket| {
        socket.remote.port() != 0
            && !socket.remote.ip().is_unspecified()
            && !socket.remote.ip().is_loopback()
    });
    connected
        .map(|socket| Connection {
            protocol: Protocol::UDP,
            origin: Direction::Egress,
            local_port: socket.local.port(),
            remote: socket.remote,
        })
        .collect()
}

/// Parses `  sl  local_address rem_address   st ...`, with addresses and ports in hexadecimal.
fn socket(line: &str) -> Option<Socket> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
    Some(Socket {
        local: end(local)?,
        remote: end(remote)?,
        state: u8::from_str_radix(state, 16).ok()?,
    })
}

/// Parses an address and port. The address is printed in words of 32 bits in host byte order, the port as a number.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| -> Option<[u8; 4]> {
        Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address as the kernel of this machine prints it.
    fn words(address: &str) -> String {
        let bytes = match address.parse().unwrap() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let word = |word: &[u8]| format!("{:08X}", u32::from_ne_bytes(word.try_into().unwrap()));
        bytes.chunks(4).map(word).collect()
    }

    fn line(local: (&str, u16), remote: (&str, u16), state: u8) -> String {
        let end = |(address, port): (&str, u16)| format!("{}:{port:04X}", words(address));
        format!("   0: {} {} {state:02X} 00000000:00000000 00:0\n", end(local), end(remote))
    }

    #[test]
    fn connections_to_listening_ports_are_ingress() {
        let table = [
            "  sl  local_address rem_address   st tx_queue\n".to_owned(),
            line(("0.0.0.0", 80), ("0.0.0.0", 0), LISTEN),
            line(("10.0.0.2", 80), ("10.0.0.3", 40_000), ESTABLISHED),
            line(("10.0.0.2", 50_000), ("10.0.0.4", 443), CLOSE_WAIT),
            line(("10.0.0.2", 50_001), ("10.0.0.4", 443), 6),
            line(("127.0.0.1", 80), ("127.0.0.1", 40_000), ESTABLISHED),
            line(("::ffff:10.0.0.2", 80), ("::ffff:10.0.0.5", 41_000), ESTABLISHED),
            line(("fd00::2", 50_002), ("fd00::3", 53), ESTABLISHED),
            "nonsense\n 1: 00:1 zz:2 01\n".to_owned(),
        ]
        .concat();
        let found: Vec<_> = tcp(&table)
            .into_iter()
            .map(|found| (found.origin, found.local_port, found.remote.to_string()))
            .collect();
        let expected = [
            (Direction::Ingress, 80, "10.0.0.3:40000"),
            (Direction::Egress, 50_000, "10.0.0.4:443"),
            (Direction::Ingress, 80, "10.0.0.5:41000"),
            (Direction::Egress, 50_002, "[fd00::3]:53"),
        ];
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(origin, port, end)| (origin, port, end.to_owned()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn only_connected_udp_sockets_are_connections() {
        let table = [
            line(("0.0.0.0", 53), ("0.0.0.0", 0), 7),
            line(("10.0.0.2", 50_000), ("10.0.0.3", 53), ESTABLISHED),
        ]
        .concat();
        let found = udp(&table);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].remote.to_string(), "10.0.0.3:53");
        let table = [table, line(("fd00::2", 40_000), ("::", 0), 7)].concat();
        let ports = [(53, Direction::Ingress), (40_000, Direction::Egress)];
        assert_eq!(udp_ports(&table, "32768\t60999\n"), ports.into());
        assert_eq!(udp_ports(&table, "50000 60999")[&40_000], Direction::Ingress);
    }
}
