//! Calls of the CNI plugin.
//!
//! In: requests. Out: responses, for an ADD when the policy of its pod is in force.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use netpol_common::ids::IfIndex;
use netpol_policy::dataplane::port::{Kernel, NewInterface};
use netpol_policy::dataplane::{EndpointMapState, MapOp};
use netpol_policy::model::{Kind, ObjectName, PodPhase};
use netpol_policy::source::Health;
use netpol_policy::store::{Delta, Endpoint};
use netpol_proto::{Add, Attachment, Check, ErrorCode, Gc, Request, Response};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::agent::endpoints::unidentified::Programs;
use crate::agent::state::add_failures::AddFailure;
use crate::agent::state::registry::Record;
use crate::agent::state::unidentified::Means;
use crate::agent::state::{Agent, WaitingAdd};
use crate::cni_server::Call;

/// How long an ADD waits for its pod's policy before the runtime is asked to try again. The kubelet gives a sandbox four
/// minutes, and containerd retries a failed one at once.
const ADD_DEADLINE: Duration = Duration::from_secs(20);

impl<K: Kernel> Agent<K> {
    /// Handles a call. The answer follows at once or, for an ADD, from a later [`Agent::sync`] or [`Agent::expire`].
    pub fn call(&mut self, call: Call, now: Instant) {
        let Call { request, reply } = call;
        let verb = request.verb();
        if matches!(request, Request::Add(_) | Request::Del(_)) {
            self.migrations.record_call(now);
            self.gc_schedule.record_call(now);
        }
        let response = match request {
            Request::Add(add) => match self.begin_add(add, now) {
                Ok(ifindex) => {
                    self.unidentified.means = Means::Filters;
                    let deadline = now + ADD_DEADLINE;
                    self.waiting.push(WaitingAdd { ifindex, asked: now, deadline, reply });
                    return;
                }
                Err(response) => {
                    self.add_failures.record(AddFailure::Kernel);
                    response
                }
            },
            Request::Del(attachment) => self.delete(&attachment),
            Request::Check(check) => self.check(&check),
            Request::Gc(gc) => self.collect_garbage(&gc),
            Request::Status => self.status(),
        };
        answer(reply, response, verb);
    }

    /// Makes the interface an endpoint, blocked in the maps. The next [`Agent::sync`] attaches its programs, before the ADD is
    /// answered.
    pub(super) fn begin_add(&mut self, add: Add, now: Instant) -> Result<IfIndex, Response> {
        let ifindex = IfIndex(add.host_ifindex);
        let pod = format!("{}/{}", add.pod.namespace, add.pod.name);
        let mut ops = Vec::new();
        // While another version is in force, entries of its removed endpoints have not been collected yet.
        if self.map_state.endpoints.contains_key(&ifindex) || self.kernel.has_predecessor() {
            ops.push(MapOp::RemoveEndpoint(ifindex));
        }
        let container_id = add.attachment.container_id.as_str().into();
        ops.push(MapOp::SetEndpoint(ifindex, EndpointMapState::blocked(&container_id)));
        self.perform(&ops).map_err(|error| refused(&pod, ifindex, "block", &error))?;
        self.unattached.retain(|new| new.ifindex != ifindex);
        let new = NewInterface { ifindex, is_unshaped: add.is_unshaped };
        match self.take_blocked(new) {
            Programs::Attached => self.record_attached(ifindex),
            Programs::Missing => self.unattached.push(new),
        }
        self.adoption.remove(ifindex);
        let pod_end = self.read_pod_end(ifindex);
        self.expect_pod_end(ifindex, now);
        let endpoint = self.registry.insert(add, pod_end);
        info!(%pod, %ifindex, container = %endpoint.container_id, "endpoint blocked until its policy is in force");
        self.apply_delta(Delta::UpsertEndpoint(endpoint));
        Ok(ifindex)
    }

    /// Removes the endpoint. The interface keeps its programs until it is gone: without an endpoint they drop everything.
    fn delete(&mut self, attachment: &Attachment) -> Response {
        self.registry.retain_gone(|record| record.attachment() != attachment);
        if let Some(record) = self.registry.find(attachment) {
            let endpoint = record.endpoint();
            self.record_end(endpoint.ifindex);
            self.remove_endpoint(endpoint.ifindex);
            info!(pod = %endpoint.pod, ifindex = %endpoint.ifindex, container = %endpoint.container_id, "endpoint removed");
        }
        Response::Ok
    }

