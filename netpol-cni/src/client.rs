//! Client of the agent's socket.
//!
//! In: a request. Out: nothing, or the reason why the agent did not serve it. One connection per request, blocking,
//! with a deadline for every step, because a container runtime that waits for the plugin delays a pod.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use netpol_proto::{ErrorCode, MAX_MESSAGE_BYTES, Request, Response};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent does not run, or does not accept connections.
    #[error("netpol-agent does not answer on {path}: is it running on this node?")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// No socket could be created, or the path is too long for one.
    #[error("cannot create a socket for {path}")]
    Socket {
        /// The agent's socket.
        path: PathBuf,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The agent accepted the connection, but then closed it or let the deadline pass.
    #[error("netpol-agent has not answered on {path}")]
    Exchange {
        /// The socket.
        path: PathBuf,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The answer is not a response.
    #[error(
        "the answer of netpol-agent is not a valid response: are the agent and the plugin of the same version?"
    )]
    Message {
        /// What is wrong with it.
        #[source]
        source: netpol_proto::Error,
    },
    /// The agent refused the request, with a reason.
    #[error("{message}")]
    Refused {
        /// The agent's code.
        code: ErrorCode,
        /// The agent's message.
        message: String,
        /// The agent's details, maybe empty.
        details: String,
    },
}

impl Error {
    /// The CNI error code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Connect { .. } | Self::Exchange { .. } => ErrorCode::TRY_AGAIN_LATER,
            Self::Socket { .. } => ErrorCode::IO,
            Self::Message { source } => match source {
                // The agent exited in the middle of its answer.
                netpol_proto::Error::Truncated => ErrorCode::TRY_AGAIN_LATER,
                netpol_proto::Error::TooLong
                | netpol_proto::Error::Version { .. }
                | netpol_proto::Error::Json(_) => ErrorCode::DECODE,
            },
            Self::Refused { code, .. } => *code,
        }
    }

    /// Whether there is no agent, as opposed to one that refuses the request.
    pub fn is_absence(&self) -> bool {
        self.code() == ErrorCode::TRY_AGAIN_LATER && !matches!(self, Self::Refused { .. })
    }
}

/// How long the agent may take to answer.
///
/// An ADD waits until the agent has received the pod from the API server. The kubelet gives a sandbox 4 minutes, which
/// other steps share. All other requests only change maps.
fn deadline(request: &Request) -> Duration {
    match request {
        Request::Add(_) => Duration::from_mins(1),
        Request::Del(_) | Request::Check(_) | Request::Gc(_) | Request::Status => {
            Duration::from_secs(10)
        }
    }
}

/// Sends a request to the agent and waits for its answer.
///
/// # Errors
/// All variants of [`Error`].
pub fn ask(socket: &Path, request: &Request) -> Result<(), Error> {
    ask_within(socket, request, deadline(request))
}

fn ask_within(socket: &Path, request: &Request, deadline: Duration) -> Result<(), Error> {
    let line = netpol_proto::encode(request).map_err(|source| Error::Message { source })?;
    let stream = connect(socket, deadline)?;
    let exchange = |source| Error::Exchange { path: socket.into(), source };
    stream.set_read_timeout(Some(deadline)).map_err(exchange)?;
    // An agent that refuses early has already answered, and its answer explains more than the broken pipe.
    let written = (&stream).write_all(&line);
    let mut answer = Vec::new();
    let mut limited =
        BufReader::new(&stream).take(u64::try_from(MAX_MESSAGE_BYTES).unwrap_or(u64::MAX));
    let read = limited.read_until(b'\n', &mut answer);
    if answer.is_empty() {
        written.and(read).map_err(exchange)?;
    }
    match netpol_proto::decode(&answer).map_err(|source| Error::Message { source })? {
        Response::Ok => Ok(()),
        Response::Error { code, message, details } => {
            Err(Error::Refused { code, message, details })
        }
    }
}

/// Connects. If the agent's backlog is full, blocks no longer than the deadline.
fn connect(path: &Path, deadline: Duration) -> Result<UnixStream, Error> {
    let socket =
        |errno: rustix::io::Errno| Error::Socket { path: path.into(), source: errno.into() };
    let address = SocketAddrUnix::new(path).map_err(socket)?;
    let fd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(socket)?;
    // Also bounds `connect`. Source: unix_stream_connect of Linux waits for sk_sndtimeo.
    set_socket_timeout(&fd, Timeout::Send, Some(deadline)).map_err(socket)?;
    rustix::net::connect(&fd, &address)
        .map_err(|errno| Error::Connect { path: path.into(), source: errno.into() })?;
    Ok(UnixStream::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// Asks an agent that answers with `answer` and then closes the connection, or never answers.
    fn ask_agent(answer: Option<&[u8]>) -> Result<(), Error> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cni.sock");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::scope(|scope| {
            let (done, wait) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                if let Some(answer) = answer {
                    let mut request = String::new();
                    BufReader::new(&stream).read_line(&mut request).unwrap();
                    stream.write_all(answer).unwrap();
                } else {
                    // Returns when the client has given up.
                    wait.recv().unwrap_err();
                }
            });
            let result = ask_within(&path, &Request::Status, Duration::from_millis(500));
            drop(done);
            result
        })
    }

    #[test]
    fn the_answer_is_returned() {
        ask_agent(Some(&netpol_proto::encode(&Response::Ok).unwrap())).unwrap();
        let refusal = Response::error(ErrorCode::ENFORCEMENT, "map is full");
        let error = ask_agent(Some(&netpol_proto::encode(&refusal).unwrap())).unwrap_err();
        assert_eq!(
            (error.code(), error.to_string().as_str()),
            (ErrorCode::ENFORCEMENT, "map is full")
        );
        assert!(!error.is_absence());
    }

    #[test]
    fn a_missing_or_exiting_or_hanging_agent_means_try_again_later() {
        let missing = ask(Path::new("/nonexistent/cni.sock"), &Request::Status).unwrap_err();
        for error in [missing, ask_agent(Some(b"")).unwrap_err(), ask_agent(None).unwrap_err()] {
            assert_eq!(error.code(), ErrorCode::TRY_AGAIN_LATER, "{error:?}");
            assert!(error.is_absence());
        }
        let half = ask_agent(Some(b"{\"version\":1,")).unwrap_err();
        assert_eq!(half.code(), ErrorCode::TRY_AGAIN_LATER);
    }

    #[test]
    fn an_invalid_answer_is_a_decoding_error() {
        for answer in [&b"ok\n"[..], b"{\"version\":7,\"body\":{\"outcome\":\"ok\"}}\n"] {
            assert_eq!(ask_agent(Some(answer)).unwrap_err().code(), ErrorCode::DECODE);
        }
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_an_io_error() {
        let error = ask(Path::new(&"/x".repeat(100)), &Request::Status).unwrap_err();
        assert_eq!(error.code(), ErrorCode::IO);
    }
}
