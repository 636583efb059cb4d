//! Interfaces that lead into other namespaces and belong to no known pod.
//!
//! In: each new interface, and what becomes of it. Out: which of them are blocked, and until when. A file holds the blocked ones,
//! so that the next agent unblocks them if this one ends. Must not: read a clock, or change an interface.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use netpol_common::ids::IfIndex;
use netpol_datapath::netlink::Device;
use tracing::{error, warn};

use crate::agent::saved_file;

/// How long an interface that can pass packets is blocked before it is known whose it is.
pub(in crate::agent) const BLOCKED_FOR: Duration = Duration::from_millis(100);

/// How the next new interface is blocked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::agent) enum Means {
    /// By clsact filters, which delay an ADD less.
    #[default]
    Filters,
    /// By TCX links, where the kernel has them: the latest interface got no ADD of ours, and a plugin after the main one may need
    /// the queueing discipline of a clsact filter.
    Links,
}

/// A blocked interface.
#[derive(Clone, Copy, Debug)]
struct Blocked {
    means: Means,
    /// Since when packets could pass; `None` while its peer is down.
    usable_since: Option<Instant>,
}

impl Blocked {
    /// When its time is over.
    fn due(&self) -> Option<Instant> {
        self.usable_since.map(|since| since + BLOCKED_FOR)
    }
}

/// The interfaces that belong to no known pod. By default there is no file.
#[derive(Debug, Default)]
pub(in crate::agent) struct Unidentified {
    path: Option<PathBuf>,
    /// All interfaces that lead into other namespaces, as far as they are known.
    known: BTreeMap<IfIndex, Device>,
    /// All interfaces have been listed once.
    is_listed: bool,
    /// Those that had an address of the node at that time, as the uplink of a node that is a container itself.
    uplinks: BTreeSet<IfIndex>,
    /// Those that are blocked.
    blocked: BTreeMap<IfIndex, Blocked>,
    /// Those that an earlier agent has left blocked, until they have been listed.
    of_earlier_run: BTreeSet<(IfIndex, String)>,
    pub(in crate::agent) means: Means,
    /// Interfaces that were blocked and not identified in time, since the agent started.
    pub(in crate::agent) n_unblocked: u64,
}

