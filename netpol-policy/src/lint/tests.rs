//! Each check reports its kind of mistake, and nothing in correct objects.

use super::*;
use crate::manifests::parse;
use crate::store::Delta;

/// Namespaces shop and ops; pods shop/web, shop/db, ops/prometheus; a Service.
pub(super) const CLUSTER: &str = r"
{ apiVersion: v1, kind: Namespace, metadata: { name: shop, labels: { team: shop } } }
---
{ apiVersion: v1, kind: Namespace, metadata: { name: ops, labels: { team: ops } } }
---
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: shop, labels: { app: web } }
spec: { containers: [{ name: c, ports: [{ name: http, containerPort: 8080 }] }] }
status: { phase: Running, podIPs: [{ ip: 10.0.0.1 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: db, namespace: shop, labels: { app: db } }
spec: { containers: [{ name: c, ports: [{ name: pg, containerPort: 5432 }] }] }
status: { phase: Running, podIPs: [{ ip: 10.0.0.2 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: prometheus, namespace: ops, labels: { app: prometheus } }
spec: { containers: [{ name: c }] }
status: { phase: Running, podIPs: [{ ip: 10.0.0.3 }] }
---
{ apiVersion: v1, kind: Service, metadata: { name: db, namespace: shop }, spec: { clusterIP: 10.96.0.9 } }
---
";

fn findings(objects: &str) -> Vec<Finding> {
    lint(&state(objects), &Options::new(Scope::Complete))
}

pub(super) fn state(objects: &str) -> ClusterState {
    let manifests = parse("test.yaml", objects);
    assert!(manifests.findings.is_empty(), "{:?}", manifests.findings);
    let mut state = ClusterState::default();
    for sourced in manifests.objects {
        drop(state.apply(Delta::Upsert(sourced.object)));
    }
    state
}

/// A policy with this spec, in a cluster, has exactly these findings, those of level info excepted.
#[track_caller]
fn check(spec: &str, expected: &[&str]) {
    check_with(CLUSTER, "shop", spec, Level::Warning, expected);
}

/// The same with findings of level info.
#[track_caller]
fn check_all(spec: &str, expected: &[&str]) {
    check_with(CLUSTER, "shop", spec, Level::Info, expected);
}

#[track_caller]
fn check_with(cluster: &str, namespace: &str, spec: &str, least: Level, expected: &[&str]) {
    let policy = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{ name: p, namespace: {namespace} }}\nspec: {spec}\n"
    );
    let found: Vec<String> = findings(&format!("{cluster}{policy}"))
        .into_iter()
        .filter(|finding| finding.level >= least)
        .map(|finding| {
            let Finding { check, level: _, object: _, field, message } = finding;
            format!("{} {field} {message}", check.code)
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_sound_policy_has_no_finding() {
    check_all(
        "{ podSelector: { matchLabels: { app: db } }, ingress: [{
             from: [{ podSelector: { matchLabels: { app: web } } }], ports: [{ port: pg }] }] }",
        &[],
    );
}

#[test]
fn selectors_that_select_nothing_are_found() {
    check(
        "{ podSelector: { matchLabels: { app: wbe } }, ingress: [{}] }",
        &[
            "NP001 spec.podSelector selects no pod in namespace shop: app=wbe (did you mean app=web?)",
        ],
    );
    check(
        "{ podSelector: {}, ingress: [{ from: [
             { podSelector: { matchLabels: { app: prometheus } } },
             { namespaceSelector: {}, podSelector: { matchLabels: { app: prometheus } } },
             { namespaceSelector: { matchLabels: { team: dev } } },
             { namespaceSelector: { matchLabels: { team: ops } }, podSelector: { matchLabels: { app: web } } } ] }] }",
        &[
            "NP003 spec.ingress[0].from[0] selects no pod in namespace shop: app=prometheus",
            "NP003 spec.ingress[0].from[2] selects no namespace: team=dev",
            "NP003 spec.ingress[0].from[3] selects no pod in namespace ops: app=web",
        ],
    );
    check_with(
        CLUSTER,
        "shopp",
        "{ podSelector: {}, ingress: [{}] }",
        Level::Warning,
        &["NP002 metadata.namespace namespace shopp does not exist"],
    );
}

