//! What changes the state of the cluster.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use netpol_common::ids::IfIndex;

use crate::model::{Kind, Object, ObjectName, ObjectRef};

/// One change of the known cluster. Applying the same delta twice is the same as once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// The object exists and looks like this.
    Upsert(Object),
    /// The object is gone. With a `uid`, only if the stored object has it: a late deletion of a pod must
    /// not remove its successor of the same name.
    Remove {
        /// Which object.
        object: ObjectRef,
        /// Its uid, when the source knows it.
        uid: Option<Arc<str>>,
    },
    /// The complete list of one kind: objects that are neither in `objects` nor `unreadable` are gone.
    Replace {
        /// The kind of all objects here.
        kind: Kind,
        /// All that exist and could be understood.
        objects: Vec<Object>,
        /// Those that exist but could not be understood at all: what is stored of them stays.
        unreadable: Vec<ObjectName>,
    },
    /// A pod interface of this node is attached.
    UpsertEndpoint(Endpoint),
    /// A pod interface of this node is gone.
    RemoveEndpoint(IfIndex),
    /// The addresses of this node's own devices.
    OwnAddresses(BTreeSet<IpAddr>),
}

/// A pod's interface on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The host side's interface index. Reused by the kernel: see `container_id`.
    pub ifindex: IfIndex,
    /// The sandbox that owns the interface; empty in simulations.
    pub container_id: Arc<str>,
    /// The pod's namespace and name.
    pub pod: ObjectName,
    /// The pod's uid, empty when the runtime did not tell it (then the name alone decides).
    pub pod_uid: Arc<str>,
    /// Number in the packet mark under which a deferred egress verdict finds this endpoint again, 1 to
    /// 4095; 0 for none.
    pub ticket: u16,
    /// The addresses that the CNI result gave to the interface: valid before the API reports any.
    pub addresses: Vec<IpAddr>,
}
