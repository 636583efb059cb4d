//! The rules that exceed the capacity, and the effect on all other rules.

use netpol_common::ids::{Direction, IfIndex, Protocol, RuleId};

use super::*;
use crate::compile::allow_map::{self, RuleInForce};
use crate::compile::{AllowMapKey, Compilation, MapState, Numbering, compile_within};
use crate::manifests::parse;

use crate::resolve::DefaultVerdict;
use crate::store::{Delta, Endpoint, PodEnd};

/// Pods shop/web with interface 7 and shop/db with interface 8, and three other pods.
const CLUSTER: &str = r"
{ apiVersion: v1, kind: Pod, metadata: { name: web, namespace: shop, labels: { app: web } }, status: { podIP: 10.0.0.7 } }
---
{ apiVersion: v1, kind: Pod, metadata: { name: db, namespace: shop, labels: { app: db } }, status: { podIP: 10.0.0.8 } }
---
{ apiVersion: v1, kind: Pod, metadata: { name: a, namespace: ops, labels: { app: a } }, status: { podIP: 10.0.1.1 } }
---
{ apiVersion: v1, kind: Pod, metadata: { name: b, namespace: ops, labels: { app: b } }, status: { podIP: 10.0.1.2 } }
---
{ apiVersion: v1, kind: Pod, metadata: { name: c, namespace: ops, labels: { app: c } }, status: { podIP: 10.0.1.3 } }
";

const ROOMY: Capacities = Capacities {
    n_prefixes: Shared::undivided(99),
    n_identities: Shared::undivided(99),
    n_allow_entries: 99,
    n_deferred: Shared::undivided(99),
    n_comparisons: Shared::undivided(999),
    n_times_each: 0,
    n_entries: Shared::undivided(999),
};

fn policy(name: &str, app: &str, ingress: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec: {{ podSelector: {{ matchLabels: {{ app: {app} }} }}, ingress: [{ingress}] }}\n"
    )
}

/// A rule for blocks 192.168.N.0/24.
fn from_blocks(blocks: &[u8]) -> String {
    let blocks: Vec<_> =
        blocks.iter().map(|n| format!("{{ ipBlock: {{ cidr: 192.168.{n}.0/24 }} }}")).collect();
    format!("{{ from: [{}] }}", blocks.join(", "))
}

fn state(policies: &[String]) -> ClusterState {
    let manifests = parse("test.yaml", &format!("{CLUSTER}{}", policies.concat()));
    assert!(manifests.findings.is_empty(), "{:?}", manifests.findings);
    let mut state = ClusterState::default();
    for sourced in manifests.objects {
        drop(state.apply(Delta::Upsert(sourced.object)));
    }
    for (ifindex, pod) in [(7, "web"), (8, "db")] {
        drop(state.apply(Delta::UpsertEndpoint(Endpoint {
            ifindex: IfIndex(ifindex),
            container_id: Arc::from("c"),
            pod: ObjectName::new("shop", pod),
            pod_uid: Arc::from(""),
            egress_mark: 0,
            addresses: Vec::new(),
            pod_end: PodEnd::default(),
        })));
    }
    state
}

/// Compiles policies. Returns the map state and the rules that are left out.
fn compile(policies: &[String], capacities: Capacities) -> (MapState, Vec<String>) {
    let state = state(policies);
    let Compilation { map_state, left_out, refused: _ } =
        compile_within(&state, &mut Numbering::default(), &MapState::default(), &capacities);
    let rules = left_out.keys().map(ToString::to_string).collect();
    (map_state, rules)
}

#[track_caller]
fn check(policies: &[String], capacities: Capacities, expected: &[&str]) {
    assert_eq!(compile(policies, capacities).1, expected);
}

