//! The event loop and the state that it owns.
//!
//! In: updates of the sources, calls of the CNI plugin, the node's devices, pods found by a search. Out: map operations,
//! answers. Nothing is written to the maps before every kind of object has been listed once; the content of an earlier
//! run stays in force until then.
//!
//! `state` holds the [`Agent`], `sync` writes it to the maps, `findings` reports the problems of objects.
//! `endpoints` adds and removes endpoints, `upkeep` schedules work for the worker thread, `answers` serves questions.
//! `event_loop` drives all of them, and `run` wires the loop to the edges. Each module uses those named before it.

mod answers;
mod backlog;
mod clock;
mod config;
mod endpoints;
mod event_loop;
#[cfg(test)]
mod fake_kernel;
mod findings;
mod known_servers;
mod object_source;
pub mod policy_status;
mod publisher;
mod run;
mod saved_file;
mod startup_taint;
mod state;
mod sync;
#[cfg(test)]
mod tests;
mod unable;
mod upkeep;

pub use answers::foreign::{ForeignProgram, NetfilterStatus};
pub use answers::handle::Handle;
pub use answers::policy::{PolicyPod, PolicyReport};
pub use answers::rules::{RuleRecord, RuleReport};
pub use answers::status::{
    Attached, EndpointStatus, ExitGuardStatus, InterfaceState, MapStatus, PolicyStatus, Protection,
    PublishingStatus, SourceStatus, Status, TunnelStatus, UnidentifiedStatus, UplinkStatus,
};
pub use config::{CONTROL_SOCKET, Config, PublishAddresses, Source, state_files};
pub use netpol_observer::records::{DropRecord, FlowRecord};
pub(crate) use run::end_at_signal;
pub use run::{lock, run};
pub use state::overlays::{OverlayShortCut, OverlayState};
pub use state::publishing::PublishingOutcome;
pub use state::registry::{Record, Registry};
pub use state::short_cuts::{ShortCut, ShortCutStatus};
pub use state::tunnels::PodTunnels;
pub use state::{Agent, FromBefore};
