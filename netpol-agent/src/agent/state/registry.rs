//! Records of the endpoints: which interface belongs to which pod, kept across restarts.
//!
//! The maps only hold interface indexes. So the record of each ADD is written to a file in the agent's state directory, on
//! a file system that a reboot empties as it empties the maps.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netpol_common::ids::IfIndex;
use netpol_common::mac::Mac;
use netpol_proto::{Add, Attachment, PodRef};
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use netpol_policy::model::{ObjectName, Pod};
use netpol_policy::store::{Endpoint, PodEnd};

use crate::agent::saved_file;

/// The highest egress mark: 12 bits of the packet mark.
const MAX_EGRESS_MARK: u16 = 4095;

/// One attachment that the CNI plugin reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    add: Add,
    /// Agents before ABI version 4 wrote `ticket`.
    #[serde(alias = "ticket")]
    egress_mark: u16,
    /// The interface is gone, and no DEL has said so: the pod has deleted it, or somebody on the node has.
    #[serde(default)]
    is_gone: bool,
    /// The pod's end of the veth pair when the pod started; `None` if it could not be read.
    #[serde(default)]
    pod_end: Option<RecordedEnd>,
}

/// A [`PodEnd`] in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RecordedEnd {
    mac: [u8; 6],
    link_local: Vec<Ipv6Addr>,
}

impl RecordedEnd {
    fn new(PodEnd { mac, link_local }: PodEnd) -> Option<Self> {
        (mac != Mac::UNKNOWN).then(|| Self { mac: mac.octets(), link_local })
    }
}

impl Record {
    /// The pod's end of the veth pair.
    pub fn pod_end(&self) -> PodEnd {
        let end = self.pod_end.clone();
        end.map_or_else(PodEnd::default, |RecordedEnd { mac, link_local }| PodEnd {
            mac: Mac::new(mac),
            link_local,
        })
    }

    /// The host side's interface index.
    pub fn ifindex(&self) -> IfIndex {
        IfIndex(self.add.host_ifindex)
    }

    /// The host side's interface name.
    pub fn host_ifname(&self) -> &str {
        &self.add.host_ifname
    }

    /// The ADD as the plugin reported it.
    pub fn add(&self) -> &Add {
        &self.add
    }

    /// The id of the sandbox.
    pub fn container_id(&self) -> &str {
        &self.add.attachment.container_id
    }

    /// The attachment as the runtime names it.
    pub fn attachment(&self) -> &Attachment {
        &self.add.attachment
    }

    /// The network of the attachment; empty if the pod was found by its network namespace.
    pub fn network(&self) -> &str {
        &self.add.network
    }

    /// Whether this is the attachment of the pod.
    pub fn is_of(&self, pod: &Pod) -> bool {
        let PodRef { namespace, name, uid } = &self.add.pod;
        let uids = [&*pod.uid, &*pod.static_uid];
        *namespace == *pod.name.namespace
            && *name == *pod.name.name
            && uid.as_deref().is_none_or(|uid| pod.uid.is_empty() || uids.contains(&uid))
    }

    /// The endpoint for the store.
    pub fn endpoint(&self) -> Endpoint {
        let Add {
            attachment,
            network: _,
            netns: _,
            host_ifname: _,
            host_ifindex,
            pod,
            addresses,
            is_unshaped: _,
        } = &self.add;
        Endpoint {
            ifindex: IfIndex(*host_ifindex),
            container_id: Arc::from(attachment.container_id.as_str()),
            pod: ObjectName::new(&pod.namespace, &pod.name),
            pod_uid: Arc::from(pod.uid.as_deref().unwrap_or_default()),
            egress_mark: self.egress_mark,
            addresses: addresses.clone(),
            pod_end: self.pod_end(),
        }
    }
}

/// Why the records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read endpoint records in {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is not a list of records.
    #[error("endpoint records in {path} are not valid")]
    Decode {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
}

/// All attachments of this node.
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    by_ifindex: BTreeMap<IfIndex, Record>,
    /// Attachments whose interface is gone without a DEL.
    gone: BTreeMap<Attachment, Record>,
}

impl Registry {
    /// Reads the records of an earlier run. `device_name` returns the name of the device with an index: a record whose interface
    /// is gone is no endpoint any more.
    ///
    /// # Errors
    /// The file exists and cannot be read or parsed: starting without its records would cut off their pods.
    pub fn open(
        path: &Path,
        device_name: impl Fn(IfIndex) -> Option<String>,
    ) -> Result<Self, Error> {
        let records: Vec<Record> = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| Error::Decode { path: path.to_owned(), source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(Error::Io { path: path.to_owned(), source }),
        };
        let (mut by_ifindex, mut gone) = (BTreeMap::new(), BTreeMap::new());
        for record in records {
            let name = device_name(record.ifindex());
            if !record.is_gone && name.as_deref() == Some(record.host_ifname()) {
                by_ifindex.insert(record.ifindex(), record);
            } else {
                warn!(ifindex = %record.ifindex(), container = record.container_id(), "interface of an endpoint is gone without a DEL");
                gone.insert(record.attachment().clone(), Record { is_gone: true, ..record });
            }
        }
        Ok(Self { path: path.to_owned(), by_ifindex, gone })
    }

