//! Writes diagnostics as Kubernetes Events, because authors of policies look there.
//!
//! In: all diagnostics of an object, whenever they change. Out: one Event for each object and reason, repeated while it stands.
//! The agents of all nodes find the same in an object. So each has a [`rank`] for it, which needs no lease: the first writes at
//! once, the others later and later, in case that those before them do not run. An Event's name contains a hash of its content,
//! so that they write the same Event, and all but one get 409 Conflict. Changes of one object and reason are counted and written
//! less and less often. kube's `Recorder` would create one Event for each node.
//! Must not: block. An Event that cannot be written in time is skipped and tried again later.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
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
use netpol_policy::model::{Code, Diagnostic, Kind, ObjectRef};

/// Time between two Events after the burst.
const PERIOD: Duration = Duration::from_secs(10);

/// Number of Events that may be written without a pause.
const BURST: usize = 25;

/// A diagnostic that still stands is written again after this time plus up to a quarter, because API servers delete Events after
/// an hour.
const REPEAT: Duration = Duration::from_mins(40);

/// Time between the first two Events of one object and reason. It doubles with each further Event, up to [`REPEAT`].
const FIRST_PAUSE: Duration = Duration::from_mins(1);

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
    /// [`rank`] of this agent among those that find the same; the one at 0 writes at once.
    pub rank: u32,
}

/// The place of a node among the nodes whose agents find the same in an object: by a hash of the object and the node's name, so
/// that the agents agree, and so that each node is the first for some objects.
pub fn rank<'a>(object: &ObjectRef, node: &str, nodes: impl IntoIterator<Item = &'a str>) -> u32 {
    let weight = |node: &str| {
        let mut hasher = DefaultHasher::new();
        (object, node).hash(&mut hasher);
        hasher.finish()
    };
    let own = weight(node);
    let n_before = nodes.into_iter().filter(|other| *other != node && weight(other) < own).count();
    u32::try_from(n_before).unwrap_or(u32::MAX)
}

/// How long the agent at a rank waits for those before it.
fn turn(rank: u32) -> Duration {
    match rank.checked_sub(1) {
        None => Duration::ZERO,
        Some(exponent) => FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(exponent)),
    }
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
                Some(report) => standing.apply(report, Instant::now()),
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

/// The Events of one object and reason.
#[derive(Debug)]
struct Series {
    uid: Arc<str>,
    rank: u32,
    /// The text of the next Event; `None` while there is no such diagnostic.
    note: Option<String>,
    /// Number of times that the text changed.
    n_occurrences: i32,
    /// When the next Event is due.
    due: Option<Instant>,
    /// No Event is written before.
    not_before: Instant,
    pause: Duration,
}

/// The current diagnostics, by object and reason, and when the Event of each is due.
#[derive(Debug, Default)]
struct Standing {
    by_object: BTreeMap<ObjectRef, BTreeMap<Code, Series>>,
    due: BTreeSet<(Instant, ObjectRef, Code)>,
}

