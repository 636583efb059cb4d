//! Floods of datagrams from many source addresses: raw sockets and `sendmmsg`.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, ensure};
use etherparse::PacketBuilder;
use rustix::net::{
    AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, connect,
    ipproto, sendmmsg, socket_with, sockopt,
};

use crate::clock;

/// Datagrams per system call: the kernel's limit.
const BATCH: usize = 1024;
/// Payload.
const PAYLOAD: [u8; 16] = [0x6e; 16];

/// Source and destination of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Source.
    pub from: SocketAddr,
    /// Destination.
    pub to: SocketAddr,
}

impl Tuple {
    /// The reverse direction.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { from: self.to, to: self.from }
    }

    /// The IP packet.
    ///
    /// # Errors
    /// The ends are of different families.
    pub fn packet(&self) -> Result<Vec<u8>> {
        let builder = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                PacketBuilder::ipv4(from.octets(), to.octets(), 64)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                PacketBuilder::ipv6(from.octets(), to.octets(), 64)
            }
            (from, to) => anyhow::bail!("no packet goes from {from} to {to}"),
        };
        let builder = builder.udp(self.from.port(), self.to.port());
        let mut packet = Vec::with_capacity(builder.size(PAYLOAD.len()));
        builder.write(&mut packet, &PAYLOAD).context("building a packet")?;
        Ok(packet)
    }
}

/// A raw socket, which sends packets with any source address.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
}

impl Sender {
    /// A socket in the network namespace of this thread, for packets to one address.
    ///
    /// # Errors
    /// It cannot be made, mostly for lack of root.
    pub fn open(to: IpAddr) -> Result<Self> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW))
            .context("making a raw socket")?;
        sockopt::set_socket_send_buffer_size(&socket, 4 << 20)?;
        connect(&socket, &SocketAddr::new(to, 0)).with_context(|| format!("no way to {to}"))?;
        Ok(Self { socket })
    }

    /// Sends packets one after the other; returns nanoseconds per packet. The kernel processes a packet to its end on this
    /// processor before it accepts the next.
    ///
    /// # Errors
    /// The kernel refused a packet.
    pub fn send(&self, packets: &[Vec<u8>]) -> Result<f64> {
        let slices: Vec<[IoSlice<'_>; 1]> =
            packets.iter().map(|packet| [IoSlice::new(packet)]).collect();
        let mut no_controls: Vec<SendAncillaryBuffer<'_, '_, '_>> =
            packets.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let mut messages: Vec<MMsgHdr<'_>> = slices
            .iter()
            .zip(&mut no_controls)
            .map(|(slice, control)| MMsgHdr::new(slice, control))
            .collect();
        let before = clock::now_ns();
        for batch in messages.chunks_mut(BATCH) {
            let mut rest = batch;
            while !rest.is_empty() {
                let n_sent = sendmmsg(&self.socket, rest, SendFlags::empty()).context("sending")?;
                ensure!(n_sent > 0, "the kernel takes no packet");
                rest = rest.split_at_mut(n_sent).1;
            }
        }
        let time = clock::number(clock::now_ns() - before);
        Ok(time / clock::number(packets.len().max(1) as u64))
    }
}

/// The packets of tuples.
///
/// # Errors
/// As [`Tuple::packet`].
pub fn packets(tuples: &[Tuple]) -> Result<Vec<Vec<u8>>> {
    tuples.iter().map(Tuple::packet).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_say_where_they_come_from_in_both_families() {
        for (from, to) in [("10.0.0.1:7", "10.0.0.2:8"), ("[fd00::1]:7", "[fd00::2]:8")] {
            let tuple = Tuple { from: from.parse().unwrap(), to: to.parse().unwrap() };
            let packet = tuple.packet().unwrap();
            let parsed = etherparse::SlicedPacket::from_ip(&packet).unwrap();
            let Some(etherparse::TransportSlice::Udp(udp)) = &parsed.transport else {
                panic!("{parsed:?}")
            };
            assert_eq!((udp.source_port(), udp.destination_port()), (7, 8));
            assert_eq!(tuple.reversed().reversed(), tuple);
        }
        let mixed =
            Tuple { from: "10.0.0.1:7".parse().unwrap(), to: "[fd00::2]:8".parse().unwrap() };
        assert!(mixed.packet().is_err());
    }
}
