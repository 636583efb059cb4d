//! The line of each value of a document.

/// The lines of a value and of everything below it.
#[derive(Clone, Debug)]
pub struct Lines {
    /// Line of the value, or of its key in a mapping, counted from 1.
    pub(super) line: usize,
    /// The lines of its items or fields.
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
    Items(Vec<Lines>),
    /// The entries of a mapping, by key. Not a map, because most mappings have a few entries, and a document very many mappings.
    Fields(Box<[(Box<str>, Lines)]>),
}

/// The line of a field, or of the nearest enclosing field that the document contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FieldLine {
    /// The line, counted from 1.
    pub(crate) line: usize,
    /// Whether the field at this line could not be read.
    pub(crate) is_unreadable: bool,
}

impl Lines {
    /// Finds a field by its path as a diagnostic names it, such as `spec.ingress[0].ports[1].endPort`
    /// or `metadata.labels[app.kubernetes.io/name]`.
    pub(crate) fn find(&self, path: &str) -> FieldLine {
        let nearest = self.nearest(path);
        let is_unreadable = matches!(nearest.below, Below::Unreadable);
        FieldLine { line: nearest.line, is_unreadable }
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
