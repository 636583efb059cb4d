//! The engines that evaluate connections.

use std::error::Error as StdError;

use netpol_common::verdict::{HookContext, Outcome};

use crate::dataplane::{MapOp, MemoryMaps};

/// An implementation of the policy semantics.
pub enum Engine {
    /// The reference semantics, evaluated on the objects.
    Reference,
    /// `decide()` on frames at each hook of their path, with compiled maps.
    Datapath(Box<dyn Datapath>),
}

impl Engine {
    /// Compiled maps in memory.
    pub fn compiled() -> Self {
        Self::Datapath(Box::new(MemoryMaps::default()))
    }
}

/// Maps that map operations change, and hooks that decide frames with these maps.
pub trait Datapath {
    /// Performs operations, in order.
    ///
    /// # Errors
    /// A map refuses an operation.
    fn apply(&mut self, ops: &[MapOp]) -> Result<(), DatapathError>;

    /// Decides one frame, which starts with its Ethernet header.
    ///
    /// # Errors
    /// The programs cannot be run on the frame.
    fn judge(&mut self, frame: &[u8], context: &HookContext) -> Result<Judged, DatapathError>;

    /// Removes all flows.
    ///
    /// # Errors
    /// The flow table cannot be changed.
    fn forget_flows(&mut self) -> Result<(), DatapathError>;
}

/// The decision on a frame at one hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Whether the frame passes.
    pub passes: bool,
    /// The packet mark after the hook.
    pub mark: u32,
    /// The deferred flow handle after the hook, see [`HookContext::flow_handle`].
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

/// A map operation or a program run failed.
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

    fn judge(&mut self, frame: &[u8], context: &HookContext) -> Result<Judged, DatapathError> {
        let outcome = Self::judge(self, frame, context).outcome;
        Ok(Judged::from(&outcome))
    }

    fn forget_flows(&mut self) -> Result<(), DatapathError> {
        self.clear_flows();
        Ok(())
    }
}
