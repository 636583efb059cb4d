//! `pods/exec` over a WebSocket, in the versions 4 and 5 of the channel protocol.
//!
//! In: the command, and what a test has said that it does. Out: the channels of its output and its exit. Must not: start a program that
//! a test has not given.

use std::fmt;
use std::process::Stdio;
use std::sync::Arc;

use futures::{SinkExt as _, StreamExt as _};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::serve::{Body, Refusal, bad_request, percent_decode, respond};
use super::{FakeApi, Shared};

/// The subprotocols, those that a server prefers first.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// The channels of standard input, output, error, and of the exit status; 255 closes one (version 5).
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;

/// What a command in a pod does.
#[derive(Debug)]
pub enum Executed {
    /// It writes these texts and ends with this exit code.
    Ended {
        /// What it writes to standard output.
        stdout: String,
        /// What it writes to standard error.
        stderr: String,
        /// Its exit code.
        code: i32,
    },
    /// This program runs, outside of any container.
    Program(Box<std::process::Command>),
    /// It writes this and never ends.
    Hanging {
        /// What it writes to standard output.
        stdout: String,
    },
    /// The connection breaks after it has written this.
    Broken {
        /// What it writes to standard output.
        stdout: String,
    },
    /// The server answers with this status instead.
    Refused(StatusCode),
}

impl Executed {
    /// It writes this and ends with exit code 0.
    pub fn output(stdout: impl Into<String>) -> Self {
        Self::Ended { stdout: stdout.into(), stderr: String::new(), code: 0 }
    }
}

/// What each command in a pod does.
pub type Executor = Arc<dyn Fn(&[String]) -> Executed + Send + Sync>;

impl fmt::Debug for super::State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("contents", &self.contents).finish_non_exhaustive()
    }
}

impl FakeApi {
    /// Sets what commands in the pod of this name do. In others they are refused.
    pub fn execute(
        &self,
        namespace: &str,
        pod: &str,
        executor: impl Fn(&[String]) -> Executed + Send + Sync + 'static,
    ) {
        let key = (namespace.to_owned(), pod.to_owned());
        self.shared.change(|state| state.executors.insert(key, Arc::new(executor)));
    }
}

/// The pod whose `exec` this path is.
pub(super) fn pod_of(path: &str) -> Option<(String, String)> {
    let rest = path.strip_prefix("/api/v1/namespaces/")?.strip_suffix("/exec")?;
    let (namespace, pod) = rest.split_once("/pods/")?;
    Some((namespace.to_owned(), pod.to_owned()))
}

/// Answers a request to run a command, and runs it.
pub(super) fn serve(
    shared: &Arc<Shared>,
    request: &mut Request<Incoming>,
    pod: &(String, String),
) -> Result<Response<Body>, Refusal> {
    let query = request.uri().query().unwrap_or_default().replace('+', " ");
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let command: Vec<String> = pairs
        .filter(|(name, _)| *name == "command")
        .map(|(_, value)| percent_decode(value))
        .collect();
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let key = header(SEC_WEBSOCKET_KEY).map(str::to_owned);
    let key = key.ok_or_else(|| bad_request("you must request an upgrade".to_owned()))?;
    let offered = header(SEC_WEBSOCKET_PROTOCOL).unwrap_or_default().to_owned();
    let newest = shared.with(|state| state.faults.exec_protocol);
    let mut protocols = PROTOCOLS.iter().filter(|own| newest.is_none_or(|newest| newest == **own));
    let protocol = protocols.find(|own| offered.split(", ").any(|offered| offered == **own));
    let protocol = protocol.ok_or_else(|| bad_request(format!("no protocol of {offered}")))?;
    let executor = shared.with(|state| state.executors.get(pod).cloned());
    let executor = executor.ok_or_else(|| {
        Refusal(StatusCode::NOT_FOUND, "NotFound", format!("pods \"{}\" not found", pod.1))
    })?;
    let executed = executor(&command);
    if let Executed::Refused(status) = executed {
        let message =
            format!("pods \"{}\" is forbidden: cannot create resource \"pods/exec\"", pod.1);
        return Err(Refusal(status, "Forbidden", message));
    }
    let upgraded = hyper::upgrade::on(request);
    let mut breaker = shared.breaker.subscribe();
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None);
        let socket = socket.await;
        tokio::select! {
            () = converse(socket, executed) => {}
            _ = breaker.changed() => {}
        }
    });
    let mut response = respond(
        StatusCode::SWITCHING_PROTOCOLS,
        Empty::new().map_err(|never| match never {}).boxed_unsync(),
    );
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept.map_err(|error| bad_request(error.to_string()))?);
    Ok(response)
}

