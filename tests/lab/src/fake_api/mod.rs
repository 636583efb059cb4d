//! A small Kubernetes API server in this process, over plain HTTP on the loopback interface.
//!
//! It lists (in pages), watches (bookmarks, streaming lists, 410 Gone), gets, creates, and patches the objects of a few resources, runs
//! programs in pods (`pods/exec` over a WebSocket), passes requests on to an aggregated server, and fails on demand as real servers do. In: objects as JSON, which it stores without validation. Must not: contain
//! expectations about the client under test.

mod aggregate;
mod apply;
mod contents;
mod exec;
mod faults;
mod resource;
mod serve;
mod tunnel;
mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use netpol_policy::model::Kind;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch as tokio_watch;
use tokio::task::AbortHandle;

pub use aggregate::{Deed, User, front_proxy};
pub use exec::{Executed, Executor};
pub use faults::{GoneAs, StreamingLists};
pub use tunnel::ConnectProxy;

use aggregate::Aggregate;
use apply::Applied;
use contents::{Contents, Filter};
use faults::Faults;
use resource::RESOURCES;

/// Number of requests that are recorded.
const N_ASKED: usize = 4096;

/// The server. Dropping it ends it and all its connections.
#[derive(Debug)]
pub struct FakeApi {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// The listeners, in one network namespace each.
    accepting: Mutex<Vec<AbortHandle>>,
    runtime: Handle,
    /// Reserves the port while the server is stopped: bound, but not listening.
    _port: TcpSocket,
}

/// A recorded request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// HTTP method.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// Decoded query.
    pub query: BTreeMap<String, String>,
}

/// State shared by all connections.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Incremented at every change of the state.
    changes: tokio_watch::Sender<u64>,
    /// Incremented when all connections are broken.
    breaker: tokio_watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    contents: Contents,
    faults: Faults,
    applied: Applied,
    aggregate: Aggregate,
    executors: BTreeMap<(String, String), Executor>,
    asked: VecDeque<Asked>,
}

impl FakeApi {
    /// Starts an empty server on a free port of the loopback interface.
    ///
    /// # Errors
    /// No socket is available.
    #[expect(clippy::unused_async, reason = "needs a runtime around it")]
    pub async fn start() -> io::Result<Self> {
        let port = socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let shared = Shared {
            state: Mutex::default(),
            changes: tokio_watch::Sender::new(0),
            breaker: tokio_watch::Sender::new(0),
        };
        let address = port.local_addr()?;
        let (accepting, runtime) = (Mutex::default(), Handle::current());
        let api = Self { address, shared: Arc::new(shared), accepting, runtime, _port: port };
        api.start_again()?;
        Ok(api)
    }

    /// Stops listening and breaks all connections; the contents stay.
    pub fn stop(&self) {
        let mut accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        accepting.drain(..).for_each(|accepting| accepting.abort());
        self.break_connections();
    }

    /// Listens again, on the same port, in the network namespace of the calling thread, which may also be one more.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub fn start_again(&self) -> io::Result<()> {
        let _runtime = self.runtime.enter();
        let listener = socket(self.address)?.listen(1024)?;
        let shared = Arc::clone(&self.shared);
        let task = self.runtime.spawn(accept(shared, listener)).abort_handle();
        self.accepting.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        Ok(())
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig (JSON is YAML) for this server. `user` is its user entry, such as
    /// `{"tokenFile": "/path"}`, or `{}`.
    pub fn kubeconfig(&self, user: &Value) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "fake", "cluster": { "server": format!("http://{}", self.address) } }],
            "users": [{ "name": "fake", "user": user }],
            "contexts": [{ "name": "fake", "context": { "cluster": "fake", "user": "fake" } }],
            "current-context": "fake",
        })
        .to_string()
    }

    /// Creates or replaces an object and returns its version. The server sets `uid` and
    /// `creationTimestamp` if they are missing, and `resourceVersion` always; it checks nothing else.
    ///
    /// `None` if the object has no known kind or no name.
    pub fn put(&self, object: Value) -> Option<u64> {
        let number = resource::of_object(&object)?;
        self.shared.change(|state| state.contents.put(number, object))
    }

    /// Publishes the address of this server as an API server does: in the endpoint slice `kubernetes`.
    pub fn put_own_address(&self) -> Option<u64> {
        self.put(json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": { "name": "kubernetes", "namespace": "default" },
            "addressType": "IPv4",
            "endpoints": [{ "addresses": [self.address().ip().to_string()] }],
            "ports": [{ "name": "https", "port": self.address().port(), "protocol": "TCP" }],
        }))
    }

    /// Deletes an object; returns the version of the deletion, `None` if there is no such object.
    pub fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Option<u64> {
        let key = (namespace.to_owned(), name.to_owned());
        self.shared.change(|state| state.contents.delete(number_of(kind), &key))
    }

    /// An object as the server has it.
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        self.object(kind.as_str(), namespace, name)
    }

    /// An object of any kind that the server knows, also one that the agent does not watch.
    pub fn object(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let number = RESOURCES.iter().position(|resource| resource.kind == kind)?;
        let key = (namespace.to_owned(), name.to_owned());
        let json = self.shared.with(|state| state.contents.get(number, &key))?;
        serde_json::from_slice(&json).ok()
    }

    /// Deletes an object of any kind that the server knows, also one that the agent does not watch.
    pub fn delete_object(&self, kind: &str, namespace: &str, name: &str) -> Option<u64> {
        let number = RESOURCES.iter().position(|resource| resource.kind == kind)?;
        let key = (namespace.to_owned(), name.to_owned());
        self.shared.change(|state| state.contents.delete(number, &key))
    }

    /// The Kubernetes Events that were created here.
    pub fn events(&self) -> Vec<Value> {
        let number = RESOURCES.iter().position(|resource| resource.kind == "Event");
        let all = |state: &mut State| {
            state.contents.all(number.unwrap_or(usize::MAX), &Filter::default())
        };
        let events = self.shared.with(all);
        events.iter().filter_map(|json| serde_json::from_slice(json).ok()).collect()
    }

    /// The newest version of anything.
    pub fn version(&self) -> u64 {
        self.shared.with(|state| state.contents.version())
    }

    /// The latest requests, oldest first.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.with(|state| state.asked.iter().cloned().collect())
    }

    /// Clears the recorded requests.
    pub fn forget_asked(&self) {
        self.shared.with(|state| state.asked.clear());
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Reads the state.
    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the state and wakes all tasks that wait for a change.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = self.with(change);
        self.changes.send_modify(|n_changes| *n_changes += 1);
        result
    }

    /// Waits until requests are answered.
    async fn released(&self) {
        let mut changes = self.changes.subscribe();
        while self.with(|state| state.faults.is_held) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl State {
    fn remember(&mut self, asked: Asked) {
        if self.asked.len() >= N_ASKED {
            self.asked.pop_front();
        }
        self.asked.push_back(asked);
    }
}

/// The number of a kind's resource.
fn number_of(kind: Kind) -> usize {
    RESOURCES.iter().position(|resource| resource.kind == kind.as_str()).unwrap_or(usize::MAX)
}

/// A bound socket, which reserves its port between two listeners.
pub(crate) fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(Arc::clone(&shared), stream));
            }
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Serves one connection until it ends or is broken.
async fn converse(shared: Arc<Shared>, stream: TcpStream) {
    let mut breaker = shared.breaker.subscribe();
    let service = service_fn(move |request| serve::serve(Arc::clone(&shared), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let connection = connection.with_upgrades();
    tokio::select! {
        _ = connection => {}
        _ = breaker.changed() => {}
    }
}
