//! Reads the rules of `nf_tables`, those of others included.
//!
//! In: a socket with `CAP_NET_ADMIN`. Out: tables, base and other chains, and the rules of one chain, as the attributes of the kernel's
//! messages. Must not: change rules, or decide what they mean.
//!
//! Changes are told by the number of the rule set ([`NfTables::generation`]) and not by notifications: with a receiver of them the kernel
//! builds a message for each rule of each change, which makes the changes of others slower.

use std::io;

use crate::exit_guard::{GENERATION, GET_GENERATION, GET_RULE, GET_TABLE};
use crate::nfnetlink::{Attributes, Connection, Listing, Message, NLM_F_DUMP, number};

const GET_CHAIN: u8 = 4;
/// Times that a list is read again because others change rules meanwhile.
const ATTEMPTS: usize = 10;

/// What is listed.
#[derive(Clone, Copy, Debug)]
pub enum Listed<'a> {
    /// The tables of all families.
    Tables,
    /// The chains of all tables.
    Chains,
    /// The rules of one chain; none if there is no such chain.
    Rules {
        /// The family of its table.
        family: u8,
        /// Its table.
        table: &'a str,
        /// Its name.
        chain: &'a str,
    },
}

/// A list with an upper bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounded<T> {
    /// The first items.
    pub items: Vec<T>,
    /// There are more.
    pub is_cut: bool,
}

/// The rules of this network namespace.
pub struct NfTables(Connection);

impl NfTables {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The error of the kernel, for example if it has no nfnetlink.
    pub fn open() -> io::Result<Self> {
        Connection::open().map(Self)
    }

    /// The number of the kernel's rule set, which every change raises.
    ///
    /// # Errors
    /// The error of the kernel, for example if it has no `nf_tables`.
    pub fn generation(&mut self) -> io::Result<u32> {
        let question = question(GET_GENERATION, 0, 0, Attributes::default());
        let mut found = None;
        self.0.ask_each(&question, |_, attributes| found = number(attributes, GENERATION))?;
        found.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Lists what `keep` returns for the family and the attributes of each item.
    ///
    /// # Errors
    /// The error of the kernel, or `Interrupted` if others change rules all the time.
    pub fn list<T>(
        &mut self,
        listed: Listed<'_>,
        max: usize,
        keep: impl Fn(u8, &[u8]) -> Option<T>,
    ) -> io::Result<Bounded<T>> {
        let new = Attributes::default;
        let question = match listed {
            Listed::Tables => question(GET_TABLE, NLM_F_DUMP, 0, new()),
            Listed::Chains => question(GET_CHAIN, NLM_F_DUMP, 0, new()),
            Listed::Rules { family, table, chain } => {
                question(GET_RULE, NLM_F_DUMP, family, new().text(1, table).text(2, chain))
            }
        };
        for _ in 0..ATTEMPTS {
            let mut found = Bounded { items: Vec::new(), is_cut: false };
            let listing = self.0.ask_each(&question, |family, attributes| {
                // Items beyond the limit are not even read.
                if found.is_cut {
                    return;
                }
                match keep(family, attributes) {
                    Some(_) if found.items.len() >= max => found.is_cut = true,
                    Some(item) => found.items.push(item),
                    None => {}
                }
            });
            match listing {
                Ok(Listing::Whole) => return Ok(found),
                Ok(Listing::Interrupted) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::from(io::ErrorKind::Interrupted))
    }
}

fn question(kind: u8, flags: u16, family: u8, attributes: Attributes) -> Message {
    Message { kind, flags, family, attributes }
}
