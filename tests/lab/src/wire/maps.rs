//! Maps shared by a simulated cluster, which changes them, and a test, which sends packets.

use std::cell::RefCell;
use std::rc::Rc;

use netpol_common::reason::Verdict;
use netpol_common::verdict::HookContext;
use netpol_policy::dataplane::{MapOp, MemoryMaps};
use netpol_policy::simulate::{Datapath, DatapathError, Judged};

/// A handle on maps and programs.
#[derive(Clone)]
pub struct SharedMaps(Rc<RefCell<Inner>>);

struct Inner {
    engine: Engine,
    ops: Vec<MapOp>,
    verdict: Option<Verdict>,
}

enum Engine {
    Memory(Box<MemoryMaps>),
    Other(Box<dyn Datapath>),
}

impl SharedMaps {
    /// Maps in memory, with reasons of verdicts.
    pub fn memory() -> Self {
        Self::of(Engine::Memory(Box::default()))
    }

    /// Another datapath.
    pub fn other(datapath: Box<dyn Datapath>) -> Self {
        Self::of(Engine::Other(datapath))
    }

    fn of(engine: Engine) -> Self {
        Self(Rc::new(RefCell::new(Inner { engine, ops: Vec::new(), verdict: None })))
    }

    /// The operations since the last call.
    pub fn take_ops(&self) -> Vec<MapOp> {
        std::mem::take(&mut self.0.borrow_mut().ops)
    }

    /// The verdict on a frame: whether it passes, its mark, and the reason, if the engine gives one.
    ///
    /// # Errors
    /// The engine fails.
    pub fn observe(
        &self,
        frame: &[u8],
        seen: &HookContext,
    ) -> Result<(Judged, Option<Verdict>), DatapathError> {
        let mut inner = self.0.borrow_mut();
        let judged = inner.judge(frame, seen)?;
        Ok((judged, inner.verdict))
    }
}

impl Inner {
    fn judge(&mut self, frame: &[u8], seen: &HookContext) -> Result<Judged, DatapathError> {
        match &mut self.engine {
            Engine::Memory(maps) => {
                let outcome = MemoryMaps::judge(maps, frame, seen).outcome;
                self.verdict = Some(outcome.verdict);
                Ok(Judged::from(&outcome))
            }
            Engine::Other(datapath) => datapath.judge(frame, seen),
        }
    }
}

impl Datapath for SharedMaps {
    fn apply(&mut self, ops: &[MapOp]) -> Result<(), DatapathError> {
        let mut inner = self.0.borrow_mut();
        inner.ops.extend_from_slice(ops);
        match &mut inner.engine {
            Engine::Memory(maps) => Datapath::apply(&mut **maps, ops),
            Engine::Other(datapath) => datapath.apply(ops),
        }
    }

    fn judge(&mut self, frame: &[u8], seen: &HookContext) -> Result<Judged, DatapathError> {
        self.0.borrow_mut().judge(frame, seen)
    }

    fn forget_flows(&mut self) -> Result<(), DatapathError> {
        match &mut self.0.borrow_mut().engine {
            Engine::Memory(maps) => maps.forget_flows(),
            Engine::Other(datapath) => datapath.forget_flows(),
        }
    }
}
