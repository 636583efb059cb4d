//! Decodes the lines of a watch that are not about an object: bookmarks and errors.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::failure::Failure;
use super::request::End;

/// The annotation of the bookmark that ends a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// A bookmark's object.
#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMetadata,
}

/// Its metadata.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BookmarkMetadata {
    /// Every event up to this version has been sent.
    pub(super) resource_version: String,
    annotations: Option<BTreeMap<String, String>>,
}

impl BookmarkMetadata {
    /// Whether this bookmark marks the end of a streaming list.
    pub(super) fn ends_initial_events(&self) -> bool {
        self.annotations.as_ref().is_some_and(|all| all.contains_key(INITIAL_EVENTS_END))
    }
}

/// An error event's object.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
    reason: String,
    message: String,
}

/// Decodes a bookmark.
pub(super) fn bookmark(json: &str) -> Result<BookmarkMetadata, Failure> {
    let Bookmark { metadata } = serde_json::from_str(json).map_err(End::Garbled)?;
    Ok(metadata)
}

/// Decodes an error event. Missing fields stay empty.
pub(super) fn error_event(json: &str) -> Failure {
    let Status { code, reason, message } = serde_json::from_str(json).unwrap_or_default();
    Failure::ErrorEvent { code, reason, message }
}
