//! The socket for netpol-cni.
//!
//! In: connections on a Unix socket, each with one request ([`netpol_proto`]). Out: [`Call`]s for the event loop, whose
//! responses go back on the same connection. An invalid request is answered with an error and never reaches the loop. Must
//! not: use the state, or decide anything.

mod call;
mod connection;

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use self::call::Call;

/// Connections at the same time. Further ones wait until the kernel's backlog is full too: a node starts fewer pods at once.
const MAX_CONNECTIONS: usize = 512;

/// Why the agent cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another agent holds the lock or listens on the socket: a node has one agent.
    #[error("another agent is running on this node: it holds {path}")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The file at the path is not a socket. It is not touched.
    #[error("{path} exists and is not a socket")]
    NotASocket {
        /// The socket's path.
        path: PathBuf,
    },
    /// The path has no file name or no directory.
    #[error("{path} is not a path for a socket")]
    InvalidPath {
        /// The socket's path.
        path: PathBuf,
    },
    /// The directory does not exist and cannot be created.
    #[error("cannot create directory {path}")]
    CreateDirectory {
        /// The socket's directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The lock file of the socket cannot be opened or locked.
    #[error("cannot lock {path}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The socket of a stopped agent cannot be removed.
    #[error("cannot remove the stale socket {path}")]
    RemoveStale {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses the socket: the path has more than 107 bytes, the file system is read-only, or access is denied.
    #[error("cannot listen on {path}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The agent's socket, and the lock that makes it the only agent. Dropped: the socket's file is removed.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Held until the listener is dropped. A crash releases the lock, although the file stays.
    _lock: File,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(source) = std::fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), error = %source, "socket not removed");
        }
    }
}

/// Creates the socket, and its directory (mode 0700) if it does not exist. Only root can connect.
///
/// The socket of a stopped agent is replaced. Must run inside a tokio runtime.
///
/// # Errors
/// [`Error::InUse`] if another agent holds the lock (`<path>.lock`) or listens on the socket; the other variants name the
/// step that failed.
pub fn bind(path: &Path) -> Result<Listener, Error> {
    let directory = path
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty())
        .ok_or_else(|| Error::InvalidPath { path: path.into() })?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| Error::CreateDirectory { path: directory.into(), source })?;
    let lock = lock(path)?;
    remove_stale(path)?;
    let bind = |source| Error::Bind { path: path.into(), source };
    let socket = UnixListener::bind(path).map_err(bind)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(bind)?;
    info!(path = %path.display(), "listening for netpol-cni");
    Ok(Listener { socket, path: path.into(), _lock: lock })
}

/// Takes the lock of the socket. Of two agents that start at the same time one gets it, and while it is held no agent starts.
///
/// # Errors
/// [`Error::InUse`]: an agent runs. Others: the lock file cannot be created.
pub fn lock(socket: &Path) -> Result<File, Error> {
    let mut name =
        socket.file_name().ok_or_else(|| Error::InvalidPath { path: socket.into() })?.to_owned();
    name.push(".lock");
    let path = socket.with_file_name(name);
    let failed = |source| Error::Lock { path: path.clone(), source };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse { path: socket.into() }),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// Removes the socket of a stopped agent. If the socket accepts connections, another agent runs, even without the lock.
fn remove_stale(path: &Path) -> Result<(), Error> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::RemoveStale { path: path.into(), source }),
    };
    if !kind.is_socket() {
        return Err(Error::NotASocket { path: path.into() });
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(Error::InUse { path: path.into() });
    }
    std::fs::remove_file(path).map_err(|source| Error::RemoveStale { path: path.into(), source })
}

