//! The map of generated rules gives the verdict of the rule that decides, for every identity, protocol and port.

use std::slice;
use std::sync::{Arc, LazyLock};

use netpol_common::ids::Direction;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::compile::map_state::longest_entry;
use crate::model::{Peer, PortRange, Transport};
use crate::resolve::{
    PeerBase, PeerSet, PolicyRef, RuleVerdict, Tier, TransportPorts, first_decisive,
};

/// Peer sets that the rules choose from.
const N_SETS: usize = 3;
const LAST_PORT: u16 = u16::MAX;

/// Distinct peer sets; their content does not matter here.
static PEER_SETS: LazyLock<Vec<Arc<PeerSet>>> = LazyLock::new(|| {
    let set = |n: usize| {
        let cidr = format!("10.{n}.0.0/16").parse().unwrap();
        let block = Peer::IpBlock(crate::model::IpBlock { cidr, except: Vec::new() });
        Arc::new(PeerSet::unfiltered(PeerBase::any_of(&Arc::from("x"), &[block])))
    };
    (0..N_SETS).map(set).collect()
});

/// Identities for each combination of peer sets but none, which is [`Identity::NONE`].
fn identities() -> Vec<(Identity, usize)> {
    (1..1_usize << N_SETS).map(|sets| (Identity(10 + u32::try_from(sets).unwrap()), sets)).collect()
}

fn transport_ports() -> impl Strategy<Value = TransportPorts> {
    let port = prop_oneof![1_u16..10, select(vec![80, 443, LAST_PORT - 1, LAST_PORT])];
    let range = (port.clone(), port).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)));
    let range = prop_oneof![1 => Just(None), 4 => range];
    (select(vec![Transport::Tcp, Transport::Udp]), range)
        .prop_map(|(transport, range)| TransportPorts { transport, range })
}

fn ports() -> impl Strategy<Value = PortSet> {
    let items = vec(transport_ports(), 1..4).prop_map(|items| items.into_iter().collect());
    prop_oneof![1 => Just(PortSet::All), 3 => items.prop_map(PortSet::AnyOf)]
}

fn rule() -> impl Strategy<Value = PolicyRule> {
    let tier = select(vec![Tier::Admin, Tier::NetworkPolicy, Tier::Baseline]);
    let action = select(vec![Action::Accept, Action::Deny, Action::Pass]);
    let peers = prop_oneof![1 => Just(None), 2 => (0..N_SETS).prop_map(Some)];
    let mode = prop_oneof![3 => Just(PolicyMode::Enforce), 1 => Just(PolicyMode::Audit)];
    (tier, 0_u16..3, action, mode, peers, ports()).prop_map(
        |(tier, priority, action, mode, peers, ports)| PolicyRule {
            tier,
            priority,
            source: source(0),
            mode,
            action,
            peers: peers.and_then(|n| PEER_SETS.get(n).cloned()),
            ports,
        },
    )
}

fn source(index: usize) -> RuleRef {
    let policy = PolicyRef::cluster_policy("x");
    RuleRef { policy, direction: Direction::Ingress, index }
}

/// Rules in their order of precedence, each with a reference of its own.
fn rules() -> impl Strategy<Value = Vec<PolicyRule>> {
    vec(rule(), 0..10).prop_map(|mut rules| {
        rules.sort();
        for (index, rule) in rules.iter_mut().enumerate() {
            rule.source = source(index);
        }
        rules
    })
}

fn default_verdict() -> impl Strategy<Value = DefaultVerdict> {
    select(vec![DefaultVerdict::Allow, DefaultVerdict::Audit, DefaultVerdict::Deny])
}

/// Number of the rule at this position.
fn id(position: usize) -> RuleId {
    RuleId(u32::try_from(position + 1).unwrap())
}

fn compiled(
    rules: &[PolicyRule],
    default: DefaultVerdict,
    left_out: &LeftOut,
    capacity: usize,
) -> Built {
    let identities = identities();
    let members = |peers: &Arc<PeerSet>| {
        let set = PEER_SETS.iter().position(|set| set == peers).unwrap();
        let held = move |of: &&(Identity, usize)| of.1 & (1 << set) != 0;
        identities.iter().filter(held).map(|(identity, _)| identity)
    };
    let in_force = rules.iter().enumerate().filter_map(|(position, rule)| {
        RuleInForce::new(id(position), rule, rule.peers.as_ref(), [left_out; 2])
    });
    build(in_force, default, members, capacity)
}