impl Unidentified {
    /// Reads which interfaces an earlier run has left blocked.
    pub(in crate::agent) fn open(path: PathBuf) -> Self {
        let of_earlier_run = match fs::read(&path) {
            Ok(text) => serde_json::from_slice::<BTreeSet<(u32, String)>>(&text)
                .map_err(io::Error::other)
                .map(|names| names.into_iter().map(|(n, name)| (IfIndex(n), name)).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(error),
        };
        let of_earlier_run = of_earlier_run.unwrap_or_else(|error| {
            warn!(file = %path.display(), %error, "interfaces that the earlier run has blocked are not known");
            BTreeSet::new()
        });
        Self { path: Some(path), of_earlier_run, ..Self::default() }
    }

    /// Records an interface. Returns whether it is new.
    pub(in crate::agent) fn see(&mut self, ifindex: IfIndex, device: Device, now: Instant) -> bool {
        let is_new = self.known.insert(ifindex, device).is_none();
        self.record_carriers(now);
        is_new && self.is_listed
    }

    /// Records all interfaces that exist. Returns the new ones; all are old at the first time.
    pub(in crate::agent) fn list(
        &mut self,
        known: BTreeMap<IfIndex, Device>,
        now: Instant,
    ) -> Vec<IfIndex> {
        let new = known.keys().filter(|ifindex| !self.known.contains_key(ifindex)).copied();
        let new: Vec<_> = if self.is_listed { new.collect() } else { Vec::new() };
        if !self.is_listed {
            let with_address = known.iter().filter(|(_, device)| device.has_address);
            self.uplinks = with_address.map(|(ifindex, _)| *ifindex).collect();
        }
        self.known = known;
        self.is_listed = true;
        let n_before = self.blocked.len();
        self.blocked.retain(|ifindex, _| self.known.contains_key(ifindex));
        if self.blocked.len() != n_before {
            // Perhaps because a plugin has failed.
            self.means = Means::Links;
            self.save();
        }
        self.record_carriers(now);
        new
    }

    fn record_carriers(&mut self, now: Instant) {
        for (ifindex, blocked) in &mut self.blocked {
            let has_carrier = self.known.get(ifindex).is_some_and(|device| device.has_carrier);
            if has_carrier {
                blocked.usable_since.get_or_insert(now);
            }
        }
    }

    /// Blocks again, from `now` on, what an earlier run has left blocked and still exists.
    pub(in crate::agent) fn resume(&mut self, now: Instant) {
        if !self.is_listed || self.of_earlier_run.is_empty() {
            return;
        }
        for (ifindex, name) in std::mem::take(&mut self.of_earlier_run) {
            if self.known.get(&ifindex).is_some_and(|device| device.name == name) {
                // It is not known how.
                let means = Means::Filters;
                self.blocked.insert(ifindex, Blocked { means, usable_since: None });
            }
        }
        self.record_carriers(now);
        self.save();
    }

    /// Records that an interface is about to be blocked. Returns how.
    pub(in crate::agent) fn block(&mut self, ifindex: IfIndex, now: Instant) -> Means {
        self.blocked.insert(ifindex, Blocked { means: self.means, usable_since: None });
        self.record_carriers(now);
        self.save();
        self.means
    }

    /// Records that an interface is not blocked any more. Returns how it was.
    pub(in crate::agent) fn unblock(&mut self, ifindex: IfIndex) -> Option<Means> {
        let blocked = self.blocked.remove(&ifindex)?;
        self.save();
        Some(blocked.means)
    }

    /// Whether an interface is blocked.
    pub(in crate::agent) fn is_blocked(&self, ifindex: IfIndex) -> bool {
        self.blocked.contains_key(&ifindex)
            || self.of_earlier_run.iter().any(|(blocked, _)| *blocked == ifindex)
    }

    /// The interfaces whose time is over.
    pub(in crate::agent) fn overdue(&self, now: Instant) -> Vec<IfIndex> {
        let is_overdue = |blocked: &Blocked| blocked.due().is_some_and(|due| now >= due);
        let overdue = self.blocked.iter().filter(|(_, blocked)| is_overdue(blocked));
        overdue.map(|(ifindex, _)| *ifindex).collect()
    }

    /// When the time of the next one is over.
    pub(in crate::agent) fn next_overdue(&self) -> Option<Instant> {
        self.blocked.values().filter_map(Blocked::due).min()
    }

    /// All interfaces that may be those of pods.
    pub(in crate::agent) fn names(&self) -> impl Iterator<Item = (IfIndex, &str)> {
        let interfaces = self.known.iter().filter(|(ifindex, _)| !self.uplinks.contains(ifindex));
        interfaces.map(|(ifindex, device)| (*ifindex, device.name.as_str()))
    }

    fn save(&self) {
        let Some(path) = &self.path else { return };
        let of_known = |ifindex| self.known.get(ifindex).map(|device| device.name.clone());
        let name = |ifindex| of_known(ifindex).unwrap_or_default();
        let blocked = self.blocked.keys().map(|ifindex| (ifindex.0, name(ifindex)));
        let of_earlier_run = self.of_earlier_run.iter().map(|(n, name)| (n.0, name.clone()));
        let all: BTreeSet<(u32, String)> = blocked.chain(of_earlier_run).collect();
        let written = serde_json::to_vec(&all).map_err(io::Error::other);
        if let Err(error) = written.and_then(|text| saved_file::replace(path, &text)) {
            error!(file = %path.display(), %error, "blocked interfaces not recorded");
        }
    }
}
