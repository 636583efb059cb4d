//! The netfilter rules of others: whether packets between pods may meet one, and what other NetworkPolicy engines have left.
//!
//! In: the kernel's rules, nftables (`nftables`) and those of the older iptables (`legacy`), which extensions (`xt`) are common to. Out: a
//! [`RuleSet`] without the rules of known programs (`known`), again after each change ([`watch`]), and [`judge()`], which says which rules
//! packets between pods may meet. A rule that is not understood counts as one that they meet and that does something. Must not: change
//! rules, load kernel modules, or keep more than [`MAX_CHAINS`] chains and [`MAX_RULES`] rules.

mod judge;
mod known;
mod legacy;
mod nftables;
mod read;
mod socket;
#[cfg(test)]
mod tests;
mod watch;
mod xt;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use judge::{Judgement, Network, PodTraffic, judge};
pub use known::Engine;
pub use read::{Depth, Reader};
pub use watch::{NetfilterNews, watch};

/// Most chains of others that are kept.
pub const MAX_CHAINS: usize = 2048;
/// Most rules of others that are kept.
pub const MAX_RULES: usize = 8192;
/// Most names that are kept of each engine, and most characters of a rule.
const MAX_NAMES: usize = 8;
const MAX_TEXT: usize = 160;

/// Why the rules are not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not list the rules of `nf_tables`.
    #[error("cannot read the rules of nf_tables")]
    NfTables(#[source] io::Error),
    /// The kernel does not list the rules of the older iptables.
    #[error("cannot read the rules of the older iptables, table {table}")]
    Legacy {
        /// Their table.
        table: String,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// They have a form that this version does not know.
    #[error("the rules of the older iptables, table {0}, are not understood")]
    Malformed(String),
}

/// Which packets a table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
    /// Frames on bridges.
    Bridge,
    /// Frames of single devices.
    Netdev,
}

impl Family {
    /// The family of this number (`NFPROTO_*`); `None` for those that packets between pods never meet.
    const fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Inet),
            2 => Some(Self::Ip),
            5 => Some(Self::Netdev),
            7 => Some(Self::Bridge),
            10 => Some(Self::Ip6),
            _ => None,
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Netdev => 5,
            Self::Bridge => 7,
            Self::Ip6 => 10,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Bridge => "bridge",
            Self::Netdev => "netdev",
        }
    }
}

/// Which part of the kernel has a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// `nf_tables`, which nft and iptables-nft use.
    NfTables,
    /// `ip_tables` and `ip6_tables`, which iptables-legacy uses.
    Legacy,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    backend: Backend,
    family: Family,
    name: Arc<str>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = match self.backend {
            Backend::NfTables => "",
            Backend::Legacy => " (iptables-legacy)",
        };
        write!(f, "table {} {}{of}", self.family.as_str(), self.name)
    }
}

/// The rules of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// By table and name. Chains of known programs and of engines are not among them.
    chains: BTreeMap<(Table, Arc<str>), Chain>,
    /// Tables and chains of other NetworkPolicy engines.
    engines: BTreeMap<Engine, Found>,
    /// There are more rules than are kept.
    is_cut: bool,
}

impl RuleSet {
    /// What other NetworkPolicy engines have left, or keep.
    pub fn engines(&self) -> &BTreeMap<Engine, Found> {
        &self.engines
    }

    fn record(&mut self, engine: Engine, name: String) {
        let found = self.engines.entry(engine).or_default();
        found.n += 1;
        if found.names.len() < MAX_NAMES {
            found.names.insert(name);
        }
    }

    /// Adds the rules of another part of the kernel.
    fn extend(&mut self, other: &Self) {
        self.chains.extend(other.chains.clone());
        for (engine, found) in &other.engines {
            let here = self.engines.entry(*engine).or_default();
            here.n += found.n;
            here.names.extend(found.names.iter().cloned());
        }
        self.is_cut |= other.is_cut;
    }

    fn n_rules(&self) -> usize {
        self.chains.values().map(|chain| chain.rules.len()).sum()
    }
}

/// Tables and chains of an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Their number.
    pub n: usize,
    /// Some of their names.
    pub names: BTreeSet<String>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Chain {
    /// Where the kernel runs it; `None` if only other chains do.
    base: Option<Base>,
    /// Its rules, without those that do nothing.
    rules: Vec<Rule>,
}

/// Where the kernel runs a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Base {
    /// The number of the hook.
    hook: u32,
    /// What happens to packets that no rule decides.
    policy: Policy,
    /// The devices of a chain of single devices.
    devices: Vec<String>,
}

/// What happens to packets that no rule of a chain decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Accept,
    Drop,
}

/// A rule that does something.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// All must hold.
    conditions: Vec<Condition>,
    action: Action,
    text: String,
}

/// What a rule does. To accept, or to return, is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    /// It drops, changes, logs or does something unknown.
    Alters,
    /// It only counts.
    Counts,
    /// It continues with another chain of its table.
    Jumps(Arc<str>),
}

/// Whether something has to be equal, or different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Equal,
    Different,
}

/// A part of a rule that can exclude packets between pods. All others are left out, as if they held.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    /// It holds for no packet between pods.
    Never,
    /// The name of the device. Which of the two devices does not matter, because packets between pods have both from the same set.
    Device(Pattern, Is),
    /// The index of the device.
    Index(u32, Is),
    /// The name of the bridge to which the device belongs.
    BridgeOf(Pattern, Is),
    /// The version of IP: IPv4, or another.
    Ipv4(Is),
    /// The source or the destination address, in a table or after a condition about its version.
    Address(Network, Is),
}

/// A name, or the beginning of names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    text: String,
    is_prefix: bool,
}

impl Pattern {
    fn matches(&self, name: &str) -> bool {
        if self.is_prefix { name.starts_with(&self.text) } else { name == self.text }
    }
}

/// Joins the words of a rule, and cuts them.
fn text(words: &[String]) -> String {
    let whole = words.join(" ");
    match whole.char_indices().nth(MAX_TEXT) {
        Some((at, _)) => format!("{}...", whole.get(..at).unwrap_or_default()),
        None => whole,
    }
}

/// The text up to a zero byte. What is not UTF-8 or not printable is replaced, because it is shown on terminals.
fn name_of(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let replace = |c: char| if c.is_control() { '?' } else { c };
    String::from_utf8_lossy(bytes).chars().map(replace).collect()
}
