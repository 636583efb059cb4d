//! From parser events to a JSON value with the lines of its parts.
//!
//! A value that cannot be read becomes a mapping with the single key [`UNREADABLE`], which is valid nowhere in an API
//! object. A policy with such a field still isolates, because the conversion treats the field as not understood.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use granit_parser::{Event, ScalarStyle, Tag};
use serde_json::{Map, Value};

use super::document::{Document, Flaw, FlawKind, Item, ListHead};
use super::json::Token;
use super::lines::{Below, Lines, Position};
use super::names::Names;
use super::scalar;

/// Key of the marker for a value that could not be read. No field of the API and no label has this name.
pub(crate) const UNREADABLE: &str = "(unreadable)";

/// The largest number of values that anchors and aliases may copy in one document.
const MAX_COPIED: usize = 100_000;

/// The largest number of values in one document or, if it is a list of objects, in one of these. An object of the largest size
/// that an API server takes, 1.5 MB, has fewer.
pub(crate) const MAX_VALUES: usize = 300_000;

/// The largest number of lists and mappings around a value. Fields of the API, also those of schemas in it, have much fewer. A value
/// is freed recursively, so the stack has to hold as many calls.
const MAX_DEPTH: usize = 200;

/// The largest number of flaws that are reported for one document.
const MAX_FLAWS: usize = 100;

/// A value and the lines of its parts.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) lines: Lines,
}

impl Node {
    fn unreadable(position: Position) -> Self {
        let value = Value::Object(Map::from_iter([(UNREADABLE.to_owned(), Value::Bool(true))]));
        Self { value, lines: Lines { position, below: Below::Unreadable } }
    }
}

/// Builds one document from its events.
#[derive(Debug, Default)]
pub(super) struct Builder {
    /// The open lists and mappings, from the outermost to the innermost.
    frames: Vec<Frame>,
    /// The entries of the open mappings, those of the innermost last, so that a mapping allocates once, when it is closed.
    entries: Entries,
    root: Option<Node>,
    /// The nodes with an anchor, each with its number of values.
    anchors: BTreeMap<usize, (Node, usize)>,
    /// Number of values so far.
    n_values: usize,
    /// Number of values copied so far for anchors and aliases.
    n_copied: usize,
    /// Number of values in memory: those so far, except for items that were handed out.
    n_held: usize,
    /// The latest item, until it is handed out.
    item: Option<Item>,
    flaws: Vec<Flaw>,
    /// A syntax error ended the document.
    is_broken: bool,
    names: Names,
}

/// An open list or mapping.
#[derive(Debug)]
struct Frame {
    position: Position,
    anchor: usize,
    /// [`Builder::n_values`] when it was opened, to compute the number of values in it.
    n_values_before: usize,
    kind: FrameKind,
}

#[derive(Debug)]
enum FrameKind {
    List {
        values: Vec<Value>,
        lines: Vec<Lines>,
    },
    Mapping {
        values: Map<String, Value>,
        /// Where its entries begin in [`Builder::entries`].
        first_entry: usize,
        merged: BTreeSet<String>,
        key: Key,
    },
}

/// The positions of the entries of mappings, in the order of the text. Of equal keys of a mapping, the last counts.
type Entries = Vec<(Arc<str>, Lines)>;

/// The entries in the order of their keys.
fn sorted(entries: impl ExactSizeIterator<Item = (Arc<str>, Lines)>) -> Box<[(Arc<str>, Lines)]> {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    entries.dedup_by(|later, earlier| {
        let is_equal = later.0 == earlier.0;
        if is_equal {
            std::mem::swap(later, earlier);
        }
        is_equal
    });
    entries.into_boxed_slice()
}

/// The part of a mapping that the next event provides.
#[derive(Debug)]
enum Key {
    /// A key.
    Missing,
    /// The value of this key.
    Read { text: Arc<str>, position: Position },
    /// A mapping, or a list of mappings, whose entries are defaults of this one.
    Merge,
    /// The value of a key that is not text.
    Unreadable { position: Position },
}