async fn converse(
    mut socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    executed: Executed,
) {
    match executed {
        Executed::Ended { stdout, stderr, code } => {
            for (channel, text) in [(STDOUT, stdout), (STDERR, stderr)] {
                send(&mut socket, channel, text.as_bytes()).await;
            }
            send(&mut socket, STATUS, exit(code).as_bytes()).await;
            drop(socket.close(None).await);
        }
        Executed::Hanging { stdout } => {
            send(&mut socket, STDOUT, stdout.as_bytes()).await;
            while let Some(Ok(_)) = socket.next().await {}
        }
        Executed::Broken { stdout } => send(&mut socket, STDOUT, stdout.as_bytes()).await,
        Executed::Program(command) => run(socket, *command).await,
        Executed::Refused(_) => {}
    }
}

/// Runs a program. When the client goes away, its standard input ends, and nothing else happens to it, as under the runtimes that do
/// not kill it.
async fn run(
    socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    command: std::process::Command,
) {
    let mut command = Command::from(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else { return };
    let (mut sink, mut stream) = socket.split();
    let (outgoing, mut waiting) = mpsc::channel::<Message>(64);
    let mut stdin = child.stdin.take();
    let input = tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            let Message::Binary(bytes) = message else { continue };
            match bytes.split_first() {
                Some((&STDIN, rest)) => {
                    if let Some(stdin) = &mut stdin {
                        drop(stdin.write_all(rest).await);
                    }
                }
                Some((&CLOSE, [STDIN])) => drop(stdin.take()),
                Some(_) | None => {}
            }
        }
    });
    let sending = tokio::spawn(async move {
        while let Some(message) = waiting.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        drop(sink.close().await);
    });
    let stdout = copy(child.stdout.take(), STDOUT, outgoing.clone());
    let stderr = copy(child.stderr.take(), STDERR, outgoing.clone());
    let ((), (), status) = futures::join!(stdout, stderr, child.wait());
    let code = status.ok().and_then(|status| status.code()).unwrap_or(137);
    drop(outgoing.send(message(STATUS, exit(code).as_bytes())).await);
    drop(outgoing);
    drop(sending.await);
    input.abort();
}

async fn copy(stream: Option<impl AsyncRead + Unpin>, channel: u8, to: mpsc::Sender<Message>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        let bytes = buffer.get(..n).unwrap_or_default();
        if to.send(message(channel, bytes)).await.is_err() {
            return;
        }
    }
}

async fn send(
    socket: &mut WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    channel: u8,
    bytes: &[u8],
) {
    // Servers send an output in several messages.
    for part in bytes.chunks(4096) {
        // The client may have gone away.
        drop(socket.send(message(channel, part)).await);
    }
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut content = vec![channel];
    content.extend_from_slice(bytes);
    Message::binary(content)
}

/// The status that a server sends when a command has ended.
fn exit(code: i32) -> String {
    if code == 0 {
        return json!({ "metadata": {}, "status": "Success" }).to_string();
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_the_pod() {
        let pod = pod_of("/api/v1/namespaces/netpol-system/pods/netpol-agent-x/exec");
        assert_eq!(pod, Some(("netpol-system".to_owned(), "netpol-agent-x".to_owned())));
        assert_eq!(pod_of("/api/v1/namespaces/netpol-system/pods/exec"), None);
    }
}
