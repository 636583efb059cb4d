//! The ELF object with the eBPF programs: how it is loaded and pinned.
//!
//! In: the configuration, the pins of an earlier run. Out: loaded programs, the layout of each map, the verifier's figures,
//! the outcome of test runs. Must not: read or write the entries of a map.

mod adapt;
mod kernel;
pub(crate) mod layout;
mod loader;
pub(crate) mod pins;
mod test_run;
mod verified;

pub use self::adapt::{Adaptation, Arguments, Clock};
pub use self::kernel::Feature;
pub(crate) use self::kernel::{has_tcx, object};
pub(crate) use self::layout::Layout;
pub(crate) use self::loader::{Geometry, LOG_MAP, classifier, classifier_named, loader};
pub(crate) use self::pins::Pins;
pub(crate) use self::test_run::test_run;
pub use self::test_run::{TestContext, TestOutcome};
pub use self::verified::Verified;
pub(crate) use self::verified::verified;
