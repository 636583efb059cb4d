//! Writes diagnostics as Kubernetes Events, because authors of policies look there.
//!
//! In: all diagnostics of an object, whenever they change. Out: one Event for each diagnostic, repeated while it stands.
//! An Event's name contains a hash of its content, so the agents of all nodes write the same Event: the first one creates it, and
//! the others get 409 Conflict. kube's `Recorder` would create one Event for each node.
//! Must not: block. An Event that cannot be written in time is skipped and tried again later.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::access::{Access, Error};
use super::retry::spread;
use netpol_policy::model::{Diagnostic, Kind, ObjectRef};

/// Time between two Events after the burst.
const PERIOD: Duration = Duration::from_secs(1);

/// Number of Events that may be written without a pause.
const BURST: usize = 25;

/// A diagnostic that still stands is written again after this time plus up to a quarter, because API servers delete Events after
/// an hour.
const REPEAT: Duration = Duration::from_mins(40);

/// Time limit for writing an Event.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of objects with Events. Diagnostics of further objects appear in the log and the metrics only.
const MAX_OBJECTS: usize = 1000;

/// Maximum length of an Event's note in bytes, a limit of the API.
const MAX_NOTE_LENGTH: usize = 1024;

/// Maximum number of bytes of an object's name in the Event's name.
const MAX_NAME_LENGTH: usize = 200;

/// `reportingController` of the Events.
const CONTROLLER: &str = "netpol";

/// All current diagnostics of an object. An empty list clears them.
#[derive(Clone, Debug)]
pub struct Report {
    /// The object.
    pub object: ObjectRef,
    /// Its uid, empty if unknown.
    pub uid: Arc<str>,
    /// The diagnostics.
    pub diagnostics: Vec<Diagnostic>,
}

/// Writes Events for the reports until `cancel` is cancelled or all senders of `reports` are dropped. `node` is the Events'
/// `reportingInstance`.
pub async fn report(
    access: Access,
    node: Arc<str>,
    mut reports: mpsc::Receiver<Report>,
    cancel: CancellationToken,
) {
    let mut standing = Standing::default();
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut n_allowed = BURST;
    let mut is_refused = false;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            received = reports.recv() => match received {
                Some(report) => standing.apply(report),
                None => return,
            },
            _ = ticks.tick() => n_allowed = BURST.min(n_allowed + 1),
        }
        while n_allowed > 0 && reports.is_empty() {
            let Some(event) = standing.next_due(Instant::now(), &node) else { break };
            n_allowed -= 1;
            match create(access.client(), &event).await {
                Ok(()) => is_refused = false,
                Err(error) if is_refused => debug!(%error, "event not written"),
                Err(error) => {
                    warn!(%error, "diagnostics cannot be written as events");
                    is_refused = true;
                }
            }
        }
    }
}

/// Creates an Event if it does not exist.
async fn create(client: Client, event: &Event) -> Result<(), Error> {
    let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
    let events: Api<Event> = Api::namespaced(client, namespace);
    let answer = timeout(ANSWER_TIMEOUT, events.create(&PostParams::default(), event)).await;
    let answer = answer.map_err(|_elapsed| Error::Timeout { timeout: ANSWER_TIMEOUT })?;
    match answer.map_err(Error::from) {
        Err(error) if error.status() == Some(409) => Ok(()),
        other => other.map(drop),
    }
}

/// The current diagnostics, and when the Event of each is due.
#[derive(Debug, Default)]
struct Standing {
    by_object: BTreeMap<ObjectRef, (Arc<str>, BTreeSet<Diagnostic>)>,
    due: BTreeSet<(Instant, Diagnostic)>,
}

impl Standing {
    /// Replaces the diagnostics of an object. New ones are due at once.
    fn apply(&mut self, report: Report) {
        let Report { object, uid, diagnostics } = report;
        let now: BTreeSet<Diagnostic> = diagnostics.into_iter().collect();
        let (_, before) = self.by_object.remove(&object).unwrap_or_default();
        self.due.retain(|(_, diagnostic)| !before.contains(diagnostic) || now.contains(diagnostic));
        if now.is_empty() || self.by_object.len() >= MAX_OBJECTS {
            return;
        }
        let due = Instant::now();
        self.due.extend(now.difference(&before).map(|diagnostic| (due, diagnostic.clone())));
        self.by_object.insert(object, (uid, now));
    }

    /// Returns the next due Event and schedules its repetition, even if writing it fails.
    fn next_due(&mut self, now: Instant, node: &str) -> Option<Event> {
        let first = self.due.first()?;
        if first.0 > now {
            return None;
        }
        let (_, diagnostic) = self.due.pop_first()?;
        let uid = self.by_object.get(&diagnostic.object).map(|(uid, _)| Arc::clone(uid));
        let event = event(&diagnostic, &uid.unwrap_or_default(), node);
        self.due.insert((now + spread(REPEAT), diagnostic));
        Some(event)
    }
}

