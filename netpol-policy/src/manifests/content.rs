//! From the text of one file to the objects in it.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::finding::{Cause, FileCode, Finding, Place, Sourced};
use super::yaml::{self, Document, FlawKind, Lines, UNREADABLE};
use crate::model::{Code, Diagnostic, Object, ObjectRef, convert};

/// What is in a file.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// The objects, in their order, with the findings on each.
    pub entries: Vec<Entry>,
    /// Findings on what is no object, in the order of the lines.
    pub findings: Vec<Finding>,
    /// Objects of kinds that netpol does not use: `apiVersion` and kind.
    pub passed_over: Vec<Sourced<String>>,
    /// A syntax error may have hidden objects.
    pub is_broken: bool,
}

/// An object in a file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The object and its place.
    pub object: Sourced<Object>,
    /// The findings on it.
    pub findings: Vec<Finding>,
    /// The lines of a policy's fields, for later findings.
    pub lines: Option<Lines>,
    /// It was being read when a syntax error came: it is not what was written.
    pub is_partial: bool,
}

/// Reads the objects of a text.
pub fn content(file: &Arc<Path>, text: &str) -> Content {
    let mut content = Content::default();
    for mut document in yaml::documents(text) {
        content.is_broken |= document.is_broken;
        for flaw in std::mem::take(&mut document.flaws) {
            let code = match flaw.kind {
                FlawKind::Syntax => FileCode::Syntax,
                FlawKind::RepeatedKey => FileCode::RepeatedKey,
                FlawKind::Value => FileCode::InvalidValue,
                FlawKind::TooLarge => FileCode::TooLarge,
            };
            content.findings.push(about_file(file, flaw.line, code, flaw.message));
        }
        let value = document.value.take();
        for (prefix, value) in convert::expand(value) {
            content.add(file, &document, &prefix, &value);
        }
    }
    content
}

impl Content {
    /// Adds one object, which stands at `prefix` in its document.
    fn add(&mut self, file: &Arc<Path>, document: &Document, prefix: &str, value: &Value) {
        let line = document.find(prefix).line;
        let place = Place { file: Arc::clone(file), line };
        let is_partial = value.get(UNREADABLE).is_some() && document.is_broken;
        if value.get("kind").is_none_or(|kind| !kind.is_string()) {
            // Of a broken document the flaw has been told.
            if !document.is_broken {
                let message = "has no kind: it is passed over".to_owned();
                self.findings.push(about_file(file, line, FileCode::NoKind, message));
            }
            return;
        }
        let converted = convert::object(value);
        if let Some(kind) = converted.unsupported_kind {
            if kind.ends_with("List") && value.get("items").is_some() {
                let message = "has items that are no list: it is passed over".to_owned();
                self.findings.push(about_file(file, line, FileCode::InvalidValue, message));
            }
            self.passed_over.push(Sourced { object: kind, place });
            return;
        }
        let object = converted.object.map(|object| Sourced { object, place });
        let is_policy = |object: &Sourced<Object>| matches!(object.object, Object::Policy(_));
        let lines = object.as_ref().filter(|o| is_policy(o)).map(|_| document.lines_of(prefix));
        if is_partial {
            // The syntax error says all that there is to say about what it cut off.
            let entry = |object| Entry { object, findings: Vec::new(), lines, is_partial };
            self.entries.extend(object.map(entry));
            return;
        }
        let diagnostics = converted.diagnostics.into_iter();
        let findings = diagnostics.map(|found| about_object(file, document, prefix, found));
        let findings: Vec<_> = findings.collect();
        match object {
            None => self.findings.extend(findings),
            Some(object) => self.entries.push(Entry { object, findings, lines, is_partial }),
        }
    }
}

impl Entry {
    /// Kind and name.
    pub fn object_ref(&self) -> ObjectRef {
        self.object.object.object_ref()
    }

    /// The finding on a definition that does not count because of another one.
    pub fn overridden(&self, by: &Place) -> Finding {
        self.finding(Code::DefinedTwice, format!("is defined again at {by}, which counts"))
    }

    /// What can be relied on in a policy of which only the beginning was read: that it isolates. Other
    /// objects are of no use then.

    pub fn closed(&self) -> Option<Self> {
        let Object::Policy(policy) = &self.object.object else { return None };
        let mut policy = policy.clone();
        policy.policy_types.ingress = true;
        policy.policy_types.egress = true;
        policy.ingress = Arc::default();
        policy.egress = Arc::default();
        let place = self.object.place.clone();
        Some(Self {
            object: Sourced { object: Object::Policy(policy), place },
            findings: vec![self.cut_off("it isolates what it selects and allows nothing")],
            lines: None,
            is_partial: true,
        })
    }

    /// The finding on an object that a syntax error cut off, with what becomes of it.
    pub fn cut_off(&self, effect: &str) -> Finding {
        self.finding(Code::Malformed, format!("is cut off by a syntax error: {effect}"))
    }

    fn finding(&self, code: Code, message: String) -> Finding {
        let object = self.object_ref();
        let cause = Diagnostic { code, object, field: String::new(), message };
        Finding { place: self.object.place.clone(), cause: Cause::Object(cause) }
    }
}

fn about_file(file: &Arc<Path>, line: usize, code: FileCode, message: String) -> Finding {
    Finding { place: Place { file: Arc::clone(file), line }, cause: Cause::File { code, message } }
}

/// A diagnostic with its line. Those on marks of unreadable places say that instead.
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
        diagnostic.message = format!("cannot be read: {}", effect.unwrap_or("it is ignored"));
        diagnostic.code = Code::Malformed;
        if let Some(around) = diagnostic.field.strip_suffix(UNREADABLE) {
            let around = around.trim_end_matches('.').to_owned();
            diagnostic.field = around;
        }
    }
    Finding {
        place: Place { file: Arc::clone(file), line: found.line },
        cause: Cause::Object(diagnostic),
    }
}