/// The names of namespaces are looked up, and other labels are compared.
#[test]
fn namespaces_that_a_peer_names_are_found() {
    let peer = |selector: &str, app: &str| {
        format!(
            "{{ podSelector: {{}}, ingress: [{{ from: [{{ namespaceSelector: {selector}, podSelector: {{ matchLabels: {{ app: {app} }} }} }}] }}] }}"
        )
    };
    let named = "{ matchLabels: { kubernetes.io/metadata.name: ops } }";
    let both = "{ matchExpressions: [{ key: kubernetes.io/metadata.name, operator: In, values: [ops, shop] }] }";
    let without = "{ matchLabels: { team: shop, kubernetes.io/metadata.name: ops } }";
    check(&peer(named, "prometheus"), &[]);
    check(&peer(both, "web"), &[]);
    check(
        &peer(named, "web"),
        &["NP003 spec.ingress[0].from[0] selects no pod in namespace ops: app=web"],
    );
    check(
        &peer(both, "none"),
        &[
            "NP003 spec.ingress[0].from[0] selects no pod in the 2 namespaces that it selects: app=none",
        ],
    );
    check(
        &peer(without, "prometheus"),
        &[
            "NP003 spec.ingress[0].from[0] selects no namespace: kubernetes.io/metadata.name=ops,team=shop",
        ],
    );
}

#[test]
fn no_finding_compares_with_pods_and_namespaces_that_the_set_does_not_contain() {
    check_with(
        "",
        "elsewhere",
        "{ podSelector: { matchLabels: { a: b } }, ingress: [{ from: [
             { namespaceSelector: { matchLabels: { a: b } } }], ports: [{ port: http }] }] }",
        Level::Info,
        &[],
    );
}

#[test]
fn contradictory_selectors_are_found() {
    let contradictions = [
        "matchExpressions: [{ key: a, operator: Exists }, { key: a, operator: DoesNotExist }]",
        "matchLabels: { a: b }, matchExpressions: [{ key: a, operator: NotIn, values: [b, c] }]",
        "matchLabels: { a: b }, matchExpressions: [{ key: a, operator: In, values: [c] }]",
    ];
    for selector in contradictions {
        let spec = format!("{{ podSelector: {{ {selector} }}, ingress: [{{}}] }}");
        let policy = format!(
            "{{ apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{ name: p }}, spec: {spec} }}"
        );
        let found = findings(&policy);
        assert!(found.iter().any(|finding| finding.check.code == "NP004"), "{selector}: {found:?}");
    }
    check(
        "{ podSelector: {}, ingress: [{ from: [{ podSelector: { matchExpressions: [
             { key: app, operator: In, values: [web] }, { key: app, operator: NotIn, values: [web] }] } }] }] }",
        &["NP004 spec.ingress[0].from[0] pods with app=web,app notin (web) of the policy's namespace cannot exist: the conditions exclude each other"],
    );
}

#[test]
fn two_peers_where_one_was_intended_are_found() {
    check(
        "{ podSelector: {}, ingress: [{ from: [
             { namespaceSelector: { matchLabels: { team: ops } } },
             { podSelector: { matchLabels: { app: web } } } ] }] }",
        &["NP005 spec.ingress[0].from[1] allows all pods of namespaces with team=ops, \
           and also pods with app=web of the policy's namespace"],
    );
    check(
        "{ podSelector: {}, ingress: [{ from: [
             { namespaceSelector: { matchLabels: { team: ops } } }, { podSelector: {} } ] }] }",
        &[],
    );
}

#[test]
fn host_network_pods_are_found() {
    let host = "{ apiVersion: v1, kind: Pod, metadata: { name: h, namespace: shop }, spec: { hostNetwork: true } }\n---\n";
    check_with(
        host,
        "shop",
        "{ podSelector: {}, ingress: [{}] }",
        Level::Warning,
        &[
            "NP006 spec.podSelector selects pod shop/h, which uses the host's network: policies do not apply to it",
        ],
    );
}

#[test]
fn rules_for_a_direction_missing_in_policy_types_are_found() {
    check(
        "{ podSelector: {}, policyTypes: [Ingress], ingress: [{}], egress: [{}] }",
        &[
            "NP010 spec.egress has rules, but policyTypes does not contain egress: the rules have no effect",
        ],
    );
}

#[test]
fn allowing_all_is_found() {
    check_all(
        "{ podSelector: {}, egress: [{}] }",
        &["NP012 spec.egress[0] allows all egress traffic"],
    );
}

