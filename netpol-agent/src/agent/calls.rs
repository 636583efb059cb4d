//! What the CNI plugin asks.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use netpol_common::ids::IfIndex;
use netpol_proto::{Add, Attachment, Check, ErrorCode, Gc, Request, Response};
use tokio::sync::oneshot;
use tracing::{error, info};

use super::{Agent, Kernel, WaitingAdd};
use crate::cni_server::Call;
use netpol_policy::dataplane::port::NewInterface;
use netpol_policy::dataplane::{EndpointMapState, MapOp};
use netpol_policy::store::Delta;

/// How long an ADD waits for its pod's policy before it asks the runtime to try again. The kubelet gives a sandbox
/// four minutes; containerd retries a failed one at once.
const ADD_DEADLINE: Duration = Duration::from_secs(20);

impl<K: Kernel> Agent<K> {
    /// Takes in a call. It is answered at once or, for an ADD, when the policy is in force: by a later
    /// [`Agent::sync`] or [`Agent::expire`].
    pub fn call(&mut self, call: Call, now: Instant) {
        let Call { request, reply } = call;
        let verb = request.verb();
        if matches!(request, Request::Add(_) | Request::Del(_)) {
            self.migrations.note_call(now);
            self.gc_schedule.note_call(now);
        }
        let response = match request {
            Request::Add(add) => match self.begin_add(add) {
                Ok(ifindex) => {
                    let deadline = now + ADD_DEADLINE;
                    self.waiting.push(WaitingAdd { ifindex, asked: now, deadline, reply });
                    return;
                }
                Err(response) => response,
            },
            Request::Del(attachment) => self.delete(&attachment),
            Request::Check(check) => self.check(&check),
            Request::Gc(gc) => self.collect_garbage(&gc),
            Request::Status => self.status(),
        };
        answer(reply, response, verb);
    }

    /// Closes the interface in the maps and makes it an endpoint. Programs hang there after the next [`Agent::sync`],
    /// and before the ADD is answered.
    fn begin_add(&mut self, add: Add) -> Result<IfIndex, Response> {
        let ifindex = IfIndex(add.host_ifindex);
        let pod = format!("{}/{}", add.pod.namespace, add.pod.name);
        let mut ops = Vec::new();
        // Endpoints of another version that are gone are known to nobody yet, and nor is what they have left.
        if self.map_state.endpoints.contains_key(&ifindex) || self.kernel.has_predecessor() {
            ops.push(MapOp::RemoveEndpoint(ifindex));
        }
        let container_id = add.attachment.container_id.as_str().into();
        ops.push(MapOp::SetEndpoint(ifindex, EndpointMapState::blocked(&container_id)));
        self.perform(&ops).map_err(|error| refused(&pod, ifindex, "block", &error))?;
        self.unattached.retain(|new| new.ifindex != ifindex);
        self.unattached.push(NewInterface { ifindex, is_unshaped: add.is_unshaped });
        self.adoption.settle(ifindex);
        let endpoint = self.registry.insert(add);
        info!(%pod, %ifindex, container = %endpoint.container_id, "endpoint blocked until its policy is in force");
        self.apply_delta(Delta::UpsertEndpoint(endpoint));
        Ok(ifindex)
    }

    /// The interface keeps its programs until it is gone: without an endpoint they drop everything.
    fn delete(&mut self, attachment: &Attachment) -> Response {
        if let Some(record) = self.registry.find(attachment) {
            let endpoint = record.endpoint();
            self.note_end(endpoint.ifindex);
            self.forget(endpoint.ifindex);
            info!(pod = %endpoint.pod, ifindex = %endpoint.ifindex, container = %endpoint.container_id, "endpoint removed");
        }
        Response::Ok
    }

    /// Ends an endpoint that cannot be protected, and says so to whoever waits for it.
    pub(super) fn refuse(&mut self, ifindex: IfIndex, step: &str, error: &K::Error) {
        let pod = self.state.endpoint(ifindex).map(|endpoint| endpoint.pod.to_string());
        let response = refused(&pod.unwrap_or_default(), ifindex, step, error);
        self.answer_waiting(ifindex, &response);
        self.forget(ifindex);
    }

