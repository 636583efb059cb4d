//! The position of each value of a document.

use std::sync::Arc;

use granit_parser::Marker;

/// A line, and a column of it. Small, because a document has one for each of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The line, counted from 1.
    line: u32,
    /// The column, counted in characters from 0.
    column: u32,
}

impl Position {
    /// The beginning of a text.
    pub(crate) const START: Self = Self { line: 1, column: 0 };

    /// A line, counted from 1, and a column, counted in characters from 0.
    pub(super) const fn new(line: u32, column: u32) -> Self {
        Self { line, column }
    }

    /// That of the parser, in a chunk of a text that has this number of lines before it.
    pub(super) fn of(marker: &Marker, n_lines_before: u32) -> Self {
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let line = small(marker.line()).saturating_add(n_lines_before);
        Self { line, column: small(marker.col()) }
    }

    /// The line, counted from 1.
    pub(crate) fn line(self) -> usize {
        usize::try_from(self.line).unwrap_or(usize::MAX)
    }

    /// The column, counted in characters from 1.
    pub(crate) fn column(self) -> usize {
        usize::try_from(self.column).map_or(usize::MAX, |column| column.saturating_add(1))
    }
}

/// The positions of a value and of everything below it.
#[derive(Clone, Debug)]
pub struct Lines {
    /// That of the value, or of its key in a mapping.
    pub(super) position: Position,
    /// The positions of its items or fields.
    pub(super) below: Below,
}

/// The lines of the items or fields of a value.
#[derive(Clone, Debug)]
pub(super) enum Below {
    /// None, because the value is a scalar.
    Nothing,
    /// None, because the value could not be read.
    Unreadable,
    /// The items of a list.
    Items(Box<[Lines]>),
    /// The entries of a mapping, by key. Not a map, because most mappings have a few entries, and a document very many mappings,
    /// which share the texts of their keys.
    Fields(Box<[(Arc<str>, Lines)]>),
}

/// The position of a field, or of the nearest enclosing field that the document contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FieldLine {
    /// The position.
    pub(crate) position: Position,
    /// Whether the field at this position could not be read.
    pub(crate) is_unreadable: bool,
}

impl Lines {
    /// Finds a field by its path as a diagnostic names it, such as `spec.ingress[0].ports[1].endPort`
    /// or `metadata.labels[app.kubernetes.io/name]`.
    pub(crate) fn find(&self, path: &str) -> FieldLine {
        let nearest = self.nearest(path);
        let is_unreadable = matches!(nearest.below, Below::Unreadable);
        FieldLine { position: nearest.position, is_unreadable }
    }

    /// Whether the document contains the field at this path, which consists of names.
    pub fn has(&self, path: &[&str]) -> bool {
        let mut found = self;
        for name in path {
            let Below::Fields(fields) = &found.below else { return false };
            let at = fields.binary_search_by(|(key, _)| (**key).cmp(name)).ok();
            let Some((_, lines)) = at.and_then(|at| fields.get(at)) else { return false };
            found = lines;
        }
        true
    }

    /// The lines of a field and of everything in it, or those of the nearest enclosing field that the document contains.
    pub(super) fn nearest(&self, path: &str) -> &Self {
        let mut nearest = self;
        let mut rest = path;
        while !rest.is_empty() {
            let (segment, after) = first_segment(rest);
            let next = match &nearest.below {
                Below::Nothing | Below::Unreadable => None,
                Below::Items(items) => {
                    segment.parse().ok().and_then(|index: usize| items.get(index))
                }
                Below::Fields(fields) => {
                    let found = fields.binary_search_by(|(key, _)| (**key).cmp(segment)).ok();
                    found.and_then(|at| fields.get(at)).map(|(_, lines)| lines)
                }
            };
            let Some(next) = next else { break };
            nearest = next;
            rest = after;
        }
        nearest
    }
}

/// Splits a path into its first segment (a name, or the text in brackets) and the rest.
fn first_segment(path: &str) -> (&str, &str) {
    let path = path.strip_prefix('.').unwrap_or(path);
    if let Some(path) = path.strip_prefix('[') {
        return path.split_once(']').unwrap_or((path, ""));
    }
    let end = path.find(['.', '[']).unwrap_or(path.len());
    path.split_at(end)
}
