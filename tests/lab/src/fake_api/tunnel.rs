//! An HTTP proxy in front of the server, as in a network without a direct way out.
//!
//! In: requests `CONNECT HOST:PORT`. Out: connections to one server, whatever host is named. Must not: interpret what passes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The proxy. Dropping it refuses further connections.
#[derive(Debug)]
pub struct ConnectProxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    accepting: JoinHandle<()>,
}

impl ConnectProxy {
    /// Starts a proxy on a free port of the loopback interface.
    ///
    /// # Errors
    /// No socket is available.
    pub async fn start(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let shared = Arc::clone(&asked);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let asked = Arc::clone(&shared);
                // A connection ends when either side ends it.
                tokio::spawn(async move { forward(client, server, &asked).await.ok() });
            }
        });
        Ok(Self { address, asked, accepting })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The first lines of the requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn forward(
    client: TcpStream,
    server: SocketAddr,
    asked: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut client = BufReader::new(client);
    let mut first = String::new();
    client.read_line(&mut first).await?;
    loop {
        let mut line = String::new();
        if client.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let is_connect = first.starts_with("CONNECT ");
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(first.trim_end().to_owned());
    if !is_connect {
        return client.write_all(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n").await;
    }
    let mut server = TcpStream::connect(server).await?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}
