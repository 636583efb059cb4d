//! Health and metrics over TCP, for clients that may be hostile.
//!
//! A pod reaches the addresses of its own node whatever its policy says. So the number of connections is limited, in total and for
//! each peer; a connection answers one request and lives for seconds; and it counts until the peer has the answer, so that unread
//! answers do not collect in the kernel either.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::listen::ListenAddress;
use super::server::{HEADER_TIMEOUT, Route, pause, service};

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 16;

/// Connections of one peer at the same time, except from the node itself: one pod cannot keep others from connecting.
const MAX_OF_PEER: usize = 4;

/// How long a connection may last. The kubelet and Prometheus wait for 10 seconds at most.
const MAX_LIFETIME: Duration = Duration::from_secs(10);

/// Pause after a refused connection: a peer that connects all the time takes little processor time.
const REFUSAL_PAUSE: Duration = Duration::from_millis(1);

/// Limit of hyper's buffers.
const MAX_BUFFER_BYTES: usize = 16 << 10;

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for health or metrics")]
pub struct Error {
    /// The address.
    pub address: ListenAddress,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// Serves on a TCP address. Returns the port.
///
/// # Errors
/// The address cannot be bound.
pub fn serve(
    address: ListenAddress,
    route: &Route,
    cancel: &CancellationToken,
) -> Result<u16, Error> {
    let refused = |source| Error { address, source };
    let listeners = address.listen().map_err(refused)?;
    let connections = Connections::default();
    let mut port = 0;
    for listener in listeners {
        port = listener.local_addr().map_err(refused)?.port();
        tokio::spawn(accept(listener, Arc::clone(route), connections.clone(), cancel.clone()));
    }
    Ok(port)
}

async fn accept(
    listener: TcpListener,
    route: Route,
    connections: Connections,
    cancel: CancellationToken,
) {
    while let Some(accepted) = cancel.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                if let Some(permit) = connections.begin(peer.ip()) {
                    tokio::spawn(converse(stream, Arc::clone(&route), permit));
                } else {
                    reset(&stream);
                    drop(stream);
                    sleep(REFUSAL_PAUSE).await;
                }
            }
            Err(error) => pause(&error).await,
        }
    }
}

/// Answers one request, and waits until the peer has the answer.
async fn converse(mut stream: TcpStream, route: Route, _permit: Permit) {
    let served = async {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MAX_BUFFER_BYTES)
            .keep_alive(false)
            .serve_connection(TokioIo::new(&mut stream), service(&route));
        if let Err(error) = connection.await {
            debug!(%error, "connection ended early");
        }
        // The peer closes its side when it has the whole answer.
        let mut ignored = [0; 512];
        while matches!(stream.read(&mut ignored).await, Ok(1..)) {}
    };
    if timeout(MAX_LIFETIME, served).await.is_err() {
        debug!("connection ended, because the peer did not send or read in time");
    }
    reset(&stream);
}

/// Makes the kernel free what the peer has not read, when the stream is dropped.
fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        debug!(%error, "connection not reset");
    }
}

/// The open connections of one address to listen on, by peer.
#[derive(Clone, Debug, Default)]
struct Connections(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// One of the open connections. Dropped, another may begin.
#[derive(Debug)]
struct Permit {
    connections: Connections,
    peer: IpAddr,
}

impl Connections {
    /// A permit for one more connection of a peer, unless too many are open.
    fn begin(&self, peer: IpAddr) -> Option<Permit> {
        let peer = peer.to_canonical();
        let mut by_peer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let n_of_peer = by_peer.get(&peer).copied().unwrap_or_default();
        let is_free = by_peer.values().sum::<usize>() < MAX_CONNECTIONS
            && (n_of_peer < MAX_OF_PEER || peer.is_loopback());
        if !is_free {
            return None;
        }
        by_peer.insert(peer, n_of_peer + 1);
        Some(Permit { connections: self.clone(), peer })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut by_peer = self.connections.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n_of_peer) = by_peer.get_mut(&self.peer) {
            *n_of_peer -= 1;
            if *n_of_peer == 0 {
                by_peer.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use futures::FutureExt as _;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpSocket;
    use tokio::time::Instant;

    use super::super::server::Answer;
    use super::*;

    fn start(answer: &'static str, cancel: &CancellationToken) -> SocketAddr {
        let route: Route =
            Arc::new(move |_| async move { Answer::Text("text/plain", answer.to_owned()) }.boxed());
        let any = ListenAddress::Address((Ipv4Addr::LOCALHOST, 0).into());
        (Ipv4Addr::LOCALHOST, serve(any, &route, cancel).unwrap()).into()
    }

    /// Everything that a peer is sent after a request.
    async fn ask(address: SocketAddr) -> io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn a_connection_answers_one_request_and_ends() {
        let cancel = CancellationToken::new();
        let address = start("fine", &cancel);
        // More than the limit, one after the other.
        for _ in 0..2 * MAX_CONNECTIONS {
            let text = ask(address).await.unwrap();
            assert!(text.starts_with("HTTP/1.1 200 OK") && text.ends_with("fine"), "{text}");
        }
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_are_refused_until_the_silent_ones_have_ended() {
        let cancel = CancellationToken::new();
        let address = start("fine", &cancel);
        let begin = Instant::now();
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let answer = ask(address).await;
        assert!(!answer.as_ref().is_ok_and(|text| text.contains("200 OK")), "{answer:?}");
        let is_served = async {
            while !ask(address).await.is_ok_and(|text| text.contains("200 OK")) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(4 * MAX_LIFETIME, is_served).await.unwrap();
        assert!(begin.elapsed() >= HEADER_TIMEOUT);
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_reset_in_time() {
        let cancel = CancellationToken::new();
        // More than the buffers of both sockets hold.
        let large: &'static str = "x".repeat(32 << 20).leak();
        let address = start(large, &cancel);
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let is_reset = async {
            while stream.take_error().unwrap().is_none() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(4 * MAX_LIFETIME, is_reset).await.unwrap();
    }

    #[test]
    fn one_peer_takes_a_share_and_the_node_itself_all() {
        let connections = Connections::default();
        let permits = |peer: &str, n: usize| -> Vec<Permit> {
            (0..n).filter_map(|_| connections.begin(peer.parse().unwrap())).collect()
        };
        let of_pod = permits("10.0.0.1", MAX_CONNECTIONS);
        assert_eq!(of_pod.len(), MAX_OF_PEER);
        assert_eq!(permits("::ffff:10.0.0.1", 1).len(), 0, "the same peer");
        let of_node = permits("127.0.0.1", MAX_CONNECTIONS);
        assert_eq!(of_node.len(), MAX_CONNECTIONS - MAX_OF_PEER);
        assert_eq!(permits("10.0.0.2", 1).len(), 0);
        drop(of_pod);
        assert_eq!(permits("10.0.0.2", 1).len(), 1);
    }
}
