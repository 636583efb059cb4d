//! Runs many probes at once and reports their outcomes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{timeout, timeout_at};

use super::{Outcome, Probe, Protocol, Task};

/// The payload that is sent and must come back.
const TOKEN: &[u8; 16] = b"netpol probe 1.0";

/// A datagram is sent again after this time without an answer, because UDP may lose one.
const RESEND_INTERVAL: Duration = Duration::from_millis(100);

/// Runs the task's probes; returns the outcomes in the same order.
pub async fn run(task: &Task) -> Vec<Outcome> {
    let limit = Duration::from_millis(task.timeout_ms);
    let mut tries = JoinSet::new();
    for (index, &probe) in task.probes.iter().enumerate() {
        tries.spawn(async move { (index, attempt(probe, limit).await) });
    }
    let mut outcomes = tries.join_all().await;
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

async fn attempt(probe: Probe, limit: Duration) -> Outcome {
    let migration = async {
        match probe.protocol {
            Protocol::Tcp => migration_tcp(probe.destination).await,
            Protocol::Udp => migration_udp(probe.destination).await,
        }
    };
    match timeout(limit, migration).await {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(error)) => Outcome::Failed { error: error.to_string() },
        Err(_elapsed) => Outcome::Silent,
    }
}

async fn migration_tcp(destination: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(destination).await?;
    stream.write_all(TOKEN).await?;
    let mut answer = [0; TOKEN.len()];
    stream.read_exact(&mut answer).await?;
    check(&answer)
}

async fn migration_udp(destination: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind((unspecified(destination), 0)).await?;
    socket.connect(destination).await?;
    let mut answer = [0; TOKEN.len()];
    loop {
        socket.send(TOKEN).await?;
        let resend = tokio::time::Instant::now() + RESEND_INTERVAL;
        if let Ok(received) = timeout_at(resend, socket.recv(&mut answer)).await {
            received?;
            return check(&answer);
        }
    }
}

/// The unspecified address of the same family.
pub(super) fn unspecified(address: SocketAddr) -> IpAddr {
    match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn check(answer: &[u8; TOKEN.len()]) -> io::Result<()> {
    if answer == TOKEN { Ok(()) } else { Err(io::Error::other("the answer is not what was sent")) }
}