#[test]
fn rules_without_effect_are_found() {
    let web = "podSelector: { matchLabels: { app: web } }";
    check(
        &format!(
            "{{ podSelector: {{}}, ingress: [
                 {{ from: [{{ {web} }}], ports: [{{ port: 80 }}] }},
                 {{ from: [{{ podSelector: {{}} }}], ports: [{{ port: 79, endPort: 81 }}] }},
                 {{ from: [{{ {web} }}], ports: [{{ port: 80 }}] }},
                 {{ from: [{{ {web} }}], ports: [{{ port: 80, protocol: UDP }}] }} ] }}"
        ),
        &[
            "NP014 spec.ingress[0] allows nothing beyond spec.ingress[1]",
            "NP013 spec.ingress[2] allows the same as spec.ingress[0]",
        ],
    );
    check_all(
        "{ podSelector: {}, ingress: [{ from: [
             { ipBlock: { cidr: 172.16.0.0/12, except: [172.20.0.0/16] } },
             { ipBlock: { cidr: 172.16.0.0/16 } }, { ipBlock: { cidr: 172.20.0.0/17 } } ] }] }",
        &["NP015 spec.ingress[0].from[1] 172.16.0.0/16 is included in spec.ingress[0].from[0]"],
    );
}

#[test]
fn egress_without_dns_is_found() {
    let to_db = "to: [{ podSelector: { matchLabels: { app: db } } }], ports: [{ port: 5432 }]";
    let missing = ["NP020 spec.egress no rule allows pod shop/web to reach port 53/UDP"];
    let web = "podSelector: { matchLabels: { app: web } }, policyTypes: [Egress]";
    check(&format!("{{ {web}, egress: [{{ {to_db} }}] }}"), &missing);
    let ports = [
        "{ port: 53, protocol: UDP }, { port: 53 }",
        "{ protocol: UDP }, { port: 1, endPort: 1000 }",
    ];
    for ports in ports {
        check_all(&format!("{{ {web}, egress: [{{ {to_db} }}, {{ ports: [{ports}] }}] }}"), &[]);
    }
    check_all(
        &format!(
            "{{ {web}, egress: [{{ {to_db} }}, {{ ports: [{{ port: 53, protocol: UDP }}] }}] }}"
        ),
        &[
            "NP020 spec.egress no rule allows pod shop/web to reach port 53/TCP, which long DNS answers need",
        ],
    );
    // A policy that allows no egress at all does so on purpose.
    check(&format!("{{ {web} }}"), &[]);
}

#[test]
fn dns_may_be_allowed_by_another_policy_of_the_same_pods() {
    let dns = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: dns, namespace: shop }\n\
               spec: { podSelector: {}, policyTypes: [Egress], egress: [{ ports: [{ port: 53, protocol: UDP }, { port: 53 }] }] }\n---\n";
    check_with(
        &format!("{CLUSTER}{dns}"),
        "shop",
        "{ podSelector: {}, policyTypes: [Egress], egress: [{ ports: [{ port: 80 }] }] }",
        Level::Info,
        &[],
    );
}

#[test]
fn port_names_that_no_pod_has_are_found() {
    check(
        "{ podSelector: { matchLabels: { app: db } }, ingress: [{ ports: [
             { port: pg }, { port: http }, { port: pg, protocol: UDP } ] }] }",
        &[
            "NP021 spec.ingress[0].ports[1] no selected pod has a TCP port named http",
            "NP021 spec.ingress[0].ports[2] no selected pod has a UDP port named pg, but a TCP port of this name exists",
        ],
    );
}

#[test]
fn ports_of_services_are_distinguished_from_ports_of_pods() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: { name: web, namespace: shop }\n\
                   spec: { clusterIP: 10.96.0.8, selector: { app: web }, ports: [{ port: 80, targetPort: http }, { port: 8080 }] }\n---\n";
    let cluster = format!("{CLUSTER}{service}");
    let spec = |ports: &str| {
        format!(
            "{{ podSelector: {{ matchLabels: {{ app: web }} }}, ingress: [{{ ports: [{ports}] }}] }}"
        )
    };
    check_with(
        &cluster,
        "shop",
        &spec(
            "{ port: 80 }, { port: 8080 }, { port: 80, protocol: UDP }, { port: 443 }, { port: 79, endPort: 81 }",
        ),
        Level::Warning,
        &[
            "NP022 spec.ingress[0].ports[0] TCP/80 is a port of Service shop/web, whose target port on pod shop/web is 8080",
        ],
    );
    check_with(
        &cluster,
        "ops",
        "{ podSelector: {}, policyTypes: [Egress], egress: [{ ports: [{ port: 53 }, { port: 53, protocol: UDP }] }, {
             to: [{ namespaceSelector: { matchLabels: { team: shop } } }], ports: [{ port: 80 }] }] }",
        Level::Warning,
        &["NP022 spec.egress[1].ports[0] TCP/80 is a port of Service shop/web, whose target port on pod shop/web is 8080"],
    );
}