impl Standing {
    /// Replaces the diagnostics of an object.
    fn apply(&mut self, report: Report, now: Instant) {
        let Report { object, uid, diagnostics, rank } = report;
        let mut notes: BTreeMap<Code, Vec<String>> = BTreeMap::new();
        for Diagnostic { code, object: _, field, message } in diagnostics {
            let text = if field.is_empty() { message } else { format!("{field}: {message}") };
            notes.entry(code).or_default().push(text);
        }
        if !self.by_object.contains_key(&object) {
            if notes.is_empty() {
                return;
            }
            if self.by_object.len() >= MAX_OBJECTS {
                // An object without diagnostics is remembered only because it may have some again soon.
                self.by_object.retain(|_, all| all.values().any(|series| series.note.is_some()));
            }
            if self.by_object.len() >= MAX_OBJECTS {
                return;
            }
        }
        let all = self.by_object.entry(object.clone()).or_default();
        for (code, series) in &mut *all {
            if !notes.contains_key(code) {
                series.note = None;
                if let Some(due) = series.due.take() {
                    self.due.remove(&(due, object.clone(), *code));
                }
            }
        }
        for (code, mut notes) in notes {
            notes.sort();
            let note = notes.join("; ");
            let series = all.entry(code).or_insert_with(|| Series {
                uid: Arc::clone(&uid),
                rank,
                note: None,
                n_occurrences: 0,
                due: None,
                not_before: now,
                pause: FIRST_PAUSE,
            });
            if series.note.as_ref() == Some(&note) && series.uid == uid {
                continue;
            }
            if now >= series.not_before + REPEAT {
                (series.pause, series.n_occurrences) = (FIRST_PAUSE, 0);
            }
            series.n_occurrences = series.n_occurrences.saturating_add(1);
            (series.note, series.uid, series.rank) = (Some(note), Arc::clone(&uid), rank);
            let due = (now + turn(rank)).max(series.not_before);
            if series.due.is_none_or(|before| due < before) {
                schedule(&mut self.due, &object, code, series, due);
            }
        }
    }

    /// Returns the next due Event and schedules its repetition, even if writing it fails.
    fn next_due(&mut self, now: Instant, node: &str) -> Option<Event> {
        let (due, object, code) = self.due.first()?.clone();
        if due > now {
            return None;
        }
        let Some(series) = self.by_object.get_mut(&object).and_then(|all| all.get_mut(&code))
        else {
            self.due.pop_first();
            return None;
        };
        let event = event(&object, code, series, node);
        series.not_before = now + series.pause;
        series.pause = (2 * series.pause).min(REPEAT);
        let next = now + spread(REPEAT) + turn(series.rank);
        schedule(&mut self.due, &object, code, series, next);
        Some(event)
    }
}

/// Sets when the next Event is due.
fn schedule(
    all: &mut BTreeSet<(Instant, ObjectRef, Code)>,
    object: &ObjectRef,
    code: Code,
    series: &mut Series,
    due: Instant,
) {
    if let Some(before) = series.due.replace(due) {
        all.remove(&(before, object.clone(), code));
    }
    all.insert((due, object.clone(), code));
}

