//! Where the values of a document stand in its file.

use std::collections::BTreeMap;

/// The lines of a value and of everything below it.
#[derive(Clone, Debug)]
pub struct Lines {
    /// Line of the value, or of its key in a mapping, counted from 1.
    pub(super) line: usize,
    /// What is below it.
    pub(super) below: Below,
}

/// What is below a value.
#[derive(Clone, Debug)]
pub(super) enum Below {
    /// Nothing: a scalar.
    Nothing,
    /// Nothing that could be read.
    Unreadable,
    /// The items of a list.
    Items(Vec<Lines>),
    /// The entries of a mapping.
    Fields(BTreeMap<String, Lines>),
}

/// The place of a field, as far as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Line of the field or of the nearest thing around it.
    pub(crate) line: usize,
    /// Whether that could not be read.
    pub(crate) is_unreadable: bool,
}

impl Lines {
    /// Finds a field by its path as a diagnostic names it, such as `spec.ingress[0].ports[1].endPort`
    /// or `metadata.labels[app.kubernetes.io/name]`.
    pub(crate) fn find(&self, path: &str) -> Place {
        let place = self.nearest(path);
        let is_unreadable = matches!(place.below, Below::Unreadable);
        Place { line: place.line, is_unreadable }
    }

    /// The lines of a field, or of the nearest thing around it, and of all below.
    pub(super) fn nearest(&self, path: &str) -> &Self {
        let mut place = self;
        let mut rest = path;
        while !rest.is_empty() {
            let (segment, after) = first_segment(rest);
            let next = match &place.below {
                Below::Nothing | Below::Unreadable => None,
                Below::Items(items) => {
                    segment.parse().ok().and_then(|index: usize| items.get(index))
                }
                Below::Fields(fields) => fields.get(segment),
            };
            let Some(next) = next else { break };
            place = next;
            rest = after;
        }
        place
    }
}

/// Cuts a path into its first segment, a name or what is in brackets, and the rest.
fn first_segment(path: &str) -> (&str, &str) {
    let path = path.strip_prefix('.').unwrap_or(path);
    if let Some(path) = path.strip_prefix('[') {
        return path.split_once(']').unwrap_or((path, ""));
    }
    let end = path.find(['.', '[']).unwrap_or(path.len());
    path.split_at(end)
}