    /// All records, by interface.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.by_ifindex.values()
    }

    /// The record of an attachment.
    pub fn find(&self, attachment: &Attachment) -> Option<&Record> {
        self.by_ifindex.values().find(|record| record.attachment() == attachment)
    }

    /// The record of an interface.
    pub fn at(&self, ifindex: IfIndex) -> Option<&Record> {
        self.by_ifindex.get(&ifindex)
    }

    /// Adds an attachment, and removes another one on the same interface. Returns the endpoint for the store.
    pub fn insert(&mut self, add: Add, pod_end: PodEnd) -> Endpoint {
        let ifindex = IfIndex(add.host_ifindex);
        self.by_ifindex.retain(|_, record| *record.attachment() != add.attachment);
        self.by_ifindex.remove(&ifindex);
        let egress_mark = self.free_egress_mark();
        self.gone
            .retain(|_, gone| gone.add.pod != add.pod && gone.add.attachment != add.attachment);
        let pod_end = RecordedEnd::new(pod_end);
        let record = Record { add, egress_mark, is_gone: false, pod_end };
        let endpoint = record.endpoint();
        self.by_ifindex.insert(ifindex, record);
        self.save();
        endpoint
    }

    /// Replaces the pod's end of the veth pair of an interface. Returns the endpoint for the store; `None` if there is no record.
    pub fn set_pod_end(&mut self, ifindex: IfIndex, pod_end: PodEnd) -> Option<Endpoint> {
        let record = self.by_ifindex.get_mut(&ifindex)?;
        record.pod_end = RecordedEnd::new(pod_end);
        let endpoint = record.endpoint();
        self.save();
        Some(endpoint)
    }

    /// Removes the record of an interface.
    pub fn remove(&mut self, ifindex: IfIndex) {
        if self.by_ifindex.remove(&ifindex).is_some() {
            self.save();
        }
    }

    /// Records that an interface is gone without a DEL: the attachment is no endpoint any more.
    pub fn set_gone(&mut self, ifindex: IfIndex) {
        if let Some(record) = self.by_ifindex.remove(&ifindex) {
            self.gone.insert(record.attachment().clone(), Record { is_gone: true, ..record });
            self.save();
        }
    }

    /// The attachments whose interface is gone without a DEL.
    pub fn gone(&self) -> impl Iterator<Item = &Record> {
        self.gone.values()
    }

    /// Drops records whose interface is gone, except those for which `stays` returns true.
    pub fn retain_gone(&mut self, stays: impl Fn(&Record) -> bool) {
        let n_before = self.gone.len();
        self.gone.retain(|_, record| stays(record));
        if self.gone.len() != n_before {
            self.save();
        }
    }

    /// The lowest egress mark that no endpoint has; 0, which means none, if all are taken.
    fn free_egress_mark(&self) -> u16 {
        let taken: std::collections::BTreeSet<u16> =
            self.by_ifindex.values().map(|record| record.egress_mark).collect();
        (1..=MAX_EGRESS_MARK).find(|egress_mark| !taken.contains(egress_mark)).unwrap_or(0)
    }

    fn save(&self) {
        let records: Vec<&Record> = self.by_ifindex.values().chain(self.gone.values()).collect();
        let result = serde_json::to_vec(&records)
            .map_err(io::Error::other)
            .and_then(|bytes| saved_file::replace(&self.path, &bytes));
        if let Err(error) = result {
            error!(path = %self.path.display(), %error, "endpoint records not written; a restart would search for the endpoints again");
        }
    }
}

#[cfg(test)]
mod tests {
    use netpol_proto::PodRef;

    use super::*;

    fn add(container_id: &str, host_ifindex: u32) -> Add {
        Add {
            attachment: Attachment {
                container_id: container_id.to_owned(),
                container_ifname: "eth0".to_owned(),
            },
            network: "net".to_owned(),
            netns: "/run/netns/x".to_owned(),
            host_ifname: format!("veth{host_ifindex}"),
            host_ifindex,
            pod: PodRef { namespace: "x".to_owned(), name: "a".to_owned(), uid: None },
            addresses: Vec::new(),
            is_unshaped: true,
        }
    }

    fn open(path: &Path) -> Registry {
        Registry::open(path, |ifindex| Some(format!("veth{ifindex}"))).unwrap()
    }

    #[test]
    fn records_survive_a_restart_unless_their_interface_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("endpoints.json");
        let mut registry = open(&path);
        registry.insert(add("one", 4), PodEnd::default());
        registry.insert(add("two", 5), PodEnd::default());
        let again =
            Registry::open(&path, |ifindex| (ifindex == IfIndex(5)).then(|| "veth5".to_owned()))
                .unwrap();
        let containers: Vec<_> = again.records().map(Record::container_id).collect();
        assert_eq!(containers, ["two"]);
        assert_eq!(again.gone().map(Record::container_id).collect::<Vec<_>>(), ["one"]);
        assert!(
            Registry::open(&path, |_| Some("other".to_owned())).unwrap().records().next().is_none()
        );
    }

    #[test]
    fn egress_marks_are_unique_and_reused_when_free() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = open(&dir.path().join("endpoints.json"));
        assert_eq!(registry.insert(add("one", 4), PodEnd::default()).egress_mark, 1);
        assert_eq!(registry.insert(add("two", 5), PodEnd::default()).egress_mark, 2);
        registry.remove(IfIndex(4));
        assert_eq!(registry.insert(add("three", 6), PodEnd::default()).egress_mark, 1);
        assert_eq!(registry.insert(add("two", 5), PodEnd::default()).egress_mark, 2);
    }

    #[test]
    fn an_invalid_file_is_an_error_and_not_an_empty_registry() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("endpoints.json");
        fs::write(&path, "[{").unwrap();
        assert!(matches!(Registry::open(&path, |_| None), Err(Error::Decode { .. })));
    }
}
