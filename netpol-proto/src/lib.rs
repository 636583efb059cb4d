//! Messages between netpol-cni and the agent.
//!
//! In: a request of the plugin. Out: one answer of the agent. One connection on the Unix socket
//! [`SOCKET_PATH`] carries exactly one request and one response; each is a JSON document on one line,
//! ended by `\n` and at most [`MAX_MESSAGE_BYTES`] long. The client keeps its writing side open until it
//! has the answer. Must not: do IO; both ends have their own (blocking in the plugin, tokio in the agent).
//!
//! Field names follow the CNI specification 1.1.0 (sections "Parameters" and "Result types").

use std::net::IpAddr;
use std::string::String;
use std::vec::Vec;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Where the agent listens unless the network configuration says otherwise (`agentSocket`).
pub const SOCKET_PATH: &str = "/run/netpol/cni.sock";

/// Version of the messages. A number that the receiver does not speak is refused, never guessed.
///
/// Fields that a receiver may ignore can be added without a new number.
pub const VERSION: u32 = 1;

/// Longest message with its newline, in bytes: room for about 8000 attachments in one [`Gc`].
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// A number from the table of CNI error codes.
///
/// A newtype and not an enum, because plugins that we delegate to have codes of their own.
///
/// Source: CNI specification 1.1.0, "Error"; 1 to 99 are the specification's, 100 and above the plugin's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// The configuration asks for a CNI version that the plugin does not speak.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// A field of the network configuration is not supported.
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    /// The container or its network namespace does not exist; the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: Self = Self(3);
    /// A `CNI_*` environment variable is missing or invalid.
    pub const INVALID_ENVIRONMENT: Self = Self(4);
    /// Reading or writing failed.
    pub const IO: Self = Self(5);
    /// What was read is not the expected JSON.
    pub const DECODE: Self = Self(6);
    /// The network configuration is invalid.
    pub const INVALID_CONFIG: Self = Self(7);
    /// `CNI_NETNS` is the plugin's own network namespace (as the reference library uses the number).
    pub const INVALID_NETNS: Self = Self(8);
    /// A condition that passes by itself, the runtime should retry: there is no agent yet.
    pub const TRY_AGAIN_LATER: Self = Self(11);
    /// STATUS: the plugin cannot serve ADD.
    pub const NOT_AVAILABLE: Self = Self(50);
    /// STATUS: the plugin cannot serve ADD, and containers that run may have lost connectivity.
    pub const LIMITED_CONNECTIVITY: Self = Self(51);
    /// Ours: the kernel refused to make or change an interface, an address or a route.
    pub const KERNEL: Self = Self(100);
    /// Ours: another plugin (IPAM or delegate) could not be found or run.
    pub const PLUGIN: Self = Self(101);
    /// Ours: CHECK found the interface, its addresses or its enforcement different from what ADD left.
    pub const CHECK_FAILED: Self = Self(102);
    /// Ours: the agent could not put the pod's policy in force.
    pub const ENFORCEMENT: Self = Self(103);
    /// Ours: several independent steps of a teardown failed; the message names them all.
    pub const TEARDOWN: Self = Self(104);
}

/// What the plugin asks of the agent. The variants are the CNI verbs that need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "UPPERCASE")]
pub enum Request {
    /// Attach to a new pod interface. Answered `Ok` once its policy is in force.
    Add(Add),
    /// Forget an attachment. `Ok` also when it is not known.
    Del(Attachment),
    /// Is this attachment enforced?
    Check(Check),
    /// Forget every attachment of the network that is not listed.
    Gc(Gc),
    /// Can the agent serve an ADD now? Refused with [`ErrorCode::NOT_AVAILABLE`] or
    /// [`ErrorCode::LIMITED_CONNECTIVITY`].
    Status,
}

impl Request {
    /// The CNI verb, for logs and messages.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Del(_) => "DEL",
            Self::Check(_) => "CHECK",
            Self::Gc(_) => "GC",
            Self::Status => "STATUS",
        }
    }
}

/// A pod's new interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Add {
    /// Container and interface that the runtime named.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// Name of the network that the interface belongs to: a [`Gc`] is about one network. Source: `name` of the
    /// network configuration.
    pub network: String,
    /// Path of the container's network namespace. Source: `CNI_NETNS`.
    pub netns: String,
    /// Name of the host side of the veth pair. The index is what identifies it.
    pub host_ifname: String,
    /// Index of the host side of the veth pair, in the network namespace of the agent.
    pub host_ifindex: u32,
    /// The pod that the runtime makes the container for.
    pub pod: PodRef,
    /// The container's addresses, of both families, without prefix lengths. Source: `ips` of the CNI result.
    pub addresses: Vec<IpAddr>,
    /// Nobody limits the interface's bandwidth, as far as the runtime has told: no plugin behind this one wants the device's
    /// ingress for itself. False if it has told nothing.
    #[serde(default)]
    pub is_unshaped: bool,
}

