//! Devices from which others have removed programs: counts, findings, and the pods whose connections have to be corrected.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use netpol_common::ids::{IfIndex, Nanos};
use netpol_policy::model::ObjectRef;

/// How long a finding stands, so that it is seen in the status.
const STANDS: Duration = Duration::from_hours(1);

/// What is known about removed programs.
#[derive(Debug, Default)]
pub(in crate::agent) struct Detached {
    /// Times that programs were attached again, since the agent started.
    pub(in crate::agent) n_pods: u64,
    pub(in crate::agent) n_uplinks: u64,
    /// Devices to which programs cannot be attached again, so that each is reported once.
    pub(in crate::agent) refused: BTreeSet<IfIndex>,
    /// Whether the latest look failed, so that it is reported once.
    pub(in crate::agent) is_blind: bool,
    /// When all devices were last found to have their programs, by the clock of the flows.
    pub(in crate::agent) complete_at: Option<Nanos>,
    /// Interfaces whose programs were detached, with the time since when. Their connections are searched for.
    pub(in crate::agent) uncorrected: BTreeMap<IfIndex, Nanos>,
    /// The findings have changed since they were last reported.
    pub(in crate::agent) has_news: bool,
    /// The pods and the node that are reported, with the time of the latest removal.
    findings: BTreeMap<ObjectRef, Instant>,
}

impl Detached {
    /// Records a removal for the object that is reported.
    pub(in crate::agent) fn record(&mut self, object: ObjectRef, now: Instant) {
        self.has_news |= self.findings.insert(object, now).is_none();
    }

    /// Ends findings that have stood long enough.
    pub(in crate::agent) fn expire(&mut self, now: Instant) {
        let n_before = self.findings.len();
        self.findings.retain(|_, at| now.saturating_duration_since(*at) < STANDS);
        self.has_news |= self.findings.len() != n_before;
    }

    /// The objects that are reported.
    pub(in crate::agent) fn findings(&self) -> impl Iterator<Item = &ObjectRef> {
        self.findings.keys()
    }
}
