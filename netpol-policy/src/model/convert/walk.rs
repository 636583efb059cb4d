//! Where the conversion stands in an object, and what it has found so far.

use std::fmt;

use serde_json::{Map, Value};

use crate::model::{Code, Diagnostic, Kind, ObjectName, ObjectRef};

/// What is wanted where text belongs.
const STRING: &str = "a string";

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

    /// Reports a value of the wrong type. `effect` says what netpol does about it.
    pub(super) fn wrong_type(
        &mut self,
        path: &Path<'_>,
        found: &Value,
        wanted: &str,
        effect: &str,
    ) {
        // In YAML a string that looks like something else is something else.
        let is_bare = (found.is_boolean() || found.is_number()) && wanted == STRING;
        let hint = if is_bare { " (it needs quotes)" } else { "" };
        let found = type_name(found);
        self.report(Code::Malformed, path, format!("is {found}, not {wanted}{hint}: {effect}"));
    }

    /// The fields of a mapping, or a finding. Null has the fields of an empty mapping, as in Go.
    pub(super) fn mapping<'v>(
        &mut self,
        path: &Path<'_>,
        value: &'v Value,
        effect: &str,
    ) -> Option<Fields<'v>> {
        match value {
            Value::Object(map) => Some(Fields(Some(map))),
            Value::Null => Some(Fields(None)),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                self.wrong_type(path, value, "a mapping", effect);
                None
            }
        }
    }

    /// The items of a list, or a finding. Null has no items, as in Go.
    pub(super) fn list<'v>(
        &mut self,
        path: &Path<'_>,
        value: Option<&'v Value>,
        effect: &str,
    ) -> Option<&'v [Value]> {
        match value {
            None | Some(Value::Null) => Some(&[]),
            Some(Value::Array(items)) => Some(items),
            Some(other) => {
                self.wrong_type(path, other, "a list", effect);
                None
            }
        }
    }

    /// A string, or a finding. Null is the empty string, as in Go.
    pub(super) fn text<'v>(
        &mut self,
        path: &Path<'_>,
        value: &'v Value,
        effect: &str,
    ) -> Option<&'v str> {
        match value {
            Value::String(text) => Some(text),
            Value::Null => Some(""),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                self.wrong_type(path, value, STRING, effect);
                None
            }
        }
    }

    /// Reports the fields that the API does not have. Returns whether all are known.
    pub(super) fn all_known(
        &mut self,
        path: &Path<'_>,
        fields: Fields<'_>,
        known: &[&str],
        effect: &str,
    ) -> bool {
        let unknown = fields.names().filter(|name| !known.contains(name));
        let mut all_known = true;
        for name in unknown {
            all_known = false;
            let known = known.join(", ");
            let message = format!("is not a field of the API, which has {known} here: {effect}");
            self.report(Code::UnknownField, &path.field(name), message);
        }
        all_known
    }

    /// All findings, in the order of the fields.
    pub(super) fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.found
    }
}

/// The fields of a mapping, in which null and missing are the same.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fields<'v>(Option<&'v Map<String, Value>>);

impl<'v> Fields<'v> {
    /// The fields of a value; those of anything but a mapping are none.
    pub(super) fn of(value: &'v Value) -> Self {
        Self(value.as_object())
    }

    /// A field's value.
    pub(super) fn get(self, name: &str) -> Option<&'v Value> {
        self.0?.get(name).filter(|value| !value.is_null())
    }

    /// The names of all fields, null or not.
    pub(super) fn names(self) -> impl Iterator<Item = &'v str> {
        self.0.into_iter().flatten().map(|(name, _)| name.as_str())
    }

    /// All fields, null or not.
    pub(super) fn iter(self) -> impl Iterator<Item = (&'v str, &'v Value)> {
        self.0.into_iter().flatten().map(|(name, value)| (name.as_str(), value))
    }
}

/// What a value is, with its article.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// The text of a value in a message, cut so that a message stays readable.
pub(super) fn quoted(text: &str) -> String {
    const LIMIT_CHARS: usize = 64;
    match text.char_indices().nth(LIMIT_CHARS) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
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

    #[test]
    fn long_values_are_cut_in_messages() {
        assert_eq!(quoted("a\nb"), r#""a\nb""#);
        assert_eq!(quoted(&"é".repeat(100)).chars().count(), 64 + 2 + 3);
    }
}
