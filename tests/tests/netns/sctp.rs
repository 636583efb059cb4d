//! Packets that open an SCTP association, over raw sockets: the kernel need not know the protocol.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use netpol_lab::node::netns::Netns;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, ipproto, recv, sendto,
    socket_with, sockopt,
};

/// An IPv4 header without options, which a raw socket of that family receives too.
const IPV4_HEADER_BYTES: usize = 20;

/// Sends an INIT. Returns whether it arrives within the time. `tag` distinguishes it from others.
pub(super) fn arrives(
    from: &Netns,
    to: &Netns,
    destination: SocketAddr,
    tag: u32,
    limit: Duration,
) -> Result<bool> {
    let family = if destination.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let any: IpAddr = if destination.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let open = || -> Result<OwnedFd> {
        let socket =
            socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::SCTP))?;
        bind(&socket, &SocketAddr::new(any, 0))?;
        Ok(socket)
    };
    let arriving = to.inside(open).context("opening a raw socket")?;
    sockopt::set_socket_timeout(&arriving, sockopt::Timeout::Recv, Some(limit))?;
    let leaving = from.inside(open).context("opening a raw socket")?;
    let init = init(destination.port(), tag);
    sendto(&leaving, &init, SendFlags::empty(), &SocketAddr::new(destination.ip(), 0))
        .with_context(|| format!("sending SCTP to {destination}"))?;
    let mut buffer = [MaybeUninit::uninit(); 256];
    loop {
        let packet = match recv(&arriving, &mut buffer, RecvFlags::empty()) {
            Ok(((packet, _), _)) => packet,
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            Err(error) => bail!(io::Error::from(error)),
        };
        let header_len_bytes = if destination.is_ipv4() { IPV4_HEADER_BYTES } else { 0 };
        if packet.get(header_len_bytes..).is_some_and(|sctp| sctp == init) {
            return Ok(true);
        }
    }
}

/// A packet with an INIT chunk (RFC 9260, 3.3.2), but no checksum, as nobody checks it.
fn init(port: u16, tag: u32) -> Vec<u8> {
    let [.., hi, lo] = tag.to_be_bytes();
    let source_port = [hi | 0x80, lo];
    let no_tag_nor_checksum = [0; 8];
    let chunk_header = [1, 0, 0, 20];
    let window_and_streams = [0, 1, 0, 0, 0, 1, 0, 1];
    [
        &source_port,
        port.to_be_bytes().as_slice(),
        &no_tag_nor_checksum,
        &chunk_header,
        &tag.to_be_bytes(),
        &window_and_streams,
        &tag.to_be_bytes(),
    ]
    .concat()
}
