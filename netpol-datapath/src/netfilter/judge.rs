//! Which rules packets between pods may meet.
//!
//! The answer may be too often "they may", never too rarely: what a rule asks beyond devices, addresses, families and kinds of addresses
//! is taken to hold, and the rules of a chain are taken to be reached even if one before them has decided.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use netpol_common::ids::IfIndex;
use netpol_common::keys::PrefixKey;
use serde::{Deserialize, Serialize};

use super::known::{Engine, is_known_chain, may_masquerade};
use super::{Action, Chain, Condition, Family, Is, Policy, RuleSet, Table};

/// Bits of an address.
const BITS: u8 = 128;
/// Length of the prefix of IPv4 addresses in IPv6.
const IPV4_BITS: u8 = 96;
const IPV4: u128 = 0xffff_0000_0000;
/// Most rules that are named.
const MAX_NAMED: usize = 10;

/// A network, IPv4 mapped into IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    bits: u128,
    len: u8,
}

impl From<PrefixKey> for Network {
    fn from(PrefixKey { prefix_len_bits, addr }: PrefixKey) -> Self {
        let bits = u128::from_be_bytes(addr.0);
        Self { bits, len: u8::try_from(prefix_len_bits).unwrap_or(BITS).min(BITS) }
    }
}

impl Network {
    /// All IPv4 addresses.
    const ALL_IPV4: Self = Self { bits: IPV4, len: IPV4_BITS };

    /// The first `len_bits` bits of an address, which count within its family.
    pub fn new(address: IpAddr, len_bits: u8) -> Self {
        let (bits, len) = match address {
            IpAddr::V4(address) => {
                (IPV4 | u128::from(address.to_bits()), len_bits.saturating_add(IPV4_BITS))
            }
            IpAddr::V6(address) => (address.to_bits(), len_bits),
        };
        let len = len.min(BITS);
        Self { bits: bits & mask(len), len }
    }

    /// The network around the address of a pod: no pod of another node has an address in it with usual networks.
    pub fn around(address: IpAddr) -> Self {
        Self::new(address, if address.is_ipv4() { 24 } else { 64 })
    }

    /// An address and a mask; `None` if the mask is none of a network, or their lengths are not those of addresses.
    pub(super) fn masked(address: &[u8], mask: &[u8]) -> Option<Self> {
        let mask_bits = bits(mask)?;
        let len = mask_bits.leading_ones();
        if mask_bits.checked_shl(len).unwrap_or_default() != 0 {
            return None;
        }
        let len = u8::try_from(len).ok()?;
        match address.len() {
            4 => {
                let address = Ipv4Addr::from_octets(*address.first_chunk()?);
                Some(Self::new(address.into(), len.min(32)))
            }
            16 => Some(Self::new(Ipv6Addr::from_octets(*address.first_chunk()?).into(), len)),
            _ => None,
        }
    }

    fn is_ipv4(self) -> bool {
        self.len >= IPV4_BITS && Self::ALL_IPV4.contains(self)
    }

    fn contains(self, other: Self) -> bool {
        self.len <= other.len && other.bits & mask(self.len) == self.bits
    }

    fn overlaps(self, other: Self) -> bool {
        self.contains(other) || other.contains(self)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from_bits(self.bits);
        match address.to_ipv4_mapped() {
            Some(address) if self.is_ipv4() => {
                write!(f, "{address}/{}", self.len.saturating_sub(IPV4_BITS))
            }
            _ => write!(f, "{address}/{}", self.len),
        }
    }
}

fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(u32::from(BITS.saturating_sub(len))).unwrap_or_default()
}

/// The bytes as the first bits of a number; `None` if they are too many.
pub(super) fn bits(bytes: &[u8]) -> Option<u128> {
    let mut all = [0; 16];
    all.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(u128::from_be_bytes(all))
}

/// The packets between pods, as far as rules can tell them from others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodTraffic {
    /// The devices that rules about IP packets see: the bridges of the pods.
    pub bridges: BTreeMap<IfIndex, String>,
    /// The devices that rules about frames see: the interfaces of the pods.
    pub ports: BTreeMap<IfIndex, String>,
    /// The networks of the pods' addresses.
    pub networks: BTreeSet<Network>,
    /// Whether the node routes them: then frames of theirs are to and from the bridge itself, and the plugins may masquerade them.
    pub is_routed: bool,
}

impl PodTraffic {
    /// The devices that rules of a family see.
    const fn devices(&self, family: Family) -> &BTreeMap<IfIndex, String> {
        match family {
            Family::Ip | Family::Ip6 | Family::Inet => &self.bridges,
            Family::Bridge | Family::Netdev => &self.ports,
        }
    }

