//! What agent and observer say before the first request.
//!
//! The agent opens a TCP connection and TLS, whose certificate must be that of [`CONFIG_MAP`]. It sends a [`Greeting`] as one line of
//! JSON, the observer answers with one line: [`ACCEPTED`], or why not. From then on the observer sends HTTP/1.1 requests, and the agent
//! answers them.

use std::io;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The API group.
pub const GROUP: &str = "observe.netpol.dev";

/// Its version.
pub const VERSION: &str = "v1alpha1";

/// The audience of the agents' tokens. No other server takes them.
pub const AUDIENCE: &str = "observe.netpol.dev";

/// The `ConfigMap` in which the observer says where it is.
pub(crate) const CONFIG_MAP: &str = "netpol-observer";

/// Its keys: `IP:PORT`, and the certificate in PEM.
pub(crate) const ADDRESS_KEY: &str = "address";
pub(crate) const CERTIFICATE_KEY: &str = "certificate";

/// The name in the observer's certificate.
pub(crate) const SERVER_NAME: &str = "netpol-observer";

/// The answer to a greeting that is accepted.
pub(crate) const ACCEPTED: &str = "accepted";

/// Longest line, bytes. Tokens have about 1,500.
const MAX_LINE_BYTES: usize = 16 << 10;

/// What an agent says first.
#[derive(Serialize, Deserialize)]
pub(crate) struct Greeting {
    /// A token of its service account for [`AUDIENCE`], bound to its pod.
    pub(crate) token: String,
}

/// Reads a line, without its end, and no byte more.
///
/// # Errors
/// The connection fails, or the line is too long or not UTF-8.
pub(crate) async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => {
                return String::from_utf8(line)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
            }
            _ if line.len() == MAX_LINE_BYTES => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
            }
            byte => line.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_ends_at_its_end_and_has_a_limit() {
        let mut stream: &[u8] = b"first\nsecond";
        assert_eq!(read_line(&mut stream).await.unwrap(), "first");
        assert_eq!(stream, b"second");
        assert!(read_line(&mut stream).await.is_err(), "it does not end");
        let long = vec![b'x'; MAX_LINE_BYTES + 1];
        assert!(read_line(&mut &*long).await.is_err());
        assert!(read_line(&mut &b"\xff\n"[..]).await.is_err());
    }
}
