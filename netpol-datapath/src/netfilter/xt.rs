//! Extensions of iptables, which `nf_tables` runs too: matches and targets.

use super::Condition;

/// Bits of kinds of addresses: the node's own, and a usual one.
const UNICAST: u16 = 1 << 1;
/// Bits of the match `addrtype`: the destination is meant to be of no kind that is named.
const INVERT_DESTINATION: u32 = 2;

/// How Flannel's comments begin. Before it had chains of its own, its rules stood in those of all.
const FLANNEL: &[u8] = b"flanneld ";

/// The condition of a match, if it can exclude packets between pods. A comment of a known program excludes them.
pub(super) fn condition(name: &str, revision: u32, facts: &[u8]) -> Option<Condition> {
    match name {
        "addrtype" => address_kinds(revision, facts),
        "comment" => facts.starts_with(FLANNEL).then_some(Condition::Never),
        _ => None,
    }
}

fn address_kinds(revision: u32, facts: &[u8]) -> Option<Condition> {
    // Source and destination kinds, then flags; in the first revision two numbers that say what is inverted.
    let [_, _, d0, d1, f0, f1, f2, f3] = *facts.first_chunk::<8>()?;
    let kinds = u16::from_ne_bytes([d0, d1]);
    let inverted = if revision == 0 {
        u32::from_ne_bytes(*facts.get(8..)?.first_chunk()?) != 0
    } else {
        u32::from_ne_bytes([f0, f1, f2, f3]) & INVERT_DESTINATION != 0
    };
    let holds = kinds == 0 || (kinds & UNICAST != 0) != inverted;
    (!holds).then_some(Condition::Never)
}
