//! Lines of a watch that are about no object: bookmarks and errors.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::failure::Failure;
use super::request::End;

/// The annotation of the bookmark that ends a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// The object of a bookmark.
#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMetadata,
}

/// Its metadata.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BookmarkMetadata {
    /// Every event up to it has been sent.
    pub(super) resource_version: String,
    annotations: Option<BTreeMap<String, String>>,
}

impl BookmarkMetadata {
    /// Whether all objects that existed when the watch began have been sent.
    pub(super) fn ends_initial_events(&self) -> bool {
        self.annotations.as_ref().is_some_and(|all| all.contains_key(INITIAL_EVENTS_END))
    }
}

/// The object of an error event.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
    reason: String,
    message: String,
}

/// Reads a bookmark.
pub(super) fn bookmark(json: &str) -> Result<BookmarkMetadata, Failure> {
    let Bookmark { metadata } = serde_json::from_str(json).map_err(End::Garbled)?;
    Ok(metadata)
}

/// Reads an error.
pub(super) fn given_up(json: &str) -> Failure {
    let Status { code, reason, message } = serde_json::from_str(json).unwrap_or_default();
    Failure::GivenUp { code, reason, message }
}
