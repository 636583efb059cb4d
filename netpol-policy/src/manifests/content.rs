//! From the text of one file to its objects and findings.

use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::{panic, thread};

use serde_json::Value;

use super::finding::{Cause, FileCode, Finding, Located, Location};
use super::yaml::{
    self, Chunk, Document, FlawKind, Item, Lines, ListHead, MAX_VALUES, Part, Position, UNREADABLE,
};
use crate::model::convert::{ListedBackends, Unsupported};
use crate::model::{Code, Diagnostic, Object, ObjectRef, convert};

/// The objects and findings of one file.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// The objects, in the order of the text, with the findings on each.
    pub entries: Vec<Entry>,
    /// The pods that stand for workloads, which a node does not run.
    pub workloads: Vec<Entry>,
    /// The backends of Services that `EndpointSlices` list.
    pub backends: Vec<ListedBackends>,
    /// Findings on documents that are not objects, in the order of the lines.
    pub findings: Vec<Finding>,
    /// `apiVersion` and kind of each object whose kind netpol does not use.
    pub unsupported: Vec<Located<String>>,
    /// A syntax error ended a document early, so objects may be missing.
    pub is_broken: bool,
}

/// An object in a file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The object and its location.
    pub object: Located<Object>,
    /// The findings on the object.
    pub findings: Vec<Finding>,
    /// The lines of a policy's fields, for findings of later checks; `None` for other kinds.
    pub lines: Option<Lines>,
    /// A syntax error truncated the object, so it differs from what its author wrote.
    pub is_truncated: bool,
}

/// Reads the objects of a text.
pub fn content(file: &Arc<Path>, text: &str) -> Content {
    of_chunk(file, Chunk::whole(text))
}

/// The same as [`content`], in several threads if the text is large. They need more memory than one does.
pub(super) fn content_by_threads(file: &Arc<Path>, text: &str) -> Content {
    let n_threads = thread::available_parallelism().map_or(1, NonZero::get);
    let mut chunks = yaml::chunks(text, n_threads).into_iter();
    let first = chunks.next();
    thread::scope(|scope| {
        let begun = chunks.map(|chunk| {
            let own = chunk.clone();
            let begun = thread::Builder::new().spawn_scoped(scope, move || of_chunk(file, own));
            begun.map_err(|_refused| chunk)
        });
        let rest: Vec<_> = begun.collect();
        let mut whole = first.map(|chunk| of_chunk(file, chunk)).unwrap_or_default();
        for begun in rest {
            whole.append(match begun.map(ScopedJoinHandle::join) {
                Ok(Ok(content)) => content,
                Ok(Err(panic)) => panic::resume_unwind(panic),
                // The system has no more threads.
                Err(chunk) => of_chunk(file, chunk),
            });
        }
        whole
    })
}

fn of_chunk(file: &Arc<Path>, chunk: Chunk<'_>) -> Content {
    let mut content = Content::default();
    let mut items = ListItems::default();
    for part in yaml::parts(chunk) {
        match part {
            Part::Item(item) => items.add(file, item),
            Part::Document(document) => {
                content.add_document(file, document, std::mem::take(&mut items));
            }
        }
    }
    content
}

/// The items of a list whose document has not ended.
#[derive(Default)]
struct ListItems {
    /// Those that say what they are. Each is converted at once, because the objects need much less memory than their text.
    content: Content,
    /// The others, which have the kind and version of the list, and those behind them.
    waiting: Vec<Item>,
    n_waiting_values: usize,
    /// The first item that is one too many.
    excess: Option<Position>,
}

impl ListItems {
    fn add(&mut self, file: &Arc<Path>, mut item: Item) {
        let value = &mut item.document.value;
        let is_known = |field: &str| value.get(field).is_some();
        let is_complete = is_known("kind") && is_known("apiVersion");
        let ListHead { kind, api_version } = &item.list;
        if let Some(kind) = kind {
            let api_version = api_version.as_deref().map(Value::from);
            let item_kind = kind.strip_suffix("List").unwrap_or_default();
            convert::inherit(value, item_kind, api_version.as_ref());
        }
        if self.waiting.is_empty() && (is_complete || kind.is_some()) {
            self.content.add_objects(file, item.document);
            return;
        }
        self.n_waiting_values = self.n_waiting_values.saturating_add(item.n_values);
        if self.n_waiting_values <= MAX_VALUES {
            self.waiting.push(item);
        } else {
            self.excess.get_or_insert(item.document.find("").position);
        }
    }
}

