//! The client, for the commands `status`, `drops`, `flows` and `explain`.

use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::HOST;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// Why the agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No agent listens on the socket.
    #[error("no agent answers on {path}; is it running on this node, and are you root?")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The connection broke, or the answer is not HTTP.
    #[error("the agent's answer broke off")]
    Http(#[from] hyper::Error),
    /// The question is not a valid path with query.
    #[error("question is not a valid URL")]
    Question(#[source] http::Error),
    /// The agent answered with an error.
    #[error("the agent says {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The agent's message.
        message: String,
    },
    /// The answer is not UTF-8.
    #[error("the agent's answer is not UTF-8")]
    Encoding(#[from] std::string::FromUtf8Error),
}

/// Requests a path with query, and returns the whole answer.
///
/// # Errors
/// As the variants of [`Error`] say.
pub async fn get(socket: &Path, question: &str) -> Result<String, Error> {
    let response = ask(socket, question).await?;
    Ok(String::from_utf8(response.into_body().collect().await?.to_bytes().into())?)
}

/// Requests a path with query, and passes each line to `each` until the answer ends or `each` returns an error.
///
/// # Errors
/// As the variants of [`Error`] say.
pub async fn follow(
    socket: &Path,
    question: &str,
    mut each: impl FnMut(&str) -> io::Result<()>,
) -> Result<(), Error> {
    let mut body = ask(socket, question).await?.into_body();
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let line = String::from_utf8(line)?;
            if each(line.trim_end()).is_err() {
                // The reader of our output has ended, such as `head`.
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn ask(socket: &Path, question: &str) -> Result<Response<Incoming>, Error> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| Error::Connect { path: socket.to_owned(), source })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // The task ends with the response, which also reports its errors.
    drop(tokio::spawn(connection));
    let request = Request::get(question)
        .header(HOST, "agent")
        .body(Empty::<Bytes>::new())
        .map_err(Error::Question)?;
    let response = sender.send_request(request).await?;
    if response.status() == StatusCode::OK {
        return Ok(response);
    }
    let status = response.status();
    let message = String::from_utf8(response.into_body().collect().await?.to_bytes().into())?;
    Err(Error::Refused { status, message: message.trim_end().to_owned() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt as _;
    use tokio_util::sync::CancellationToken;

    use super::super::{Answer, Route, serve_unix};
    use super::*;

    #[tokio::test]
    async fn answers_lines_and_refusals_reach_the_client() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let route: Route = Arc::new(|uri| {
            async move {
                match uri.path() {
                    "/json" => {
                        Answer::Json(format!("{{\"q\":\"{}\"}}", uri.query().unwrap_or_default()))
                    }
                    "/lines" => Answer::Lines(Box::pin(futures::stream::iter(
                        ["a", "b"].map(ToOwned::to_owned),
                    ))),
                    _ => Answer::Refused(StatusCode::NOT_FOUND, "no such question".to_owned()),
                }
            }
            .boxed()
        });
        let cancel = CancellationToken::new();
        serve_unix(&socket, Arc::clone(&route), cancel.clone()).unwrap();
        assert_eq!(get(&socket, "/json?x=1").await.unwrap(), "{\"q\":\"x=1\"}");
        let mut lines = Vec::new();
        follow(&socket, "/lines", |line| {
            lines.push(line.to_owned());
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(lines, ["a", "b"]);
        let refused = get(&socket, "/other").await.unwrap_err().to_string();
        assert_eq!(refused, "the agent says 404 Not Found: no such question");
        // A new agent after a crash replaces the stale socket.
        serve_unix(&socket, route, cancel.clone()).unwrap();
        assert!(get(&socket, "/json").await.is_ok());
        cancel.cancel();
        let nobody = get(&dir.path().join("none.sock"), "/json").await.unwrap_err().to_string();
        assert!(nobody.starts_with("no agent answers on "), "{nobody}");
    }
}
