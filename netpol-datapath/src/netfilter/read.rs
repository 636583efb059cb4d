//! Reads the rules from the kernel.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::Arc;

use netpol_netlink::{Bounded, Listed, NfTables};

use super::known::{Engine, is_known_chain, is_known_table};
use super::legacy::{self, INFO_LEN, Info, TABLE_LEN};
use super::socket::Socket;
use super::{
    Action, Backend, Base, Chain, Error, Family, MAX_CHAINS, MAX_RULES, Rule, RuleSet, Table,
    nftables,
};

/// Most tables and chains that are looked at, without those of known programs.
const MAX_LISTED: usize = 16_384;
/// Most bytes of a table of the older iptables. 10,000 Services need about 20 MiB.
const MAX_LEGACY_LEN: usize = 128 << 20;
/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`; the numbers are those of IPv6 too.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
/// Length of `ipt_get_entries` without the entries.
const GET_ENTRIES_LEN: usize = 40;

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Names only, which say what engines are there.
    Engines,
    /// Rules too.
    Rules,
}

/// Reads the rules of the network namespace of the calling thread.
#[derive(Default)]
pub struct Reader {
    nf_tables: Option<NfTables>,
}

impl Reader {
    /// The number of the rule set of `nf_tables`, which every change raises.
    ///
    /// # Errors
    /// [`Error::NfTables`].
    pub fn generation(&mut self) -> Result<u32, Error> {
        self.nf_tables()?.generation().map_err(Error::NfTables)
    }

    fn nf_tables(&mut self) -> Result<&mut NfTables, Error> {
        match &mut self.nf_tables {
            Some(nf_tables) => Ok(nf_tables),
            none => Ok(none.insert(NfTables::open().map_err(Error::NfTables)?)),
        }
    }

    /// The rules of `nf_tables`.
    ///
    /// # Errors
    /// [`Error::NfTables`].
    pub fn read_nf_tables(&mut self, depth: Depth) -> Result<RuleSet, Error> {
        read_nf_tables(self.nf_tables()?, depth).map_err(Error::NfTables)
    }

    /// The rules of the older iptables. Loads no module: without it there are no rules.
    ///
    /// # Errors
    /// [`Error::Legacy`], [`Error::Malformed`].
    pub fn read_legacy(&mut self, depth: Depth) -> Result<RuleSet, Error> {
        let mut rule_set = RuleSet::default();
        for (family, file) in [(Family::Ip, "ip_tables_names"), (Family::Ip6, "ip6_tables_names")] {
            let failed = |table: &str| {
                let table = table.to_owned();
                move |source| Error::Legacy { table, source }
            };
            let names = match fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
                Ok(names) => names,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(file)(error)),
            };
            for name in names.lines() {
                let (info, entries) = read_table(family, name).map_err(failed(name))?;
                let table = Table { backend: Backend::Legacy, family, name: Arc::from(name) };
                let parsed = legacy::parse(&table, &info, &entries, &mut rule_set);
                parsed.ok_or_else(|| Error::Malformed(name.to_owned()))?;
            }
        }
        if depth == Depth::Engines {
            rule_set.chains.clear();
        }
        Ok(rule_set)
    }
}

fn read_nf_tables(nf_tables: &mut NfTables, depth: Depth) -> io::Result<RuleSet> {
    let tables = nf_tables.list(Listed::Tables, MAX_LISTED, |family, attributes| {
        nftables::table(family, attributes).filter(|(_, name)| !is_known_table(name))
    })?;
    let names: BTreeSet<(Family, Arc<str>)> = tables.items.into_iter().collect();
    let chains = nf_tables.list(Listed::Chains, MAX_LISTED, |family, attributes| {
        let (family, table, chain) = nftables::chain_name(family, attributes)?;
        let is_kept = !is_known_chain(&chain) && names.contains(&(family, Arc::clone(&table)));
        is_kept.then(|| (family, table, chain, nftables::base(attributes)))
    })?;
    let mut rule_set = RuleSet { is_cut: tables.is_cut || chains.is_cut, ..RuleSet::default() };
    for (family, name) in &names {
        if let Some(engine) = Engine::of_table(name) {
            let name = Arc::clone(name);
            let table = Table { backend: Backend::NfTables, family: *family, name };
            rule_set.record(engine, table.to_string());
        }
    }
    let mut n_rules = 0;
    for (family, table, name, base) in chains.items {
        let table = Table { backend: Backend::NfTables, family, name: table };
        if let Some(engine) = Engine::of_table(&table.name) {
            of_engine(engine, &table, name, base, &mut rule_set);
        } else if let Some(engine) = Engine::of_chain(&name) {
            rule_set.record(engine, format!("{table}, chain {name}"));
        } else if depth == Depth::Engines {
        } else if rule_set.chains.len() >= MAX_CHAINS {
            rule_set.is_cut = true;
        } else {
            let listed =
                Listed::Rules { family: family.number(), table: &table.name, chain: &name };
            let Bounded { items: rules, is_cut } =
                nf_tables.list(listed, MAX_RULES - n_rules, |_, attributes| {
                    nftables::rule(family, attributes)
                })?;
            n_rules += rules.len();
            rule_set.is_cut |= is_cut;
            rule_set.chains.insert((table, name), Chain { base, rules });
        }
    }
    Ok(rule_set)
}

/// A chain in the table of an engine: if the kernel runs it, it counts as a rule.
fn of_engine(
    engine: Engine,
    table: &Table,
    name: Arc<str>,
    base: Option<Base>,
    rule_set: &mut RuleSet,
) {
    if base.is_some() && rule_set.chains.len() < MAX_CHAINS {
        let rule = Rule {
            conditions: Vec::new(),
            action: Action::Alters,
            text: format!("of {}", engine.as_str()),
        };
        rule_set.chains.insert((table.clone(), name), Chain { base, rules: vec![rule] });
    }
}

/// A table of the older iptables. Others may change it between the two questions, when the second one fails.
fn read_table(family: Family, name: &str) -> io::Result<(Info, Vec<u8>)> {
    const ATTEMPTS: usize = 5;
    let socket = Socket::open(family)?;
    let mut last = io::Error::from(io::ErrorKind::InvalidData);
    for _ in 0..ATTEMPTS {
        let mut head = vec![0; INFO_LEN];
        let place = head.get_mut(..name.len()).filter(|place| place.len() < TABLE_LEN);
        place.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(name.as_bytes());
        socket.ask(GET_INFO, &mut head)?;
        let info = Info::parse(&head).ok_or(io::ErrorKind::InvalidData)?;
        if info.len_bytes > MAX_LEGACY_LEN {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let len = u32::try_from(info.len_bytes).map_err(|_large| io::ErrorKind::FileTooLarge)?;
        head.truncate(TABLE_LEN);
        head.extend(len.to_ne_bytes());
        head.resize(GET_ENTRIES_LEN + info.len_bytes, 0);
        match socket.ask(GET_ENTRIES, &mut head) {
            Ok(()) => {
                head.drain(..GET_ENTRIES_LEN);
                return Ok((info, head));
            }
            // It has another length by now.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
