//! Changes of the known cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use netpol_common::ids::IfIndex;
use netpol_common::mac::Mac;

use crate::model::{Interner, Kind, Object, ObjectName, ObjectRef, ServiceBackend};

/// One change of the known cluster. Applying the same delta twice is the same as once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// The object exists with this content.
    Upsert(Object),
    /// The object is gone. With a `uid`, only if the stored object has it: a late deletion of a pod must
    /// not remove its successor of the same name.
    Remove {
        /// The object.
        object: ObjectRef,
        /// Its uid, if the source has it.
        uid: Option<Arc<str>>,
    },
    /// All objects of one kind: objects that are not in the list are gone.
    Replace(List),
    /// A pod interface of this node is attached.
    UpsertEndpoint(Endpoint),
    /// A pod interface of this node is gone.
    RemoveEndpoint(IfIndex),
    /// The pod interfaces of this node whose packets may be redirected to each other.
    ShortCuts(BTreeSet<IfIndex>),
    /// The addresses of this node's own devices.
    OwnAddresses(OwnAddresses),
    /// All backends of Services that `EndpointSlices` list which no controller writes from selectors.
    ListedBackends(BTreeMap<ObjectName, BTreeSet<ServiceBackend>>),
    /// All that a node publishes about its pods; it replaces what the node published before.
    PublishedAddresses {
        /// The node.
        node: Arc<str>,
        /// Its pods with addresses that the API may not report yet.
        pods: Vec<PublishedPod>,
    },
}

/// The addresses of this node's own devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    /// All of them.
    pub all: BTreeSet<IpAddr>,
    /// Those of them that IPVS holds for Services: it translates the ports of these Services, and the node receives the others.
    pub of_ipvs: BTreeSet<IpAddr>,
}

/// How connections of a pod to its own node are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnNodeEgress {
    /// They pass, unless a rule denies them: what the documentation of `NetworkPolicy` says.
    #[default]
    Allow,
    /// They need a rule that allows them, as those to any other address.
    Judge,
}

impl OwnNodeEgress {
    /// Every value, with the text of the option.
    pub const ALL: [(Self, &str); 2] = [(Self::Allow, "allow"), (Self::Judge, "judge")];
}

impl FromStr for OwnNodeEgress {
    type Err = UnknownOwnNodeEgress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|(_, name)| *name == text);
        found.map(|(value, _)| value).ok_or(UnknownOwnNodeEgress)
    }
}

impl fmt::Display for OwnNodeEgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.into_iter().find(|(value, _)| value == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

/// The text is no [`OwnNodeEgress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither allow nor judge")]
pub struct UnknownOwnNodeEgress;

/// The addresses of a pod, as its node publishes them before the API reports any.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublishedPod {
    /// The pod's namespace and name.
    pub pod: ObjectName,
    /// The pod's uid.
    pub uid: Arc<str>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// The complete list of one kind. Its objects share equal values.
#[derive(Clone, Debug)]
pub struct List {
    pub(super) kind: Kind,
    pub(super) objects: Vec<Object>,
    pub(super) unreadable: Vec<ObjectName>,
    pub(super) interner: Interner,
}

impl List {
    /// Makes a list from the objects of a kind that could be read and the names of those that could not: their stored versions
    /// stay. Objects of other kinds are left out. Of several objects with one name the last counts.
    pub fn new(kind: Kind, mut objects: Vec<Object>, unreadable: Vec<ObjectName>) -> Self {
        objects.retain(|object| object.kind() == kind);
        let mut interner = Interner::default();
        for object in &mut objects {
            interner.share(object);
        }
        Self { kind, objects, unreadable, interner }
    }

    /// The same from objects of this kind whose values are interned by this interner; values of others are stored twice.
    pub fn shared(
        kind: Kind,
        objects: Vec<Object>,
        unreadable: Vec<ObjectName>,
        interner: Interner,
    ) -> Self {
        Self { kind, objects, unreadable, interner }
    }

    /// The same list with names of objects whose stored versions stay although the list does not have them.
    #[must_use]
    pub fn keeping(mut self, names: impl IntoIterator<Item = ObjectName>) -> Self {
        self.unreadable.extend(names);
        self
    }

    /// The kind of all objects here.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The objects that could be read.
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// The names of the objects that could not be read.
    pub fn unreadable(&self) -> &[ObjectName] {
        &self.unreadable
    }
}

impl PartialEq for List {
    fn eq(&self, other: &Self) -> bool {
        let Self { kind, objects, unreadable, interner: _ } = self;
        (*kind, objects, unreadable) == (other.kind, &other.objects, &other.unreadable)
    }
}

impl Eq for List {}

/// A pod's interface on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The host side's interface index. Reused by the kernel: see `container_id`.
    pub ifindex: IfIndex,
    /// The sandbox that owns the interface; empty in simulations.
    pub container_id: Arc<str>,
    /// The pod's namespace and name.
    pub pod: ObjectName,
    /// The pod's uid; empty if the runtime did not report it, when the name alone identifies the pod.
    pub pod_uid: Arc<str>,
    /// Number in the packet mark under which a deferred egress verdict finds this endpoint again, 1 to
    /// 4095; 0 for none.
    pub egress_mark: u16,
    /// The addresses that the CNI result gave to the interface: valid before the API reports any.
    pub addresses: Vec<IpAddr>,
    /// The pod's end of the veth pair.
    pub pod_end: PodEnd,
}

/// The pod's end of a veth pair, as it is in the pod's network namespace when the pod starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodEnd {
    /// Its MAC address; [`Mac::UNKNOWN`] if it could not be read.
    pub mac: Mac,
    /// Its link-local addresses, besides the one that follows from the MAC address.
    pub link_local: Vec<Ipv6Addr>,
}