/// Accepts connections until `cancel` is cancelled, then waits for the open ones and removes the socket.
///
/// Each connection is a task with a deadline for its request, so a slow client delays no other. The response has no
/// deadline here: an ADD waits as long as the event loop needs, and the plugin has its own timeout. So the event loop must
/// answer or drop its pending calls when it ends.
pub async fn serve(listener: Listener, calls: mpsc::Sender<Call>, cancel: CancellationToken) {
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let next = async || {
        let place = Arc::clone(&places).acquire_owned().await;
        (place, listener.socket.accept().await)
    };
    while let Some((place, accepted)) = cancel.run_until_cancelled(next()).await {
        match accepted {
            Ok((stream, _unnamed)) => {
                let deadlines = connection::Deadlines::default();
                let served = connection::serve(stream, calls.clone(), deadlines);
                connections.spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            Err(error) => {
                // Mostly for lack of file descriptors. The connection stays in the backlog, so a pause prevents a busy loop.
                warn!(%error, "connection not accepted");
                tokio::time::sleep(connection::ACCEPT_RETRY).await;
            }
        }
    }
    drop(calls);
    connections.close();
    connections.wait().await;
    drop(listener);
}

#[cfg(test)]
mod tests {
    use super::*;
    use netpol_proto::{Attachment, ErrorCode, Request, Response};
    use std::error::Error as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    struct Server {
        directory: tempfile::TempDir,
        calls: mpsc::Receiver<Call>,
        cancel: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    impl Server {
        fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let listener = bind(&directory.path().join("run/cni.sock")).unwrap();
            let (sender, calls) = mpsc::channel(1);
            let cancel = CancellationToken::new();
            let task = tokio::spawn(serve(listener, sender, cancel.clone()));
            Self { directory, calls, cancel, task }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("run/cni.sock")
        }
    }

    async fn ask(path: &Path, line: &[u8]) -> Response {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(line).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        netpol_proto::decode(&answer).unwrap()
    }

    fn code(response: &Response) -> ErrorCode {
        match response {
            Response::Ok => panic!("expected an error"),
            Response::Error { code, .. } => *code,
        }
    }

    #[tokio::test]
    async fn two_hundred_requests_at_once_each_get_their_own_answer() {
        let mut server = Server::start();
        let path = server.path();
        let clients: Vec<_> = (0..200)
            .map(|n| {
                let path = path.clone();
                tokio::spawn(async move {
                    let id = format!("c{n}");
                    let request = Request::Del(Attachment {
                        container_id: id.clone(),
                        container_ifname: "eth0".into(),
                    });
                    let response = ask(&path, &netpol_proto::encode(&request).unwrap()).await;
                    assert_eq!(response, Response::error(ErrorCode::ENFORCEMENT, id));
                })
            })
            .collect();
        // All wait before the first is answered, so the connections are open at the same time.
        let mut pending = Vec::new();
        while pending.len() < clients.len() {
            pending.push(server.calls.recv().await.unwrap());
        }
        for call in pending {
            let Request::Del(attachment) = call.request else { panic!("{:?}", call.request) };
            call.reply
                .send(Response::error(ErrorCode::ENFORCEMENT, attachment.container_id))
                .unwrap();
        }
        for client in clients {
            client.await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_invalid_request_is_answered_with_an_error_and_never_reaches_the_loop() {
        let mut server = Server::start();
        let path = server.path();
        for (line, expected) in [
            (&b"not json\n"[..], ErrorCode::DECODE),
            (b"\xff\xfe\n", ErrorCode::DECODE),
            (b"{\"version\":1,\"body\":{\"verb\":\"EAT\"}}\n", ErrorCode::DECODE),
            (b"{\"version\":2,\"body\":{}}\n", ErrorCode::INVALID_CONFIG),
        ] {
            assert_eq!(code(&ask(&path, line).await), expected);
        }
        let too_long = vec![b'x'; netpol_proto::MAX_MESSAGE_BYTES];
        assert_eq!(code(&ask(&path, &too_long).await), ErrorCode::DECODE);
        assert!(server.calls.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_client_that_disconnects_early_disturbs_no_other() {
        let mut server = Server::start();
        drop(UnixStream::connect(server.path()).await.unwrap());
        let mut half = UnixStream::connect(server.path()).await.unwrap();
        half.write_all(b"{\"version\":1,").await.unwrap();
        drop(half);
        let path = server.path();
        let client = tokio::spawn(async move {
            ask(&path, &netpol_proto::encode(&Request::Status).unwrap()).await
        });
        server.calls.recv().await.unwrap().reply.send(Response::Ok).unwrap();
        assert_eq!(client.await.unwrap(), Response::Ok);
    }

    #[tokio::test]
    async fn the_reply_is_closed_when_the_client_disconnects() {
        let mut server = Server::start();
        let mut client = UnixStream::connect(server.path()).await.unwrap();
        client.write_all(&netpol_proto::encode(&Request::Status).unwrap()).await.unwrap();
        let mut call = server.calls.recv().await.unwrap();
        assert!(!call.reply.is_closed());
        drop(client);
        call.reply.closed().await;
    }

    #[tokio::test]
    async fn a_call_dropped_without_answer_means_try_again_later() {
        let mut server = Server::start();
        let path = server.path();
        let client = tokio::spawn(async move {
            ask(&path, &netpol_proto::encode(&Request::Status).unwrap()).await
        });
        drop(server.calls.recv().await.unwrap());
        assert_eq!(code(&client.await.unwrap()), ErrorCode::TRY_AGAIN_LATER);
    }

    #[tokio::test]
    async fn cancelling_answers_open_calls_and_removes_the_socket() {
        let mut server = Server::start();
        let path = server.path();
        let client = tokio::spawn(async move {
            ask(&path, &netpol_proto::encode(&Request::Status).unwrap()).await
        });
        let call = server.calls.recv().await.unwrap();
        server.cancel.cancel();
        call.reply.send(Response::Ok).unwrap();
        assert_eq!(client.await.unwrap(), Response::Ok);
        server.task.await.unwrap();
        assert!(!server.directory.path().join("run/cni.sock").exists());
        assert!(server.calls.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_second_agent_is_refused_until_the_first_has_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cni.sock");
        let first = bind(&path).unwrap();
        let error = bind(&path).unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error:?}");
        drop(first);
        bind(&path).unwrap();
    }

    #[tokio::test]
    async fn a_socket_that_accepts_connections_is_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cni.sock");
        // Without the lock, as after its file was deleted.
        let _other = UnixListener::bind(&path).unwrap();
        assert!(matches!(bind(&path).unwrap_err(), Error::InUse { .. }));
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_only_root_can_connect() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/run/cni.sock");
        std::fs::create_dir_all(directory.path().join("deep")).unwrap();
        drop(bind(&path).unwrap());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = bind(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        drop(listener);
    }

    #[tokio::test]
    async fn other_files_at_the_path_are_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cni.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path).unwrap_err(), Error::NotASocket { .. }));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        assert!(matches!(bind(Path::new("/")).unwrap_err(), Error::InvalidPath { .. }));
        let error = bind(&path.join("sub/cni.sock")).unwrap_err();
        assert!(
            matches!(error, Error::CreateDirectory { .. }) && error.source().is_some(),
            "{error:?}"
        );
    }
}
