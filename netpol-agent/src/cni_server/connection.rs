//! One connection of netpol-cni: reads a request, forwards it as a call, writes the response.
//!
//! In: a stream. Out: a [`Call`], then the response on the stream, also after an error. The task always ends.

use std::io;
use std::time::Duration;

use netpol_proto::{ErrorCode, MAX_MESSAGE_BYTES, Request, Response};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::call::Call;

/// Pause after a failed `accept`, so that a lack of file descriptors does not cause a busy loop.
pub(super) const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Timeouts for the peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// From the connection to the end of the request. The plugin writes it at once.
    pub(super) request: Duration,
    /// For the peer to read the response.
    pub(super) response: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { request: Duration::from_secs(5), response: Duration::from_secs(5) }
    }
}

/// Why a request could not be read.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no complete request within {} seconds", .0.as_secs_f32())]
    Deadline(Duration),
    #[error("request not read")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Message(#[from] netpol_proto::Error),
}

impl Error {
    /// The CNI error code that the plugin returns to the runtime.
    fn code(&self) -> ErrorCode {
        match self {
            Self::Deadline(_) | Self::Read(_) => ErrorCode::IO,
            Self::Message(netpol_proto::Error::Version { .. }) => ErrorCode::INVALID_CONFIG,
            Self::Message(
                netpol_proto::Error::TooLong
                | netpol_proto::Error::Truncated
                | netpol_proto::Error::Json(_),
            ) => ErrorCode::DECODE,
        }
    }

    fn to_response(&self) -> Response {
        let details = std::error::Error::source(self).map(ToString::to_string).unwrap_or_default();
        Response::Error { code: self.code(), message: self.to_string(), details }
    }
}

/// Serves one connection to its end.
pub(super) async fn serve(stream: UnixStream, calls: mpsc::Sender<Call>, deadlines: Deadlines) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    match read_request(&mut reader, deadlines.request).await {
        Ok(request) => {
            if let Some(response) = forward(request, &calls, &mut reader).await {
                answer(&response, &mut writer, deadlines.response).await;
            }
        }
        Err(error) => {
            warn!(%error, source = std::error::Error::source(&error), "request refused");
            answer(&error.to_response(), &mut writer, deadlines.response).await;
            // Closing with unread bytes of the request would reset the connection, and the peer might lose the response.
            drain(&mut reader, deadlines.request).await;
        }
    }
}

/// Writes the response and shuts down our side of the stream. Errors are only logged, because the peer may have disconnected.
async fn answer(response: &Response, writer: &mut OwnedWriteHalf, deadline: Duration) {
    let line = match netpol_proto::encode(response) {
        Ok(line) => line,
        Err(error) => {
            warn!(%error, "response not sent");
            return;
        }
    };
    let write = async {
        writer.write_all(&line).await?;
        writer.shutdown().await
    };
    match timeout(deadline, write).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "response not sent"),
        Err(_elapsed) => debug!("response not read by the peer"),
    }
}

/// Reads one line and decodes it.
async fn read_request(
    reader: &mut BufReader<OwnedReadHalf>,
    deadline: Duration,
) -> Result<Request, Error> {
    let mut line = Vec::new();
    // 1 MiB on every supported target: the conversion is exact.
    let mut limited = reader.take(u64::try_from(MAX_MESSAGE_BYTES).unwrap_or(u64::MAX));
    match timeout(deadline, limited.read_until(b'\n', &mut line)).await {
        Err(_elapsed) => Err(Error::Deadline(deadline)),
        Ok(Err(error)) => Err(Error::Read(error)),
        Ok(Ok(_read_bytes)) => Ok(netpol_proto::decode(&line)?),
    }
}

/// Sends the request to the event loop and waits for the response; `None` if the peer disconnects meanwhile.
async fn forward(
    request: Request,
    calls: &mpsc::Sender<Call>,
    reader: &mut BufReader<OwnedReadHalf>,
) -> Option<Response> {
    let verb = request.verb();
    debug!(verb, "request");
    let (reply, answer) = oneshot::channel();
    if calls.send(Call { request, reply }).await.is_err() {
        return Some(stopping());
    }
    tokio::select! {
        biased;
        answer = answer => Some(answer.unwrap_or_else(|_dropped| stopping())),
        () = hung_up(reader) => {
            warn!(verb, "netpol-cni disconnected before its response");
            None
        }
    }
}

fn stopping() -> Response {
    Response::error(ErrorCode::TRY_AGAIN_LATER, "netpol-agent is stopping")
}

/// Waits for the end of the peer's stream. Bytes after the request are ignored.
async fn hung_up(reader: &mut BufReader<OwnedReadHalf>) {
    let mut ignored = [0; 512];
    while matches!(reader.read(&mut ignored).await, Ok(1..)) {}
}

/// Reads and drops further bytes of the peer, up to the deadline and the size of one message.
async fn drain(reader: &mut BufReader<OwnedReadHalf>, deadline: Duration) {
    let mut rest = reader.take(u64::try_from(MAX_MESSAGE_BYTES).unwrap_or(u64::MAX));
    if let Err(_elapsed) =
        timeout(deadline, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await
    {
        debug!("peer keeps the connection open");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_without_a_request_gets_an_error_at_the_deadline() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let (calls, mut received) = mpsc::channel(1);
        let deadlines =
            Deadlines { request: Duration::from_millis(20), response: Duration::from_millis(20) };
        serve(server, calls, deadlines).await;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        let Response::Error { code, .. } = netpol_proto::decode(&answer).unwrap() else {
            panic!("{answer:?}")
        };
        assert_eq!(code, ErrorCode::IO);
        assert!(received.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_stopped_event_loop_means_try_again_later() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let (calls, received) = mpsc::channel(1);
        drop(received);
        client.write_all(&netpol_proto::encode(&Request::Status).unwrap()).await.unwrap();
        let task = tokio::spawn(serve(server, calls, Deadlines::default()));
        let mut answer = Vec::new();
        BufReader::new(&mut client).read_until(b'\n', &mut answer).await.unwrap();
        drop(client);
        let Response::Error { code, .. } = netpol_proto::decode(&answer).unwrap() else {
            panic!("{answer:?}")
        };
        assert_eq!(code, ErrorCode::TRY_AGAIN_LATER);
        task.await.unwrap();
    }
}