/// Container id and interface name: the key of an attachment in the CNI specification.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// Unique per sandbox, never reused by the runtime. Source: `CNI_CONTAINERID`.
    pub container_id: String,
    /// The interface's name inside the container, mostly `eth0`. Source: `CNI_IFNAME`.
    pub container_ifname: String,
}

/// The pod as the kubelet names it to the runtime.
///
/// Source: `CNI_ARGS`, as containerd and CRI-O fill it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodRef {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`, which old runtimes do not pass. A static pod's is the kubelet's hash of its file: in the API it is
    /// the mirror pod's annotation `kubernetes.io/config.hash`, not its `metadata.uid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// Is this attachment still as ADD left it?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Container and interface that the runtime named.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// Index of the host side of the veth pair, in the network namespace of the agent.
    pub host_ifindex: u32,
}

/// Which attachments the runtime still knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gc {
    /// The network that the runtime speaks of; attachments of others are not its business.
    pub network: String,
    /// Source: `cni.dev/valid-attachments` of the network configuration. Empty: the runtime has none left.
    pub valid_attachments: Vec<Attachment>,
}

/// The agent's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
#[must_use]
pub enum Response {
    /// Done; for ADD: the policy is in force.
    Ok,
    /// Not done. The fields become those of the CNI error.
    Error {
        /// What kind of failure, as the runtime understands it.
        code: ErrorCode,
        /// One sentence that names the object.
        message: String,
        /// More for a person to read; empty if there is no more.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        details: String,
    },
}

impl Response {
    /// An error without details.
    pub fn error(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Error { code, message: message.into(), details: String::new() }
    }
}

/// What stands on the line: the version beside the request or response.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    body: T,
}

/// The only field that every version has.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// Why a line is not a message.
#[derive(Debug)]
pub enum Error {
    /// The sender speaks another version than [`VERSION`].
    Version {
        /// The sender's.
        found: u32,
    },
    /// Longer than [`MAX_MESSAGE_BYTES`].
    TooLong,
    /// The connection ended before the newline.
    Truncated,
    /// Not JSON, or not of the expected shape.
    Json(serde_json::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version { found } => write!(
                f,
                "message version {found} is not supported, this side speaks {VERSION}: \
                 netpol-cni and netpol-agent must be of the same release"
            ),
            Self::TooLong => write!(f, "message is longer than {MAX_MESSAGE_BYTES} bytes"),
            Self::Truncated => write!(f, "connection closed in the middle of a message"),
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

/// Writes a [`Request`] or [`Response`] as one line, newline included.
///
/// # Errors
/// [`Error::TooLong`] if the receiver would refuse it; [`Error::Json`] does not occur for the types here.
pub fn encode<T: Serialize>(body: &T) -> Result<Vec<u8>, Error> {
    let mut line = serde_json::to_vec(&Envelope { version: VERSION, body }).map_err(Error::Json)?;
    line.push(b'\n');
    if line.len() > MAX_MESSAGE_BYTES { Err(Error::TooLong) } else { Ok(line) }
}

/// Reads a [`Request`] or [`Response`] from one line.
///
/// The receiver reads up to the newline, the end of the stream or [`MAX_MESSAGE_BYTES`], whichever comes first,
/// and passes what it has.
///
/// # Errors
/// [`Error::Version`] if the sender speaks another version, whatever else it says; [`Error::TooLong`] and
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
    use std::string::ToString as _;
    use std::{format, vec};

    fn attachment() -> Attachment {
        Attachment { container_id: "c1".into(), container_ifname: "eth0".into() }
    }

    fn check_request(request: &Request, json: &str) {
        let line = encode(request).unwrap();
        assert_eq!(std::str::from_utf8(&line).unwrap(), format!("{json}\n"));
        assert_eq!(&decode::<Request>(&line).unwrap(), request);
    }

    #[test]
    fn requests_have_a_stable_form_and_are_read_back() {
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
    fn responses_are_read_back() {
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
    fn what_is_not_a_message_is_an_error() {
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
    fn a_message_that_the_receiver_would_refuse_is_not_sent() {
        let valid_attachments = vec![attachment(); 30_000];
        assert!(matches!(
            encode(&Request::Gc(Gc { network: "n".into(), valid_attachments })),
            Err(Error::TooLong)
        ));
    }
}
