//! Where the conversion stands in an object, and what it has found so far.

use std::borrow::Cow;
use std::fmt;

use crate::model::{Code, Diagnostic, Kind, ObjectName, ObjectRef};

/// A place in an object, such as `spec.ingress[0].ports[1].endPort`.
///
/// A list on the stack: nothing is allocated unless something is reported.
#[derive(Clone, Copy, Debug)]
pub(super) enum Path<'a> {
    /// The whole object.
    Root,
    /// A field of the API.
    Field(&'a Path<'a>, &'a str),
    /// An item of a list.
    Item(&'a Path<'a>, usize),
    /// An entry of a map whose keys the user chooses, such as labels.
    Key(&'a Path<'a>, &'a str),
}

impl Path<'_> {
    /// A field below this place.
    pub(super) const fn field<'b>(&'b self, name: &'b str) -> Path<'b> {
        Path::Field(self, name)
    }

    /// A list item below this place.
    pub(super) const fn item(&self, index: usize) -> Path<'_> {
        Path::Item(self, index)
    }

    /// A map entry below this place.
    pub(super) const fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path::Key(self, key)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Path::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
            Self::Key(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}

/// The findings on one object.
#[derive(Debug)]
pub(super) struct Findings {
    object: ObjectRef,
    found: Vec<Diagnostic>,
}

impl Findings {
    /// Nothing found yet on this object.
    pub(super) const fn new(kind: Kind, name: ObjectName) -> Self {
        Self { object: ObjectRef { kind, name }, found: Vec::new() }
    }

    /// Adds a finding.
    pub(super) fn report(&mut self, code: Code, path: &Path<'_>, message: impl Into<String>) {
        self.found.push(Diagnostic {
            code,
            object: self.object.clone(),
            field: path.to_string(),
            message: message.into(),
        });
    }

    /// All findings, in the order of the fields.
    pub(super) fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.found
    }
}

/// The text of a value in a message, cut so that a message stays readable.
pub(super) fn quoted(text: &str) -> Cow<'_, str> {
    const LIMIT_CHARS: usize = 64;
    match text.char_indices().nth(LIMIT_CHARS) {
        None => Cow::Owned(format!("{text:?}")),
        Some((end, _)) => Cow::Owned(format!("{:?}...", text.get(..end).unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_like_the_api_documentation() {
        let spec = Path::Root.field("spec");
        let ingress = spec.field("ingress");
        let rule = ingress.item(0);
        let ports = rule.field("ports");
        let port = ports.item(1);
        assert_eq!(port.field("endPort").to_string(), "spec.ingress[0].ports[1].endPort");
        let selector = spec.field("podSelector");
        let labels = selector.field("matchLabels");
        assert_eq!(
            labels.key("app.kubernetes.io/name").to_string(),
            "spec.podSelector.matchLabels[app.kubernetes.io/name]"
        );
    }
}
