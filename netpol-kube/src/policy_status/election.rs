//! Elects one agent by a Lease, with optimistic concurrency: whoever replaces the version that it has read is elected.
//!
//! Clocks of nodes are not compared. A Lease counts as abandoned if the candidate itself has seen it unchanged for the Lease's duration.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::time::Instant;

use crate::access::Error;
use crate::published::{NAMESPACE, limited};

/// The name of the Lease.
pub const ELECTION: &str = "netpol-agent-policy-status";

/// An agent that can be elected.
#[derive(Debug)]
pub struct Candidate {
    identity: Arc<str>,
    /// How long a Lease that nobody renews holds.
    duration: Duration,
    /// The version of the Lease that was seen last, and since when.
    seen: Option<(String, Instant)>,
}

impl Candidate {
    /// The agent of a node.
    pub fn new(identity: Arc<str>, duration: Duration) -> Self {
        Self { identity, duration, seen: None }
    }

    /// Takes or renews the Lease if it is free, abandoned or its own. Returns whether this agent is elected.
    ///
    /// # Errors
    /// [`Error::Request`] if the server cannot be reached or refuses the request, [`Error::Timeout`] if it does not respond.
    pub async fn stand(&mut self, client: &Client) -> Result<bool, Error> {
        let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
        let Some(found) = limited(leases.get_opt(ELECTION)).await? else {
            let metadata = ObjectMeta { name: Some(ELECTION.to_owned()), ..ObjectMeta::default() };
            let lease = self.renewed(metadata);
            return is_won(limited(leases.create(&PostParams::default(), &lease)).await);
        };
        let version = found.metadata.resource_version.clone().unwrap_or_default();
        let elected = found.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        let is_own = elected == Some(&*self.identity);
        let seen = self.seen.take().filter(|(known, _)| *known == version);
        let (_, since) = self.seen.insert(seen.unwrap_or_else(|| (version, Instant::now())));
        let is_free = elected.is_none_or(str::is_empty) || since.elapsed() >= self.duration;
        if !is_own && !is_free {
            return Ok(false);
        }
        // With the version that was read, so that of two candidates one is refused.
        let lease = self.renewed(found.metadata);
        is_won(limited(leases.replace(ELECTION, &PostParams::default(), &lease)).await)
    }

    fn renewed(&self, metadata: ObjectMeta) -> Lease {
        let seconds = i32::try_from(self.duration.as_secs()).unwrap_or(i32::MAX);
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.to_string()),
            lease_duration_seconds: Some(seconds.max(1)),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        };
        Lease { metadata, spec: Some(spec) }
    }
}

fn is_won(written: Result<Lease, Error>) -> Result<bool, Error> {
    match written {
        Ok(_) => Ok(true),
        Err(error) if error.status() == Some(409) => Ok(false),
        Err(error) => Err(error),
    }
}
