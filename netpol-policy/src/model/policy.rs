//! A NetworkPolicy after normalisation.

use std::fmt;
use std::sync::Arc;

use netpol_common::ids::Direction;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{IpBlock, ObjectName, PortMatch, Selector};

/// One `NetworkPolicy`.
///
/// Source: networking.k8s.io/v1 `NetworkPolicySpec`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Namespace and name. The policy concerns pods of this namespace only.
    pub name: ObjectName,
    /// `metadata.uid`, empty for offline input.
    pub uid: Arc<str>,
    /// Which state of the object it is.
    pub revision: Revision,
    /// The pods that the policy selects in its namespace.
    pub pod_selector: Selector,
    /// The directions in which it isolates them.
    pub policy_types: PolicyTypes,
    /// The ingress rules. Ignored unless `policy_types` has ingress.
    pub ingress: Arc<[Rule]>,
    /// The egress rules. Ignored unless `policy_types` has egress.
    pub egress: Arc<[Rule]>,
    /// Whether it is enforced or only counted (annotation `netpol/mode`).
    pub mode: PolicyMode,
    /// Connections that exist when the policy starts to forbid them stay
    /// (annotation `netpol/existing-connections: keep`).
    pub keeps_connections: bool,
}

impl Policy {
    /// The rules of one direction, whether or not the policy isolates in it.
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// Which state of an object of the API it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// `metadata.generation`, which grows with each change of the spec; 0 for offline input.
    pub generation: i64,
    /// `metadata.resourceVersion`, which differs after each change, also of annotations; empty for offline input.
    pub resource_version: Arc<str>,
}

impl Revision {
    /// That of an object.
    pub(super) fn of(object: &Value) -> Self {
        let field = |name: &str| object.get("metadata").and_then(|metadata| metadata.get(name));
        Self {
            generation: field("generation").and_then(Value::as_i64).unwrap_or_default(),
            resource_version: field("resourceVersion")
                .and_then(Value::as_str)
                .map(Arc::from)
                .unwrap_or_default(),
        }
    }
}

/// `spec.policyTypes` after defaulting: Ingress always, Egress if there is an egress rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyTypes {
    /// Isolates for ingress.
    pub ingress: bool,
    /// Isolates for egress.
    pub egress: bool,
}

impl PolicyTypes {
    /// Whether the policy isolates in this direction.
    pub const fn contains(self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// Whether a policy drops what it does not allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyMode {
    /// Drops.
    #[default]
    Enforce,
    /// Counts and reports only.
    Audit,
}

/// One item of `spec.ingress` or `spec.egress`: matches when its peers and its ports both match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Position in the API list, counted from 0. Rules that were not understood are left out, so
    /// positions can have gaps.
    pub index: usize,
    /// The remote peers.
    pub peers: Peers,
    /// The destination ports.
    pub ports: Ports,
}

impl Rule {
    /// Every selector of the rule.
    pub(super) fn selectors_mut(&mut self) -> impl Iterator<Item = &mut Selector> {
        let peers = match &mut self.peers {
            Peers::All => [].iter_mut(),
            Peers::AnyOf(peers) => peers.iter_mut(),
        };
        let of_peers = peers.map(|peer| match peer {
            Peer::IpBlock(_) => [None, None],
            Peer::Nodes(nodes) => [Some(nodes), None],
            Peer::Pods { namespaces: NamespaceMatch::Own, pods } => [Some(pods), None],
            Peer::Pods { namespaces: NamespaceMatch::Selected(namespaces), pods } => {
                [Some(pods), Some(namespaces)]
            }
        });
        of_peers.flatten().flatten()
    }

    /// Frees unused capacity.
    pub(super) fn shrink(&mut self) {
        if let Peers::AnyOf(peers) = &mut self.peers {
            peers.shrink_to_fit();
        }
        if let Ports::AnyOf(ports) = &mut self.ports {
            ports.shrink_to_fit();
        }
    }
}

/// `from` or `to`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peers {
    /// Missing or empty in the API: every address, inside or outside the cluster.
    All,
    /// Any of these. Empty only when none of the API's items was understood: then no address.
    AnyOf(Vec<Peer>),
}

impl Peers {
    /// The name of the list in a rule of this direction.
    pub const fn field(direction: Direction) -> &'static str {
        match direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        }
    }
}

/// `ports` of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ports {
    /// Missing or empty in the API: every port of every protocol, and protocols without ports.
    All,
    /// Any of these. Empty only when none of the API's items was understood: then none.
    AnyOf(Vec<PortMatch>),
}

/// One item of `from` or `to`.
///
/// Source: networking.k8s.io/v1 `NetworkPolicyPeer`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods, by the labels of their namespace and their own. Never a host-network pod.
    Pods {
        /// Which namespaces.
        namespaces: NamespaceMatch,
        /// Which pods in them. A missing `podSelector` is the selector that selects everything.
        pods: Selector,
    },
    /// Addresses, regardless of their owners.
    IpBlock(IpBlock),
    /// The addresses of the nodes with these labels. Only in egress rules of ClusterNetworkPolicies.
    Nodes(Selector),
}

/// The namespaces of a pod peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamespaceMatch {
    /// `namespaceSelector` is missing: the policy's own namespace.
    Own,
    /// The namespaces with these labels. `{}` selects all of them.
    Selected(Selector),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (namespaces, pods) = match self {
            Self::IpBlock(block) => return write!(f, "{block}"),
            Self::Nodes(nodes) if nodes.is_everything() => return f.write_str("all nodes"),
            Self::Nodes(nodes) => return write!(f, "nodes with {nodes}"),
            Self::Pods { namespaces, pods } => (namespaces, pods),
        };
        if pods.is_everything() {
            f.write_str("all pods")?;
        } else {
            write!(f, "pods with {pods}")?;
        }
        match namespaces {
            NamespaceMatch::Own => f.write_str(" of the policy's namespace"),
            NamespaceMatch::Selected(selector) if selector.is_everything() => {
                f.write_str(" of all namespaces")
            }
            NamespaceMatch::Selected(selector) => write!(f, " of namespaces with {selector}"),
        }
    }
}