impl Builder {
    /// Applies the next event of the document, which has this position.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is not exhaustive")]
    pub(super) fn event(&mut self, event: &Event<'_>, position: Position) {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(text, *style, *anchor, tag.as_deref(), position);
            }
            Event::SequenceStart(_, anchor, _) => self.open_list(*anchor, position),
            Event::MappingStart(_, anchor, _) => self.open_mapping(*anchor, position),
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(*anchor, position),
            Event::UnresolvedAlias(name) => {
                self.flaw(FlawKind::Syntax, position, format!("there is no anchor {name:?} above"));
                self.complete(Node::unreadable(position), 0, 1);
            }
            // Starts and ends of the stream and of documents, and events that later versions of the parser may add.
            _ => {}
        }
    }

    /// Applies the next token of a JSON document.
    pub(super) fn token(&mut self, token: &Token<'_>, position: Position) {
        match token {
            Token::OpenList => self.open_list(0, position),
            Token::OpenMapping => self.open_mapping(0, position),
            Token::Close => self.close(),
            Token::Text(text) => self.scalar(text, ScalarStyle::DoubleQuoted, 0, None, position),
            Token::Plain(text) => self.scalar(text, ScalarStyle::Plain, 0, None, position),
        }
    }

    /// The item that the last event has completed.
    pub(super) fn take_item(&mut self) -> Option<Item> {
        self.item.take()
    }

    /// Ends the document early if it exceeds [`MAX_VALUES`] or [`MAX_DEPTH`]. Returns whether it does.
    pub(super) fn is_too_large(&mut self, position: Position) -> bool {
        let exceeded = if self.n_held > MAX_VALUES {
            format!("the object has more than {MAX_VALUES} values")
        } else if self.frames.len() > MAX_DEPTH {
            format!("values are nested in more than {MAX_DEPTH} others")
        } else {
            return false;
        };
        self.is_broken = true;
        let message = format!("{exceeded}: the rest of the document is not read");
        self.flaw(FlawKind::TooLarge, position, message);
        true
    }

    /// Records a syntax error. Nothing after it can be read in this document.
    pub(super) fn break_off(&mut self, position: Position, message: String) {
        self.is_broken = true;
        self.flaw(FlawKind::Syntax, position, message);
    }

    /// Ends the document and begins the next one; `None` if it is empty and has no flaw. An item that was open comes first.
    ///
    /// After a syntax error, the rest of each open list and mapping is marked as unreadable.
    pub(super) fn finish(&mut self) -> (Option<Item>, Option<Document>) {
        let names = std::mem::take(&mut self.names);
        std::mem::replace(self, Self { names, ..Self::default() }).into_document()
    }

    fn into_document(mut self) -> (Option<Item>, Option<Document>) {
        while let Some(frame) = self.frames.last_mut() {
            let position = frame.position;
            match &mut frame.kind {
                FrameKind::List { values, lines } => {
                    let node = Node::unreadable(position);
                    values.push(node.value);
                    lines.push(node.lines);
                }
                FrameKind::Mapping { values, first_entry, key, merged: _ } => {
                    let lines = &mut self.entries;
                    let node = Node::unreadable(position);
                    if let Key::Read { text, .. } = std::mem::replace(key, Key::Missing) {
                        values.entry(text.to_string()).or_insert(node.value.clone());
                        if !lines.iter().skip(*first_entry).any(|(key, _)| *key == text) {
                            lines.push((text, node.lines.clone()));
                        }
                    }
                    values.insert(UNREADABLE.to_owned(), node.value);
                    lines.push((UNREADABLE.into(), node.lines));
                }
            }
            self.close();
        }
        let position = self.flaws.first().map_or(Position::START, |flaw| flaw.position);
        let nothing = Node { value: Value::Null, lines: Lines { position, below: Below::Nothing } };
        let Node { value, lines } = self.root.unwrap_or(nothing);
        let is_empty = value.is_null() && self.flaws.is_empty();
        let (flaws, is_broken) = (self.flaws, self.is_broken);
        (self.item, (!is_empty).then_some(Document { value, lines, flaws, is_broken }))
    }

    /// Adds a flaw, up to [`MAX_FLAWS`].
    pub(super) fn flaw(&mut self, kind: FlawKind, position: Position, message: String) {
        if self.flaws.len() < MAX_FLAWS {
            self.flaws.push(Flaw { kind, position, message });
        }
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        position: Position,
    ) {
        if self.awaited_key().is_some() {
            let is_merge = text == "<<" && style == ScalarStyle::Plain;
            let read = match scalar::key(text, style, tag) {
                _ if is_merge => Key::Merge,
                Some(text) => Key::Read { text: self.names.shared(&text), position },
                None => Key::Unreadable { position },
            };
            if let Some(key) = self.awaited_key() {
                *key = read;
            }
            if anchor != 0 {
                let value = Value::from(text);
                self.anchors.insert(
                    anchor,
                    (Node { value, lines: Lines { position, below: Below::Nothing } }, 1),
                );
            }
            return;
        }
        let node = if let Some(value) = scalar::resolve(text, style, tag) {
            Node { value, lines: Lines { position, below: Below::Nothing } }
        } else {
            self.flaw(FlawKind::Value, position, format!("{text:?} cannot be represented in JSON"));
            Node::unreadable(position)
        };
        self.complete(node, anchor, 1);
    }

    fn alias(&mut self, anchor: usize, position: Position) {
        let Some((_, n_values)) = self.anchors.get(&anchor) else {
            self.flaw(
                FlawKind::Syntax,
                position,
                "an alias refers to a value that contains the alias".to_owned(),
            );
            self.complete(Node::unreadable(position), 0, 1);
            return;
        };
        let n_values = *n_values;
        if !self.may_copy(n_values, position) {
            self.complete(Node::unreadable(position), 0, 1);
            return;
        }
        let Some((node, _)) = self.anchors.get(&anchor) else { return };
        if self.frames.len().saturating_add(depth(&node.value)) > MAX_DEPTH {
            let message = format!("an alias nests values in more than {MAX_DEPTH} others");
            self.flaw(FlawKind::TooLarge, position, message);
            self.complete(Node::unreadable(position), 0, 1);
            return;
        }
        let node = node.clone();
        if let Some(key) = self.awaited_key() {
            *key = if let Value::String(text) = node.value {
                Key::Read { text: text.into(), position }
            } else {
                Key::Unreadable { position }
            };
            return;
        }
        // `complete` counts one of them.
        self.n_values = self.n_values.saturating_add(n_values.saturating_sub(1));
        self.n_held = self.n_held.saturating_add(n_values.saturating_sub(1));
        self.complete(node, 0, n_values);
    }

    /// Counts copied values. Returns false, and adds a flaw, when there are too many.
    fn may_copy(&mut self, n_values: usize, position: Position) -> bool {
        let was_within = self.n_copied <= MAX_COPIED;
        self.n_copied = self.n_copied.saturating_add(n_values);
        if was_within && self.n_copied > MAX_COPIED {
            let message = format!("aliases copy more than {MAX_COPIED} values");
            self.flaw(FlawKind::TooLarge, position, message);
        }
        self.n_copied <= MAX_COPIED
    }

    /// The key of the innermost mapping, if the next event is a key.
    fn awaited_key(&mut self) -> Option<&mut Key> {
        match self.frames.last_mut().map(|frame| &mut frame.kind) {
            Some(FrameKind::Mapping { key: key @ Key::Missing, .. }) => Some(key),
            Some(FrameKind::Mapping { .. } | FrameKind::List { .. }) | None => None,
        }
    }

    fn open_list(&mut self, anchor: usize, position: Position) {
        self.open(position, anchor, FrameKind::List { values: Vec::new(), lines: Vec::new() });
    }

    fn open_mapping(&mut self, anchor: usize, position: Position) {
        let kind = FrameKind::Mapping {
            values: Map::new(),
            first_entry: self.entries.len(),
            merged: BTreeSet::new(),
            key: Key::Missing,
        };
        self.open(position, anchor, kind);
    }

    fn open(&mut self, position: Position, anchor: usize, kind: FrameKind) {
        self.frames.push(Frame { position, anchor, n_values_before: self.n_values, kind });
    }

    fn close(&mut self) {
        let Some(Frame { position, anchor, n_values_before, kind }) = self.frames.pop() else {
            return;
        };
        let node = match kind {
            FrameKind::List { values, lines } => Node {
                value: Value::Array(values),
                lines: Lines { position, below: Below::Items(lines.into_boxed_slice()) },
            },
            FrameKind::Mapping { values, first_entry, .. } => {
                let entries = self.entries.drain(first_entry.min(self.entries.len())..);
                let below = Below::Fields(sorted(entries));
                Node { value: Value::Object(values), lines: Lines { position, below } }
            }
        };
        let n_values = self.n_values.saturating_sub(n_values_before).saturating_add(1);
        self.complete(node, anchor, n_values);
    }

    /// Adds a complete node to the list or mapping that contains it.
    fn complete(&mut self, node: Node, anchor: usize, n_values: usize) {
        self.n_values = self.n_values.saturating_add(1);
        self.n_held = self.n_held.saturating_add(1);
        if anchor != 0 && self.may_copy(n_values, node.lines.position) {
            self.anchors.insert(anchor, (node.clone(), n_values));
        }
        if let Some(list) = self.list_of_objects() {
            self.n_held = self.n_held.saturating_sub(n_values);
            let Node { value, lines } = node;
            let is_broken = self.is_broken;
            let document = Document { value, lines, flaws: Vec::new(), is_broken };
            self.item = Some(Item { document, n_values, list });
            return;
        }
        let Some(frame) = self.frames.last_mut() else {
            self.root.get_or_insert(node);
            return;
        };
        match &mut frame.kind {
            FrameKind::List { values, lines } => {
                values.push(node.value);
                lines.push(node.lines);
            }
            FrameKind::Mapping { values, first_entry: _, merged, key } => {
                let lines = &mut self.entries;
                match std::mem::replace(key, Key::Missing) {
                    // A list or mapping is used as a key.
                    Key::Missing => *key = Key::Unreadable { position: node.lines.position },
                    Key::Merge => {
                        let position = node.lines.position;
                        if !merge(node, values, lines, merged) {
                            let message = "only mappings can be merged with <<".to_owned();
                            self.flaw(FlawKind::Value, position, message);
                        }
                    }
                    Key::Unreadable { position } => {
                        let Node { value, lines: at } = Node::unreadable(position);
                        values.insert(UNREADABLE.to_owned(), value);
                        lines.push((UNREADABLE.into(), at));
                        self.flaw(
                            FlawKind::Value,
                            position,
                            "a mapping key is not text".to_owned(),
                        );
                    }
                    Key::Read { text, position }
                        if values.contains_key(&*text) && !merged.remove(&*text) =>
                    {
                        let message =
                            format!("key {text:?} is given twice: both values are ignored");
                        let Node { value, lines: at } = Node::unreadable(position);
                        values.insert(text.to_string(), value);
                        lines.push((text, at));
                        self.flaw(FlawKind::RepeatedKey, position, message);
                    }
                    Key::Read { text, position } => {
                        let of_value = Lines { position, below: node.lines.below };
                        values.insert(text.to_string(), node.value);
                        lines.push((text, of_value));
                    }
                }
            }
        }
    }
}

