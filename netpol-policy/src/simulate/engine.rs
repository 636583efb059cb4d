//! Who answers.

use std::error::Error as StdError;

use netpol_common::verdict::{HookContext, Outcome};

use crate::dataplane::{MapOp, MemoryMaps};

/// What judges a connection.
pub enum Engine {
    /// The reference semantics, straight from the objects.
    Reference,
    /// Frames, judged at each hook on their way by maps that follow the compiled image.
    Datapath(Box<dyn Datapath>),
}

impl Engine {
    /// The compiled maps in memory.
    pub fn compiled() -> Self {
        Self::Datapath(Box::new(MemoryMaps::default()))
    }
}

/// Maps that take operations, and hooks that judge frames by them.
pub trait Datapath {
    /// Performs operations, in order.
    ///
    /// # Errors
    /// When the maps refuse one.
    fn apply(&mut self, ops: &[MapOp]) -> Result<(), DatapathError>;

    /// Judges a frame that begins with its Ethernet header.
    ///
    /// # Errors
    /// When the frame cannot be judged at all.
    fn judge(&mut self, frame: &[u8], seen: &HookContext) -> Result<Judged, DatapathError>;

    /// Forgets all connections.
    ///
    /// # Errors
    /// When the maps refuse.
    fn forget_flows(&mut self) -> Result<(), DatapathError>;
}

/// What became of a frame at one hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// It goes on.
    pub passes: bool,
    /// The packet mark that it goes on with.
    pub mark: u32,
    /// The deferred flow handle that it goes on with, see [`HookContext::flow_handle`].
    pub flow_handle: u16,
}

impl From<&Outcome> for Judged {
    fn from(outcome: &Outcome) -> Self {
        Self {
            passes: outcome.verdict.is_pass(),
            mark: outcome.mark,
            flow_handle: outcome.flow_handle,
        }
    }
}

/// The maps or programs could not be used.
#[derive(Debug, thiserror::Error)]
#[error("the maps or programs cannot be used")]
pub struct DatapathError(#[source] pub Box<dyn StdError + Send + Sync>);

impl Datapath for MemoryMaps {
    fn apply(&mut self, ops: &[MapOp]) -> Result<(), DatapathError> {
        for op in ops {
            Self::apply(self, op);
        }
        Ok(())
    }

    fn judge(&mut self, frame: &[u8], seen: &HookContext) -> Result<Judged, DatapathError> {
        let outcome = Self::judge(self, frame, seen).outcome;
        Ok(Judged::from(&outcome))
    }

    fn forget_flows(&mut self) -> Result<(), DatapathError> {
        self.clear_flows();
        Ok(())
    }
}