/// Converts a diagnostic into an Event.
fn event(diagnostic: &Diagnostic, uid: &str, reporter: &str) -> Event {
    let ObjectRef { kind, name } = &diagnostic.object;
    let namespace = if name.namespace.is_empty() { "default" } else { &name.namespace };
    let mut hasher = DefaultHasher::new();
    let Diagnostic { code, object, field, message } = diagnostic;
    (code, object, field, message, uid).hash(&mut hasher);
    let (stem, _) = name.name.split_at(name.name.floor_char_boundary(MAX_NAME_LENGTH));
    let mut note = if diagnostic.field.is_empty() {
        diagnostic.message.clone()
    } else {
        format!("{}: {}", diagnostic.field, diagnostic.message)
    };
    note.truncate(note.floor_char_boundary(MAX_NOTE_LENGTH));
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{stem}.netpol-{:016x}", hasher.finish())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        action: Some("Enforce".to_owned()),
        reason: Some(reason(diagnostic.code.as_str())),
        note: Some(note),
        type_: Some("Warning".to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(api_version(*kind).to_owned()),
            kind: Some(kind.as_str().to_owned()),
            name: Some(name.name.to_string()),
            namespace: Some(name.namespace.to_string()).filter(|namespace| !namespace.is_empty()),
            uid: Some(uid.to_owned()).filter(|uid| !uid.is_empty()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(reporter.to_owned()),
        ..Event::default()
    }
}

const fn api_version(kind: Kind) -> &'static str {
    match kind {
        Kind::NetworkPolicy => "networking.k8s.io/v1",
        Kind::Pod | Kind::Namespace | Kind::Service | Kind::Node => "v1",
    }
}

/// Converts `invalid-port` into `InvalidPort`, the form of an Event's reason.
fn reason(code: &str) -> String {
    let words = code.split('-').map(|word| {
        let (first, rest) = word.split_at(word.floor_char_boundary(1));
        first.to_uppercase() + rest
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use netpol_policy::model::{Code, ObjectName};

    fn object_ref(name: &str) -> ObjectRef {
        ObjectRef { kind: Kind::NetworkPolicy, name: ObjectName::new("shop", name) }
    }

    fn report_of(name: &str, messages: &[&str]) -> Report {
        let diagnostic = |message: &&str| Diagnostic {
            code: Code::InvalidPort,
            object: object_ref(name),
            field: "spec.ingress[0].ports[0]".to_owned(),
            message: (*message).to_owned(),
        };
        let diagnostics = messages.iter().map(diagnostic).collect();
        Report { object: object_ref(name), uid: Arc::from("u"), diagnostics }
    }

    #[test]
    fn an_event_is_the_same_on_every_node_and_names_the_field_and_the_object() {
        let report = report_of("web", &["is bad"]);
        let one = event(&report.diagnostics[0], "u", "node-1");
        let two = event(&report.diagnostics[0], "u", "node-2");
        assert_eq!(one.metadata.name, two.metadata.name);
        assert_eq!(one.metadata.namespace.as_deref(), Some("shop"));
        assert_eq!(one.reason.as_deref(), Some("InvalidPort"));
        assert_eq!(one.note.as_deref(), Some("spec.ingress[0].ports[0]: is bad"));
        assert_eq!(one.regarding.and_then(|object| object.uid).as_deref(), Some("u"));
    }

    #[test]
    fn a_standing_diagnostic_is_due_once_and_a_cleared_one_never() {
        let mut standing = Standing::default();
        standing.apply(report_of("web", &["one", "two"]));
        standing.apply(report_of("web", &["two"]));
        standing.apply(report_of("web", &["two"]));
        let now = Instant::now();
        assert!(standing.next_due(now, "n").is_some());
        assert!(standing.next_due(now, "n").is_none());
        assert!(standing.next_due(now + 2 * REPEAT, "n").is_some());
        standing.apply(report_of("web", &[]));
        assert!(standing.next_due(now + 9 * REPEAT, "n").is_none());
    }

    #[test]
    fn a_long_name_or_message_is_cut_to_the_limits_of_the_api() {
        let report = report_of(&"n".repeat(253), &["ü".repeat(2000).as_str()]);
        let event = event(&report.diagnostics[0], "u", "node");
        assert!(event.metadata.name.is_some_and(|name| name.len() <= 253));
        assert!(event.note.is_some_and(|note| note.len() <= MAX_NOTE_LENGTH));
    }
}