/// The answer of the kernel's look-ups.
fn look_up(map: &AllowMap, identity: Identity, protocol: Protocol, port: u16) -> AllowValue {
    let of =
        |identity| longest_entry(map, &AllowKey::lookup(identity, protocol, PortBe::new(port)));
    let own = (identity != Identity::NONE).then(|| of(identity)).flatten();
    own.or_else(|| of(Identity::ANY)).unwrap_or(AllowValue::DEFAULT_VALUE)
}

fn matches(rule: &PolicyRule, sets: usize, protocol: Protocol, port: u16) -> bool {
    let has_peer = rule.peers.as_ref().is_none_or(|peers| {
        PEER_SETS.iter().enumerate().any(|(n, set)| set == peers && sets & (1 << n) != 0)
    });
    has_peer
        && match &rule.ports {
            PortSet::All => true,
            PortSet::AnyOf(items) => items.iter().any(|item| {
                item.transport.to_wire() == protocol
                    && item.range.is_none_or(|range| range.contains(port))
            }),
        }
}

/// The value that the reference gives.
fn expected(
    rules: &[PolicyRule],
    default: DefaultVerdict,
    (sets, protocol, port): (usize, Protocol, u16),
) -> AllowValue {
    let matching: Vec<(usize, &PolicyRule)> =
        rules.iter().enumerate().filter(|(_, rule)| matches(rule, sets, protocol, port)).collect();
    // The value of some of the policies as if they were enforced, and whether NetworkPolicies among them isolate the pod.
    let decided = |is_counted: &dyn Fn(&PolicyRule) -> bool, isolates: bool| {
        let counted = matching
            .iter()
            .filter(|(_, rule)| is_counted(rule) && !(isolates && rule.tier == Tier::Baseline));
        let counted: Vec<_> = counted.collect();
        match first_decisive(counted.iter().map(|(_, rule)| (rule.tier, rule.action))) {
            Some((found, _, RuleVerdict::Accept)) => AllowValue::allow(id(counted[found].0)),
            Some((found, _, RuleVerdict::Deny)) => AllowValue::deny(id(counted[found].0)),
            None if isolates => AllowValue::DEFAULT_VALUE,
            None => AllowValue::allow(RuleId::NONE),
        }
    };
    let is_enforced = |rule: &PolicyRule| rule.mode == PolicyMode::Enforce;
    let enforced = decided(&is_enforced, default == DefaultVerdict::Deny);
    let all = decided(&|_| true, default != DefaultVerdict::Allow);
    match (enforced.verdict, all.verdict) {
        (AllowValue::ALLOW, AllowValue::DENY) => AllowValue::audit(all.rule),
        (AllowValue::ALLOW, AllowValue::DEFAULT) if default == DefaultVerdict::Deny => {
            AllowValue::audit(RuleId::NONE)
        }
        (AllowValue::ALLOW, AllowValue::DEFAULT) => AllowValue::DEFAULT_VALUE,
        (AllowValue::ALLOW, _) if enforced.rule == RuleId::NONE => all,
        (AllowValue::DEFAULT, AllowValue::DENY) => AllowValue::audited_default(all.rule),
        _ => enforced,
    }
}