impl Builder {
    /// The head of the list of objects whose items are read now: the value of `items` at the top of the document.
    fn list_of_objects(&self) -> Option<ListHead> {
        let [root, Frame { kind: FrameKind::List { .. }, .. }] = self.frames.as_slice() else {
            return None;
        };
        let FrameKind::Mapping { values, key: Key::Read { text, .. }, .. } = &root.kind else {
            return None;
        };
        let read = |field: &str| values.get(field).and_then(Value::as_str).map(str::to_owned);
        (&**text == "items")
            .then(|| ListHead { kind: read("kind"), api_version: read("apiVersion") })
    }
}

/// The number of lists and mappings in each other, of which the value is the outermost: at most [`MAX_DEPTH`].
fn depth(value: &Value) -> usize {
    let below = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(fields) => fields.values().map(depth).max(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return 0,
    };
    below.unwrap_or(0).saturating_add(1)
}

/// Merges entries into a mapping. They replace entries before the `<<` and are replaced by entries after it, as in
/// `kubectl`. Of several mappings in a list, the first takes precedence. Returns false, and marks the mapping as
/// unreadable, if the node is neither a mapping nor a list of mappings.
fn merge(
    node: Node,
    values: &mut Map<String, Value>,
    lines: &mut Entries,
    merged: &mut BTreeSet<String>,
) -> bool {
    match (node.value, node.lines.below) {
        (Value::Object(from), Below::Fields(from_lines)) => {
            merged.extend(from.keys().cloned());
            values.extend(from);
            lines.extend(from_lines);
            true
        }
        (Value::Array(from), Below::Items(from_lines)) => {
            let nodes = from.into_iter().zip(from_lines).rev();
            let merge_one = |(value, lines_of_value): (Value, Lines)| {
                // Nested lists are not merged, so the recursion ends.
                let value = if value.is_array() { Value::Null } else { value };
                merge(Node { value, lines: lines_of_value }, values, lines, merged)
            };
            let results: Vec<bool> = nodes.map(merge_one).collect();
            results.into_iter().all(|is_merged| is_merged)
        }
        _ => {
            let Node { value, lines: at } = Node::unreadable(node.lines.position);
            values.insert(UNREADABLE.to_owned(), value);
            lines.push((UNREADABLE.into(), at));
            false
        }
    }
}
