//! A list of one kind while it is being read.

use super::decode;
use crate::model::{Diagnostic, Kind, Object, ObjectName, ObjectRef};

/// What has been read of a list.
#[derive(Debug)]
pub(super) struct Listing {
    /// The kind of all objects.
    pub(super) kind: Kind,
    /// The version of the whole list, known at its end.
    pub(super) version: String,
    /// What could be understood.
    pub(super) objects: Vec<Object>,
    /// What exists and could not be.
    pub(super) unreadable: Vec<ObjectName>,
    /// What was found on either.
    pub(super) diagnostics: Vec<(ObjectRef, Vec<Diagnostic>)>,
}

impl Listing {
    /// Nothing read yet.
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            version: String::new(),
            objects: Vec::new(),
            unreadable: Vec::new(),
            diagnostics: Vec::new(),
        }
    }

    /// Adds an object from its JSON.
    pub(super) fn add(&mut self, json: &str) {
        let head = match decode::head(self.kind, json) {
            Ok(head) => head,
            Err(found) => return self.diagnostics.push((found.object.clone(), vec![found])),
        };
        let (object, found) = decode::object(&head, json);
        if !found.is_empty() {
            self.diagnostics.push((head.object.clone(), found));
        }
        match object {
            Some(object) => self.objects.push(object),
            None => self.unreadable.push(head.object.name),
        }
    }
}
