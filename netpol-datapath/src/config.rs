//! Settings of the kernel side.

use std::collections::BTreeMap;
use std::path::PathBuf;

use netpol_common::verdict::DEFAULT_MARK_MASK;

use crate::object::{Adaptation, has_tcx};

/// Settings of the kernel side.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of the pins, directly on a BPF file system; default `/sys/fs/bpf/netpol`. `None` loads a private
    /// copy that is dropped with its [`Datapath`](crate::Datapath) and cannot be attached: for simulations and tests.
    pub pin_root: Option<PathBuf>,
    /// What to do if the parent folder of `pin_root` is not on a BPF file system.
    pub mount: Mount,
    /// Bits of the packet mark that carry an egress mark: 12 adjacent ones.
    pub mark_mask: u32,
    /// Whether the programs log each verdict.
    pub trace: Trace,
    /// How programs are attached. A change takes effect for devices that are attached to afterwards.
    pub attaching: Attaching,
    /// How programs read the table of flows.
    pub flow_reads: FlowReads,
    /// What the programs use of the features that they can do without. `None` asks this kernel.
    pub adaptation: Option<Adaptation>,
    /// Capacities that differ from those of [`netpol_common::maps`], by map name.
    pub capacities: BTreeMap<&'static str, u32>,
}

/// Whether the programs log each verdict. `Off` costs nothing, because the verifier removes the code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trace {
    /// No.
    #[default]
    Off,
    /// Yes, for a person who watches a few packets.
    On,
}

/// How programs are attached to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attaching {
    /// By TCX links, which Linux has since 6.6.
    Links,
    /// By filters of a `clsact` queueing discipline.
    Filters,
}

/// How programs read the table of flows. [`netpol_common::flow_table::SlotMemory`] gives the reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowReads {
    /// Without a lock. Correct only on processors that perform loads in program order and publish stores in program order.
    LockFree,
    /// Under the lock of the bucket.
    Locked,
}

impl FlowReads {
    /// The correct way for the processor architecture that this program is compiled for.
    pub const OF_THIS_ARCHITECTURE: Self =
        if cfg!(target_arch = "x86_64") { Self::LockFree } else { Self::Locked };

    /// Value of the programs' constant `FLOW_READS_LOCK`.
    pub(crate) const fn to_constant(self) -> &'static u32 {
        match self {
            Self::LockFree => &0,
            Self::Locked => &1,
        }
    }
}

/// What to do if no BPF file system is mounted at the expected path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mount {
    /// Mount one.
    IfMissing,
    /// Fail.
    Never,
}

impl Attaching {
    /// TCX links if this kernel supports them, else clsact filters.
    pub fn of_this_kernel() -> Self {
        if has_tcx() { Self::Links } else { Self::Filters }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pin_root: Some(PathBuf::from("/sys/fs/bpf/netpol")),
            mount: Mount::IfMissing,
            mark_mask: DEFAULT_MARK_MASK,
            trace: Trace::default(),
            attaching: Attaching::of_this_kernel(),
            flow_reads: FlowReads::OF_THIS_ARCHITECTURE,
            adaptation: None,
            capacities: BTreeMap::new(),
        }
    }
}

impl Config {
    /// A private copy: the pinned maps and links of this node stay untouched.
    #[must_use]
    pub fn private() -> Self {
        Self { pin_root: None, ..Self::default() }
    }
}