impl Content {
    /// Adds what comes after it in the text.
    fn append(&mut self, after: Self) {
        let Self { entries, workloads, backends, findings, unsupported, is_broken } = after;
        self.entries.extend(entries);
        self.workloads.extend(workloads);
        self.backends.extend(backends);
        self.findings.extend(findings);
        self.unsupported.extend(unsupported);
        self.is_broken |= is_broken;
    }

    /// Adds a document, with the items that came before it if it is a list.
    fn add_document(&mut self, file: &Arc<Path>, mut document: Document, items: ListItems) {
        self.is_broken |= document.is_broken;
        for flaw in std::mem::take(&mut document.flaws) {
            let code = match flaw.kind {
                FlawKind::Syntax => FileCode::Syntax,
                FlawKind::RepeatedKey => FileCode::RepeatedKey,
                FlawKind::Value => FileCode::InvalidValue,
                FlawKind::TooLarge => FileCode::TooLarge,
            };
            let location = Location::at(file, flaw.position);
            self.findings.push(about_file(location, code, flaw.message));
        }
        // After a syntax error the kind of the list may be missing.
        let item_kind = convert::list_item_kind(&document.value).or_else(|| {
            let is_cut = document.is_broken && document.value.get("kind").is_none();
            (is_cut && items.waiting.is_empty()).then(String::new)
        });
        if let Some(item_kind) = item_kind {
            let ListItems { content, waiting, n_waiting_values: _, excess } = items;
            self.append(content);
            for mut item in waiting {
                let api_version = document.value.get("apiVersion");
                convert::inherit(&mut item.document.value, &item_kind, api_version);
                self.add_objects(file, item.document);
            }
            if let Some(position) = excess {
                self.is_broken = true;
                let message = format!(
                    "the items before the kind of their list have more than {MAX_VALUES} values: the rest is ignored \
                     (put the kind first)"
                );
                let location = Location::at(file, position);
                self.findings.push(about_file(location, FileCode::TooLarge, message));
            }
        }
        self.add_objects(file, document);
    }

    /// Adds the objects of a document or an item.
    fn add_objects(&mut self, file: &Arc<Path>, mut document: Document) {
        let value = document.value.take();
        for (prefix, mut value) in convert::expand(value) {
            // The name of an object that has none depends on where the object is.
            let location = Location::at(file, document.find(&prefix).position);
            convert::name_generated(&mut value, &location.to_string());
            self.add(file, &mut document, &prefix, &value);
        }
    }

    /// Adds the object at path `prefix` of its document.
    fn add(&mut self, file: &Arc<Path>, document: &mut Document, prefix: &str, value: &Value) {
        let location = Location::at(file, document.find(prefix).position);
        let is_truncated = value.get(UNREADABLE).is_some() && document.is_broken;
        if value.get("kind").is_none_or(|kind| !kind.is_string()) {
            // For a broken document the syntax error is the finding.
            if !document.is_broken {
                let message = "the document has no kind: it is ignored".to_owned();
                self.findings.push(about_file(location, FileCode::NoKind, message));
            }
            return;
        }
        let mut converted = convert::object(value);
        let mut is_workload = false;
        if let Some(kind) = converted.unsupported_kind {
            match convert::workload(value) {
                Some(workload) => (converted, is_workload) = (workload, true),
                None => return self.add_unsupported(location, kind, value),
            }
        }
        let object = converted.object.map(|object| Located { object, location });
        let is_policy = |object: &Located<Object>| matches!(object.object, Object::Policy(_));
        let is_policy = object.as_ref().is_some_and(is_policy);
        if is_truncated {
            let lines = is_policy.then(|| document.take_lines_of(prefix));
            // The syntax error is the only finding on a truncated object: others would follow from the truncation.
            let entry = |object| Entry { object, findings: Vec::new(), lines, is_truncated };
            let entries = if is_workload { &mut self.workloads } else { &mut self.entries };
            entries.extend(object.map(entry));
            return;
        }
        let diagnostics = converted.diagnostics.into_iter();
        let findings = diagnostics.map(|found| about_object(file, document, prefix, found));
        let findings: Vec<_> = findings.collect();
        let lines = is_policy.then(|| document.take_lines_of(prefix));
        match object {
            None => self.findings.extend(findings),
            Some(object) => {
                let entries = if is_workload { &mut self.workloads } else { &mut self.entries };
                entries.push(Entry { object, findings, lines, is_truncated });
            }
        }
    }

