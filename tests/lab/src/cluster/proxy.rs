//! A TCP proxy between the agent and the API server, which can refuse, break, or blackhole connections.
//!
//! In: the server's address. Out: a port on the loopback interface. Must not: interpret the bytes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::copy;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::fake_api::socket;

/// The proxy. Dropping it closes all connections.
#[derive(Debug)]
pub(super) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Mutex<Option<AbortHandle>>,
    runtime: Handle,
    /// Reserves the port while the proxy refuses connections: bound, but not listening.
    _port: TcpSocket,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    /// Incremented when all connections are blackholed.
    oblivion: watch::Sender<u64>,
    /// Incremented when all connections are broken.
    breaker: watch::Sender<u64>,
}

impl Proxy {
    /// Starts a proxy. It listens in the network namespace of the calling thread and connects to the server from that of the
    /// runtime's threads.
    pub(super) fn open(server: SocketAddr, runtime: &Handle) -> io::Result<Self> {
        let _runtime = runtime.enter();
        let port = socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let shared =
            Shared { server, oblivion: watch::Sender::new(0), breaker: watch::Sender::new(0) };
        let proxy = Self {
            address: port.local_addr()?,
            shared: Arc::new(shared),
            accepting: Mutex::default(),
            runtime: runtime.clone(),
            _port: port,
        };
        proxy.open_again()?;
        Ok(proxy)
    }

    /// The address it listens on.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks every connection.
    pub(super) fn break_connections(&self) {
        self.shared.breaker.send_modify(|n_breaks| *n_breaks += 1);
    }

    /// Refuses connections from now on, and breaks those that there are.
    pub(super) fn close(&self) {
        if let Some(accepting) = self.accepting().take() {
            accepting.abort();
        }
        self.break_connections();
    }

    /// Accepts connections again, on the same port.
    pub(super) fn open_again(&self) -> io::Result<()> {
        let _runtime = self.runtime.enter();
        let listener = socket(self.address)?.listen(1024)?;
        let task = self.runtime.spawn(accept(Arc::clone(&self.shared), listener));
        if let Some(before) = self.accepting().replace(task.abort_handle()) {
            before.abort();
        }
        Ok(())
    }

    /// Blackholes the existing connections without closing them, as a restarted stateful firewall does. New connections work.
    pub(super) fn forget_connections(&self) {
        self.shared.oblivion.send_modify(|n_times| *n_times += 1);
    }

    fn accepting(&self) -> std::sync::MutexGuard<'_, Option<AbortHandle>> {
        self.accepting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.close();
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connect(Arc::clone(&shared), stream));
            }
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Forwards one connection until one side closes it or it is broken.
async fn connect(shared: Arc<Shared>, client: TcpStream) {
    let mut breaker = shared.breaker.subscribe();
    let mut oblivion = shared.oblivion.subscribe();
    let Ok(server) = TcpStream::connect(shared.server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::select! {
        _ = copy(&mut from_client, &mut to_server) => return,
        _ = copy(&mut from_server, &mut to_client) => return,
        _ = breaker.changed() => return,
        _ = oblivion.changed() => {}
    }
    // A blackholed connection stays open and idle until the proxy ends.
    drop(breaker.changed().await);
}