#[test]
fn blocks_that_contain_pods_or_services_or_nothing_are_found() {
    check(
        "{ podSelector: {}, ingress: [{ from: [
             { ipBlock: { cidr: 172.16.0.0/12, except: [172.16.0.0/13, 172.24.0.0/13] } },
             { ipBlock: { cidr: 172.16.0.0/12, except: [172.16.0.0/13, 172.24.0.0/14] } },
             { ipBlock: { cidr: 10.0.0.0/24 } }, { ipBlock: { cidr: 10.96.0.0/16 } },
             { ipBlock: { cidr: 10.0.0.0/16, except: [10.0.0.0/24] } } ] }] }",
        &[
            "NP030 spec.ingress[0].from[0].ipBlock except covers all of 172.16.0.0/12",
            "NP031 spec.ingress[0].from[2].ipBlock 10.0.0.0/24 covers 10.0.0.1 of pod shop/web and 2 more pod addresses",
            "NP032 spec.ingress[0].from[3].ipBlock 10.96.0.0/16 covers 10.96.0.9 of Service shop/db, which has no selector: its EndpointSlices list its backends",
        ],
    );
}

#[test]
fn half_of_a_dual_stack_is_found() {
    let dual = "{ apiVersion: v1, kind: Pod, metadata: { name: d, namespace: shop }, \
                status: { podIPs: [{ ip: 10.0.0.9 }, { ip: 'fd00::9' }] } }\n---\n";
    let spec = |blocks: &str| format!("{{ podSelector: {{}}, ingress: [{{ from: [{blocks}] }}] }}");
    let v4 = "{ ipBlock: { cidr: 0.0.0.0/0 } }";
    let v6 = "{ ipBlock: { cidr: '::/0' } }";
    let missing = ["NP033 spec.ingress[0] allows 0.0.0.0/0, but not ::/0"];
    check_with(dual, "shop", &spec(v4), Level::Warning, &missing);
    check_with(dual, "shop", &spec(&format!("{v4}, {v6}")), Level::Warning, &[]);
    check(&spec(v4), &[]);
}

#[test]
fn rules_over_capacity_are_found() {
    let blocks =
        |blocks: &str| format!("{{ podSelector: {{}}, ingress: [{{ from: [{blocks}] }}] }}");
    let policy = |name: &str, spec: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: {name}, namespace: shop }}\n\
             spec: {spec}\n---\n"
        )
    };
    let large = blocks("{ ipBlock: { cidr: 1.0.0.0/24 } }, { ipBlock: { cidr: 1.0.1.0/24 } }");
    let small = blocks("{ ipBlock: { cidr: 2.0.0.0/24 } }");
    let text = format!("{CLUSTER}{}{}", policy("large", &large), policy("small", &small));
    let state = state(&text);
    let few =
        Capacities { n_prefixes: crate::compile::Shared::undivided(3), ..Capacities::default() };
    let options = Options { capacities: few, ..Options::new(Scope::Complete) };
    let found: Vec<_> = lint(&state, &options)
        .into_iter()
        .filter(|finding| finding.check.code == "NP040")
        .map(|finding| format!("{} {}", finding.object, finding.field))
        .collect();
    assert_eq!(found, ["NetworkPolicy shop/large spec.ingress[0].from"]);
    let options = Options::new(Scope::Complete);
    assert!(lint(&state, &options).iter().all(|finding| finding.check.code != "NP040"));
}

#[test]
fn codes_and_names_are_unique_and_sorted() {
    assert!(CHECKS.is_sorted_by(|one, other| one.code < other.code));
    let names: std::collections::BTreeSet<_> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(names.len(), CHECKS.len());
}
