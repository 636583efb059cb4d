//! The kernel side of netpol: eBPF programs, maps, attachments and netlink. The only user of aya.
//!
//! In: map operations, devices to attach to. Out: the content of the maps, counters, events. Everything that must outlive
//! the agent is pinned: the maps, so that a restart loses no flow and no policy, and the TCX links, so that the programs
//! stay in force. Must not: decide what the maps should hold.
//!
//! [`Datapath`] implements the port [`netpol_policy::dataplane::port`]. The modules, from the bottom up:
//!
//! * `config`, `program`, `error`: the settings, the names of the programs, the error type.
//! * `object`: the ELF object, the kernel features it needs, its pins on the BPF file system, test runs.
//! * `tables`: typed access to each map, with the `unsafe` code for maps (`tables::wire`).
//! * `datapath`: [`Datapath`], the loaded programs with their maps.
//! * `maps`: map operations, garbage collection, flows, events (the traits `Maps` and `Flows`).
//! * `attach`: programs on devices, TCX migration, uninstallation (the trait `Attachments`).
//! * [`netfilter`]: the netfilter rules of others, with one `unsafe` question to the kernel (`netfilter::socket`).
//! * [`netlink`]: devices and addresses of the node; [`simulation`]: the programs as an engine of simulations.

mod attach;
mod config;
mod datapath;
mod error;
mod maps;
pub mod netfilter;
pub mod netlink;
mod object;
mod program;
pub mod simulation;
mod tables;

pub use self::attach::{Migration, Removed, Role, uninstall};
pub use self::config::{Attaching, Config, FlowReads, Mount, Trace};
pub use self::datapath::Datapath;
pub use self::error::{Error, PinCause};
pub use self::maps::{Events, MapGc, TraceMessages};
pub use self::object::{Adaptation, Arguments, Clock, Feature, TestContext, TestOutcome, Verified};
pub use self::program::Program;
