//! The server's store: objects, versions, and the event log that watches read.

use std::collections::{BTreeMap, VecDeque};

use hyper::body::Bytes;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::resource::{CUSTOM_GROUP, RESOURCES, Resource};

/// Log entries kept per resource: a watch that lags further behind gets 410 Gone.
const LOG_LENGTH: usize = 20_000;

/// 2026-01-01T00:00:00Z in seconds since 1970: creation times start here and advance with the version.
const FIRST_CREATION_S: i64 = 1_767_225_600;

/// Namespace (empty for cluster-scoped objects) and name.
pub(super) type Key = (String, String);

/// The store.
#[derive(Debug)]
pub(super) struct Contents {
    version: u64,
    oldest_version: u64,
    collections: Vec<Collection>,
    snapshots: BTreeMap<String, Snapshot>,
}

#[derive(Debug, Default)]
struct Collection {
    objects: BTreeMap<Key, Stored>,
    log: VecDeque<Entry>,
    /// The highest version that was removed from the log.
    forgotten_version: u64,
}

/// An object as it is listed.
#[derive(Clone, Debug)]
struct Stored {
    uid: String,
    created: String,
    /// Without `kind` and `apiVersion`, as the items of a real list.
    json: Bytes,
}

/// The rest of a paged list.
#[derive(Debug)]
struct Snapshot {
    version: u64,
    items: VecDeque<Bytes>,
}

/// A log entry.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its version.
    pub(super) version: u64,
    /// The key of its object.
    pub(super) key: Key,
    /// Which watches get it.
    pub(super) sort: Sort,
    /// The line as it is sent, with its line feed.
    pub(super) line: Bytes,
}

/// Which watches get a log entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Watches that select the object.
    Event,
    /// Watches that asked for bookmarks.
    Bookmark,
    /// All watches.
    ToAll,
}

/// One page of a list.
#[derive(Debug)]
pub(super) struct Page {
    /// The version of the whole list.
    pub(super) version: u64,
    /// The objects.
    pub(super) items: Vec<Bytes>,
    /// Continue token of the next page.
    pub(super) next: Option<(String, usize)>,
}

/// The requested version has been compacted.
#[derive(Debug)]
pub(super) struct Gone;

/// Which objects of a resource a request selects.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// Only this namespace.
    pub(super) namespace: Option<String>,
    /// Only this name.
    pub(super) name: Option<String>,
    /// Only with such labels; lists only.
    pub(super) labels: Vec<LabelTerm>,
}

/// A term of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LabelTerm {
    /// `key=value`.
    Equal(String, String),
    /// `key!=value`, which objects without the label match too.
    NotEqual(String, String),
}

impl Filter {
    /// Whether the object is selected.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == key.0)
            && self.name.as_ref().is_none_or(|name| *name == key.1)
    }

    /// Whether an object has such labels.
    fn has_labels(&self, json: &[u8]) -> bool {
        if self.labels.is_empty() {
            return true;
        }
        let object: Value = serde_json::from_slice(json).unwrap_or_default();
        let label = |key: &str| object.get("metadata")?.get("labels")?.get(key)?.as_str();
        self.labels.iter().all(|term| match term {
            LabelTerm::Equal(key, value) => label(key) == Some(value),
            LabelTerm::NotEqual(key, value) => label(key) != Some(value),
        })
    }
}

impl Default for Contents {
    fn default() -> Self {
        let collections = RESOURCES.iter().map(|_| Collection::default()).collect();
        Self { version: 1, oldest_version: 0, collections, snapshots: BTreeMap::new() }
    }
}

impl Contents {
    /// The newest version.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Creates or replaces an object. It keeps its uid and creation time unless `object` says otherwise.
    pub(super) fn put(&mut self, number: usize, mut object: Value) -> Option<u64> {
        let resource = RESOURCES.get(number)?;
        let version = self.version + 1;
        let collection = self.collections.get_mut(number)?;
        let metadata = object.get_mut("metadata")?.as_object_mut()?;
        let text = |field: &str| metadata.get(field).and_then(Value::as_str).map(str::to_owned);
        let key = (text("namespace").unwrap_or_default(), text("name")?);
        let before = collection.objects.get(&key);
        let uid = text("uid")
            .or_else(|| before.map(|stored| stored.uid.clone()))
            .unwrap_or_else(|| format!("00000000-0000-4000-8000-{version:012}"));
        let created = text("creationTimestamp")
            .or_else(|| before.map(|stored| stored.created.clone()))
            .unwrap_or_else(|| creation_time(version));
        let event = if before.is_some() { "MODIFIED" } else { "ADDED" };
        // Only this group needs it, and nobody else is answered while a large object is parsed.
        let stored: Option<Value> = before
            .filter(|_| resource.group == CUSTOM_GROUP)
            .and_then(|stored| serde_json::from_slice(&stored.json).ok());
        metadata.insert("uid".to_owned(), json!(uid));
        metadata.insert("creationTimestamp".to_owned(), json!(created));
        metadata.insert("resourceVersion".to_owned(), json!(version.to_string()));
        if resource.group == CUSTOM_GROUP {
            keep_status(&mut object, stored.as_ref());
        }
        let fields = object.as_object_mut()?;
        fields.remove("kind");
        fields.remove("apiVersion");

        let json = Bytes::from(object.to_string());
        let line = event_line(event, resource, &json);
        collection.objects.insert(key.clone(), Stored { uid, created, json });
        self.append(number, key, Sort::Event, line);
        Some(version)
    }