#[test]
fn the_largest_policy_goes_without_and_stays_isolating() {
    let policies = [
        policy("large", "web", &from_blocks(&[1, 2, 3, 4])),
        policy("small", "db", &from_blocks(&[9])),
    ];
    // One node is where IPv4 begins.
    let (map_state, left_out) =
        compile(&policies, Capacities { n_prefixes: Shared::undivided(5), ..ROOMY });
    assert_eq!(left_out, ["shop/large ingress[0]"]);
    let allow = |ifindex| &map_state.allow[&AllowMapKey::new(IfIndex(ifindex), Direction::Ingress)];
    assert!(map_state.endpoints[&IfIndex(7)].value.is_isolated(Direction::Ingress));
    assert!(allow(7).is_empty());
    let (roomy, _) = compile(&policies[1..], ROOMY);
    assert_eq!(allow(8).len(), 1);
    assert_eq!(
        map_state.prefixes.keys().collect::<Vec<_>>(),
        roomy.prefixes.keys().collect::<Vec<_>>()
    );
    check(&policies, Capacities { n_prefixes: Shared::undivided(6), ..ROOMY }, &[]);
}

#[test]
fn of_equally_large_policies_the_later_name_goes_without() {
    let policies = ["b", "a", "c"].map(|name| {
        let n = name.as_bytes()[0];
        policy(name, "web", &from_blocks(&[n, n + 10]))
    });
    check(
        &policies,
        Capacities { n_prefixes: Shared::undivided(5), ..ROOMY },
        &["shop/c ingress[0]"],
    );
}

#[test]
fn of_a_policy_the_largest_rules_go_without() {
    let rules = [from_blocks(&[1, 2, 3]), from_blocks(&[4]), from_blocks(&[5, 6])].join(", ");
    let policies = [policy("large", "web", &rules), policy("small", "db", &from_blocks(&[9]))];
    check(
        &policies,
        Capacities { n_prefixes: Shared::undivided(5), ..ROOMY },
        &["shop/large ingress[0]"],
    );
}

#[test]
fn a_list_of_blocks_that_a_smaller_rule_has_costs_nothing_more() {
    let both = [from_blocks(&[1, 2, 3]), from_blocks(&[4, 5, 6])].join(", ");
    let policies = [
        policy("both", "web", &both),
        policy("one", "db", &from_blocks(&[1, 2, 3])),
        policy("two", "db", &from_blocks(&[4, 5, 6])),
    ];
    check(&policies, Capacities { n_prefixes: Shared::undivided(7), ..ROOMY }, &[]);
}

#[test]
fn a_policy_that_selects_nobody_here_uses_no_capacity() {
    let policies = [
        policy("elsewhere", "nobody", &from_blocks(&[1, 2, 3, 4])),
        policy("small", "db", &from_blocks(&[9])),
    ];
    check(&policies, Capacities { n_prefixes: Shared::undivided(2), ..ROOMY }, &[]);
}

#[test]
fn peers_that_select_too_many_pods_go_without() {
    let select = |namespace: &str, app: &str| {
        format!(
            "{{ from: [{{ namespaceSelector: {namespace}, podSelector: {{ matchLabels: {app} }} }}] }}"
        )
    };
    let policies = [
        policy("large", "web", &select("{}", "{}")),
        policy("small", "db", &select("{}", "{ app: a }")),
    ];
    check(
        &policies,
        Capacities { n_identities: Shared::undivided(4), ..ROOMY },
        &["shop/large ingress[0]"],
    );
    check(&policies, Capacities { n_identities: Shared::undivided(5), ..ROOMY }, &[]);
}

#[test]
fn rules_that_are_too_much_together_are_cut_where_they_meet() {
    let ports = |ports: &str| format!("{{ ports: [{ports}] }}");
    let policies = [
        policy("wide", "web", &ports("{ port: 1, endPort: 7 }")),
        policy("narrow", "web", &ports("{ port: 80 }, { port: 81 }")),
        policy("wide-too", "db", &ports("{ port: 1, endPort: 7 }")),
    ];
    let (map_state, left_out) = compile(&policies, Capacities { n_allow_entries: 4, ..ROOMY });
    assert_eq!(left_out, ["shop/wide ingress[0]"]);
    let ports = |ifindex| {
        let map = &map_state.allow[&AllowMapKey::new(IfIndex(ifindex), Direction::Ingress)];
        map.keys().map(|key| (key.protocol, key.port.get())).collect::<Vec<_>>()
    };
    assert_eq!(ports(7), [(Protocol(6), 80), (Protocol(6), 81)]);
    assert_eq!(ports(8).len(), 3);
}

