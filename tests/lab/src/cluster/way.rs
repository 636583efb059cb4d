//! The way from the agent to the API server: a port that can be closed, cut, or forget its connections.
//!
//! In: where the server is. Out: a port on the loopback interface that leads there, byte by byte. Must not: look into
//! what passes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::copy;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::fake_api::socket;

/// The way. Dropping it ends it and all its connections.
#[derive(Debug)]
pub(super) struct Way {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Mutex<Option<AbortHandle>>,
    runtime: Handle,
    /// Holds the port while the way is closed: bound, but not listening.
    _port: TcpSocket,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    /// Counts the moments at which all connections were forgotten.
    oblivion: watch::Sender<u64>,
    /// Counts the moments at which all connections were broken.
    breaker: watch::Sender<u64>,
}

impl Way {
    /// Opens a way to a server. The port belongs to the network namespace of the calling thread, the connections to the
    /// server to that of the runtime's threads.
    pub(super) fn open(server: SocketAddr, runtime: &Handle) -> io::Result<Self> {
        let _runtime = runtime.enter();
        let port = socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let shared =
            Shared { server, oblivion: watch::Sender::new(0), breaker: watch::Sender::new(0) };
        let way = Self {
            address: port.local_addr()?,
            shared: Arc::new(shared),
            accepting: Mutex::default(),
            runtime: runtime.clone(),
            _port: port,
        };
        way.open_again()?;
        Ok(way)
    }

    /// Where it begins.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks every connection, whatever passes on it.
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

    /// Carries nothing any more on the connections that there are, and does not end them, as a firewall does that has
    /// started anew. Others are as before.
    pub(super) fn forget_connections(&self) {
        self.shared.oblivion.send_modify(|n_times| *n_times += 1);
    }

    fn accepting(&self) -> std::sync::MutexGuard<'_, Option<AbortHandle>> {
        self.accepting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Way {
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

/// Carries one connection until one side ends it or it is broken.
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
    // Whatever becomes of it: whoever forgot the connections is not there for these any more.
    drop(breaker.changed().await);
}
