//! The nftables table that drops packets whose verdict is deferred and would never be finished.
//!
//! A packet with an egress mark is judged by the program of the device through which it leaves. The rule drops such a packet
//! before the devices without that program: those that are not in the set of the table.
//!
//! ```text
//! table inet netpol {
//!     set exits { type iface_index; }
//!     chain postrouting {
//!         type filter hook postrouting priority 150;
//!         meta mark & MASK != 0 meta oif != @exits counter drop
//!     }
//! }
//! ```
//! Devices are in the set by their index, because a name can be given to another device.

use std::collections::BTreeSet;
use std::io;

use netpol_common::ids::IfIndex;
use rustix::io::Errno;

use crate::nfnetlink::{
    Attributes, Connection, Message, NLM_F_CREATE, NLM_F_DUMP, attribute, attributes, number,
};

/// Name of the table.
pub const TABLE: &str = "netpol";
const SET: &str = "exits";
const CHAIN: &str = "postrouting";
/// Both IP families (`NFPROTO_INET`).
const INET: u8 = 1;
/// `NF_INET_POST_ROUTING`.
const POST_ROUTING: u32 = 4;
/// After source NAT, which has 100.
const PRIORITY: u32 = 150;
/// `NFT_TABLE_F_DORMANT`: the chains of the table do not run.
const DORMANT: u32 = 1;

/// Types of messages.
const NEW_TABLE: u8 = 0;
pub(crate) const GET_TABLE: u8 = 1;
const DEL_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
const NEW_RULE: u8 = 6;
pub(crate) const GET_RULE: u8 = 7;
const NEW_SET: u8 = 9;
const NEW_ELEMENTS: u8 = 12;
const GET_ELEMENTS: u8 = 13;
const DEL_ELEMENTS: u8 = 14;
pub(crate) const GET_GENERATION: u8 = 16;

/// Attributes. Tables, chains, sets, rules and elements begin with the name of their table, then have their own.
const OF_TABLE: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
/// `NFTA_LIST_ELEM`, also `NFTA_SET_ELEM_KEY` and `NFTA_DATA_VALUE`.
const ITEM: u16 = 1;
const KEY: u16 = 1;
const VALUE: u16 = 1;
/// `NFTA_GEN_ID`.
pub(crate) const GENERATION: u16 = 1;

/// nftables' number of the type of an interface index, for `nft list`.
const IFACE_INDEX: u32 = 20;
/// Most elements in one message, whose attributes are limited to 64 KiB.
const MAX_ELEMENTS: usize = 2000;

/// Whether devices stay in the set that are not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// They stay. The table is not created.
    Stay,
    /// They are removed.
    Go,
}

/// What [`ExitGuard::ensure`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// The table was as it should be, except for the devices in its set.
    Intact,
    /// There was no table of this version with these settings, or it had been changed. There is one now.
    Created,
}

/// The table of this network namespace.
pub struct ExitGuard {
    connection: Connection,
    /// Bits of the packet mark that carry an egress mark.
    mask: u32,
    /// The number of the kernel's rule set, and the devices in the set, as of the last change or look.
    known: Option<(u32, BTreeSet<IfIndex>)>,
}

impl ExitGuard {
    /// Opens a socket in the network namespace of the calling thread. Changes nothing.
    ///
    /// # Errors
    /// The error of the kernel, for example if it has no nfnetlink.
    pub fn open(mask: u32) -> io::Result<Self> {
        Ok(Self { connection: Connection::open()?, mask, known: None })
    }

    /// Makes sure that the table is there, with these devices in its set. Asks only for the number of the rule set if nobody has
    /// changed any rules since the last call.
    ///
    /// # Errors
    /// The error of the kernel, for example if it has no `nf_tables`.
    pub fn ensure(&mut self, exits: &BTreeSet<IfIndex>, others: Others) -> io::Result<Ensured> {
        let generation = self.generation()?;
        let known = self.known.take().filter(|(of, _)| *of == generation);
        let found = match known {
            Some((_, found)) => Some(found),
            None => self.look()?,
        };
        let is_created = found.is_none();
        if is_created && others == Others::Stay {
            return Ok(Ensured::Intact);
        }
        let mut messages = if is_created { self.creation() } else { Vec::new() };
        let found = found.unwrap_or_default();
        let added: Vec<_> = exits.difference(&found).copied().collect();
        let removed: Vec<_> = match others {
            Others::Stay => Vec::new(),
            Others::Go => found.difference(exits).copied().collect(),
        };
        messages.extend(added.chunks(MAX_ELEMENTS).map(|new| elements(NEW_ELEMENTS, new)));
        messages.extend(removed.chunks(MAX_ELEMENTS).map(|old| elements(DEL_ELEMENTS, old)));
        if messages.is_empty() {
            self.known = Some((generation, found));
            return Ok(Ensured::Intact);
        }
        self.connection.batch(&messages)?;
        let mut now = found;
        now.extend(added);
        now.retain(|ifindex| !removed.contains(ifindex));
        // Each batch raises the number by one. If others have changed rules meanwhile it is larger, and the next call looks.
        self.known = Some((generation.wrapping_add(1), now));
        Ok(if is_created { Ensured::Created } else { Ensured::Intact })
    }

