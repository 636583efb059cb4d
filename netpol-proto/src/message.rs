//! Requests of the plugin and responses of the agent.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::error_code::ErrorCode;

/// A request of the plugin. The variants are the CNI verbs that need the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "UPPERCASE")]
pub enum Request {
    /// Attach programs to a new pod interface. The response is `Ok` once the pod's policies are enforced.
    Add(Add),
    /// Remove an attachment. The response is `Ok` also if the agent has no such attachment.
    Del(Attachment),
    /// Check that policies are enforced on this attachment.
    Check(Check),
    /// Remove every attachment of the network that is not in the list.
    Gc(Gc),
    /// Check that the agent can serve an ADD now. Otherwise the response is an error with [`ErrorCode::NOT_AVAILABLE`] or
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
    /// Container and interface, as named by the runtime.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// Name of the interface's network, because a [`Gc`] concerns one network. Source: `name` of the network configuration.
    pub network: String,
    /// Path of the container's network namespace. Source: `CNI_NETNS`.
    pub netns: String,
    /// Name of the host side of the veth pair, for messages; the index identifies the interface.
    pub host_ifname: String,
    /// Index of the host side of the veth pair, in the network namespace of the agent.
    pub host_ifindex: u32,
    /// The pod of the container.
    pub pod: PodRef,
    /// The container's addresses, of both families, without prefix lengths. Source: `ips` of the CNI result.
    pub addresses: Vec<IpAddr>,
    /// The runtime configured no bandwidth limit for the interface, so no later plugin of the chain needs the device's ingress
    /// hook for itself. False if the runtime passed no bandwidth configuration.
    #[serde(default)]
    pub is_unshaped: bool,
}

/// Container id and interface name: the key of an attachment in the CNI specification.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// Unique for each sandbox, never reused by the runtime. Source: `CNI_CONTAINERID`.
    pub container_id: String,
    /// The interface's name in the container, usually `eth0`. Source: `CNI_IFNAME`.
    pub container_ifname: String,
}

/// The pod, as the kubelet names it to the runtime.
///
/// Source: `CNI_ARGS`, as containerd and CRI-O fill it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodRef {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`; `None` for old runtimes, which do not pass it. For a static pod it is the kubelet's hash of the pod's file,
    /// which the API has as the mirror pod's annotation `kubernetes.io/config.hash`, not as its `metadata.uid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// Content of [`Request::Check`]: an attachment that should be as ADD configured it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Container and interface, as named by the runtime.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// Index of the host side of the veth pair, in the network namespace of the agent.
    pub host_ifindex: u32,
}

/// Content of [`Request::Gc`]: the attachments that the runtime still has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gc {
    /// The network concerned. Attachments of other networks are not removed.
    pub network: String,
    /// Source: `cni.dev/valid-attachments` of the network configuration. Empty if the runtime has none.
    pub valid_attachments: Vec<Attachment>,
}

/// The agent's response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
#[must_use]
pub enum Response {
    /// Success. For ADD: the pod's policies are enforced.
    Ok,
    /// Failure. The plugin returns the fields as a CNI error.
    Error {
        /// The kind of failure.
        code: ErrorCode,
        /// One sentence that names the object.
        message: String,
        /// More text for people; empty if there is none.
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
