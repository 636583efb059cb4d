//! Which of the observed connections policies drop, or would drop if they were not only audited.

use netpol_common::ids::Direction;

use super::contacts::{Found, routes};
use super::workloads::Workloads;
use super::{Observed, Options};
use crate::model::ObjectName;
use crate::resolve::{EndVerdict, PolicyRef};
use crate::store::ClusterState;

/// A connection that would not pass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WouldDrop {
    /// The connection.
    pub observed: Observed,
    /// The pod whose policies would drop it.
    pub pod: ObjectName,
    /// The direction from the pod's point of view.
    pub direction: Direction,
    /// The policies that isolate the pod in this direction.
    pub policies: Vec<PolicyRef>,
}

/// The connections that would not pass if all policies were enforced, with the end that would drop them.
pub fn verify<'a>(
    state: &ClusterState,
    observed: impl IntoIterator<Item = &'a Observed>,
    options: &Options,
) -> Vec<WouldDrop> {
    let workloads = Workloads::of(state);
    let mut found = Vec::new();
    for connection in observed {
        let Found::Routes(routes) = routes(state, &workloads, options, connection) else {
            continue;
        };
        for route in routes {
            let decision = route.decide(state);
            for end in [decision.egress, decision.ingress].into_iter().flatten() {
                let is_dropped = match end.verdict {
                    EndVerdict::Denied | EndVerdict::NotAllowed | EndVerdict::Audited => true,
                    EndVerdict::NotIsolated
                    | EndVerdict::Allowed
                    | EndVerdict::OwnNode
                    | EndVerdict::Itself
                    | EndVerdict::Deferred => false,
                };
                if is_dropped {
                    found.push(WouldDrop {
                        observed: connection.clone(),
                        pod: end.pod,
                        direction: end.direction,
                        policies: end.isolating,
                    });
                }
            }
        }
    }
    found.sort();
    found.dedup();
    found
}
