//! Absent, null and empty (items 4 to 20 of the semantics).

use expect_test::expect;

use super::*;

#[test]
fn a_missing_null_or_empty_pod_selector_selects_every_pod() {
    check("{}", &expect!["default/p isolates () for ingress"]);
    check("{ podSelector: null }", &expect!["default/p isolates () for ingress"]);
    check("{ podSelector: {} }", &expect!["default/p isolates () for ingress"]);
    check(
        "{ podSelector: { matchLabels: null, matchExpressions: [] } }",
        &expect!["default/p isolates () for ingress"],
    );
}

#[test]
fn missing_policy_types_are_ingress_and_egress_if_there_is_an_egress_rule() {
    check(
        "{ ingress: [{}] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] everybody on every port"#]],
    );
    check(
        "{ egress: [{}] }",
        &expect![[r#"
        default/p isolates () for ingress+egress
        egress[0] everybody on every port"#]],
    );
    check(
        "{ egress: [null] }",
        &expect![[r#"
        default/p isolates () for ingress+egress
        egress[0] everybody on every port"#]],
    );
    check("{ egress: [] }", &expect!["default/p isolates () for ingress"]);
    check(
        "{ policyTypes: [], egress: [{}] }",
        &expect![[r#"
        default/p isolates () for ingress+egress
        egress[0] everybody on every port"#]],
    );
    check("{ policyTypes: null, egress: null }", &expect!["default/p isolates () for ingress"]);
}

#[test]
fn explicit_policy_types_are_taken_as_they_are() {
    check(
        "{ policyTypes: [Egress], ingress: [{}] }",
        &expect![[r#"
        default/p isolates () for egress
        ingress[0] everybody on every port"#]],
    );
    check(
        "{ policyTypes: [Ingress], egress: [{}] }",
        &expect![[r#"
        default/p isolates () for ingress
        egress[0] everybody on every port"#]],
    );
    check("{ policyTypes: [Ingress, Ingress] }", &expect!["default/p isolates () for ingress"]);
    check(
        "{ policyTypes: [Egress, Ingress] }",
        &expect!["default/p isolates () for ingress+egress"],
    );
}

#[test]
fn no_rules_allow_nothing_and_an_empty_rule_allows_everything() {
    check("{ ingress: null }", &expect!["default/p isolates () for ingress"]);
    check("{ ingress: [] }", &expect!["default/p isolates () for ingress"]);
    check(
        "{ ingress: [{}] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] everybody on every port"#]],
    );
    check(
        "{ ingress: [null] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] everybody on every port"#]],
    );
}

#[test]
fn missing_null_or_empty_peers_and_ports_are_all() {
    check(
        "{ ingress: [{ from: null, ports: null }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] everybody on every port"#]],
    );
    check(
        "{ ingress: [{ from: [], ports: [] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] everybody on every port"#]],
    );
    check(
        "{ policyTypes: [Egress], egress: [{ to: [], ports: [] }] }",
        &expect![[r#"
        default/p isolates () for egress
        egress[0] everybody on every port"#]],
    );
}

#[test]
fn a_missing_protocol_is_tcp_and_a_missing_port_is_every_port() {
    check(
        "{ ingress: [{ ports: [{}] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] everybody on TCP"#]],
    );
    check(
        "{ ingress: [{ ports: [null] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] everybody on TCP"#]],
    );
    check(
        "{ ingress: [{ ports: [{ protocol: UDP }] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] everybody on UDP"#]],
    );
    check(
        "{ ingress: [{ ports: [{ protocol: null, port: 80, endPort: null }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] everybody on TCP/80"#]],
    );
    check(
        "{ ingress: [{ ports: [{ port: http, protocol: SCTP }, { port: 1, endPort: 65535 }, { port: 7, endPort: 7 }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] everybody on SCTP/http, TCP/1-65535, TCP/7"#]],
    );
}

#[test]
fn selectors_of_a_peer_keep_missing_and_empty_apart() {
    check(
        "{ ingress: [{ from: [{ podSelector: {} }] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] pods () on every port"#]],
    );
    check(
        "{ ingress: [{ from: [{ namespaceSelector: {} }] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] pods () in () on every port"#]],
    );
    check(
        "{ ingress: [{ from: [{ namespaceSelector: {}, podSelector: {} }] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] pods () in () on every port"#]],
    );
    check(
        "{ ingress: [{ from: [{ podSelector: { matchLabels: { a: b } }, namespaceSelector: null, ipBlock: null }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] pods (a in {"b"}) on every port"#]],
    );
    check(
        "{ ingress: [{ from: [{ namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: x } } }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] pods () in (kubernetes.io/metadata.name in {"x"}) on every port"#]],
    );
}

#[test]
fn every_operator_of_a_selector_is_read() {
    check(
        r#"
        podSelector:
          matchLabels: { app: web, empty: "", nothing: null }
          matchExpressions:
            - { key: a, operator: In, values: [x, z, x] }
            - { key: b, operator: NotIn, values: [""] }
            - { key: c, operator: Exists }
            - { key: d.example.org/e, operator: DoesNotExist, values: [] }
        "#,
        &expect![[
            r#"default/p isolates (a in {"x", "z"}, app in {"web"}, empty in {""}, nothing in {""}, b not in {""}, has c, lacks d.example.org/e) for ingress"#
        ]],
    );
}

#[test]
fn the_namespace_is_default_and_annotations_are_read() {
    check_object(
        &json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "a.b", "namespace": "shop", "annotations": { "netpol/mode": "audit", "netpol/existing-connections": "keep", "other": "x" } } }),
        &expect!["shop/a.b isolates () for ingress, audit, keep"],
    );
    check_object(
        &json!({ "metadata": { "name": "a", "annotations": { "netpol/mode": "enforce", "netpol/existing-connections": "cut" } }, "status": {} }),
        &expect!["default/a isolates () for ingress"],
    );
}
