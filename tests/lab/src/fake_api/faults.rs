//! Faults on demand.
//!
//! Each method of [`FakeApi`] here takes effect at once and lasts as documented.

use http::StatusCode;
use hyper::body::Bytes;
use netpol_policy::model::Kind;
use serde_json::{Value, json};

use super::contents::{Filter, Sort, bookmark_line};
use super::{FakeApi, number_of};

/// How the server reports that a version is too old for a watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GoneAs {
    /// The watch is refused with HTTP 410.
    #[default]
    Status,
    /// The watch is accepted and its first line is an ERROR event with code 410.
    Event,
}

/// Whether a watch may begin with all objects that exist (`sendInitialEvents`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamingLists {
    /// Yes, as servers since 1.34.
    #[default]
    Served,
    /// 422, as servers whose feature gate is off.
    Refused,
    /// HTTP 200, and an ERROR event instead of the list: kube-apiserver with `WatchList` on an etcd that is too old for it.
    RefusedByEvent,
    /// The option is ignored, as by servers that do not know it.
    Ignored,
}

/// The faults in force.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) gone_as: GoneAs,
    pub(super) streaming_lists: StreamingLists,
    /// The answer to the next requests, and their number.
    pub(super) failing: Option<(StatusCode, usize)>,
    /// The only accepted token; `None` accepts every request.
    pub(super) token: Option<String>,
    /// The forbidden resource.
    pub(super) forbidden: Option<usize>,
    /// Number of further list pages that get 410 Gone.
    pub(super) lost_pages: usize,
    /// Number of further watch lines that are cut in the middle.
    pub(super) cut_lines: usize,
    /// No request is answered and no watch sends anything.
    pub(super) is_held: bool,
    /// The resource whose watches send nothing.
    pub(super) muted: Option<usize>,
    /// Every answer is an HTML page.
    pub(super) is_garbled: bool,
    /// The resource and the JSON of objects that every streaming list sends, and then reports as deleted.
    pub(super) deleted_while_listed: Vec<(usize, Bytes)>,
    /// The minor version of Kubernetes that the server reports, if not the newest one.
    pub(super) minor_version: Option<u32>,
    /// Incremented when all watches are ended.
    pub(super) n_endings: u64,
    /// The versions in which the custom resource is served.
    pub(super) served: Vec<&'static str>,
    /// The answer to requests for discovery.
    pub(super) discovery: Option<StatusCode>,
    /// The only version of the protocol of `exec`; `None` for all.
    pub(super) exec_protocol: Option<&'static str>,
}

impl FakeApi {
    /// Reports this minor version of Kubernetes.
    pub fn set_minor_version(&self, minor: u32) {
        self.shared.change(|state| state.faults.minor_version = Some(minor));
    }

    /// Knows only this version of the protocol of `exec`, such as `v4.channel.k8s.io`.
    pub fn set_exec_protocol(&self, protocol: &'static str) {
        self.shared.change(|state| state.faults.exec_protocol = Some(protocol));
    }

