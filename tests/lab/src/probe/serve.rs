//! Echoes TCP and UDP, IPv4 and IPv6, on a list of ports.

use std::net::{Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// The largest possible datagram, bytes.
const MAX_DATAGRAM_BYTES: usize = 65_535;

/// The kernel's receive buffer of a UDP port, bytes.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// Opens all ports, calls `ready`, and serves until the process ends.
///
/// # Errors
/// A port cannot be opened.
pub async fn run(ports: &[u16], ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut services = tokio::task::JoinSet::new();
    for &port in ports {
        // A socket on the unspecified IPv6 address accepts IPv4 too.
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("opening TCP {port}"))?;
        let socket =
            UdpSocket::bind(address).await.with_context(|| format!("opening UDP {port}"))?;
        // While other processes run, thousands of messages may wait, and a loss should be one on the way. Without NET_ADMIN the buffer
        // stays as it is.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES).ok();
        services.spawn(serve_tcp(listener));
        services.spawn(serve_udp(socket));
    }
    ready()?;
    while let Some(ended) = services.join_next().await {
        ended??;
    }
    Ok(())
}

async fn serve_tcp(listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _peer) = listener.accept().await.context("accepting")?;
        tokio::spawn(echo(stream));
    }
}

/// Echoes until the client closes the connection or it breaks.
async fn echo(mut stream: TcpStream) {
    if stream.set_nodelay(true).is_ok() {
        let (mut reader, mut writer) = stream.split();
        tokio::io::copy(&mut reader, &mut writer).await.ok();
    }
}

async fn serve_udp(socket: UdpSocket) -> Result<()> {
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    loop {
        // The error belongs to an earlier answer (ICMP); the socket remains usable.
        let Ok((len_bytes, peer)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(datagram) = buffer.get(..len_bytes) {
            socket.send_to(datagram, peer).await.ok();
        }
    }
}
