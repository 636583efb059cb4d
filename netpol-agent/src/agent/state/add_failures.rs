//! CNI ADDs that were refused, by cause.

use std::collections::BTreeMap;

/// Why an ADD was refused. Each is repeated by the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::agent) enum AddFailure {
    /// The kernel refused to block the interface or to attach its programs.
    Kernel,
    /// The source has not listed all kinds of objects.
    NotListed,
    /// The source has not reported the pod.
    UnknownPod,
    /// The policy of the pod could not be put in force.
    NotInForce,
    /// The interface was removed meanwhile.
    Removed,
}

impl AddFailure {
    /// All causes.
    const ALL: [Self; 5] =
        [Self::Kernel, Self::NotListed, Self::UnknownPod, Self::NotInForce, Self::Removed];

    /// Its name in metrics.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::NotListed => "not-listed",
            Self::UnknownPod => "unknown-pod",
            Self::NotInForce => "not-in-force",
            Self::Removed => "removed",
        }
    }
}

/// The number of failures of each cause.
#[derive(Debug, Default)]
pub(in crate::agent) struct AddFailures(BTreeMap<AddFailure, u64>);

impl AddFailures {
    /// Counts a failure.
    pub(in crate::agent) fn record(&mut self, cause: AddFailure) {
        *self.0.entry(cause).or_default() += 1;
    }

    /// The numbers by name, zeros included.
    pub(in crate::agent) fn by_cause(&self) -> impl Iterator<Item = (String, u64)> {
        AddFailure::ALL.into_iter().map(|cause| {
            (cause.as_str().to_owned(), self.0.get(&cause).copied().unwrap_or_default())
        })
    }
}