    /// Whether a condition can hold for them.
    fn can_meet(&self, condition: &Condition, family: Family) -> bool {
        let holds = |is: Is, equal: bool| match is {
            Is::Equal => equal,
            Is::Different => !equal,
        };
        let devices = self.devices(family);
        match condition {
            Condition::Never => false,
            Condition::Device(pattern, is) => {
                devices.values().any(|name| holds(*is, pattern.matches(name)))
            }
            Condition::BridgeOf(pattern, is) => {
                self.bridges.values().any(|name| holds(*is, pattern.matches(name)))
            }
            Condition::Index(index, is) => {
                devices.keys().any(|ifindex| holds(*is, ifindex.0 == *index))
            }
            Condition::Address(network, Is::Equal) => {
                self.networks.iter().any(|of_pods| network.overlaps(*of_pods))
            }
            Condition::Address(network, Is::Different) => self.networks.iter().any(|of_pods| {
                of_pods.is_ipv4() == network.is_ipv4() && !network.contains(*of_pods)
            }),
            Condition::Ipv4(is) => {
                self.networks.iter().any(|of_pods| holds(*is, of_pods.is_ipv4()))
            }
        }
    }

    /// Whether they can be of the family of a table.
    fn is_in(&self, family: Family) -> bool {
        match family {
            Family::Ip => self.networks.iter().any(|network| network.is_ipv4()),
            Family::Ip6 => self.networks.iter().any(|network| !network.is_ipv4()),
            Family::Inet | Family::Bridge | Family::Netdev => true,
        }
    }
}

/// The rules that packets between pods may meet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// Number of rules that drop or change packets, log them, or are not understood.
    pub n_altering: usize,
    /// The first of them, as text.
    pub altering: Vec<String>,
    /// Number of rules that only count packets.
    pub n_counting: usize,
    /// The first of them, as text.
    pub counting: Vec<String>,
}

impl Judgement {
    fn alters(&mut self, text: String) {
        self.n_altering += 1;
        if self.altering.len() < MAX_NAMED {
            self.altering.push(text);
        }
    }

    fn counts(&mut self, text: String) {
        self.n_counting += 1;
        if self.counting.len() < MAX_NAMED {
            self.counting.push(text);
        }
    }
}

/// Finds the rules that packets between pods may meet.
pub fn judge(rule_set: &RuleSet, traffic: &PodTraffic) -> Judgement {
    let mut judgement = Judgement::default();
    if rule_set.is_cut {
        judgement.alters("more rules than netpol reads".to_owned());
    }
    let mut waiting: Vec<(&Table, Arc<str>)> = Vec::new();
    for ((table, name), chain) in &rule_set.chains {
        if is_begun(table, chain, traffic) {
            if chain.base.as_ref().is_some_and(|base| base.policy == Policy::Drop) {
                judgement.alters(format!("{table}, chain {name}: policy drop"));
            }
            waiting.push((table, Arc::clone(name)));
        }
    }
    waiting.reverse();
    let mut done: BTreeSet<(&Table, Arc<str>)> = BTreeSet::new();
    while let Some((table, name)) = waiting.pop() {
        if !done.insert((table, Arc::clone(&name))) {
            continue;
        }
        let Some(chain) = rule_set.chains.get(&(table.clone(), Arc::clone(&name))) else {
            continue;
        };
        for rule in &chain.rules {
            let holds = |condition| traffic.can_meet(condition, table.family);
            if !rule.conditions.iter().all(holds) {
                continue;
            }
            let text = || format!("{table}, chain {name}: {}", rule.text);
            match &rule.action {
                Action::Alters => judgement.alters(text()),
                Action::Counts => judgement.counts(text()),
                Action::Jumps(to) if traffic.is_routed && may_masquerade(to) => {
                    judgement.alters(text());
                }
                Action::Jumps(to) if is_known_chain(to) => {}
                Action::Jumps(to) => {
                    let is_read = rule_set.chains.contains_key(&(table.clone(), Arc::clone(to)));
                    if is_read {
                        waiting.push((table, Arc::clone(to)));
                    } else if Engine::of_chain(to).is_some() || !rule_set.is_cut {
                        judgement.alters(text());
                    }
                }
            }
        }
    }
    judgement
}

/// Whether the kernel runs a chain for packets between pods.
fn is_begun(table: &Table, chain: &Chain, traffic: &PodTraffic) -> bool {
    let Some(base) = &chain.base else { return false };
    let is_on_the_way = match table.family {
        // PREROUTING, FORWARD, POSTROUTING.
        Family::Ip | Family::Ip6 => matches!(base.hook, 0 | 2 | 4),
        // The fifth is ingress; of bridges it decides what is bridged.
        Family::Inet | Family::Bridge if matches!(base.hook, 0 | 2 | 4 | 5) => true,
        // To the bridge itself, and from it.
        Family::Bridge => traffic.is_routed && matches!(base.hook, 1 | 3),
        Family::Inet => false,
        Family::Netdev => true,
    };
    let is_at_pods = base.devices.is_empty()
        || base.devices.iter().any(|name| traffic.ports.values().any(|port| port == name));
    is_on_the_way && is_at_pods && traffic.is_in(table.family)
}