    /// Deletes an object; its DELETED event has the version of the deletion.
    pub(super) fn delete(&mut self, number: usize, key: &Key) -> Option<u64> {
        let resource = RESOURCES.get(number)?;
        let version = self.version + 1;
        let stored = self.collections.get_mut(number)?.objects.remove(key)?;
        let mut object: Value = serde_json::from_slice(&stored.json).ok()?;
        *object.pointer_mut("/metadata/resourceVersion")? = json!(version.to_string());
        let line = event_line("DELETED", resource, &Bytes::from(object.to_string()));
        self.append(number, key.clone(), Sort::Event, line);
        Some(version)
    }

    /// Removes an object without an event.
    pub(super) fn lose(&mut self, number: usize, key: &Key) -> Option<()> {
        self.version += 1;
        self.collections.get_mut(number)?.objects.remove(key).map(drop)
    }

    /// One object, with `kind` and `apiVersion`.
    pub(super) fn get(&self, number: usize, key: &Key) -> Option<Bytes> {
        let stored = self.collections.get(number)?.objects.get(key)?;
        Some(with_types(RESOURCES.get(number)?, &stored.json))
    }

    /// All objects of a resource that the filter selects, without `kind` and `apiVersion`.
    pub(super) fn all(&self, number: usize, filter: &Filter) -> Vec<Bytes> {
        let objects = self.collections.get(number).map(|collection| &collection.objects);
        let objects = objects.into_iter().flatten();
        let objects =
            objects.filter(|(key, stored)| filter.has(key) && filter.has_labels(&stored.json));
        objects.map(|(_, stored)| stored.json.clone()).collect()
    }

    /// The first page of a list, or all of it without a limit.
    pub(super) fn list(&mut self, number: usize, filter: &Filter, limit: Option<usize>) -> Page {
        let items = self.all(number, filter).into();
        self.page(Snapshot { version: self.version, items }, limit)
    }

    /// A further page of a list.
    pub(super) fn list_on(&mut self, token: &str, limit: Option<usize>) -> Result<Page, Gone> {
        let snapshot = self.snapshots.remove(token).ok_or(Gone)?;
        Ok(self.page(snapshot, limit))
    }

    fn page(&mut self, mut snapshot: Snapshot, limit: Option<usize>) -> Page {
        let version = snapshot.version;
        let n_items = limit.unwrap_or(usize::MAX).min(snapshot.items.len());
        let items = snapshot.items.drain(..n_items).collect();
        let next = (!snapshot.items.is_empty()).then(|| {
            let n_remaining = snapshot.items.len();
            let token = format!("page-{version}-{n_remaining}-{}", self.snapshots.len());
            self.snapshots.insert(token.clone(), snapshot);
            (token, n_remaining)
        });
        Page { version, items, next }
    }

    /// The log entries of a resource after a version, at most `limit`.
    pub(super) fn since(
        &self,
        number: usize,
        version: u64,
        limit: usize,
    ) -> Result<Vec<Entry>, Gone> {
        let collection = self.collections.get(number).ok_or(Gone)?;
        if version < collection.forgotten_version {
            return Err(Gone);
        }
        let first = collection.log.partition_point(|entry| entry.version <= version);
        Ok(collection.log.range(first..).take(limit).cloned().collect())
    }

    /// Whether a new watch may start after this version.
    pub(super) fn can_watch_from(&self, number: usize, version: u64) -> Result<(), Gone> {
        if version < self.oldest_version {
            return Err(Gone);
        }
        self.since(number, version, 0).map(drop)
    }

    /// Compacts the log: older watches and continue tokens expire.
    pub(super) fn compact(&mut self) {
        self.oldest_version = self.version;
        self.snapshots.clear();
        for collection in &mut self.collections {
            if let Some(last) = collection.log.back() {
                collection.forgotten_version = last.version;
            }
            collection.log.clear();
        }
    }

    /// Appends a raw line to the log of a resource, under the next version.
    pub(super) fn append(&mut self, number: usize, key: Key, sort: Sort, line: Bytes) {
        self.version += 1;
        let version = self.version;
        let Some(collection) = self.collections.get_mut(number) else { return };
        collection.log.push_back(Entry { version, key, sort, line });
        if collection.log.len() > LOG_LENGTH
            && let Some(first) = collection.log.pop_front()
        {
            collection.forgotten_version = first.version;
        }
    }

