//! The rules of the older iptables, as `IPT_SO_GET_ENTRIES` and `IP6T_SO_GET_ENTRIES` return them.
//!
//! The rules of all chains of a table follow each other. A chain that a hook runs begins where the table says; any other begins behind an
//! entry with the target `ERROR`, which has its name. A jump names the position of the first rule of its chain.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::judge::Network;
use super::known::{Engine, is_known_chain};
use super::{
    Action, Base, Chain, Condition, Family, Is, MAX_CHAINS, MAX_RULES, Pattern, Policy, Rule,
    RuleSet, Table, name_of, text, xt,
};

/// Names of the chains that hooks run, by the number of the hook.
const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
/// Verdicts: `NF_DROP` and `NF_ACCEPT` as negative numbers, and the return to the calling chain.
const ACCEPT: i32 = -2;
const RETURN: i32 = -5;
/// Length of the name of a device, and of a table.
pub(super) const NAME_LEN: usize = 16;
pub(super) const TABLE_LEN: usize = 32;
/// Length of the head of a match or target: its length, name and revision.
const HEAD_LEN: usize = 32;
/// Conditions that are inverted: the devices and the addresses.
const INVERTS: [u8; 4] = [0x08, 0x10, 0x01, 0x02];

/// What `IPT_SO_GET_INFO` returns about a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Info {
    /// The positions of the first rules of the chains that hooks run; `None` if the table has no such chain.
    pub(super) starts: [Option<usize>; 5],
    /// The positions of the policies of these chains.
    pub(super) policies: [Option<usize>; 5],
    /// Length of all rules.
    pub(super) len_bytes: usize,
}

/// Length of [`Info`] in the kernel.
pub(super) const INFO_LEN: usize = TABLE_LEN + 13 * 4;

impl Info {
    /// Reads what the kernel has written.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| u32_at(bytes, TABLE_LEN + 4 * at);
        let size = |at: usize| usize::try_from(word(at)?).ok();
        let valid = word(0)?;
        let (mut starts, mut policies) = ([None; 5], [None; 5]);
        for (hook, (start, policy)) in starts.iter_mut().zip(&mut policies).enumerate() {
            if valid & (1 << hook) != 0 {
                *start = Some(size(1 + hook)?);
                *policy = Some(size(6 + hook)?);
            }
        }
        Some(Self { starts, policies, len_bytes: size(12)? })
    }
}

/// Positions within an entry, which differ between IPv4 and IPv6.
struct Layout {
    address_len: usize,
    devices: usize,
    inverts: usize,
    target: usize,
    elements: usize,
}

const IP: Layout = Layout { address_len: 4, devices: 16, inverts: 83, target: 88, elements: 112 };
const IP6: Layout =
    Layout { address_len: 16, devices: 64, inverts: 132, target: 140, elements: 168 };

/// One entry: its bytes, where its target begins, and where the next entry does.
struct Entry<'a> {
    bytes: &'a [u8],
    target: usize,
}

impl<'a> Entry<'a> {
    fn at(entries: &'a [u8], start: usize, layout: &Layout) -> Option<Self> {
        let bytes = entries.get(start..)?;
        let offset = |at| bytes.get(at..)?.first_chunk().map(|two| u16::from_ne_bytes(*two));
        let target = usize::from(offset(layout.target)?);
        let next = usize::from(offset(layout.target + 2)?);
        if target < layout.elements || next < target + HEAD_LEN {
            return None;
        }
        Some(Self { bytes: bytes.get(..next)?, target })
    }

    /// Name of the target, and what follows its head.
    fn target(&self) -> Option<(String, &'a [u8])> {
        let target = self.bytes.get(self.target..)?;
        Some((name_of(target.get(2..HEAD_LEN - 1)?), target.get(HEAD_LEN..)?))
    }
}

/// Adds the chains of a table to the set. `None` if the bytes are malformed.
pub(super) fn parse(
    table: &Table,
    info: &Info,
    entries: &[u8],
    rule_set: &mut RuleSet,
) -> Option<()> {
    let layout = if table.family == Family::Ip6 { &IP6 } else { &IP };
    if entries.len() != info.len_bytes {
        return None;
    }
    let chains = chains(info, entries, layout)?;
    let mut n_rules = rule_set.n_rules();
    // The chain of the entries, if they are to be kept.
    let mut current: Option<Arc<str>> = None;
    let mut at = 0;
    while at < entries.len() {
        let entry = Entry::at(entries, at, layout)?;
        if let Some(name) = chains.get(&at) {
            current = None;
            if let Some(engine) = Engine::of_chain(name) {
                rule_set.record(engine, format!("{table}, chain {name}"));
            } else if rule_set.chains.len() >= MAX_CHAINS && !is_known_chain(name) {
                rule_set.is_cut = true;
            } else if !is_known_chain(name) {
                let hook = info.starts.iter().position(|start| *start == Some(at));
                let base = match hook {
                    Some(hook) => Some(base(info, hook, entries, layout)?),
                    None => None,
                };
                let chain = Chain { base, rules: Vec::new() };
                rule_set.chains.insert((table.clone(), Arc::clone(name)), chain);
                current = Some(Arc::clone(name));
            }
        }
        let (target, _) = entry.target()?;
        // The head of the next chain, or the end. The policy of a chain is no rule.
        let is_policy = info.policies.contains(&Some(at));
        if target == "ERROR" {
            current = None;
        } else if let (Some(name), false) = (&current, is_policy)
            && let Some(rule) = rule(&entry, at, layout, &chains)?
        {
            let chain = rule_set.chains.get_mut(&(table.clone(), Arc::clone(name)))?;
            if n_rules < MAX_RULES {
                chain.rules.push(rule);
                n_rules += 1;
            } else {
                rule_set.is_cut = true;
            }
        }
        at = at.checked_add(entry.bytes.len())?;
    }
    Some(())
}