/// Every combination of peer sets, with protocols and ports on both sides of each boundary.
fn questions() -> Vec<(Identity, (usize, Protocol, u16))> {
    let ports = (0..12).chain([79, 80, 81, 442, 443, 444, LAST_PORT - 2, LAST_PORT - 1, LAST_PORT]);
    let points: Vec<(Protocol, u16)> = [Protocol::TCP, Protocol::UDP]
        .into_iter()
        .flat_map(|protocol| ports.clone().map(move |port| (protocol, port)))
        .chain([(Protocol::SCTP, 80), (Protocol(1), 0)])
        .collect();
    identities()
        .into_iter()
        .chain([(Identity::NONE, 0)])
        .flat_map(|(identity, sets)| {
            points.iter().map(move |(protocol, port)| (identity, (sets, *protocol, *port)))
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_look_up_gives_the_verdict_of_the_rule_that_decides(
        rules in rules(), default in default_verdict(),
    ) {
        let Built { map, left_out } = compiled(&rules, default, &LeftOut::new(), 1 << 16);
        prop_assert!(left_out.is_empty());
        let accepts_only = rules.iter().all(|rule| rule.action == Action::Accept);
        for (identity, question) in questions() {
            let (_, protocol, port) = question;
            let found = look_up(&map, identity, protocol, port);
            let expected = expected(&rules, default, question);
            if accepts_only && default != DefaultVerdict::Allow {
                // A union names some rule that accepts.
                prop_assert_eq!(found.verdict, expected.verdict, "{:?}", question);
            } else {
                prop_assert_eq!(found, expected, "{:?} of {:#?}", question, map);
            }
        }
    }

    #[test]
    fn a_rule_that_is_left_out_opens_nothing(
        rules in rules(), default in default_verdict(), capacity in 1_usize..40, first in 0_usize..10,
    ) {
        let lacking: LeftOut = rules
            .iter()
            .skip(first)
            .step_by(3)
            .map(|rule| (rule.source.clone(), capacity::Lack::Identities))
            .collect();
        let Built { map, left_out } = compiled(&rules, default, &lacking, capacity);
        prop_assert!(map.len() <= capacity);
        prop_assert!(left_out.iter().all(|rule| !lacking.contains_key(rule)
            || rules.iter().any(|of| of.source == *rule && of.action != Action::Accept)));
        for (identity, question) in questions() {
            let (_, protocol, port) = question;
            let found = look_up(&map, identity, protocol, port);
            if found.verdict == AllowValue::ALLOW && found.rule != RuleId::NONE {
                let rule = &rules[usize::try_from(found.rule.0).unwrap() - 1];
                prop_assert!(!lacking.contains_key(&rule.source), "{question:?}");
                prop_assert!(!left_out.contains(&rule.source), "{question:?}");
            }
            if found.verdict == AllowValue::ALLOW {
                let all = expected(&rules, default, question);
                prop_assert_eq!(all.verdict, AllowValue::ALLOW, "{:?}", question);
            }
        }
    }
}

#[test]
fn an_exception_of_one_port_costs_two_entries() {
    let at = |index, action, ports| PolicyRule {
        tier: Tier::Admin,
        priority: 0,
        source: source(index),
        mode: PolicyMode::Enforce,
        action,
        peers: None,
        ports,
    };
    let range = PortRange::single(80);
    let http = PortSet::AnyOf([TransportPorts { transport: Transport::Tcp, range }].into());
    let tcp = PortSet::AnyOf([TransportPorts { transport: Transport::Tcp, range: None }].into());
    let rules = [at(0, Action::Deny, http), at(1, Action::Accept, tcp)];
    let built = compiled(&rules, DefaultVerdict::Deny, &LeftOut::new(), 10);
    let values: Vec<AllowValue> = built.map.into_values().collect();
    assert_eq!(values, [AllowValue::allow(RuleId(2)), AllowValue::deny(RuleId(1))]);
}

#[test]
fn a_rule_of_an_audited_policy_opens_nothing_that_an_enforced_one_isolates() {
    let accept = PolicyRule {
        tier: Tier::NetworkPolicy,
        priority: 0,
        source: source(0),
        mode: PolicyMode::Audit,
        action: Action::Accept,
        peers: None,
        ports: PortSet::All,
    };
    let verdict = |default| {
        let built = compiled(slice::from_ref(&accept), default, &LeftOut::new(), 10);
        look_up(&built.map, Identity::NONE, Protocol::TCP, 80).verdict
    };
    assert_eq!(verdict(DefaultVerdict::Deny), AllowValue::DEFAULT);
    assert_eq!(verdict(DefaultVerdict::Audit), AllowValue::ALLOW);
}

#[test]
fn an_audited_deny_is_known_where_an_enforced_policy_isolates_without_a_rule() {
    let deny = PolicyRule {
        tier: Tier::Admin,
        priority: 0,
        source: source(0),
        mode: PolicyMode::Audit,
        action: Action::Deny,
        peers: None,
        ports: PortSet::All,
    };
    let built = compiled(slice::from_ref(&deny), DefaultVerdict::Deny, &LeftOut::new(), 10);
    let found = look_up(&built.map, Identity::NONE, Protocol::TCP, 80);
    assert_eq!(found, AllowValue::audited_default(RuleId(1)));
}