    /// Removes an endpoint that cannot be protected, and answers its ADD with the error.
    pub(in crate::agent) fn refuse(&mut self, ifindex: IfIndex, step: &str, error: &K::Error) {
        let pod = self.state.endpoint(ifindex).map(|endpoint| endpoint.pod.to_string());
        let response = refused(&pod.unwrap_or_default(), ifindex, step, error);
        self.answer_waiting(ifindex, &response, AddFailure::Kernel);
        self.remove_endpoint(ifindex);
    }

    /// Removes an endpoint from the maps at once, without waiting for the next [`Agent::sync`].
    pub(in crate::agent) fn remove_endpoint(&mut self, ifindex: IfIndex) {
        self.adoption.remove(ifindex);
        self.migrations.remove(ifindex);
        self.unattached.retain(|new| new.ifindex != ifindex);
        self.changeable.remove(&ifindex);
        self.registry.remove(ifindex);
        if let Some(endpoint) = self.state.endpoint(ifindex) {
            self.drop_totals.remove(ifindex, endpoint.pod.clone());
        }
        self.apply_delta(Delta::RemoveEndpoint(ifindex));
        if self.map_state.endpoints.contains_key(&ifindex)
            && let Err(error) = self.perform(&[MapOp::RemoveEndpoint(ifindex)])
        {
            error!(%ifindex, %error, "endpoint not removed from the maps; the next update removes it");
        }
        let response =
            Response::error(ErrorCode::TRY_AGAIN_LATER, "the interface was removed meanwhile");
        self.answer_waiting(ifindex, &response, AddFailure::Removed);
    }

    fn answer_waiting(&mut self, ifindex: IfIndex, response: &Response, cause: AddFailure) {
        for waiting in self.waiting.extract_if(.., |waiting| waiting.ifindex == ifindex) {
            self.add_failures.record(cause);
            answer(waiting.reply, response.clone(), "ADD");
        }
    }

    fn check(&self, check: &Check) -> Response {
        // The record of a pod that was found by its network namespace has no container id.
        let found = self.registry.at(IfIndex(check.host_ifindex));
        let found = found.filter(|record| record.network().is_empty());
        let Some(record) = self.registry.find(&check.attachment).or(found) else {
            return Response::error(
                ErrorCode::CHECK_FAILED,
                "the agent does not know this attachment",
            );
        };
        if record.ifindex() != IfIndex(check.host_ifindex) {
            let message = format!(
                "the agent protects interface {}, not {}",
                record.ifindex(),
                check.host_ifindex
            );
            return Response::error(ErrorCode::CHECK_FAILED, message);
        }
        if self.is_ready(record.ifindex()) {
            match self.kernel.is_attached(record.ifindex()) {
                Ok(true) => Response::Ok,
                Ok(false) => Response::error(
                    ErrorCode::CHECK_FAILED,
                    format!("the programs on interface {} are gone", record.ifindex()),
                ),
                Err(error) => Response::error(
                    ErrorCode::CHECK_FAILED,
                    format!("cannot read the programs on interface {}: {error}", record.ifindex()),
                ),
            }
        } else {
            Response::error(ErrorCode::CHECK_FAILED, "the pod's policy is not in force")
        }
    }

    fn collect_garbage(&mut self, gc: &Gc) -> Response {
        let valid: BTreeSet<&Attachment> = gc.valid_attachments.iter().collect();
        let is_stale = |record: &Record| {
            record.network() == gc.network && !valid.contains(record.attachment())
        };
        self.registry.retain_gone(|record| !is_stale(record));
        let (live, stale): (Vec<&Record>, Vec<&Record>) = self
            .registry
            .records()
            .filter(|record| is_stale(record))
            .partition(|record| self.is_live(record, &valid));
        for record in live {
            let Endpoint { pod, ifindex, container_id, .. } = record.endpoint();
            warn!(%pod, %ifindex, container = %container_id, "endpoint kept although the runtime's list for GC lacks it: its pod runs here");
        }
        let stale: Vec<Endpoint> = stale.into_iter().map(Record::endpoint).collect();
        for Endpoint { pod, ifindex, container_id, .. } in stale {
            self.record_end(ifindex);
            self.remove_endpoint(ifindex);
            info!(%pod, %ifindex, container = %container_id, "endpoint removed by GC");
        }
        Response::Ok
    }