/// The chains by the position of their first rule.
fn chains(info: &Info, entries: &[u8], layout: &Layout) -> Option<BTreeMap<usize, Arc<str>>> {
    let mut chains = BTreeMap::new();
    let mut at = 0;
    while at < entries.len() {
        let entry = Entry::at(entries, at, layout)?;
        let next = at.checked_add(entry.bytes.len())?;
        if let Some(hook) = info.starts.iter().position(|start| *start == Some(at)) {
            chains.insert(at, Arc::from(*HOOKS.get(hook)?));
        }
        let is_error = entry.bytes.get(entry.target + 2..)?.starts_with(b"ERROR\0");
        if is_error && next < entries.len() {
            chains.insert(next, Arc::from(name_of(entry.target()?.1)));
        }
        at = next;
    }
    Some(chains)
}

/// Where the kernel runs the chain of a hook, and its policy. `None` if the bytes are malformed.
fn base(info: &Info, hook: usize, entries: &[u8], layout: &Layout) -> Option<Base> {
    let policy = Entry::at(entries, (*info.policies.get(hook)?)?, layout)?;
    let (_, verdict) = policy.target()?;
    let policy = if i32_at(verdict, 0)? == ACCEPT { Policy::Accept } else { Policy::Drop };
    Some(Base { hook: u32::try_from(hook).ok()?, policy, devices: Vec::new() })
}

/// A rule, or `Some(None)` if it does nothing. `None` if the bytes are malformed.
#[expect(clippy::option_option, reason = "malformed differs from without effect")]
fn rule(
    entry: &Entry<'_>,
    at: usize,
    layout: &Layout,
    chains: &BTreeMap<usize, Arc<str>>,
) -> Option<Option<Rule>> {
    let (mut conditions, mut words) = head(entry.bytes, layout)?;
    let mut matches = entry.bytes.get(layout.elements..entry.target)?;
    while !matches.is_empty() {
        let len = usize::from(u16::from_ne_bytes(*matches.first_chunk()?));
        let (found, rest) = matches.split_at_checked(len.max(HEAD_LEN))?;
        matches = rest;
        let name = name_of(found.get(2..HEAD_LEN - 1)?);
        let revision = u32::from(*found.get(HEAD_LEN - 1)?);
        conditions.extend(xt::condition(&name, revision, found.get(HEAD_LEN..)?));
        words.push(format!("-m {name}"));
    }
    let (target, facts) = entry.target()?;
    let action = if target.is_empty() {
        let verdict = i32_at(facts, 0)?;
        match (verdict, usize::try_from(verdict)) {
            (ACCEPT | RETURN, _) => return Some(None),
            // The rule has no target: it only counts.
            (_, Ok(next)) if next == at + entry.bytes.len() => {
                words.push("counter".to_owned());
                Action::Counts
            }
            (_, Ok(start)) => {
                let name = chains.get(&start).cloned().unwrap_or_else(|| Arc::from("?"));
                words.push(format!("-j {name}"));
                Action::Jumps(name)
            }
            _ => {
                words.push("-j DROP".to_owned());
                Action::Alters
            }
        }
    } else {
        words.push(format!("-j {target}"));
        Action::Alters
    };
    let is_possible = !conditions.contains(&Condition::Never);
    Some(is_possible.then(|| Rule { conditions, action, text: text(&words) }))
}

/// The conditions in the head of an entry, and their text.
fn head(bytes: &[u8], layout: &Layout) -> Option<(Vec<Condition>, Vec<String>)> {
    let inverts = *bytes.get(layout.inverts)?;
    let is = |bit: usize| {
        let bit = INVERTS.get(bit).copied().unwrap_or_default();
        if inverts & bit == 0 { (Is::Equal, "") } else { (Is::Different, "! ") }
    };
    let (mut conditions, mut words) = (Vec::new(), Vec::new());
    let len = layout.address_len;
    for (at, option) in ["-s", "-d"].into_iter().enumerate() {
        let address = bytes.get(at * len..)?.get(..len)?;
        let mask = bytes.get((at + 2) * len..)?.get(..len)?;
        if mask.iter().all(|byte| *byte == 0) {
            continue;
        }
        let (is, not) = is(at);
        match Network::masked(address, mask) {
            Some(network) => {
                words.push(format!("{not}{option} {network}"));
                conditions.push(Condition::Address(network, is));
            }
            None => words.push(format!("{not}{option} ...")),
        }
    }
    for (at, option) in ["-i", "-o"].into_iter().enumerate() {
        let name = bytes.get(layout.devices + at * NAME_LEN..)?.get(..NAME_LEN)?;
        let mask = bytes.get(layout.devices + (at + 2) * NAME_LEN..)?.get(..NAME_LEN)?;
        let n_masked = mask.iter().take_while(|byte| **byte != 0).count();
        if n_masked == 0 {
            continue;
        }
        let (is, not) = is(at + 2);
        let masked = name.get(..n_masked)?;
        // A whole name is compared with its zero byte.
        let is_prefix = !masked.contains(&0);
        let pattern = Pattern { text: name_of(masked), is_prefix };
        let plus = if is_prefix { "+" } else { "" };
        words.push(format!("{not}{option} {}{plus}", pattern.text));
        conditions.push(Condition::Device(pattern, is));
    }
    Some((conditions, words))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|four| u32::from_ne_bytes(*four))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..)?.first_chunk().map(|four| i32::from_ne_bytes(*four))
}
