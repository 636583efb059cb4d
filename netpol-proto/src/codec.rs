//! Encoding of messages as lines of JSON.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of the messages. A receiver rejects messages of other versions.
///
/// Adding a field that a receiver may ignore does not change the version.
pub const VERSION: u32 = 1;

/// Longest message with its newline, in bytes. A [`Gc`](crate::Gc) of about 8000 attachments fits.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// The JSON document of a line: the version, and the request or response.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    body: T,
}

/// The field that every version of the envelope has.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// A line that is not a message.
#[derive(Debug)]
pub enum Error {
    /// The message does not have [`VERSION`].
    Version {
        /// Version of the message.
        found: u32,
    },
    /// Longer than [`MAX_MESSAGE_BYTES`].
    TooLong,
    /// The connection ended before the newline.
    Truncated,
    /// Not JSON, or not a message of the expected type.
    Json(serde_json::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version { found } => write!(
                f,
                "message version {found} is not supported, only version {VERSION}: netpol-cni and netpol-agent must be of the \
                 same release"
            ),
            Self::TooLong => write!(f, "message is longer than {MAX_MESSAGE_BYTES} bytes"),
            Self::Truncated => write!(f, "connection closed before the end of the message"),
            Self::Json(_) => write!(f, "message is not valid"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json(source) => Some(source),
            Self::Version { .. } | Self::TooLong | Self::Truncated => None,
        }
    }
}

/// Writes a `Request` or `Response` as one line, newline included.
///
/// # Errors
/// [`Error::TooLong`] if the line exceeds [`MAX_MESSAGE_BYTES`]. [`Error::Json`] does not occur for the types of this crate.
pub fn encode<T: Serialize>(body: &T) -> Result<Vec<u8>, Error> {
    let mut line = serde_json::to_vec(&Envelope { version: VERSION, body }).map_err(Error::Json)?;
    line.push(b'\n');
    if line.len() > MAX_MESSAGE_BYTES { Err(Error::TooLong) } else { Ok(line) }
}

/// Reads a `Request` or `Response` from one line.
///
/// The receiver reads up to the newline, the end of the stream or [`MAX_MESSAGE_BYTES`], whichever comes first, and passes the
/// bytes read.
///
/// # Errors
/// [`Error::Version`] if the message has another version, whatever its body; [`Error::TooLong`] and
/// [`Error::Truncated`] if the newline is missing; [`Error::Json`] if the line is not such a message.
pub fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, Error> {
    if line.len() > MAX_MESSAGE_BYTES || (line.len() == MAX_MESSAGE_BYTES && !line.ends_with(b"\n"))
    {
        return Err(Error::TooLong);
    }
    if !line.ends_with(b"\n") {
        return Err(Error::Truncated);
    }
    let VersionOnly { version } = serde_json::from_slice(line).map_err(Error::Json)?;
    if version != VERSION {
        return Err(Error::Version { found: version });
    }
    let Envelope { version: _, body } = serde_json::from_slice(line).map_err(Error::Json)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Add, Attachment, Check, ErrorCode, Gc, PodRef, Request, Response};

    fn attachment() -> Attachment {
        Attachment { container_id: "c1".into(), container_ifname: "eth0".into() }
    }

    fn check_request(request: &Request, json: &str) {
        let line = encode(request).unwrap();
        assert_eq!(std::str::from_utf8(&line).unwrap(), format!("{json}\n"));
        assert_eq!(&decode::<Request>(&line).unwrap(), request);
    }

    #[test]
    fn requests_have_a_stable_form_and_are_decoded() {
        check_request(
            &Request::Add(Add {
                attachment: attachment(),
                network: "cbr0".into(),
                netns: "/run/netns/x".into(),
                host_ifname: "veth1".into(),
                host_ifindex: 7,
                pod: PodRef { namespace: "shop".into(), name: "web-0".into(), uid: None },
                addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
                is_unshaped: true,
            }),
            r#"{"version":1,"body":{"verb":"ADD","container_id":"c1","container_ifname":"eth0","network":"cbr0","netns":"/run/netns/x","host_ifname":"veth1","host_ifindex":7,"pod":{"namespace":"shop","name":"web-0"},"addresses":["10.0.0.2","fd00::2"],"is_unshaped":true}}"#,
        );
        check_request(
            &Request::Del(attachment()),
            r#"{"version":1,"body":{"verb":"DEL","container_id":"c1","container_ifname":"eth0"}}"#,
        );
        check_request(
            &Request::Check(Check { attachment: attachment(), host_ifindex: 7 }),
            r#"{"version":1,"body":{"verb":"CHECK","container_id":"c1","container_ifname":"eth0","host_ifindex":7}}"#,
        );
        check_request(
            &Request::Gc(Gc { network: "cbr0".into(), valid_attachments: vec![attachment()] }),
            r#"{"version":1,"body":{"verb":"GC","network":"cbr0","valid_attachments":[{"container_id":"c1","container_ifname":"eth0"}]}}"#,
        );
        check_request(&Request::Status, r#"{"version":1,"body":{"verb":"STATUS"}}"#);
    }

    #[test]
    fn responses_are_decoded() {
        for response in [
            Response::Ok,
            Response::error(ErrorCode::TRY_AGAIN_LATER, "pod shop/web-0 is not known yet"),
            Response::Error { code: ErrorCode(103), message: "m".into(), details: "d".into() },
        ] {
            assert_eq!(decode::<Response>(&encode(&response).unwrap()).unwrap(), response);
        }
    }

    #[test]
    fn another_version_is_named_even_if_its_body_is_unknown() {
        let error = decode::<Request>(b"{\"version\":9,\"something\":[]}\n").unwrap_err();
        assert!(matches!(error, Error::Version { found: 9 }), "{error:?}");
        assert!(error.to_string().contains("version 9"), "{error}");
    }

    #[test]
    fn unknown_fields_of_the_same_version_are_ignored() {
        let line = b"{\"version\":1,\"new\":1,\"body\":{\"verb\":\"STATUS\",\"new\":2}}\n";
        assert_eq!(decode::<Request>(line).unwrap(), Request::Status);
    }

    #[test]
    fn a_line_that_is_not_a_message_is_an_error() {
        for bad in [
            "\n",
            "{}\n",
            "null\n",
            "{\"version\":\"1\"}\n",
            "{\"version\":1,\"body\":{\"verb\":\"ADD\"}}\n",
        ] {
            assert!(matches!(decode::<Request>(bad.as_bytes()), Err(Error::Json(_))), "{bad}");
        }
        assert!(matches!(decode::<Request>(b"{\"version\":1"), Err(Error::Truncated)));
        assert!(matches!(decode::<Request>(&vec![b' '; MAX_MESSAGE_BYTES]), Err(Error::TooLong)));
    }

    #[test]
    fn a_message_that_is_too_long_is_not_encoded() {
        let valid_attachments = vec![attachment(); 30_000];
        assert!(matches!(
            encode(&Request::Gc(Gc { network: "n".into(), valid_attachments })),
            Err(Error::TooLong)
        ));
    }
}
