//! Finds the interfaces of pods that are older than the agent.
//!
//! In: pods of this node with their addresses, and the records of interfaces whose maps are gone. Out: attachments, as
//! the CNI plugin would have reported them, with the present connections of the pods. The search reads the CNI results that
//! the container runtime keeps, then the network namespaces; the kernel confirms both. Must not: change anything, or trust a
//! file alone where the kernel can be asked.

mod cache;
mod connections;
mod results;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netpol_common::ids::IfIndex;
use netpol_proto::{Add, Attachment, PodRef};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tracing::{debug, warn};

pub use self::connections::{Connection, Sockets};
pub use self::results::watch as watch_results;

use self::cache::Cached;
use netpol_datapath::netlink::{self, VethEnd, VethReader};
use netpol_policy::model::ObjectName;

/// Where to search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchPaths {
    /// Folders of the container runtime's CNI results.
    pub results: Vec<PathBuf>,
    /// The folder of the named network namespaces.
    pub namespaces: PathBuf,
}

/// What to search for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Pods without an endpoint.
    pub pods: Vec<Wanted>,
    /// Interfaces that lead into other namespaces and belong to no known pod. The search does not read them, but is made at once
    /// when they change.
    pub interfaces: BTreeSet<IfIndex>,
    /// Endpoints with a record, but without maps: only the connections of their pods are read.
    pub known: Vec<Add>,
}

impl Search {
    /// Whether there is nothing to search for.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.known.is_empty()
    }

    /// Whether the search is worth a repetition without a new result: a pod without an address can be found by its result only.
    pub fn is_repeated(&self) -> bool {
        !self.known.is_empty() || self.pods.iter().any(|wanted| !wanted.addresses.is_empty())
    }
}

/// A pod whose interface is searched for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub pod: ObjectName,
    /// Its uid and, for a static pod, the uid that the runtime uses; without empty ones.
    pub uids: Vec<Arc<str>>,
    /// Its addresses, as the API reports them; empty until it does.
    pub addresses: Vec<IpAddr>,
}

/// An interface that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The attachment, as the CNI plugin would have reported it. If `network` is empty, `container_id` is the name of the
    /// network namespace, because the container's id is not known.
    pub add: Add,
    /// The present sockets of the pod.
    pub sockets: Sockets,
}

/// Searches, on a new thread, which enters one network namespace after the other and then ends.
///
/// # Errors
/// The thread cannot be started, or the devices of this node cannot be listed.
pub fn search(paths: &SearchPaths, search: &Search) -> Result<Vec<Found>, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("discovery".to_owned());
        let thread =
            thread.spawn_scoped(scope, || search_all(paths, search)).map_err(Error::Thread)?;
        thread.join().unwrap_or_else(|_panic| Err(Error::Thread(io::Error::other("it panicked"))))
    })
}

/// Why the search failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The thread cannot be started, or it panicked.
    #[error("cannot start a thread to search for pods")]
    Thread(#[source] io::Error),
    /// The devices cannot be listed.
    #[error("cannot list this node's interfaces to search for pods")]
    Netlink(#[from] netlink::Error),
}

fn search_all(paths: &SearchPaths, search: &Search) -> Result<Vec<Found>, Error> {
    let Search { pods, interfaces: _, known } = search;
    let mut node = Node::open()?;
    let mut found: Vec<Found> = known
        .iter()
        .map(|add| {
            let namespace = Namespace::enter(&paths.named(Path::new(&add.netns)));
            let sockets = namespace.map(|inside| inside.sockets).unwrap_or_default();
            Found { add: add.clone(), sockets }
        })
        .collect();
    let results: Vec<Cached> =
        paths.results.iter().flat_map(|folder| cache::read(folder)).collect();
    let mut missing = Vec::new();
    for wanted in pods {
        let candidates = results.iter().filter(|cached| is_of(cached, wanted));
        let by_result: Vec<_> =
            candidates.filter_map(|cached| node.find_by_result(paths, cached)).collect();
        // Of two sandboxes of one pod only the live one can be entered, so its proof is preferred to a name.
        let best =
            by_result.iter().find(|(proof, _)| *proof == Proof::Kernel).or(by_result.first());
        match best {
            Some((_, attachment)) => found.push(attachment.clone()),
            None if wanted.addresses.is_empty() => {}
            None => missing.push(wanted),
        }
    }
    if !missing.is_empty() {
        for path in paths.all_namespaces() {
            found.extend(node.find_in_namespace(&path, &missing));
        }
    }
    Ok(found)
}

/// Whether a result belongs to this pod, and not to an earlier one of the same name.
fn is_of(cached: &Cached, wanted: &Wanted) -> bool {
    let is_named = *cached.namespace == *wanted.pod.namespace && *cached.pod == *wanted.pod.name;
    let is_same = cached.uid.as_deref().is_none_or(|uid| {
        wanted.uids.is_empty() || wanted.uids.iter().any(|wanted| **wanted == *uid)
    });
    let has_address = wanted.addresses.is_empty()
        || cached.addresses.iter().any(|address| wanted.addresses.contains(address));
    is_named && is_same && has_address
}

/// How an interface was confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// The kernel reports the two interfaces as one veth pair.
    Kernel,
    /// Only by the result, because the namespace cannot be entered.
    Result,
}

impl SearchPaths {
    /// The path of a namespace for this process, whose mount of the folder may have another path than the runtime's.
    fn named(&self, path: &Path) -> PathBuf {
        let is_named = ["/run/netns", "/var/run/netns"]
            .iter()
            .any(|folder| path.parent() == Some(Path::new(folder)));
        match path.file_name() {
            Some(name) if is_named => self.namespaces.join(name),
            _ => path.to_owned(),
        }
    }

