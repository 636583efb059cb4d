//! The sentences of explanations.

use std::sync::Arc;

use expect_test::{Expect, expect};

use super::*;
use crate::compile::{Capacities, Shared};
use crate::manifests::{Cause, parse};
use crate::model::ObjectName;
use crate::simulate::{Cluster, Engine, PodOrIp, PortChoice};
use crate::store::{Delta, PublishedPod};

const SHOP: &str = r"
{ apiVersion: v1, kind: Namespace, metadata: { name: shop, labels: { team: shop } } }
---
{ apiVersion: v1, kind: Namespace, metadata: { name: ops, labels: { team: ops } } }
---
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: shop, labels: { app: web } }
spec: { nodeName: n1, containers: [{ name: c, ports: [{ name: http, containerPort: 8080 }] }] }
status: { phase: Running, podIPs: [{ ip: 10.0.0.1 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: probe, namespace: ops }
spec: { nodeName: n2, containers: [{ name: c }] }
status: { phase: Running, podIPs: [{ ip: 10.0.0.3 }] }
---
{ apiVersion: v1, kind: Node, metadata: { name: n1 }, status: { addresses: [{ type: InternalIP, address: 192.168.0.1 }] } }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: web, namespace: shop }
spec:
  podSelector: {}
  ingress:
  - { from: [{ podSelector: { matchLabels: { app: db } } }] }
  - { from: [{ namespaceSelector: { matchLabels: { team: ops } } }], ports: [{ port: 443 }] }
  - { ports: [{ port: http }] }
  - { from: [{ ipBlock: { cidr: 10.0.0.0/8, except: [10.0.0.0/24] } }, { ipBlock: { cidr: 1.0.0.0/8 } }] }
  - { from: [{ namespaceSelector: { matchExpressions: [{ key: team, operator: DoesNotExist }] } }], ports: [{ port: dns, protocol: UDP }] }
  - { from: [{ ipBlock: { cidr: 10.0.0.0/33 } }] }
";

/// The sentences of the explanation, egress first.
#[track_caller]
fn check(from: &str, to: &str, port: &str, expected: &Expect) {
    check_within(Capacities::default(), from, to, port, expected);
}

#[track_caller]
fn check_within(capacities: Capacities, from: &str, to: &str, port: &str, expected: &Expect) {
    check_text(SHOP, capacities, [from, to, port], expected);
}

#[track_caller]
fn check_text(text: &str, capacities: Capacities, [from, to, port]: [&str; 3], expected: &Expect) {
    let manifests = parse("shop.yaml", text);
    let diagnostics: Vec<Diagnostic> = manifests
        .findings
        .iter()
        .filter_map(|finding| match &finding.cause {
            Cause::Object(diagnostic) => Some(diagnostic.clone()),
            Cause::File { .. } => None,
        })
        .collect();
    let mut cluster = Cluster::within(Engine::Reference, capacities);
    cluster.set(manifests.objects.into_iter().map(|sourced| sourced.object).collect()).unwrap();
    let end = |text: &str| text.parse::<PodOrIp>().unwrap();
    let probe = Probe {
        from: end(from),
        to: end(to),
        port: PortChoice::from(port),
        transport: Transport::Tcp,
    };
    let found = cluster.findings();
    let is_left_out = |_: &Pod, rule: &RuleRef| cluster.left_out().contains_key(rule);
    let explanation =
        explain(cluster.state(), &probe, diagnostics.iter().chain(&found), is_left_out);
    assert_eq!(cluster.probe(&probe).unwrap().is_allowed, explanation.is_allowed);
    let mut lines: Vec<String> = explanation.problem.clone().into_iter().collect();
    for end in [&explanation.egress, &explanation.ingress].into_iter().flatten() {
        lines.push(end.summary.clone());
        lines.extend(end.passing.iter().map(|rule| format!("> {}", rule.sentence)));
        lines.extend(end.denying.iter().map(|rule| format!("x {}", rule.sentence)));
        lines.extend(end.allowing.iter().map(|rule| format!("+ {}", rule.sentence)));
        lines.extend(end.misses.iter().map(|rule| format!("- {}", rule.sentence)));
    }
    lines.extend(explanation.diagnostics.iter().map(|diagnostic| format!("! {diagnostic}")));
    expected.assert_eq(&lines.join("\n"));
    // What is sent is what is received.
    let text = serde_json::to_string(&explanation).unwrap();
    assert_eq!(serde_json::from_str::<Explanation>(&text).unwrap(), explanation);
}

#[test]
fn the_nearest_miss_comes_first_and_says_what_is_missing() {
    check(
        "ops/probe",
        "shop/web",
        "80",
        &expect![[r#"
            allowed: no policy isolates ops/probe for egress
            denied: shop/web is isolated for ingress, and no rule allows the connection
            - shop/web ingress[1] allows this peer on TCP/443, not on TCP/80
            - shop/web ingress[2] allows this peer on TCP/http (8080 on shop/web), not on TCP/80
            - shop/web ingress[0] allows TCP/80 from pods with app=db of the policy's namespace: ops/probe is in another namespace
            - shop/web ingress[3] allows TCP/80 from 10.0.0.0/8 except 10.0.0.0/24, or 1.0.0.0/8: 10.0.0.3 is in `except` 10.0.0.0/24; 10.0.0.3 is not in 1.0.0.0/8
            - shop/web ingress[5] allows TCP/80 from no peer (every item of `from` is invalid)
            - shop/web ingress[4] allows UDP/dns (shop/web has no port of this name) from all pods of namespaces with !team: neither the peer nor the port matches
            ! NetworkPolicy shop/web: spec.ingress[5].from[0].ipBlock.cidr "10.0.0.0/33" is not an address block such as 10.0.0.0/8: the block matches nothing [invalid-block]"#]],
    );
}

#[test]
fn rules_that_allow_are_named() {
    check(
        "ops/probe",
        "shop/web",
        "http",
        &expect![[r#"
            allowed: no policy isolates ops/probe for egress
            allowed: shop/web is isolated for ingress, and a rule allows the connection
            + shop/web ingress[2] allows TCP/http (8080 on shop/web) from all sources
            - shop/web ingress[1] allows this peer on TCP/443, not on TCP/8080
            - shop/web ingress[0] allows TCP/8080 from pods with app=db of the policy's namespace: ops/probe is in another namespace
            - shop/web ingress[3] allows TCP/8080 from 10.0.0.0/8 except 10.0.0.0/24, or 1.0.0.0/8: 10.0.0.3 is in `except` 10.0.0.0/24; 10.0.0.3 is not in 1.0.0.0/8
            - shop/web ingress[5] allows TCP/8080 from no peer (every item of `from` is invalid)
            - shop/web ingress[4] allows UDP/dns (shop/web has no port of this name) from all pods of namespaces with !team: neither the peer nor the port matches
            ! NetworkPolicy shop/web: spec.ingress[5].from[0].ipBlock.cidr "10.0.0.0/33" is not an address block such as 10.0.0.0/8: the block matches nothing [invalid-block]"#]],
    );
}

#[test]
fn an_address_outside_the_cluster_is_distinguished_from_pods() {
    check(
        "10.0.0.77",
        "shop/web",
        "80",
        &expect![[r#"
            denied: shop/web is isolated for ingress, and no rule allows the connection
            - shop/web ingress[2] allows this peer on TCP/http (8080 on shop/web), not on TCP/80
            - shop/web ingress[0] allows TCP/80 from pods with app=db of the policy's namespace: 10.0.0.77 does not belong to a pod
            - shop/web ingress[3] allows TCP/80 from 10.0.0.0/8 except 10.0.0.0/24, or 1.0.0.0/8: 10.0.0.77 is in `except` 10.0.0.0/24; 10.0.0.77 is not in 1.0.0.0/8
            - shop/web ingress[5] allows TCP/80 from no peer (every item of `from` is invalid)
            - shop/web ingress[1] allows TCP/443 from all pods of namespaces with team=ops: neither the peer nor the port matches
            - shop/web ingress[4] allows UDP/dns (shop/web has no port of this name) from all pods of namespaces with !team: neither the peer nor the port matches
            ! NetworkPolicy shop/web: spec.ingress[5].from[0].ipBlock.cidr "10.0.0.0/33" is not an address block such as 10.0.0.0/8: the block matches nothing [invalid-block]"#]],
    );
}

#[test]
fn the_own_node_needs_no_rule() {
    check(
        "192.168.0.1",
        "shop/web",
        "80",
        &expect![[r#"
            allowed: the peer is the node of shop/web
            - shop/web ingress[2] allows this peer on TCP/http (8080 on shop/web), not on TCP/80
            - shop/web ingress[0] allows TCP/80 from pods with app=db of the policy's namespace: 192.168.0.1 does not belong to a pod
            - shop/web ingress[3] allows TCP/80 from 10.0.0.0/8 except 10.0.0.0/24, or 1.0.0.0/8: 192.168.0.1 is not in 10.0.0.0/8; 192.168.0.1 is not in 1.0.0.0/8
            - shop/web ingress[5] allows TCP/80 from no peer (every item of `from` is invalid)
            - shop/web ingress[1] allows TCP/443 from all pods of namespaces with team=ops: neither the peer nor the port matches
            - shop/web ingress[4] allows UDP/dns (shop/web has no port of this name) from all pods of namespaces with !team: neither the peer nor the port matches
            ! NetworkPolicy shop/web: spec.ingress[5].from[0].ipBlock.cidr "10.0.0.0/33" is not an address block such as 10.0.0.0/8: the block matches nothing [invalid-block]"#]],
    );
}

#[test]
fn an_impossible_connection_has_a_problem() {
    check("shop/web", "shop/none", "80", &expect!["pod shop/none does not exist"]);
    check(
        "shop/web",
        "fd00::1",
        "80",
        &expect!["source and destination have no address family in common"],
    );
}

#[test]
fn a_rule_over_capacity_allows_nothing_and_the_sentence_says_so() {
    let few = Capacities { n_prefixes: Shared::undivided(3), ..Capacities::default() };
    check_within(
        few,
        "1.2.3.4",
        "shop/web",
        "8443",
        &expect![[r#"
            denied: shop/web is isolated for ingress, and no rule allows the connection
            - shop/web ingress[3] would allow every port from 10.0.0.0/8 except 10.0.0.0/24, or 1.0.0.0/8, but exceeds the capacity of the node's maps
            - shop/web ingress[2] allows this peer on TCP/http (8080 on shop/web), not on TCP/8443
            - shop/web ingress[0] allows TCP/8443 from pods with app=db of the policy's namespace: 1.2.3.4 does not belong to a pod
            - shop/web ingress[5] allows TCP/8443 from no peer (every item of `from` is invalid)
            - shop/web ingress[1] allows TCP/443 from all pods of namespaces with team=ops: neither the peer nor the port matches
            - shop/web ingress[4] allows UDP/dns (shop/web has no port of this name) from all pods of namespaces with !team: neither the peer nor the port matches
            ! NetworkPolicy shop/web: spec.ingress[5].from[0].ipBlock.cidr "10.0.0.0/33" is not an address block such as 10.0.0.0/8: the block matches nothing [invalid-block]
            ! NetworkPolicy shop/web: spec.ingress[3].from its 3 address blocks and exceptions, together with those of smaller policies, exceed the share of namespace shop in the node's 3: the rule allows nothing until there are fewer of them [over-capacity]"#]],
    );
}

/// Policies of all tiers for shop/web.
const TIERS: &str = r"
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: { name: guard }
spec:
  tier: Admin
  priority: 5
  subject: { namespaces: { matchLabels: { team: shop } } }
  ingress:
  - name: tls
    action: Pass
    from: [{ namespaces: {} }]
    protocols: [{ tcp: { destinationPort: { number: 443 } } }]
  - name: ops
    action: Deny
    from: [{ namespaces: { matchLabels: { team: ops } } }]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: { name: trial, annotations: { netpol/mode: audit } }
spec:
  tier: Baseline
  priority: 5
  subject: { namespaces: { matchLabels: { team: ops } } }
  egress:
  - { action: Deny, to: [{ networks: [10.0.0.0/8] }] }
";

#[track_caller]
fn check_tiers(port: &str, expected: &Expect) {
    let text = format!("{SHOP}{TIERS}");
    check_text(&text, Capacities::default(), ["ops/probe", "shop/web", port], expected);
}

#[test]
fn rules_of_every_tier_are_named() {
    check_tiers(
        "8080",
        &expect![[r#"
        allowed: a rule denies the connection, but its policy is in audit mode
        x ClusterNetworkPolicy trial egress[0] denies every port to 10.0.0.0/8
        denied: a rule of the Admin tier denies the connection
        x ClusterNetworkPolicy guard ingress[1] (ops) denies every port from all pods of namespaces with team=ops
        - shop/web ingress[2] allows TCP/http (8080 on shop/web) from all sources, but a rule with precedence decides
        - ClusterNetworkPolicy guard ingress[0] (tls) passes on this peer on TCP/443, not on TCP/8080
        - shop/web ingress[1] allows this peer on TCP/443, not on TCP/8080
        - shop/web ingress[0] allows TCP/8080 from pods with app=db of the policy's namespace: ops/probe is in another namespace
        - shop/web ingress[3] allows TCP/8080 from 10.0.0.0/8 except 10.0.0.0/24, or 1.0.0.0/8: 10.0.0.3 is in `except` 10.0.0.0/24; 10.0.0.3 is not in 1.0.0.0/8
        - shop/web ingress[5] allows TCP/8080 from no peer (every item of `from` is invalid)
        - shop/web ingress[4] allows UDP/dns (shop/web has no port of this name) from all pods of namespaces with !team: neither the peer nor the port matches
        ! NetworkPolicy shop/web: spec.ingress[5].from[0].ipBlock.cidr "10.0.0.0/33" is not an address block such as 10.0.0.0/8: the block matches nothing [invalid-block]"#]],
    );
    check_tiers(
        "443",
        &expect![[r#"
        allowed: a rule denies the connection, but its policy is in audit mode
        x ClusterNetworkPolicy trial egress[0] denies every port to 10.0.0.0/8
        allowed: shop/web is isolated for ingress, and a rule allows the connection
        > ClusterNetworkPolicy guard ingress[0] (tls) passes on TCP/443 from all pods of all namespaces
        + shop/web ingress[1] allows TCP/443 from all pods of namespaces with team=ops
        - ClusterNetworkPolicy guard ingress[1] (ops) denies every port from all pods of namespaces with team=ops, but a rule with precedence decides
        - shop/web ingress[2] allows this peer on TCP/http (8080 on shop/web), not on TCP/443
        - shop/web ingress[0] allows TCP/443 from pods with app=db of the policy's namespace: ops/probe is in another namespace
        - shop/web ingress[3] allows TCP/443 from 10.0.0.0/8 except 10.0.0.0/24, or 1.0.0.0/8: 10.0.0.3 is in `except` 10.0.0.0/24; 10.0.0.3 is not in 1.0.0.0/8
        - shop/web ingress[5] allows TCP/443 from no peer (every item of `from` is invalid)
        - shop/web ingress[4] allows UDP/dns (shop/web has no port of this name) from all pods of namespaces with !team: neither the peer nor the port matches
        ! NetworkPolicy shop/web: spec.ingress[5].from[0].ipBlock.cidr "10.0.0.0/33" is not an address block such as 10.0.0.0/8: the block matches nothing [invalid-block]"#]],
    );
}

#[test]
fn an_address_that_only_the_pods_node_publishes_is_named() {
    const DB: &str = r"
apiVersion: v1
kind: Pod
metadata: { name: db, namespace: shop, uid: u, labels: { app: db } }
spec: { nodeName: n2, containers: [{ name: c }] }
";
    let mut state = ClusterState::default();
    for text in [SHOP, DB] {
        for sourced in parse("shop.yaml", text).objects {
            drop(state.apply(Delta::Upsert(sourced.object)));
        }
    }
    let published = PublishedPod {
        pod: ObjectName::new("shop", "db"),
        uid: Arc::from("u"),
        addresses: vec!["10.0.0.9".parse().unwrap()],
    };
    let node = Arc::from("n2");
    drop(state.apply(Delta::PublishedAddresses { node, pods: vec![published] }));
    let probe = Probe {
        from: "shop/db".parse().unwrap(),
        to: "shop/web".parse().unwrap(),
        port: PortChoice::from("80"),
        transport: Transport::Tcp,
    };
    let explanation = explain(&state, &probe, [], |_, _| false);
    let mut text = Vec::new();
    explanation.write_text(TextForm::WHOLE, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    expect![[r"
        shop/db -> shop/web 80/TCP: allowed
          packets: 10.0.0.9 -> 10.0.0.1:80
          10.0.0.9 of pod shop/db is published by its node n2, not yet reported by the API"]]
    .assert_eq(&text.lines().take(3).collect::<Vec<_>>().join("\n"));
}
