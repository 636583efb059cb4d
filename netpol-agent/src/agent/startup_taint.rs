//! Removes the start-up taint from the own Node once the agent serves.
//!
//! In: whether the agent serves. Out: a patch of the Node. Must not: end the agent, or try where no admission policy of the API server
//! keeps each agent to its own Node.

use std::sync::Arc;
use std::time::Duration;

use netpol_kube::{Access, Error, Removal};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};

/// From the time at which the agent serves until the taint goes: `cni install --watch` looks twice a second, and adds our entry.
const REMOVED_AFTER: Duration = Duration::from_secs(2);

/// Pause before the next look at the Node, which can be made anew with the taint while the agent runs.
const INTERVAL: Duration = Duration::from_mins(10);

/// Pause after a failure; it doubles up to the second one.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// The first minor version of Kubernetes whose tokens name their node.
const FIRST_MINOR: u32 = 30;

/// Removes the taint with this key from the Node, now and whenever it is there again.
pub(super) async fn remove(
    access: Access,
    node: Arc<str>,
    key: String,
    mut serves: watch::Receiver<bool>,
) {
    if serves.wait_for(|serves| *serves).await.is_err() {
        return;
    }
    sleep(REMOVED_AFTER).await;
    let [first, last] = PAUSES;
    let mut pause = first;
    loop {
        match step(&access, &node, &key).await {
            Ok(Step::Done) => {
                pause = first;
                sleep(INTERVAL).await;
            }
            Ok(Step::TooOld { minor }) => {
                warn!(taint = %key, "start-up taint not removed: Kubernetes 1.{minor} cannot keep an agent to its own Node, 1.{FIRST_MINOR} can");
                return;
            }
            Err(error) => {
                warn!(taint = %key, error = &error as &dyn std::error::Error, "start-up taint not removed yet");
                sleep(pause).await;
                pause = (pause * 2).min(last);
            }
        }
    }
}

/// What a look at the Node has led to.
enum Step {
    /// The Node does not have the taint any more.
    Done,
    /// The API server is too old.
    TooOld { minor: u32 },
}

async fn step(access: &Access, node: &str, key: &str) -> Result<Step, Error> {
    let minor = netpol_kube::minor_version(&access.client()).await?;
    if minor < FIRST_MINOR {
        return Ok(Step::TooOld { minor });
    }
    // One removal for each effect.
    while netpol_kube::remove_taint(&access.client(), node, key).await? == Removal::Removed {
        info!(node, taint = key, "start-up taint removed: pods of this node have policies");
    }
    debug!(node, taint = key, "no start-up taint");
    Ok(Step::Done)
}