    fn all_namespaces(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.namespaces) else { return Vec::new() };
        let mut paths: Vec<_> =
            entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
        paths.sort();
        paths
    }
}

/// The node's own namespace.
struct Node {
    reader: VethReader,
    ends: Vec<VethEnd>,
}

impl Node {
    fn open() -> Result<Self, Error> {
        let mut reader = VethReader::open()?;
        let ends = reader.ends()?;
        Ok(Self { reader, ends })
    }

    fn find_by_result(&mut self, paths: &SearchPaths, cached: &Cached) -> Option<(Proof, Found)> {
        let path = cached.netns.as_deref().map(|path| paths.named(path));
        let inside = path.as_deref().and_then(Namespace::enter);
        let (proof, host_end, sockets) = if let Some(inside) = inside {
            let own = inside.ends.iter().find(|end| end.name == cached.ifname);
            let host_end = match own {
                Some(own) => self.host_end(&inside, own)?,
                None => self.named_end(&inside, &cached.host_interfaces)?,
            };
            (Proof::Kernel, host_end, inside.sockets)
        } else {
            let is_named = |end: &&VethEnd| cached.host_interfaces.contains(&end.name);
            (Proof::Result, self.ends.iter().find(is_named)?.clone(), Sockets::default())
        };
        let add = Add {
            attachment: Attachment {
                container_id: cached.container_id.clone(),
                container_ifname: cached.ifname.clone(),
            },
            network: cached.network.clone(),
            netns: path.unwrap_or_default().to_string_lossy().into_owned(),
            host_ifname: host_end.name,
            host_ifindex: host_end.ifindex.0,
            pod: PodRef {
                namespace: cached.namespace.clone(),
                name: cached.pod.clone(),
                uid: cached.uid.clone(),
            },
            addresses: cached.addresses.clone(),
            // The pod is running, so TCX links are attached at once.
            is_unshaped: false,
        };
        Some((proof, Found { add, sockets }))
    }

    fn find_in_namespace(&mut self, path: &Path, missing: &[&Wanted]) -> Option<Found> {
        let inside = Namespace::enter(path)?;
        let (wanted, own) = missing.iter().find_map(|wanted| {
            let holds = |end: &&VethEnd| {
                end.addresses.iter().any(|address| wanted.addresses.contains(address))
            };
            Some((wanted, inside.ends.iter().find(holds)?))
        })?;
        let host_end = self.host_end(&inside, own)?;
        let add = Add {
            attachment: Attachment {
                container_id: path.file_name()?.to_string_lossy().into_owned(),
                container_ifname: own.name.clone(),
            },
            network: String::new(),
            netns: path.to_string_lossy().into_owned(),
            host_ifname: host_end.name,
            host_ifindex: host_end.ifindex.0,
            pod: PodRef {
                namespace: wanted.pod.namespace.to_string(),
                name: wanted.pod.name.to_string(),
                uid: wanted.uids.first().map(ToString::to_string),
            },
            addresses: wanted.addresses.clone(),
            // The pod is running, so TCX links are attached at once.
            is_unshaped: false,
        };
        Some(Found { add, sockets: inside.sockets })
    }

    /// The host's end of a veth pair, if the kernel confirms the pair on both ends.
    fn host_end(&mut self, inside: &Namespace, own: &VethEnd) -> Option<VethEnd> {
        let number = self.reader.number_of(inside.file.as_fd())?;
        let is_peer = |end: &&VethEnd| {
            end.ifindex == own.peer && end.peer == own.ifindex && end.peer_namespace == Some(number)
        };
        self.ends.iter().find(is_peer).cloned()
    }

    /// The host's end of a veth pair by its name, if the kernel reports that its peer is in the namespace: a virtual machine's
    /// launcher renames the peer.
    fn named_end(&mut self, inside: &Namespace, names: &[String]) -> Option<VethEnd> {
        let number = self.reader.number_of(inside.file.as_fd())?;
        let leads_inside = |end: &&VethEnd| {
            names.contains(&end.name)
                && end.peer_namespace == Some(number)
                && inside.ends.iter().any(|own| own.ifindex == end.peer && own.peer == end.ifindex)
        };
        self.ends.iter().find(leads_inside).cloned()
    }
}

/// A pod's network namespace, with its interfaces and sockets.
struct Namespace {
    file: File,
    ends: Vec<VethEnd>,
    sockets: Sockets,
}

impl Namespace {
    /// Moves this thread into a namespace and reads it; `None` if it is gone, not a namespace, or the node's own.
    fn enter(path: &Path) -> Option<Self> {
        match Self::try_enter(path) {
            Ok(inside) => inside,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                debug!(path = %path.display(), %error, "network namespace not entered");
                None
            }
        }
    }

    fn try_enter(path: &Path) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        // The namespace of the process, because this thread may have entered another one.
        let (own, this) = (fs::metadata("/proc/self/ns/net")?, file.metadata()?);
        if (own.dev(), own.ino()) == (this.dev(), this.ino()) {
            return Ok(None);
        }
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        let ends = VethReader::open().and_then(|mut reader| reader.ends());
        let ends = ends.map_err(|error| {
            warn!(path = %path.display(), %error, "interfaces of a network namespace not read");
            io::Error::other(error)
        })?;
        Ok(Some(Self { file, ends, sockets: connections::here() }))
    }
}
