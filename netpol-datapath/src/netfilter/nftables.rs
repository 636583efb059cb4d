//! Rules of `nf_tables`: what their expressions ask and do.
//!
//! An expression loads a fact into a register, compares a register, or does something. An expression that is not known counts as one that
//! does something.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use netpol_netlink::{attribute, attributes, number};

use super::judge::{Network, bits};
use super::{Action, Base, Condition, Family, Is, Pattern, Policy, Rule, name_of, text, xt};

/// Attributes of tables, chains and rules.
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const RULE_EXPRESSIONS: u16 = 4;
const HOOK_NUMBER: u16 = 1;
const HOOK_DEVICE: u16 = 3;
const HOOK_DEVICES: u16 = 4;
/// Attributes of expressions.
const BITWISE_FROM: u16 = 1;
const BITWISE_TO: u16 = 2;
const BITWISE_MASK: u16 = 4;
const BITWISE_XOR: u16 = 5;
const BITWISE_OPERATION: u16 = 6;
const CMP_FROM: u16 = 1;
const CMP_OPERATION: u16 = 2;
const CMP_DATA: u16 = 3;
const IMMEDIATE_TO: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
/// `NFT_TABLE_F_DORMANT`: the chains of the table do not run.
const DORMANT: u32 = 1;
/// Number of registers of four bytes.
const N_REGISTERS: usize = 16;

/// Verdicts.
const DROP: i32 = 0;
const JUMP: i32 = -3;
const GOTO: i32 = -4;

/// Keys of `meta`.
const META_PROTOCOL: u32 = 1;
const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const META_IN_BRIDGE: u32 = 17;
const META_OUT_BRIDGE: u32 = 18;

/// Expressions that only load facts, if they have a destination register, or ask.
const ASKING: [&str; 16] = [
    "byteorder",
    "range",
    "lookup",
    "rt",
    "numgen",
    "hash",
    "socket",
    "osf",
    "xfrm",
    "tunnel",
    "limit",
    "quota",
    "connlimit",
    "last",
    "inner",
    "flow",
];

/// Name and family of a table, if its chains run.
pub(super) fn table(family: u8, attributes: &[u8]) -> Option<(Family, Arc<str>)> {
    let family = Family::of(family)?;
    let flags = number(attributes, TABLE_FLAGS).unwrap_or_default();
    (flags & DORMANT == 0).then_some((family, name(attributes, TABLE_NAME)?))
}

/// Family, table and name of a chain.
pub(super) fn chain_name(family: u8, attributes: &[u8]) -> Option<(Family, Arc<str>, Arc<str>)> {
    Some((Family::of(family)?, name(attributes, TABLE_NAME)?, name(attributes, CHAIN_NAME)?))
}

/// Where the kernel runs a chain; `None` if only other chains do.
pub(super) fn base(attributes: &[u8]) -> Option<Base> {
    let hook = attribute(attributes, CHAIN_HOOK)?;
    let is_drop = number(attributes, CHAIN_POLICY) == Some(0);
    let list = attribute(hook, HOOK_DEVICES).map(self::attributes).into_iter().flatten();
    let one = attribute(hook, HOOK_DEVICE).into_iter();
    Some(Base {
        hook: number(hook, HOOK_NUMBER).unwrap_or_default(),
        policy: if is_drop { Policy::Drop } else { Policy::Accept },
        devices: list.map(|(_, name)| name).chain(one).map(name_of).collect(),
    })
}

fn name(bytes: &[u8], kind: u16) -> Option<Arc<str>> {
    Some(Arc::from(name_of(attribute(bytes, kind)?)))
}

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V4,
    V6,
}