/// The Event of an object and a reason. Its text cannot be changed later, so each text has an Event of its own.
fn event(object: &ObjectRef, code: Code, series: &Series, reporter: &str) -> Event {
    let ObjectRef { kind, name } = object;
    let uid = &*series.uid;
    let mut note = series.note.clone().unwrap_or_default();
    let namespace = if name.namespace.is_empty() { "default" } else { &name.namespace };
    let mut hasher = DefaultHasher::new();
    (code, object, &note, uid).hash(&mut hasher);
    let (stem, _) = name.name.split_at(name.name.floor_char_boundary(MAX_NAME_LENGTH));
    note.truncate(note.floor_char_boundary(MAX_NOTE_LENGTH));
    let now = MicroTime(Timestamp::now());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{stem}.netpol-{:016x}", hasher.finish())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(now.clone()),
        // The API takes no smaller count.
        series: (series.n_occurrences > 1)
            .then_some(EventSeries { count: series.n_occurrences, last_observed_time: now }),
        action: Some("Enforce".to_owned()),
        reason: Some(reason(code.as_str())),
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
        Kind::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2",
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
    use netpol_policy::model::ObjectName;

    fn object_ref(name: &str) -> ObjectRef {
        ObjectRef { kind: Kind::NetworkPolicy, name: ObjectName::new("shop", name) }
    }

    fn report_of(name: &str, messages: &[&str], rank: u32) -> Report {
        let diagnostic = |message: &&str| Diagnostic {
            code: Code::InvalidPort,
            object: object_ref(name),
            field: "spec.ingress[0].ports[0]".to_owned(),
            message: (*message).to_owned(),
        };
        let diagnostics = messages.iter().map(diagnostic).collect();
        Report { object: object_ref(name), uid: Arc::from("u"), diagnostics, rank }
    }

    /// The Event of a report.
    fn event_of(report: Report, node: &str) -> Event {
        let mut standing = Standing::default();
        standing.apply(report, Instant::now());
        standing.next_due(Instant::now(), node).unwrap()
    }

    #[test]
    fn an_event_is_the_same_on_every_node_and_names_the_field_and_the_object() {
        let report = report_of("web", &["is worse", "is bad"], 0);
        let one = event_of(report.clone(), "node-1");
        let two = event_of(report, "node-2");
        assert_eq!(one.metadata.name, two.metadata.name);
        assert_eq!(one.metadata.namespace.as_deref(), Some("shop"));
        assert_eq!(one.reason.as_deref(), Some("InvalidPort"));
        let field = "spec.ingress[0].ports[0]";
        let note = format!("{field}: is bad; {field}: is worse");
        assert_eq!(one.note, Some(note));
        assert_eq!(one.series, None);
        assert_eq!(one.regarding.and_then(|object| object.uid).as_deref(), Some("u"));
    }

    #[test]
    fn a_standing_diagnostic_is_due_once_and_a_cleared_one_never() {
        let mut standing = Standing::default();
        let now = Instant::now();
        for messages in [&["one", "two"][..], &["two"], &["two"]] {
            standing.apply(report_of("web", messages, 0), now);
        }
        assert!(standing.next_due(now, "n").is_some());
        assert!(standing.next_due(now, "n").is_none());
        assert!(standing.next_due(now + 2 * REPEAT, "n").is_some());
        standing.apply(report_of("web", &[], 0), now);
        assert!(standing.next_due(now + 9 * REPEAT, "n").is_none());
    }

    #[test]
    fn changes_every_second_are_counted_and_written_less_and_less_often() {
        let mut standing = Standing::default();
        let begin = Instant::now();
        let mut written = Vec::new();
        for second in 0..600_u64 {
            let now = begin + Duration::from_secs(second);
            // Every other second the policy is valid.
            let message = second.to_string();
            let messages = if second % 2 == 0 { vec![message.as_str()] } else { Vec::new() };
            standing.apply(report_of("web", &messages, 0), now);
            while let Some(event) = standing.next_due(now, "n") {
                written.push((second, event.series.map_or(1, |series| series.count)));
            }
        }
        assert_eq!(written, [(0, 1), (60, 31), (180, 91), (420, 211)]);
    }

    #[test]
    fn the_agents_behind_the_first_wait_longer_and_longer() {
        for (rank, minutes) in [(0, 0), (1, 1), (2, 2), (5, 16)] {
            let mut standing = Standing::default();
            let now = Instant::now();
            standing.apply(report_of("web", &["is bad"], rank), now);
            let due = now + Duration::from_mins(minutes);
            if minutes > 0 {
                assert!(standing.next_due(due - Duration::from_secs(1), "n").is_none(), "{rank}");
            }
            assert!(standing.next_due(due, "n").is_some(), "{rank}");
        }
        assert!(turn(u32::MAX) > REPEAT);
    }

    #[test]
    fn ranks_are_a_permutation_that_differs_between_objects() {
        let nodes: Vec<_> = (0..50).map(|n| format!("node-{n}")).collect();
        let names = || nodes.iter().map(String::as_str);
        let ranks = |object: &ObjectRef| -> Vec<u32> {
            names().map(|node| rank(object, node, names())).collect()
        };
        let (web, db) = (ranks(&object_ref("web")), ranks(&object_ref("db")));
        assert_ne!(web, db);
        let mut sorted = web;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        assert_eq!(rank(&object_ref("web"), "alone", []), 0);
    }

    #[test]
    fn a_long_name_or_message_is_cut_to_the_limits_of_the_api() {
        let event = event_of(report_of(&"n".repeat(253), &["ü".repeat(2000).as_str()], 0), "node");
        assert!(event.metadata.name.is_some_and(|name| name.len() <= 253));
        assert!(event.note.is_some_and(|note| note.len() <= MAX_NOTE_LENGTH));
    }
}
