//! A document and its flaws.

use serde_json::Value;

use super::lines::{Below, FieldLine, Lines, Position};

/// A part of a text.
#[derive(Debug)]
pub(crate) enum Part {
    /// An item of the list `items` at the top of the document that comes next. The document itself has an empty list.
    Item(Item),
    /// A document.
    Document(Document),
}

/// An item of a list of objects.
#[derive(Debug)]
pub(crate) struct Item {
    /// The item; its flaws are those of the document.
    pub(crate) document: Document,
    /// Number of its values.
    pub(crate) n_values: usize,
    /// The list, as far as it had been read.
    pub(crate) list: ListHead,
}

/// What a list of objects says about its items.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListHead {
    /// `kind`.
    pub(crate) kind: Option<String>,
    /// `apiVersion`.
    pub(crate) api_version: Option<String>,
}

/// One document of a file, or an item of a list.
#[derive(Debug)]
pub(crate) struct Document {
    /// The value, with markers for the parts that could not be read.
    pub(crate) value: Value,
    pub(super) lines: Lines,
    /// The flaws, in the order of their lines.
    pub(crate) flaws: Vec<Flaw>,
    /// Whether a syntax error ended the document early.
    pub(crate) is_broken: bool,
}

impl Document {
    /// The line of a field.
    pub(crate) fn find(&self, path: &str) -> FieldLine {
        self.lines.find(path)
    }

    /// The lines of the field at `path` and of everything in it. Those of the whole document are taken out of it.
    pub(crate) fn take_lines_of(&mut self, path: &str) -> Lines {
        if path.is_empty() {
            let below = std::mem::replace(&mut self.lines.below, Below::Nothing);
            return Lines { position: self.lines.position, below };
        }
        self.lines.nearest(path).clone()
    }
}

/// A problem in the text of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// The kind of problem.
    pub(crate) kind: FlawKind,
    /// The position.
    pub(crate) position: Position,
    /// The problem: lower case, no full stop.
    pub(crate) message: String,
}

/// The kinds of problems in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlawKind {
    /// Not valid YAML.
    Syntax,
    /// A key that a mapping contains twice.
    RepeatedKey,
    /// Valid YAML that JSON cannot represent.
    Value,
    /// A limit on the size of a document was exceeded.
    TooLarge,
}