    /// Serves `ClusterNetworkPolicies` in these versions, and ends all watches: none is as after the removal of their definition,
    /// but keeps the objects.
    pub fn serve_cluster_policies(&self, versions: &[&'static str]) {
        self.shared.change(|state| {
            state.faults.served = versions.to_vec();
            state.faults.n_endings += 1;
        });
    }

    /// Answers requests for discovery with this status; `None` ends this.
    pub fn fail_discovery(&self, status: Option<StatusCode>) {
        self.shared.change(|state| state.faults.discovery = status);
    }

    /// Breaks every connection at once.
    pub fn break_connections(&self) {
        self.shared.breaker.send_modify(|n_breaks| *n_breaks += 1);
    }

    /// The next `n_lines` watch lines are cut in their middle, and their connections with them.
    pub fn cut_lines(&self, n_lines: usize) {
        self.shared.change(|state| state.faults.cut_lines = n_lines);
    }

    /// The watches of a kind send nothing more, while lists and single objects are answered; `None` ends this.
    pub fn mute(&self, kind: Option<Kind>) {
        self.shared.change(|state| state.faults.muted = kind.map(number_of));
    }

    /// Ends every watch as a server does after the time that the client asked for.
    pub fn end_watches(&self) {
        self.shared.change(|state| state.faults.n_endings += 1);
    }

    /// Compacts the log: watches from older versions and continue tokens get 410 Gone.
    pub fn compact(&self) {
        self.shared.change(|state| state.contents.compact());
    }

    /// Sets how a watch gets 410 Gone.
    pub fn gone_as(&self, gone_as: GoneAs) {
        self.shared.change(|state| state.faults.gone_as = gone_as);
    }

    /// Sets the answer to streaming lists.
    pub fn streaming_lists(&self, streaming_lists: StreamingLists) {
        self.shared.change(|state| state.faults.streaming_lists = streaming_lists);
    }

    /// Ends all watches of a kind with 410 Gone.
    pub fn expire_watches(&self, kind: Kind) {
        self.inject(
            kind,
            "ERROR",
            &status_json(StatusCode::GONE, "Expired", "too old resource version"),
        );
    }

    /// Sends all watches of a kind this event, without changing the store. The caller sets its object's version.
    pub fn inject(&self, kind: Kind, event: &str, object: &Value) {
        self.inject_line(kind, &json!({ "type": event, "object": object }).to_string());
    }

    /// Sends all watches of a kind a raw line.
    pub fn inject_line(&self, kind: Kind, line: &str) {
        let line = Bytes::from(format!("{line}\n"));
        self.shared.change(|state| {
            state.contents.append(number_of(kind), Default::default(), Sort::ToAll, line);
        });
    }

    /// Repeats the last `n_events` events of a kind to all its watches.
    pub fn repeat_events(&self, kind: Kind, n_events: usize) {
        self.shared.change(|state| state.contents.repeat(number_of(kind), n_events));
    }

    /// Sends a bookmark to all watches of a kind that asked for them.
    pub fn send_bookmark(&self, kind: Kind) {
        let number = number_of(kind);
        self.shared.change(|state| {
            let line = bookmark_line(number, state.contents.version() + 1, &json!({}));
            state.contents.append(number, Default::default(), Sort::Bookmark, line);
        });
    }

    /// Removes an object without a DELETED event.
    pub fn lose(&self, kind: Kind, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        self.shared.change(|state| state.contents.lose(number_of(kind), &key));
    }

    /// Deletes an object. Streaming lists send it all the same and then report that it is deleted, as one does that began
    /// before.
    pub fn delete_while_listed(&self, kind: Kind, namespace: &str, name: &str) {
        let number = number_of(kind);
        let filter = Filter {
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            ..Filter::default()
        };
        self.shared.change(|state| {
            let objects = state.contents.all(number, &filter);
            state
                .faults
                .deleted_while_listed
                .extend(objects.into_iter().map(|json| (number, json)));
            state.contents.delete(number, &(namespace.to_owned(), name.to_owned()));
        });
    }

    /// Refuses the next `n_pages` requests for a further page of a list as 410 Gone.
    pub fn lose_pages(&self, n_pages: usize) {
        self.shared.change(|state| state.faults.lost_pages = n_pages);
    }

    /// Answers the next `n_requests` requests, but those for discovery, with this status.
    pub fn fail(&self, status: StatusCode, n_requests: usize) {
        self.shared.change(|state| state.faults.failing = Some((status, n_requests)));
    }

    /// Accepts only this bearer token from now on; existing connections continue.
    pub fn require_token(&self, token: &str) {
        self.shared.change(|state| state.faults.token = Some(token.to_owned()));
    }

    /// Answers requests for this kind with 403; running watches continue.
    pub fn forbid(&self, kind: Option<Kind>) {
        self.shared.change(|state| state.faults.forbidden = kind.map(number_of));
    }

    /// Hangs: connections stay open, requests wait, and watches send nothing.
    pub fn hold(&self) {
        self.shared.change(|state| state.faults.is_held = true);
    }

    /// Answers every request with an HTML page, as a proxy does that has lost its server, and breaks all connections.
    pub fn garble(&self) {
        self.shared.change(|state| state.faults.is_garbled = true);
        self.break_connections();
    }

    /// Ends [`FakeApi::garble`].
    pub fn recover(&self) {
        self.shared.change(|state| state.faults.is_garbled = false);
    }

    /// Ends [`FakeApi::hold`].
    pub fn release(&self) {
        self.shared.change(|state| state.faults.is_held = false);
    }
}

/// A `Status` object.
pub(super) fn status_json(code: StatusCode, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code.as_u16(),
    })
}