    /// Ends an endpoint at once, whatever else is known.
    pub(super) fn forget(&mut self, ifindex: IfIndex) {
        self.adoption.settle(ifindex);
        self.migrations.forget(ifindex);
        self.unattached.retain(|new| new.ifindex != ifindex);
        self.registry.remove(ifindex);
        self.apply_delta(Delta::RemoveEndpoint(ifindex));
        if self.map_state.endpoints.contains_key(&ifindex)
            && let Err(error) = self.perform(&[MapOp::RemoveEndpoint(ifindex)])
        {
            error!(%ifindex, %error, "endpoint stays in the maps until the next change");
        }
        let response =
            Response::error(ErrorCode::TRY_AGAIN_LATER, "the interface was removed meanwhile");
        self.answer_waiting(ifindex, &response);
    }

    fn answer_waiting(&mut self, ifindex: IfIndex, response: &Response) {
        for waiting in self.waiting.extract_if(.., |waiting| waiting.ifindex == ifindex) {
            answer(waiting.reply, response.clone(), "ADD");
        }
    }

    fn check(&self, check: &Check) -> Response {
        // Of a pod that was found by its network namespace the container's id is not known.
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
                    format!("cannot see the programs on interface {}: {error}", record.ifindex()),
                ),
            }
        } else {
            Response::error(ErrorCode::CHECK_FAILED, "the pod's policy is not in force")
        }
    }

    fn collect_garbage(&mut self, gc: &Gc) -> Response {
        let valid: BTreeSet<&Attachment> = gc.valid_attachments.iter().collect();
        let stale: Vec<IfIndex> = self
            .registry
            .records()
            .filter(|record| record.network() == gc.network && !valid.contains(record.attachment()))
            .map(super::Record::ifindex)
            .collect();
        for ifindex in stale {
            self.note_end(ifindex);
            self.forget(ifindex);
        }
        Response::Ok
    }

    fn status(&self) -> Response {
        let missing = self.freshness.missing();
        if missing.is_empty() {
            return Response::Ok;
        }
        let kinds: Vec<_> = missing.into_iter().map(netpol_policy::model::Kind::as_str).collect();
        Response::error(ErrorCode::NOT_AVAILABLE, format!("not listed yet: {}", kinds.join(", ")))
    }

    /// Answers the ADDs whose policy is in force.
    pub(super) fn answer_ready(&mut self) {
        let (ready, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting| self.is_ready(waiting.ifindex));
        self.waiting = waiting;
        let ready: Vec<WaitingAdd> = ready;
        for waiting in ready {
            self.latencies.answer(waiting.asked);
            answer(waiting.reply, Response::Ok, "ADD");
        }
    }

    /// Refuses the ADDs that have waited too long. The runtime tears them down and tries again.
    pub fn expire(&mut self, now: Instant) {
        for waiting in
            self.waiting.extract_if(.., |waiting| waiting.deadline <= now).collect::<Vec<_>>()
        {
            let reason = self.why_not_ready(waiting.ifindex);
            answer(waiting.reply, Response::error(ErrorCode::TRY_AGAIN_LATER, reason), "ADD");
        }
    }

    /// When the next ADD expires.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.deadline).min()
    }

    fn why_not_ready(&self, ifindex: IfIndex) -> String {
        let missing = self.freshness.missing();
        if !missing.is_empty() {
            let kinds: Vec<_> =
                missing.into_iter().map(netpol_policy::model::Kind::as_str).collect();
            return format!("not listed yet: {}", kinds.join(", "));
        }
        match self.state.endpoint(ifindex) {
            Some(endpoint) if self.state.pod_of(endpoint).is_none() => {
                self.why_unknown(&endpoint.pod)
            }
            Some(endpoint) => {
                format!("the policy of pod {} could not be put in force", endpoint.pod)
            }
            None => "the endpoint is gone".to_owned(),
        }
    }
}

/// What is told when the kernel refuses to protect an interface.
fn refused(
    pod: &str,
    ifindex: IfIndex,
    step: &str,
    error: &(dyn std::error::Error + 'static),
) -> Response {
    error!(%pod, %ifindex, %error, step, "endpoint not protected, ADD refused");
    let message = format!("cannot {step} interface {ifindex} of pod {pod}: {error}");
    Response::error(ErrorCode::ENFORCEMENT, message)
}

fn answer(reply: oneshot::Sender<Response>, response: Response, verb: &str) {
    if reply.send(response).is_err() {
        info!(verb, "the plugin did not wait for the answer");
    }
}
