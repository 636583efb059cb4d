//! The agent's resources at a point in time.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use netpol_datapath::{Datapath, Mount};
use netpol_policy::compile::MapState;
use netpol_policy::dataplane::port::{Attachments as _, Flows as _, Maps as _};

use crate::node::Lab;

/// Memory may grow by this factor and [`SLACK_KIB`], because allocators keep freed memory.
const GROWTH: f64 = 1.10;
const SLACK_KIB: u64 = 4096;

/// The agent's resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// Resident memory.
    pub rss_kib: u64,
    /// The part of it that the agent has allocated or mapped from the kernel. The rest are pages of its program, which are read when
    /// code first runs, such as that for an error, and which the kernel drops when it needs memory.
    pub allocated_kib: u64,
    /// Open files.
    pub n_fds: usize,
    /// Threads.
    pub n_threads: usize,
    /// Pinned links, and pinned filters.
    pub n_links: usize,
    /// Endpoints attached through clsact filters that are waiting for migration to TCX links.
    pub n_on_filters: usize,
    /// Flows and counters of interfaces that are no endpoints; garbage collection removes them within two seconds.
    pub n_strangers: usize,
    /// Entries per map, without flows, which expire by themselves.
    pub entries: BTreeMap<&'static str, usize>,
}

impl Measure {
    /// Measures the lab's agent and its pinned maps.
    pub(super) fn take(lab: &Lab) -> Result<Self> {
        let process = format!("/proc/{}", lab.agent_pid().context("no agent is running")?);
        let status = fs::read_to_string(format!("{process}/status"))?;
        let kib = |field: &str| {
            let mut lines = status.lines();
            let found = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            let number = found.and_then(|found| found.trim().strip_suffix(" kB"));
            let number = number.with_context(|| format!("no {field} in the agent's status"))?;
            number.trim().parse().with_context(|| format!("{field} of the agent"))
        };
        let pins = &lab.agent_config().pins;
        let version = netpol_common::maps::ABI_VERSION;
        let maps = Datapath::load(&netpol_datapath::Config {
            pin_root: Some(pins.clone()),
            mount: Mount::Never,
            ..netpol_datapath::Config::default()
        })?;
        // Before the files are counted, because a TCX migration has more files open.
        let n_on_filters = maps.awaiting_migration()?.len();
        let map_state = maps.map_state()?;
        let n_strangers = n_strangers(&maps, &map_state)?;
        let entries = BTreeMap::from([
            ("endpoints", map_state.endpoints.len()),
            ("addresses", map_state.addresses.len()),
            ("identities", map_state.identities.len()),
            ("prefixes", map_state.prefixes.len()),
            ("allow", map_state.allow.len()),
            ("allow maps", maps.n_allow_maps()),
            ("defer", map_state.defer.len()),
            ("egress marks", map_state.egress_marks.len()),
        ]);
        Ok(Self {
            rss_kib: kib("VmRSS")?,
            allocated_kib: allocated_kib(&fs::read_to_string(format!("{process}/smaps"))?)?,
            n_fds: fs::read_dir(format!("{process}/fd"))?.count(),
            n_threads: fs::read_dir(format!("{process}/task"))?.count(),
            n_links: fs::read_dir(pins.join(format!("v{version}/links")))?.count(),
            n_on_filters,
            n_strangers,
            entries,
        })
    }

    /// Whether the agent is idle with exactly the lab's pods, these endpoints, and these identities.
    pub(super) fn is_at_rest(&self, n_endpoints: u32, n_identities: usize) -> bool {
        let n_own = 3;
        let n_endpoints = usize::try_from(n_endpoints).unwrap_or(usize::MAX) + n_own;
        // The real client pod is in a peer set too.
        self.entries.get("endpoints") == Some(&n_endpoints)
            && self.entries.get("identities") == Some(&(n_identities + 2))
            // Two programs for each endpoint and two for eth0.
            && self.n_links == 2 * n_endpoints + 2
            // A TCX migration holds more resources while it runs.
            && self.n_on_filters == 0
            && self.n_strangers == 0
    }

    /// Memory relative to `before`.
    pub fn memory_ratio(&self, before: &Self) -> f64 {
        let kib = |n: u64| u32::try_from(n).map_or(f64::MAX, f64::from);
        kib(self.rss_kib) / kib(before.rss_kib).max(1.0)
    }

    /// Checks that nothing has grown.
    pub(super) fn check_against(&self, before: &Self) -> Result<()> {
        ensure!(self.entries == before.entries, "map entries leaked");
        ensure!(self.n_links == before.n_links, "pinned links leaked");
        // A discovery or a blocked call may be running, with a thread and some files.
        ensure!(self.n_fds <= before.n_fds + 4, "files are still open");
        let kib = |n: u64| u32::try_from(n).map_or(f64::MAX, f64::from);
        let limit_kib = kib(before.allocated_kib) * GROWTH + kib(SLACK_KIB);
        ensure!(kib(self.allocated_kib) <= limit_kib, "memory has grown");
        Ok(())
    }
}

/// Sums up the resident memory of the mappings that are no files (`/proc/PID/smaps`).
fn allocated_kib(mappings: &str) -> Result<u64> {
    let (mut sum, mut is_file) = (0, false);
    for line in mappings.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") if !is_file => {
                let number = words.next().context("a mapping without a size")?;
                sum += number.parse::<u64>().context("the size of a mapping")?;
            }
            // A mapping begins with its addresses. The path is the last of six words.
            Some(word) if !word.ends_with(':') => {
                is_file = words.nth(4).is_some_and(|path| path.starts_with('/'));
            }
            Some(_) | None => {}
        }
    }
    Ok(sum)
}

/// Number of map entries of interfaces that are no endpoints.
fn n_strangers(maps: &Datapath, map_state: &MapState) -> Result<usize> {
    let flows = maps.flows()?.into_keys().map(|key| key.ifindex);
    let fragments = maps.fragments()?.into_keys().map(|key| key.ifindex);
    let flow_handles = maps.flow_handles()?.into_iter().map(|key| key.ifindex);
    let backends = maps.backends()?.into_keys().map(|key| key.ifindex);
    let counters = maps.counters()?.into_keys().map(|key| key.ifindex);
    let left = flows.chain(fragments).chain(flow_handles).chain(backends).chain(counters);
    Ok(left.filter(|ifindex| !map_state.endpoints.contains_key(ifindex)).count())
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rss_kib,
            allocated_kib,
            n_fds,
            n_threads,
            n_links,
            n_on_filters: _,
            n_strangers: _,
            entries,
        } = self;
        write!(f, "{rss_kib} KiB ({allocated_kib} KiB allocated), {n_fds} files, ")?;
        write!(f, "{n_threads} threads, {n_links} links, entries:")?;
        entries.iter().try_for_each(|(map, n)| write!(f, " {map} {n}"))
    }
}