    /// Removes the table. False if there is none.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn remove(&mut self) -> io::Result<bool> {
        self.known = None;
        match self.connection.batch(&[of_table(DEL_TABLE, 0, |attributes| attributes)]) {
            Ok(()) => Ok(true),
            Err(error) if is(&error, Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The number of the kernel's rule set, which every change raises.
    fn generation(&mut self) -> io::Result<u32> {
        let question = Message {
            kind: GET_GENERATION,
            flags: 0,
            family: 0,
            attributes: Attributes::default(),
        };
        let answers = self.connection.ask(&question)?;
        let generation = answers.first().and_then(|answer| number(answer, GENERATION));
        generation.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// The devices in the set. `None` if there is no table, or not as this version creates it.
    fn look(&mut self) -> io::Result<Option<BTreeSet<IfIndex>>> {
        let absent = |error: io::Error| {
            if is(&error, Errno::NOENT) { Ok(Vec::new()) } else { Err(error) }
        };
        let question = of_table(GET_TABLE, 0, |attributes| attributes);
        let tables = self.connection.ask(&question).or_else(absent)?;
        let Some(table) = tables.first() else { return Ok(None) };
        let question = of_table(GET_RULE, NLM_F_DUMP, |table| table.text(RULE_CHAIN, CHAIN));
        let rules = self.connection.ask(&question).or_else(absent)?;
        let is_ours = match rules.as_slice() {
            [rule] => attribute(rule, RULE_USERDATA) == Some(&self.comment()),
            _ => false,
        };
        if !is_ours || number(table, TABLE_FLAGS).unwrap_or_default() & DORMANT != 0 {
            return Ok(None);
        }
        let question = of_table(GET_ELEMENTS, NLM_F_DUMP, |table| table.text(ELEMENTS_SET, SET));
        let answers = self.connection.ask(&question).or_else(absent)?;
        let lists = answers.iter().filter_map(|answer| attribute(answer, ELEMENTS));
        let items = lists.flat_map(attributes);
        let ifindex = |(_, item): (u16, &[u8])| {
            let value = attribute(attribute(item, KEY)?, VALUE)?;
            value.first_chunk().map(|bytes| IfIndex(u32::from_ne_bytes(*bytes)))
        };
        Ok(Some(items.filter_map(ifindex).collect()))
    }

    /// The comment of the rule, as nftables stores one. By it the rule of this version with this mask is recognised.
    fn comment(&self) -> Vec<u8> {
        let text = format!("netpol 1: mark mask {:#010x}\0", self.mask);
        let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
        [&[0, len], text.as_bytes()].concat()
    }

    /// The messages that replace the table.
    fn creation(&self) -> Vec<Message> {
        let hook = Attributes::default().number(1, POST_ROUTING).number(2, PRIORITY);
        let rule = self.expressions();
        vec![
            // Created first, so that it can be removed in any case.
            of_table(NEW_TABLE, NLM_F_CREATE, |table| table),
            of_table(DEL_TABLE, 0, |table| table),
            of_table(NEW_TABLE, NLM_F_CREATE, |table| table),
            // Name, flags, type and length of the key, and an id within the batch.
            of_table(NEW_SET, NLM_F_CREATE, |table| {
                table.text(2, SET).number(3, 0).number(4, IFACE_INDEX).number(5, 4).number(10, 1)
            }),
            // Name, hook, policy "accept", type.
            of_table(NEW_CHAIN, NLM_F_CREATE, |table| {
                table.text(3, CHAIN).nested(4, &hook).number(5, 1).text(7, "filter")
            }),
            of_table(NEW_RULE, NLM_F_CREATE, |table| {
                table
                    .text(RULE_CHAIN, CHAIN)
                    .nested(RULE_EXPRESSIONS, &rule)
                    .bytes(RULE_USERDATA, &self.comment())
            }),
        ]
    }

    /// `meta mark & MASK != 0 meta oif != @exits counter drop`
    fn expressions(&self) -> Attributes {
        let new = Attributes::default;
        let value = |bytes: u32| new().bytes(VALUE, &bytes.to_ne_bytes());
        let verdict = new().nested(2, &new().number(1, 0));
        let list = [
            // Register 1 = the mark (key 3).
            ("meta", new().number(1, 1).number(2, 3)),
            // Register 1 = register 1 & mask ^ 0, four bytes.
            (
                "bitwise",
                new()
                    .number(1, 1)
                    .number(2, 1)
                    .number(3, 4)
                    .nested(4, &value(self.mask))
                    .nested(5, &value(0)),
            ),
            // Goes on if register 1 differs (1) from 0.
            ("cmp", new().number(1, 1).number(2, 1).nested(3, &value(0))),
            // Register 1 = the device through which the packet leaves (key 5).
            ("meta", new().number(1, 1).number(2, 5)),
            // Goes on if register 1 is not (1) in the set.
            ("lookup", new().text(1, SET).number(2, 1).number(5, 1)),
            ("counter", new()),
            // Verdict (register 0): drop (0).
            ("immediate", new().number(1, 0).nested(2, &verdict)),
        ];
        list.into_iter().fold(new(), |rule, (name, data)| {
            rule.nested(ITEM, &new().text(1, name).nested(2, &data))
        })
    }
}

/// A message about the table or a part of it.
fn of_table(kind: u8, flags: u16, rest: impl FnOnce(Attributes) -> Attributes) -> Message {
    let attributes = rest(Attributes::default().text(OF_TABLE, TABLE));
    Message { kind, flags, family: INET, attributes }
}

/// A message that adds or removes devices.
fn elements(kind: u8, devices: &[IfIndex]) -> Message {
    let flags = if kind == NEW_ELEMENTS { NLM_F_CREATE } else { 0 };
    let list = devices.iter().fold(Attributes::default(), |list, ifindex| {
        let value = Attributes::default().bytes(VALUE, &ifindex.0.to_ne_bytes());
        list.nested(ITEM, &Attributes::default().nested(KEY, &value))
    });
    of_table(kind, flags, |table| table.text(ELEMENTS_SET, SET).nested(ELEMENTS, &list))
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