    /// Adds an object that is neither in the model nor a workload.
    fn add_unsupported(&mut self, location: Location, kind: String, value: &Value) {
        if let Some(listed) = convert::listed_backends(value) {
            self.backends.push(listed);
            return;
        }
        let found = if kind.ends_with("List") && value.get("items").is_some() {
            Some((
                FileCode::InvalidValue,
                "items is not a list: the document is ignored".to_owned(),
            ))
        } else {
            match convert::unsupported(value) {
                Unsupported::Misspelled { meant } => Some((
                    FileCode::UnknownKind,
                    format!(
                        "there is no kind {kind}: the object is ignored (did you mean {meant}?)"
                    ),
                )),
                Unsupported::ForeignPolicy => Some((
                    FileCode::ForeignPolicy,
                    format!("{kind} is a policy of another engine: it is not evaluated"),
                )),
                Unsupported::Other => None,
            }
        };
        if let Some((code, message)) = found {
            self.findings.push(about_file(location.clone(), code, message));
        }
        self.unsupported.push(Located { object: kind, location });
    }
}

impl Entry {
    /// Kind, namespace and name of the object.
    pub fn object_ref(&self) -> ObjectRef {
        self.object.object.object_ref()
    }

    /// The finding on a definition that a later one replaces.
    pub fn overridden(&self, by: &Location) -> Finding {
        self.finding(
            Code::DefinedTwice,
            format!("is defined again at {by}: the later definition is used"),
        )
    }

    /// A truncated policy as one that isolates what it selects, in both directions, and allows nothing; `None` for objects
    /// of other kinds.
    pub fn as_deny_all(&self) -> Option<Self> {
        let Object::Policy(policy) = &self.object.object else { return None };
        let mut policy = policy.clone();
        policy.policy_types.ingress = true;
        policy.policy_types.egress = true;
        policy.ingress = Arc::default();
        policy.egress = Arc::default();
        let location = self.object.location.clone();
        Some(Self {
            object: Located { object: Object::Policy(policy), location },
            findings: vec![
                self.truncated("the policy isolates the pods that it selects and allows nothing"),
            ],
            lines: None,
            is_truncated: true,
        })
    }

    /// The finding on an object that a syntax error truncated; `effect` says what happens to the object.
    pub fn truncated(&self, effect: &str) -> Finding {
        self.finding(Code::Malformed, format!("is truncated by a syntax error: {effect}"))
    }

    fn finding(&self, code: Code, message: String) -> Finding {
        let object = self.object_ref();
        let cause = Diagnostic { code, object, field: String::new(), message };
        Finding { location: self.object.location.clone(), cause: Cause::Object(cause) }
    }
}

fn about_file(location: Location, code: FileCode, message: String) -> Finding {
    Finding { location, cause: Cause::File { code, message } }
}

/// A diagnostic with its line. If the field could not be read, the message says so instead of describing the marker that
/// stands for the field.
fn about_object(
    file: &Arc<Path>,
    document: &Document,
    prefix: &str,
    mut diagnostic: Diagnostic,
) -> Finding {
    let path = match (prefix, diagnostic.field.as_str()) {
        ("", field) => field.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, field) => format!("{prefix}.{field}"),
    };
    let found = document.find(&path);
    if found.is_unreadable {
        let effect = diagnostic.message.rsplit_once(": ").map(|(_, effect)| effect);
        diagnostic.message =
            format!("cannot be read: {}", effect.unwrap_or("the field is ignored"));
        diagnostic.code = Code::Malformed;
        if let Some(around) = diagnostic.field.strip_suffix(UNREADABLE) {
            let around = around.trim_end_matches('.').to_owned();
            diagnostic.field = around;
        }
    }
    Finding { location: Location::at(file, found.position), cause: Cause::Object(diagnostic) }
}