/// One namespace once took all of PREFIXES by many small policies, and the rule of another allowed nothing.
#[test]
fn a_namespace_that_needs_little_is_not_refused_because_another_needs_all() {
    let many = (0..40).map(|n| policy(&format!("a-{n:02}"), "web", &from_blocks(&[n])));
    let other = policy("b", "a", &from_blocks(&[100, 101, 102])).replace("shop", "ops");
    let policies: Vec<String> = many.chain([other]).collect();
    let mut state = state(&policies);
    let endpoint = Endpoint {
        ifindex: IfIndex(9),
        container_id: Arc::from("c"),
        pod: ObjectName::new("ops", "a"),
        pod_uid: Arc::from(""),
        egress_mark: 0,
        addresses: Vec::new(),
        pod_end: PodEnd::default(),
    };
    drop(state.apply(Delta::UpsertEndpoint(endpoint)));
    let left_out = |shared| {
        let capacities = Capacities { n_prefixes: shared, ..ROOMY };
        let Compilation { left_out, .. } =
            compile_within(&state, &mut Numbering::default(), &MapState::default(), &capacities);
        left_out.keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    let refused = left_out(Shared::undivided(21));
    assert_eq!(refused.len(), 40 - (20 - 3), "{refused:?}");
    assert!(refused.iter().all(|rule| rule.starts_with("shop/")), "{refused:?}");
    let refused = left_out(Shared { total: 99, of_namespace: 30 });
    assert_eq!(refused.len(), 10, "{refused:?}");
    assert!(refused.iter().all(|rule| rule.starts_with("shop/")), "{refused:?}");
}

/// One Service with very many addresses once filled DEFER, and then the kernel refused every change of anybody.
#[test]
fn a_service_with_too_many_addresses_is_refused_alone_and_every_verdict_is_deferred() {
    let service = |namespace: &str, name: &str, addresses: std::ops::Range<u8>| {
        let addresses: Vec<_> = addresses.map(|n| format!("\"203.0.113.{n}\"")).collect();
        format!(
            "---\n{{ apiVersion: v1, kind: Service, metadata: {{ name: {name}, namespace: {namespace} }}, \
             spec: {{ externalIPs: [{}], ports: [{{ port: 80 }}] }} }}\n",
            addresses.join(", ")
        )
    };
    let egress = policy("egress", "web", "").replace("ingress: []", "policyTypes: [Egress]");
    let objects = [
        egress,
        service("shop", "small", 0..3),
        service("shop", "huge", 10..40),
        service("ops", "other", 50..59),
    ];
    let state = state(&objects);
    let compile = |shared| {
        let capacities = Capacities { n_deferred: shared, ..ROOMY };
        compile_within(&state, &mut Numbering::default(), &MapState::default(), &capacities)
    };
    let of_web = |compilation: &Compilation| compilation.map_state.endpoints[&IfIndex(7)].value;
    let of_db = |compilation: &Compilation| compilation.map_state.endpoints[&IfIndex(8)].value;
    let roomy = compile(Shared::undivided(42));
    assert!(roomy.refused.is_empty() && !of_web(&roomy).defers_all());
    for few in [Shared::undivided(41), Shared { total: 99, of_namespace: 32 }] {
        let reduced = compile(few);
        let refused = BTreeMap::from([(ObjectName::new("shop", "huge"), 30)]);
        assert_eq!(reduced.refused, refused);
        assert_eq!(reduced.map_state.defer.len(), 12);
        assert!(of_web(&reduced).defers_all());
        assert!(!of_db(&reduced).defers_all(), "its egress is not isolated");
        let found = diagnostics(&reduced.left_out, &reduced.refused, &ROOMY);
        assert_eq!(
            found[0].to_string(),
            "Service shop/huge: spec.externalIPs its 30 addresses, together with those of smaller Services, exceed the share of \
             namespace shop in the node's 99: isolated pods of the node reach every destination by a slower path until there \
             are fewer of them [over-capacity]"
        );
    }
}

/// One policy with very many rules for very many pods once took more memory than the agent may have, and delayed all others.
#[test]
fn a_policy_over_its_budget_allows_nothing_and_isolates() {
    let unlike = |n: usize| {
        format!(
            "{{ from: [{{ podSelector: {{ matchExpressions: [{{ key: k{n}, operator: DoesNotExist }}] }} }}], ports: [{{ port: {n} }}] }}"
        )
    };
    let rules: Vec<_> = (1..=30).map(unlike).collect();
    let policies = [policy("large", "web", &rules.join(", ")), policy("small", "db", &unlike(80))];
    let state = state(&policies);
    let compile = |capacities| {
        compile_within(&state, &mut Numbering::default(), &MapState::default(), &capacities)
    };
    let n_entries = |compilation: &Compilation, ifindex| {
        let key = AllowMapKey::new(IfIndex(ifindex), Direction::Ingress);
        compilation.map_state.allow[&key].len()
    };
    let all = compile(Capacities { n_allow_entries: 999, ..ROOMY });
    assert_eq!((all.left_out.len(), n_entries(&all, 7), n_entries(&all, 8)), (0, 30, 1));
    // Two label classes in the namespace, each compared with one requirement: four comparisons for a rule.
    let few_comparisons =
        Capacities { n_comparisons: Shared { total: 999, of_namespace: 84 }, ..ROOMY };
    let few_entries = Capacities { n_entries: Shared { total: 999, of_namespace: 21 }, ..ROOMY };
    for (capacities, expected) in [
        (few_comparisons, Lack::Comparisons { n_wanted: 4 }),
        (few_entries, Lack::Entries { n_wanted: 1 }),
    ] {
        let few = compile(capacities);
        assert_eq!(few.left_out.len(), 10, "{:?}", few.left_out);
        assert!(few.left_out.values().all(|lack| *lack == expected), "{:?}", few.left_out);
        assert_eq!((n_entries(&few, 7), n_entries(&few, 8)), (20, 1));
        assert!(few.map_state.endpoints[&IfIndex(7)].value.is_isolated(Direction::Ingress));
        let found = diagnostics(&few.left_out, &few.refused, &capacities);
        assert_eq!(found.len(), MAX_NAMED);
        assert!(found[0].message.contains("share of namespace shop"), "{}", found[0]);
    }
}

#[test]
fn a_product_of_peers_and_ports_that_nobody_could_hold_is_never_made() {
    let rule = |name: &str| {
        let state = state(&[policy(name, "web", &from_blocks(&[1]))]);
        every_rule(&state).remove(0)
    };
    let rules = [rule("vast"), rule("small")];
    let everybody: Vec<_> = (1_000..2_000_000).map(netpol_common::ids::Identity).collect();
    let left_out = LeftOut::new();
    let in_force = rules
        .iter()
        .filter_map(|rule| RuleInForce::new(RuleId(1), rule, rule.peers.as_ref(), [&left_out; 2]));
    let members = |peers: &Arc<PeerSet>| {
        let is_vast = Arc::ptr_eq(peers, rules[0].peers.as_ref().unwrap());
        if is_vast { everybody.iter() } else { everybody[..2].iter() }
    };
    let built = allow_map::build(in_force, DefaultVerdict::Deny, members, 10);
    assert_eq!(built.map.len(), 2);
    assert_eq!(built.left_out, BTreeSet::from([rules[0].source.clone()]));
}

#[test]
fn findings_name_field_and_capacity_and_are_not_too_many() {
    let rules: Vec<_> = (0..12).map(|n| from_blocks(&[n, n + 100])).collect();
    let state = state(&[policy("large", "web", &rules.join(", "))]);
    let capacities = Capacities { n_prefixes: Shared::undivided(1), ..ROOMY };
    let found =
        diagnostics(&left_out_of_all(&state, &capacities), &RefusedServices::new(), &capacities);
    assert_eq!(found.len(), MAX_NAMED + 1);
    assert_eq!(
        found[0].to_string(),
        "NetworkPolicy shop/large: spec.ingress[0].from its 2 address blocks and exceptions, together with those of smaller \
         policies, exceed the share of namespace shop in the node's 1: the rule allows nothing until there are fewer of them \
         [over-capacity]"
    );
    assert_eq!(
        found[MAX_NAMED].to_string(),
        "NetworkPolicy shop/large: spec 2 more rules exceed the capacity of the node, and are left out likewise [over-capacity]"
    );
}