/// What a register holds.
#[derive(Clone, Debug)]
enum Loaded {
    Name {
        word: &'static str,
        of: Names,
    },
    Index {
        word: &'static str,
    },
    /// The protocol of the network layer, as frames have it.
    EtherType,
    /// The same, as netfilter numbers it.
    NfProto,
    L4Protocol,
    /// The kind of the destination address.
    DestinationKind,
    Address {
        word: &'static str,
        version: Version,
        mask: Option<u128>,
    },
    Other(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Device,
    Bridge,
}

/// A rule that is being read.
struct Reading {
    registers: [Option<Loaded>; N_REGISTERS],
    /// The IP version, as far as the rule or its table says it.
    version: Option<Version>,
    conditions: Vec<Condition>,
    words: Vec<String>,
    action: Option<Action>,
    counts: bool,
}

/// Reads a rule; `None` if it does nothing, or never matches packets between pods.
pub(super) fn rule(family: Family, bytes: &[u8]) -> Option<Rule> {
    let mut reading = Reading {
        registers: [const { None }; N_REGISTERS],
        version: match family {
            Family::Ip => Some(Version::V4),
            Family::Ip6 => Some(Version::V6),
            Family::Inet | Family::Bridge | Family::Netdev => None,
        },
        conditions: Vec::new(),
        words: Vec::new(),
        action: None,
        counts: false,
    };
    for (_, expression) in attributes(attribute(bytes, RULE_EXPRESSIONS)?) {
        let name = attribute(expression, 1).map(name_of).unwrap_or_default();
        let facts = attribute(expression, 2).unwrap_or_default();
        reading.read(&name, facts);
    }
    let Reading { conditions, mut words, action, counts, .. } = reading;
    let action = match action {
        None if counts => {
            words.push("counter".to_owned());
            Action::Counts
        }
        action => action?,
    };
    let is_possible = !conditions.contains(&Condition::Never);
    is_possible.then(|| Rule { conditions, action, text: text(&words) })
}

impl Reading {
    fn read(&mut self, name: &str, facts: &[u8]) {
        // Most expressions have their destination register in the first attribute.
        let to = number(facts, 1);
        match name {
            "meta" | "payload" | "ct" | "exthdr" | "fib" if to.is_some_and(is_register) => {
                let loaded = self.load(name, facts);
                self.set(to, loaded);
            }
            "cmp" => self.compare(facts),
            "bitwise" => self.mask(facts),
            "immediate" => self.immediate(facts),
            "counter" => self.counts = true,
            "objref" if number(facts, 1) == Some(1) => self.counts = true,
            "match" => {
                let name = attribute(facts, 1).map(name_of).unwrap_or_default();
                let revision = number(facts, 2).unwrap_or_default();
                let info = attribute(facts, 3).unwrap_or_default();
                self.conditions.extend(xt::condition(&name, revision, info));
                self.words.push(format!("-m {name}"));
            }
            "target" => {
                let name = attribute(facts, 1).map(name_of).unwrap_or_default();
                self.alters(format!("-j {name}"));
            }
            // A verdict from a map.
            "lookup" if number(facts, 3) == Some(0) => self.alters(format!("vmap {}", set(facts))),
            "lookup" => {
                self.words.push(set(facts));
                self.forget();
            }
            "byteorder" | "range" | "rt" => self.forget(),
            _ if ASKING.contains(&name) => {
                self.words.push(name.to_owned());
                self.forget();
            }
            _ => self.alters(if name.is_empty() { "?" } else { name }.to_owned()),
        }
    }

    fn alters(&mut self, word: String) {
        self.words.push(word);
        self.action = Some(Action::Alters);
    }

    /// After an expression of which it is not known which registers it writes.
    fn forget(&mut self) {
        self.registers = [const { None }; N_REGISTERS];
    }

    /// A fact may be four registers long, so what overlaps it is not known any more.
    fn set(&mut self, register: Option<u32>, loaded: Loaded) {
        let Some(first) = register.and_then(slot) else { return self.forget() };
        for (at, held) in self.registers.iter_mut().enumerate() {
            if (first.saturating_sub(3)..first + 4).contains(&at) {
                *held = None;
            }
        }
        if let Some(held) = self.registers.get_mut(first) {
            *held = Some(loaded);
        }
    }

    fn get(&self, register: Option<u32>) -> Option<&Loaded> {
        self.registers.get(slot(register?)?)?.as_ref()
    }

    fn load(&self, name: &str, facts: &[u8]) -> Loaded {
        let key = number(facts, 2);
        let device = |word| Loaded::Name { word, of: Names::Device };
        let bridge = |word| Loaded::Name { word, of: Names::Bridge };
        match (name, key) {
            ("meta", Some(META_PROTOCOL)) => Loaded::EtherType,
            ("meta", Some(META_NFPROTO)) => Loaded::NfProto,
            ("meta", Some(META_L4PROTO)) => Loaded::L4Protocol,
            ("meta", Some(META_IIF)) => Loaded::Index { word: "iif" },
            ("meta", Some(META_OIF)) => Loaded::Index { word: "oif" },
            ("meta", Some(META_IIFNAME)) => device("iifname"),
            ("meta", Some(META_OIFNAME)) => device("oifname"),
            ("meta", Some(META_IN_BRIDGE)) => bridge("ibrname"),
            ("meta", Some(META_OUT_BRIDGE)) => bridge("obrname"),
            // The kind of the destination address.
            ("fib", Some(3)) if number(facts, 3) == Some(2) => Loaded::DestinationKind,
            ("payload", Some(base)) => self.load_payload(base, facts),
            ("ct", Some(0)) => Loaded::Other("ct state".to_owned()),
            _ => Loaded::Other(name.to_owned()),
        }
    }