    /// Appends the last entries of a resource's log again, in their old order.
    pub(super) fn repeat(&mut self, number: usize, n_entries: usize) {
        let Some(collection) = self.collections.get(number) else { return };
        let first = collection.log.len().saturating_sub(n_entries);
        let entries: Vec<Entry> = collection.log.range(first..).cloned().collect();
        for Entry { version: _, key, sort, line } in entries {
            self.append(number, key, sort, line);
        }
    }
}

/// Does what a server does for a resource whose status is a subresource: whoever writes the object keeps its status, and the generation
/// grows with the spec.
fn keep_status(object: &mut Value, before: Option<&Value>) {
    let number = |of: &Value| of.pointer("/metadata/generation").and_then(Value::as_u64);
    let generation = match before {
        None => 1,
        Some(before) => {
            let grows = before.get("spec") != object.get("spec");
            number(before).unwrap_or_default() + u64::from(grows)
        }
    };
    if let Some(metadata) = object.get_mut("metadata") {
        metadata["generation"] = json!(generation);
    }
    if let (None, Some(status)) = (object.get("status"), before.and_then(|of| of.get("status"))) {
        object["status"] = status.clone();
    }
}

/// A bookmark's line.
pub(super) fn bookmark_line(number: usize, version: u64, annotations: &Value) -> Bytes {
    let metadata = json!({
        "resourceVersion": version.to_string(),
        "creationTimestamp": null,
        "annotations": annotations,
    });
    let object = Bytes::from(json!({ "metadata": metadata }).to_string());
    RESOURCES
        .get(number)
        .map_or_else(Bytes::new, |resource| event_line("BOOKMARK", resource, &object))
}

/// The line of an event about an object that lacks `kind` and `apiVersion`.
pub(super) fn event_line(event: &str, resource: &Resource, object: &Bytes) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + 96);
    line.extend_from_slice(format!(r#"{{"type":"{event}","object":"#).as_bytes());
    line.extend_from_slice(&with_types(resource, object));
    line.extend_from_slice(b"}\n");
    Bytes::from(line)
}

fn with_types(resource: &Resource, object: &Bytes) -> Bytes {
    let types =
        format!(r#"{{"kind":"{}","apiVersion":"{}","#, resource.kind, resource.api_version());
    let mut json = types.into_bytes();
    json.extend_from_slice(object.get(1..).unwrap_or_default());
    Bytes::from(json)
}

fn creation_time(version: u64) -> String {
    let seconds = FIRST_CREATION_S.saturating_add(i64::try_from(version).unwrap_or(0));
    Timestamp::from_second(seconds).map_or_else(|_| String::new(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str) -> Value {
        json!({ "kind": "Namespace", "apiVersion": "v1", "metadata": { "name": name } })
    }

    const NAMESPACES: usize = 2;

    #[test]
    fn a_paged_list_is_one_moment() {
        let mut contents = Contents::default();
        for name in ["a", "b", "c"] {
            contents.put(NAMESPACES, namespace(name)).unwrap();
        }
        let page = contents.list(NAMESPACES, &Filter::default(), Some(2));
        contents.put(NAMESPACES, namespace("d")).unwrap();
        let (token, n_remaining) = page.next.unwrap();
        assert_eq!((page.items.len(), n_remaining), (2, 1));
        let rest = contents.list_on(&token, Some(2)).unwrap();
        assert_eq!((rest.items.len(), rest.version), (1, page.version));
    }

    #[test]
    fn compaction_ends_old_watches_and_lists() {
        let mut contents = Contents::default();
        contents.put(NAMESPACES, namespace("a")).unwrap();
        contents.put(NAMESPACES, namespace("b")).unwrap();
        let (token, _) = contents.list(NAMESPACES, &Filter::default(), Some(1)).next.unwrap();
        let before = contents.version();
        contents.put(NAMESPACES, namespace("c")).unwrap();
        contents.compact();
        assert!(contents.since(NAMESPACES, before, 1).is_err());
        assert!(contents.list_on(&token, None).is_err());
        assert!(contents.can_watch_from(NAMESPACES, contents.version()).is_ok());
    }

    #[test]
    fn a_replaced_object_keeps_its_uid() {
        let mut contents = Contents::default();
        let key = (String::new(), "a".to_owned());
        contents.put(NAMESPACES, namespace("a")).unwrap();
        let first: Value =
            serde_json::from_slice(&contents.get(NAMESPACES, &key).unwrap()).unwrap();
        contents.put(NAMESPACES, namespace("a")).unwrap();
        let second: Value =
            serde_json::from_slice(&contents.get(NAMESPACES, &key).unwrap()).unwrap();
        assert_eq!(first.pointer("/metadata/uid"), second.pointer("/metadata/uid"));
        assert_ne!(
            first.pointer("/metadata/resourceVersion"),
            second.pointer("/metadata/resourceVersion")
        );
    }
}