    /// Whether the API says that the pod runs on this node, its interface leads into a namespace, and no valid attachment is that
    /// of a newer sandbox. A runtime whose list is incomplete must not cut the pod off.
    fn is_live(&self, record: &Record, valid: &BTreeSet<&Attachment>) -> bool {
        let Endpoint { pod, ifindex, .. } = record.endpoint();
        let runs = self.state.pod(&pod).is_some_and(|pod| {
            record.is_of(pod)
                && self.adoption.local.contains(&pod.name)
                && !pod.terminating
                && !matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed)
        });
        let is_newer =
            |other: &Record| other.endpoint().pod == pod && valid.contains(other.attachment());
        runs && !self.registry.records().any(is_newer) && self.kernel.pod_end(ifindex).is_ok()
    }

    fn status(&self) -> Response {
        let missing = self.freshness.missing();
        if missing.is_empty() {
            return Response::Ok;
        }
        Response::error(ErrorCode::NOT_AVAILABLE, self.why_not_listed(&missing))
    }

    /// Which kinds are not listed, the first error, and what is in force meanwhile.
    fn why_not_listed(&self, missing: &[Kind]) -> String {
        let kinds: Vec<_> = missing.iter().map(|kind| kind.as_str()).collect();
        let error = missing.iter().find_map(|kind| match self.freshness.of(*kind) {
            Health::Broken { since: _, error } => Some(format!(": {error}")),
            Health::Listing | Health::Synced { .. } | Health::Unserved => None,
        });
        let from_before = self.in_force_from_before();
        let from_before = from_before.map(|before| format!("; policies are {before}"));
        [
            format!("not listed yet: {}", kinds.join(", ")),
            error.unwrap_or_default(),
            from_before.unwrap_or_default(),
        ]
        .concat()
    }

    /// Answers the ADDs whose policy is in force.
    pub(in crate::agent) fn answer_ready(&mut self) {
        let (ready, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting| self.is_ready(waiting.ifindex));
        self.waiting = waiting;
        let ready: Vec<WaitingAdd> = ready;
        for waiting in ready {
            self.latencies.record_add(waiting.asked);
            answer(waiting.reply, Response::Ok, "ADD");
        }
    }

    /// Refuses the ADDs that have waited too long. The runtime removes their sandboxes and tries again.
    pub fn expire(&mut self, now: Instant) {
        for waiting in
            self.waiting.extract_if(.., |waiting| waiting.deadline <= now).collect::<Vec<_>>()
        {
            let (cause, reason) = self.why_not_ready(waiting.ifindex);
            self.add_failures.record(cause);
            answer(waiting.reply, Response::error(ErrorCode::TRY_AGAIN_LATER, reason), "ADD");
        }
    }

    /// When the next ADD expires.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.deadline).min()
    }

    fn why_not_ready(&self, ifindex: IfIndex) -> (AddFailure, String) {
        let missing = self.freshness.missing();
        if !missing.is_empty() {
            return (AddFailure::NotListed, self.why_not_listed(&missing));
        }
        match self.state.endpoint(ifindex) {
            Some(endpoint) if self.state.pod_of(endpoint).is_none() => {
                (AddFailure::UnknownPod, self.why_unknown(&endpoint.pod))
            }
            Some(endpoint) => {
                let reason =
                    format!("the policy of pod {} could not be put in force", endpoint.pod);
                (AddFailure::NotInForce, reason)
            }
            None => (AddFailure::Removed, "the endpoint is gone".to_owned()),
        }
    }

    /// Why a pod is not known, for the ADD that waits for it.
    fn why_unknown(&self, pod: &ObjectName) -> String {
        match self.freshness.of(Kind::Pod) {
            Health::Broken { since, error } => {
                let broken_s = self.latencies.since(*since).as_secs();
                format!(
                    "pod {pod} is not known, and the API server has sent no pods for {broken_s} s: {error}"
                )
            }
            Health::Listing | Health::Synced { .. } | Health::Unserved => {
                format!("pod {pod} is not known yet")
            }
        }
    }
}

/// The answer to an ADD when the kernel refuses to protect its interface.
fn refused(
    pod: &str,
    ifindex: IfIndex,
    step: &str,
    error: &(dyn std::error::Error + 'static),
) -> Response {
    error!(%pod, %ifindex, %error, step, "ADD refused: endpoint not protected");
    let message = format!("cannot {step} interface {ifindex} of pod {pod}: {error}");
    Response::error(ErrorCode::ENFORCEMENT, message)
}

fn answer(reply: oneshot::Sender<Response>, response: Response, verb: &str) {
    if reply.send(response).is_err() {
        info!(verb, "response not delivered: the plugin has disconnected");
    }
}