    fn load_payload(&self, base: u32, facts: &[u8]) -> Loaded {
        let (offset, len) = (number(facts, 3), number(facts, 4));
        let (Some(offset), Some(len)) = (offset, len) else {
            return Loaded::Other("payload".to_owned());
        };
        let address = |word, version| Loaded::Address { word, version, mask: None };
        match (base, self.version, offset, len) {
            (0, _, 12, 2) => Loaded::EtherType,
            (1, Some(Version::V4), 12, 1..=4) => address("ip saddr", Version::V4),
            (1, Some(Version::V4), 16, 1..=4) => address("ip daddr", Version::V4),
            (1, Some(Version::V6), 8, 1..=16) => address("ip6 saddr", Version::V6),
            (1, Some(Version::V6), 24, 1..=16) => address("ip6 daddr", Version::V6),
            (1, Some(Version::V4), 9, 1) | (1, Some(Version::V6), 6, 1) => Loaded::L4Protocol,
            (2, _, 0, 2) => Loaded::Other("sport".to_owned()),
            (2, _, 2, 2) => Loaded::Other("dport".to_owned()),
            _ => Loaded::Other("payload".to_owned()),
        }
    }

    /// A mask on an address. Any other change of a register makes its content unknown.
    fn mask(&mut self, facts: &[u8]) {
        let value = |kind| attribute(attribute(facts, kind)?, 1);
        let is_mask = number(facts, BITWISE_OPERATION).unwrap_or_default() == 0
            && value(BITWISE_XOR).is_some_and(|xor| xor.iter().all(|byte| *byte == 0));
        let masked = match self.get(number(facts, BITWISE_FROM)) {
            Some(Loaded::Address { word, version, mask: None }) if is_mask => {
                let mask = value(BITWISE_MASK).and_then(bits);
                let (word, version) = (*word, *version);
                mask.map(|mask| Loaded::Address { word, version, mask: Some(mask) })
            }
            Some(Loaded::Other(word)) => Some(Loaded::Other(word.clone())),
            _ => None,
        };
        let masked = masked.unwrap_or_else(|| Loaded::Other("bitwise".to_owned()));
        self.set(number(facts, BITWISE_TO), masked);
    }

    fn compare(&mut self, facts: &[u8]) {
        let value = attribute(facts, CMP_DATA).and_then(|data| attribute(data, 1));
        let is = match number(facts, CMP_OPERATION) {
            Some(0) => Some(Is::Equal),
            Some(1) => Some(Is::Different),
            _ => None,
        };
        let loaded = self.get(number(facts, CMP_FROM)).cloned();
        let (Some(value), Some(loaded)) = (value, loaded) else {
            return self.words.push("...".to_owned());
        };
        let Some(is) = is else {
            let word = match loaded {
                Loaded::Other(word) => word,
                Loaded::Address { word, .. } => word.to_owned(),
                Loaded::Name { .. }
                | Loaded::Index { .. }
                | Loaded::EtherType
                | Loaded::NfProto
                | Loaded::L4Protocol
                | Loaded::DestinationKind => "...".to_owned(),
            };
            return self.words.push(word);
        };
        self.conditions.extend(condition(&loaded, is, value));
        if let Some(word) = word(&loaded, is, value) {
            self.words.push(word);
        }
        if is == Is::Equal {
            self.learn_version(&loaded, value);
        }
    }

    fn learn_version(&mut self, loaded: &Loaded, value: &[u8]) {
        match (loaded, value) {
            (Loaded::EtherType, [0x08, 0x00, ..]) | (Loaded::NfProto, [2, ..]) => {
                self.version = Some(Version::V4);
            }
            (Loaded::EtherType, [0x86, 0xdd, ..]) | (Loaded::NfProto, [10, ..]) => {
                self.version = Some(Version::V6);
            }
            _ => {}
        }
    }

