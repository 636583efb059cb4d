//! Rules from bytes: those of kernels that tests have not at hand, and those that no kernel sends. Rules that the usual programs write
//! are read from the kernel in `tests/tests/netns/netfilter.rs`.

use std::net::IpAddr;

use netpol_common::ids::IfIndex;
use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, proptest};
use proptest::sample::Index;

use super::legacy::{INFO_LEN, Info, TABLE_LEN, parse};
use super::*;

/// Pods on `cni0`.
fn traffic() -> PodTraffic {
    let device = |index: u32, name: &str| BTreeMap::from([(IfIndex(index), name.to_owned())]);
    let networks = ["10.244.1.7", "fd00:10:244:1::7", "fe80::1"];
    PodTraffic {
        bridges: device(5, "cni0"),
        ports: device(7, "veth12ab"),
        networks: networks.map(|at| Network::around(at.parse::<IpAddr>().unwrap())).into(),
        is_routed: false,
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn expression(name: &str, facts: &[Vec<u8>]) -> Vec<u8> {
    let name = attribute(1, format!("{name}\0").as_bytes());
    attribute(1, &[name, attribute(2, &facts.concat())].concat())
}

/// `meta load KEY`, `cmp VALUE`, into and from the first register.
fn meta(key: u32, operation: u32, value: &[u8]) -> [Vec<u8>; 2] {
    let data = attribute(3, &attribute(1, value));
    [
        expression("meta", &[number(1, 1), number(2, key)]),
        expression("cmp", &[number(1, 1), number(2, operation), data]),
    ]
}

fn verdict(code: u32) -> Vec<u8> {
    let verdict = attribute(2, &number(1, code));
    expression("immediate", &[number(1, 0), attribute(2, &verdict)])
}

fn rule_of(expressions: &[Vec<u8>]) -> Vec<u8> {
    attribute(4, &expressions.concat())
}

/// What is said about a chain at the hook FORWARD with only this rule.
fn judged(family: Family, rule: &[u8]) -> Judgement {
    let table = Table { backend: Backend::NfTables, family, name: Arc::from("t") };
    let base = Base { hook: 2, policy: Policy::Accept, devices: Vec::new() };
    let rules = nftables::rule(family, rule).into_iter().collect();
    let chain = Chain { base: Some(base), rules };
    let chains = BTreeMap::from([((table, Arc::from("c")), chain)]);
    judge(&RuleSet { chains, ..RuleSet::default() }, &traffic())
}

#[test]
fn an_expression_that_is_not_known_or_has_no_name_is_named_as_a_rule_that_does_something() {
    for (name, shown) in [("teleport", "teleport"), ("", "?"), ("objref", "objref")] {
        let found = judged(Family::Inet, &rule_of(&[expression(name, &[])]));
        assert_eq!(found.altering, [format!("table inet t, chain c: {shown}")]);
    }
    let found = judged(Family::Inet, &rule_of(&[verdict(77)]));
    assert_eq!(found.altering, ["table inet t, chain c: verdict ?"]);
    assert_eq!(judged(Family::Inet, &[]), Judgement::default(), "a rule without expressions");
}

#[test]
fn the_name_of_the_bridge_of_an_interface_is_compared_with_those_of_pods() {
    for (name, n_altering) in [(&b"cni0\0"[..], 1), (b"br7\0", 0), (b"cn", 1)] {
        let rule = rule_of(&[meta(17, 0, name).concat(), verdict(0)]);
        assert_eq!(judged(Family::Bridge, &rule).n_altering, n_altering, "{name:?}");
    }
}

#[test]
fn a_register_that_was_written_partly_again_excludes_nothing() {
    // The third word of the first register.
    let load = expression("meta", &[number(1, 10), number(2, 3)]);
    let [name, compare] = meta(6, 0, b"eth0\0");
    assert_eq!(
        judged(Family::Inet, &rule_of(&[name.clone(), compare.clone(), verdict(0)])).n_altering,
        0
    );
    let rule = rule_of(&[name, load, compare, verdict(0)]);
    assert_eq!(judged(Family::Inet, &rule).n_altering, 1);
}

#[test]
fn a_jump_to_a_chain_that_was_not_read_counts() {
    let data = [number(1, (-3_i32).cast_unsigned()), attribute(2, b"gone\0")].concat();
    let jump = expression("immediate", &[number(1, 0), attribute(2, &attribute(2, &data))]);
    let found = judged(Family::Ip, &rule_of(&[jump]));
    assert_eq!(found.altering, ["table ip t, chain c: jump gone"]);
}

#[test]
fn rules_that_are_not_read_because_there_are_too_many_count() {
    let found = judge(&RuleSet { is_cut: true, ..RuleSet::default() }, &traffic());
    assert_eq!(found.altering, ["more rules than netpol reads"]);
}

#[test]
fn a_node_without_pods_on_bridges_meets_no_rule_about_devices_and_addresses() {
    let rule = rule_of(&[meta(6, 1, b"eth0\0").concat(), verdict(0)]);
    let table = Table { backend: Backend::NfTables, family: Family::Inet, name: Arc::from("t") };
    let base = Base { hook: 0, policy: Policy::Accept, devices: Vec::new() };
    let rules = nftables::rule(Family::Inet, &rule).into_iter().collect();
    let chain = Chain { base: Some(base), rules };
    let rule_set = RuleSet {
        chains: BTreeMap::from([((table, Arc::from("c")), chain)]),
        ..RuleSet::default()
    };
    assert_eq!(judge(&rule_set, &traffic()).n_altering, 1);
    assert_eq!(judge(&rule_set, &PodTraffic::default()).n_altering, 0);
}

#[test]
fn long_and_unprintable_texts_are_cut_and_replaced() {
    assert_eq!(name_of(b"a\x1b[2J\0rest"), "a?[2J");
    assert_eq!(text(&["x".repeat(200)]).chars().count(), MAX_TEXT + 3);
}

/// An entry of an IPv4 table without conditions.
fn entry(target: &[u8], facts: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 112 + 32];
    let next = u16::try_from(112 + 32 + facts.len()).unwrap();
    bytes[88..90].copy_from_slice(&112_u16.to_ne_bytes());
    bytes[90..92].copy_from_slice(&next.to_ne_bytes());
    bytes[114..114 + target.len()].copy_from_slice(target);
    bytes.extend(facts);
    bytes
}

fn standard(verdict: i32) -> Vec<u8> {
    entry(b"", &[verdict.to_ne_bytes(), [0; 4]].concat())
}

fn named(name: &str) -> Vec<u8> {
    let mut facts = name.as_bytes().to_vec();
    facts.resize(32, 0);
    entry(b"ERROR", &facts)
}

/// FORWARD jumps to `mine`, which logs and counts; the policy is to accept.
fn older_table() -> (Info, Vec<u8>) {
    let to_mine = 2 * standard(0).len() + named("").len();
    let entries = [
        standard(i32::try_from(to_mine).unwrap()),
        standard(-2),
        named("mine"),
        entry(b"LOG", &[0; 8]),
        standard(i32::try_from(to_mine + 2 * standard(0).len()).unwrap()),
        standard(-5),
        named("ERROR"),
    ];
    let mut info = vec![0; INFO_LEN];
    let mut set = |word: usize, value: usize| {
        let at = TABLE_LEN + 4 * word;
        info[at..at + 4].copy_from_slice(&u32::try_from(value).unwrap().to_ne_bytes());
    };
    let entries = entries.concat();
    set(0, 1 << 2);
    set(8, standard(0).len());
    set(12, entries.len());
    (Info::parse(&info).unwrap(), entries)
}

fn older() -> Table {
    Table { backend: Backend::Legacy, family: Family::Ip, name: Arc::from("filter") }
}

#[test]
fn rules_of_the_older_iptables_are_read_by_their_positions() {
    let (info, entries) = older_table();
    let mut rule_set = RuleSet::default();
    parse(&older(), &info, &entries, &mut rule_set).unwrap();
    let found = judge(&rule_set, &traffic());
    let table = "table ip filter (iptables-legacy), chain mine:";
    assert_eq!(found.altering, [format!("{table} -j LOG")]);
    assert_eq!(found.counting, [format!("{table} counter")]);
}

proptest! {
    #[test]
    fn bytes_that_no_kernel_sends_make_no_reader_panic(bytes in vec(any::<u8>(), 0..400)) {
        drop(nftables::rule(Family::Inet, &bytes));
        drop(nftables::base(&bytes));
        drop(nftables::table(1, &bytes));
        drop(nftables::chain_name(1, &bytes));
        let parsed = Info::parse(&bytes);
        prop_assert!(parsed.is_none() || bytes.len() >= INFO_LEN);
        let (info, _) = older_table();
        let mut rule_set = RuleSet::default();
        prop_assert!(parse(&older(), &info, &bytes, &mut rule_set).is_none());
        drop(judge(&rule_set, &traffic()));
    }

    #[test]
    fn changed_and_truncated_rules_make_no_reader_panic(
        changes in vec((any::<Index>(), any::<u8>()), 0..6), end in any::<Index>(),
    ) {
        let change = |bytes: &mut Vec<u8>| {
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            bytes.truncate(end.index(bytes.len() + 1));
        };
        let mut rule =
            rule_of(&[meta(6, 0, b"cni0\0").concat(), meta(1, 0, &[8, 0]).concat(), verdict(0)]);
        change(&mut rule);
        drop(nftables::rule(Family::Bridge, &rule));
        let (info, mut entries) = older_table();
        let whole = entries.len();
        change(&mut entries);
        let mut rule_set = RuleSet::default();
        let parsed = parse(&older(), &info, &entries, &mut rule_set);
        drop(judge(&rule_set, &traffic()));
        // Less than the kernel has announced is no table.
        prop_assert!(parsed.is_none() || entries.len() == whole);
    }
}
