//! The devices before which packets with an egress mark pass: those that have programs, and bridges, whose ports have.

use std::collections::BTreeSet;

use netpol_common::ids::IfIndex;

/// The loopback device of every network namespace. Processes of the node may use the bits of the mask between each other.
const LOOPBACK: IfIndex = IfIndex(1);

/// The exits of the node.
#[derive(Debug, Default)]
pub(in crate::agent) struct Exits {
    /// Devices whose programs are attached.
    attached: BTreeSet<IfIndex>,
    /// A packet that leaves through a bridge is judged at its port.
    bridges: BTreeSet<IfIndex>,
    /// The bridges are known.
    pub(in crate::agent) is_listed: bool,
    /// The kernel has not been told of the latest change.
    pub(in crate::agent) is_changed: bool,
    /// Whether the table was there after the latest attempt; `None` before the first one.
    pub(in crate::agent) in_place: Option<Result<(), String>>,
    /// Times that the table was missing or had been changed by others.
    pub(in crate::agent) n_recreated: u64,
}

impl Exits {
    /// Records that the programs of a device are attached.
    pub(in crate::agent) fn open(&mut self, ifindex: IfIndex) {
        self.is_changed |= self.attached.insert(ifindex);
    }

    /// Records that a device lacks programs, or is gone.
    pub(in crate::agent) fn close(&mut self, ifindex: IfIndex) {
        self.is_changed |= self.attached.remove(&ifindex);
    }

    /// Records the bridge of a new pod, which its plugin may have created for it.
    pub(in crate::agent) fn add_bridge(&mut self, ifindex: IfIndex) {
        self.is_changed |= self.bridges.insert(ifindex);
    }

    /// Takes the present bridges, after their ports have their programs. Removes devices that do not exist.
    pub(in crate::agent) fn set_bridges(
        &mut self,
        bridges: BTreeSet<IfIndex>,
        exists: impl Fn(IfIndex) -> bool,
    ) {
        let n_before = self.attached.len();
        self.attached.retain(|ifindex| exists(*ifindex));
        self.is_changed |= self.attached.len() != n_before || self.bridges != bridges;
        self.bridges = bridges;
        self.is_listed = true;
    }

    /// All of them.
    pub(in crate::agent) fn all(&self) -> BTreeSet<IfIndex> {
        self.attached.union(&self.bridges).copied().chain([LOOPBACK]).collect()
    }
}