    fn immediate(&mut self, facts: &[u8]) {
        let Some(verdict) =
            attribute(facts, IMMEDIATE_DATA).and_then(|data| attribute(data, DATA_VERDICT))
        else {
            return self.set(number(facts, IMMEDIATE_TO), Loaded::Other("immediate".to_owned()));
        };
        let code = number(verdict, VERDICT_CODE).map(u32::cast_signed);
        match code {
            // Accept, continue, break, return.
            Some(1 | -1 | -2 | -5) => {
                // A rule that accepts and counts does not only count.
                self.counts = false;
            }
            Some(JUMP | GOTO) => {
                let to = attribute(verdict, VERDICT_CHAIN).map(name_of).unwrap_or_default();
                self.words.push(format!("jump {to}"));
                if self.action.is_none() {
                    self.action = Some(Action::Jumps(Arc::from(to)));
                }
            }
            Some(DROP) => self.alters("drop".to_owned()),
            _ => self.alters("verdict ?".to_owned()),
        }
    }
}

/// The condition of a comparison, if it can exclude packets between pods.
fn condition(loaded: &Loaded, is: Is, value: &[u8]) -> Option<Condition> {
    match loaded {
        Loaded::Name { of, .. } => {
            let is_prefix = !value.contains(&0) && value.len() < 16;
            let pattern = Pattern { text: name_of(value), is_prefix };
            Some(match of {
                Names::Device => Condition::Device(pattern, is),
                Names::Bridge => Condition::BridgeOf(pattern, is),
            })
        }
        Loaded::Index { .. } => {
            Some(Condition::Index(u32::from_ne_bytes(*value.first_chunk()?), is))
        }
        Loaded::EtherType => of_ether_type(u16::from_be_bytes(*value.first_chunk()?), is),
        Loaded::NfProto => {
            let number = *value.first()?;
            match Family::of(number)? {
                Family::Ip => Some(Condition::Ipv4(is)),
                Family::Ip6 => Some(Condition::Ipv4(opposite(is))),
                Family::Inet | Family::Bridge | Family::Netdev => None,
            }
        }
        Loaded::DestinationKind => {
            // The kind of the destinations of packets between pods is unicast (1).
            let is_unicast = u32::from_ne_bytes(*value.first_chunk()?) == 1;
            (is_unicast != (is == Is::Equal)).then_some(Condition::Never)
        }
        Loaded::Address { version, mask, .. } => {
            Some(Condition::Address(network(*version, *mask, value)?, is))
        }
        Loaded::L4Protocol | Loaded::Other(_) => None,
    }
}

/// Whether a number names a register that can hold facts.
fn is_register(number: u32) -> bool {
    slot(number).is_some()
}

/// The place of a register: of those of 16 bytes (1 to 4), and of four bytes (from 8).
fn slot(register: u32) -> Option<usize> {
    let register = usize::try_from(register).ok()?;
    match register {
        1..=4 => Some((register - 1) * 4),
        8..24 => Some(register - 8),
        _ => None,
    }
}

/// The name of the set of a look-up. Those without a name are in braces.
fn set(facts: &[u8]) -> String {
    let name = attribute(facts, 1).map(name_of).unwrap_or_default();
    if name.starts_with("__") { "{...}".to_owned() } else { format!("@{name}") }
}

/// The condition on the type of frames.
fn of_ether_type(ether_type: u16, is: Is) -> Option<Condition> {
    match (ether_type, is) {
        (0x0800, _) => Some(Condition::Ipv4(is)),
        (0x86dd, _) => Some(Condition::Ipv4(opposite(is))),
        // ARP. Nothing is redirected but IP.
        (0x0806, Is::Equal) => Some(Condition::Never),
        _ => None,
    }
}

const fn opposite(is: Is) -> Is {
    match is {
        Is::Equal => Is::Different,
        Is::Different => Is::Equal,
    }
}

/// The network of an address that is compared: with a mask, or as far as it is loaded.
fn network(version: Version, mask: Option<u128>, value: &[u8]) -> Option<Network> {
    let bits = bits(value)?;
    if version == Version::V4 && value.len() > 4 {
        return None;
    }
    let len = match mask {
        Some(mask) if mask.checked_shl(mask.leading_ones()).unwrap_or_default() == 0 => {
            mask.leading_ones()
        }
        Some(_) => return None,
        None => u32::try_from(value.len()).ok()?.checked_mul(8)?,
    };
    let len = u8::try_from(len).ok()?;
    Some(if version == Version::V4 {
        let address = Ipv4Addr::from_bits(u32::try_from(bits >> 96).ok()?);
        Network::new(address.into(), len.min(32))
    } else {
        Network::new(Ipv6Addr::from_bits(bits).into(), len)
    })
}

/// A comparison as nft shows it.
fn word(loaded: &Loaded, is: Is, value: &[u8]) -> Option<String> {
    let not = if is == Is::Equal { "" } else { "!= " };
    Some(match loaded {
        Loaded::Name { word, .. } => {
            let star = if !value.contains(&0) && value.len() < 16 { "*" } else { "" };
            format!("{word} {not}{}{star}", name_of(value))
        }
        Loaded::Index { word } => {
            format!("{word} {not}{}", u32::from_ne_bytes(*value.first_chunk()?))
        }
        Loaded::Address { word, version, mask } => match network(*version, *mask, value) {
            Some(network) => format!("{word} {not}{network}"),
            None => (*word).to_owned(),
        },
        Loaded::L4Protocol => match (value.first()?, is) {
            (6, Is::Equal) => "tcp".to_owned(),
            (17, Is::Equal) => "udp".to_owned(),
            (number, _) => format!("l4proto {not}{number}"),
        },
        Loaded::DestinationKind => "fib daddr type".to_owned(),
        Loaded::Other(word) if word == "dport" || word == "sport" => {
            format!("{word} {not}{}", u16::from_be_bytes(*value.first_chunk()?))
        }
        Loaded::Other(word) => word.clone(),
        Loaded::EtherType | Loaded::NfProto => return None,
    })
}
