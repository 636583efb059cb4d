//! The kernel side: programs, maps and attachments; the only user of aya.
//!
//! In: map operations, devices to attach to. Out: what the maps hold, counters, events. All that must outlive the
//! agent is pinned: maps, so that no flow and no policy is lost in a restart, and links, so that the programs
//! go on. Must not: decide what the maps should hold.

mod allow;
mod apply;
mod attach;
mod error;
mod events;
mod flows;
mod identities;
mod layout;
mod load;
mod map_gc;
mod maps;
mod memory;
mod migration;
pub mod netlink;
mod pins;
mod port;
pub mod simulation;
mod site;
mod succession;
mod table;
mod test_run;
mod uninstall;
mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;

use aya::Ebpf;
use netpol_common::ids::Hook;
use netpol_common::verdict::DEFAULT_MARK_MASK;

use self::flows::Geometry;
use self::maps::Maps;
use self::pins::Pins;

pub use self::attach::{Attaching, Role};
pub use self::error::{Error, PinCause};
pub use self::events::{Events, TraceMessages};
pub use self::load::Verified;
pub use self::map_gc::MapGc;
pub use self::migration::Migration;
pub use self::pins::Mount;
pub use self::test_run::{TestContext, TestOutcome};
pub use self::uninstall::{Removed, uninstall};

/// How the kernel side is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder for pins, directly on a BPF file system; default `/sys/fs/bpf/netpol`. `None` loads a private
    /// copy that ends with its [`Datapath`] and cannot be attached: for simulations and tests.
    pub pin_root: Option<PathBuf>,
    /// What to do when the parent of `pin_root` is no BPF file system.
    pub mount: Mount,
    /// Bits of the packet mark that carry an egress mark: 12 adjacent ones.
    pub mark_mask: u32,
    /// Whether the programs log each verdict. What is not logged costs nothing: the verifier removes it.
    pub trace: Trace,
    /// How programs are attached. A change takes effect for devices that are attached to from then on.
    pub attaching: Attaching,
    /// Capacities other than those of [`netpol_common::maps`], by map name.
    pub capacities: BTreeMap<&'static str, u32>,
}

/// Whether the programs log each verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trace {
    /// No.
    #[default]
    Off,
    /// Yes, for a person who watches a few packets.
    On,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pin_root: Some(PathBuf::from("/sys/fs/bpf/netpol")),
            mount: Mount::IfMissing,
            mark_mask: DEFAULT_MARK_MASK,
            trace: Trace::default(),
            attaching: Attaching::of_this_kernel(),
            capacities: BTreeMap::new(),
        }
    }
}

impl Config {
    /// A private copy that leaves the pinned state of this node alone.
    #[must_use]
    pub fn private() -> Self {
        Self { pin_root: None, ..Self::default() }
    }
}

/// One of the programs in the object file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// See [`Hook::PodIngress`].
    PodIngress,
    /// See [`Hook::PodEgress`].
    PodEgress,
    /// See [`Hook::UplinkEgress`].
    UplinkEgress,
    /// The same for devices whose frames start with the IP header (tunnels).
    UplinkEgressL3,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::PodIngress, Self::PodEgress, Self::UplinkEgress, Self::UplinkEgressL3];

    /// The name in the object file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PodIngress => "pod_ingress",
            Self::PodEgress => "pod_egress",
            Self::UplinkEgress => "uplink_egress",
            Self::UplinkEgressL3 => "uplink_egress_l3",
        }
    }

    /// Where it hangs.
    pub const fn hook(self) -> Hook {
        match self {
            Self::PodIngress => Hook::PodIngress,
            Self::PodEgress => Hook::PodEgress,
            Self::UplinkEgress | Self::UplinkEgressL3 => Hook::UplinkEgress,
        }
    }
}

/// The loaded programs and their maps.
pub struct Datapath {
    ebpf: Ebpf,
    maps: Maps,
    /// `None` for a private copy.
    pins: Option<Pins>,
    config: Config,
    geometry: Geometry,
    /// The programs that are needed while filters are exchanged.
    last: Option<Ebpf>,
}
