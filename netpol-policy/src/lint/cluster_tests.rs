//! Each check of ClusterNetworkPolicies reports its kind of mistake, and nothing in correct objects.

use super::tests::{CLUSTER, state};
use super::*;

/// DNS, and a pod on the host's network, in kube-system; NetworkPolicies isolate the pods of ops.
const MORE: &str = r"
{ apiVersion: v1, kind: Namespace, metadata: { name: kube-system, labels: { team: infra } } }
---
apiVersion: v1
kind: Pod
metadata: { name: coredns, namespace: kube-system, labels: { k8s-app: kube-dns } }
spec: { containers: [{ name: c, ports: [{ name: dns, containerPort: 53, protocol: UDP }] }] }
status: { phase: Running, podIPs: [{ ip: 10.0.0.53 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: proxy, namespace: kube-system, labels: { app: proxy } }
spec: { hostNetwork: true, containers: [{ name: c }] }
status: { phase: Running, podIPs: [{ ip: 192.0.2.1 }] }
---
apiVersion: v1
kind: Service
metadata: { name: kube-dns, namespace: kube-system }
spec: { clusterIP: 10.96.0.10, selector: { k8s-app: kube-dns }, ports: [{ port: 53, protocol: UDP }] }
---
{ apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: { name: closed, namespace: ops }, spec: { podSelector: {} } }
---
";

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
         metadata: {{ name: {name} }}\nspec: {spec}\n---\n"
    )
}

fn found(policies: &[(&str, &str)], scope: Scope) -> Vec<String> {
    let policies: String = policies.iter().map(|(name, spec)| policy(name, spec)).collect();
    let state = state(&format!("{CLUSTER}{MORE}{policies}"));
    let findings = lint(&state, &Options::new(scope)).into_iter();
    findings
        .map(|finding| {
            let Finding { check, level, object, field, message } = finding;
            format!("{} {level} {} {field} {message}", check.code, object.name)
        })
        .collect()
}

/// These policies, beside the cluster, have exactly these findings.
#[track_caller]
fn check(policies: &[(&str, &str)], expected: &[&str]) {
    assert_eq!(found(policies, Scope::Complete), expected);
}

const SHOP: &str = "subject: { namespaces: { matchLabels: { team: shop } } }";
const FROM_OPS: &str = "from: [{ namespaces: { matchLabels: { team: ops } } }]";

#[test]
fn sound_policies_have_no_finding() {
    let admin = format!(
        "{{ tier: Admin, priority: 1, {SHOP},
            ingress: [{{ action: Accept, {FROM_OPS} }}, {{ action: Deny, from: [{{ namespaces: {{}} }}] }}],
            egress: [{{ action: Accept, to: [{{ namespaces: {{ matchLabels: {{ team: infra }} }} }}] }}] }}"
    );
    let baseline = "{ tier: Baseline, priority: 1, subject: { namespaces: {} },
        egress: [{ action: Accept, to: [{ pods: { namespaceSelector: {}, podSelector: { matchLabels: { k8s-app: kube-dns } } } }],
                   protocols: [{ udp: { destinationPort: { number: 53 } } }] },
                 { action: Deny, to: [{ namespaces: {} }] }] }";
    check(&[("admin", &admin), ("baseline", baseline)], &[]);
}

#[test]
fn subjects_and_peers_that_select_nothing_are_found() {
    check(
        &[
            ("a", "{ tier: Admin, priority: 1, subject: { namespaces: { matchLabels: { team: shpo } } } }"),
            (
                "b",
                "{ tier: Admin, priority: 2, subject: { pods: { namespaceSelector: {}, podSelector: { matchLabels: { app: proxy } } } },
                   ingress: [{ action: Deny, from: [{ namespaces: { matchLabels: { team: dev } } }] }] }",
            ),
            (
                "c",
                "{ tier: Admin, priority: 3, subject: { pods: { namespaceSelector: {},
                   podSelector: { matchExpressions: [{ key: a, operator: Exists }, { key: a, operator: DoesNotExist }] } } } }",
            ),
        ],
        &[
            "NP001 warning a spec.subject selects no pod (did you mean team=shop?)",
            "NP003 warning b spec.ingress[0].from[0] selects no namespace: team=dev",
            "NP006 warning b spec.subject selects only pods that use the host's network, such as pod kube-system/proxy: policies do not apply to them",
            "NP004 warning c spec.subject a,!a cannot match: its conditions exclude each other",
        ],
    );
}

#[test]
fn networks_and_port_names_are_checked() {
    let spec = format!(
        "{{ tier: Admin, priority: 1, {SHOP}, egress: [
            {{ action: Deny, to: [{{ networks: [192.0.2.0/24, 10.0.0.0/24] }}], protocols: [{{ tcp: {{ destinationPort: {{ number: 1 }} }} }}] }},
            {{ action: Deny, to: [{{ networks: [198.51.100.0/24] }}], protocols: [{{ destinationNamedPort: http }}] }},
            {{ action: Deny, to: [{{ namespaces: {{}} }}], protocols: [{{ destinationNamedPort: ftp }}] }}] }}"
    );
    check(
        &[("a", &spec)],
        &[
            "NP031 warning a spec.egress[0].to 10.0.0.0/24 covers 10.0.0.1 of pod shop/web and 3 more pod addresses",
            "NP055 warning a spec.egress[1].protocols the port name http has a meaning for pods only: of addresses outside the cluster, and of nodes, the rule matches nothing",
            "NP021 warning a spec.egress[2].protocols no pod has a port named ftp",
        ],
    );
}

#[test]
fn tied_policies_that_disagree_are_found() {
    let one = format!(
        "{{ tier: Admin, priority: 5, {SHOP}, ingress: [{{ action: Accept, {FROM_OPS} }}] }}"
    );
    let other = "{ tier: Admin, priority: 5, subject: { namespaces: {} }, ingress: [{ action: Deny, from: [{ namespaces: {} }] }] }";
    check(
        &[("one", &one), ("other", other)],
        &[
            "NP050 warning other spec.priority is 5, as in one, whose rule ingress[0] (Accept) disagrees with ingress[0] (Deny): the API leaves open which of them decides; here it is one, by its name",
        ],
    );
    // Another priority, another tier, other pods, other ports, other peers, the same effect.
    for of_other in [
        other.replace("priority: 5", "priority: 6"),
        other.replace("tier: Admin", "tier: Baseline"),
        other.replace(
            "namespaces: {} }, ingress",
            "namespaces: { matchLabels: { team: infra } } }, ingress",
        ),
        other.replace(
            "from: [{ namespaces: {} }]",
            "from: [{ namespaces: { matchLabels: { team: infra } } }]",
        ),
        other.replace("action: Deny", "action: Accept"),
    ] {
        check(&[("one", &one), ("other", &of_other)], &[]);
    }
}

#[test]
fn rules_that_never_decide_are_found() {
    let wide = "{ tier: Admin, priority: 1, subject: { namespaces: {} }, ingress: [{ action: Deny, from: [{ namespaces: {} }] }] }";
    let narrow = format!(
        "{{ tier: Admin, priority: 2, {SHOP}, ingress: [{{ action: Accept, {FROM_OPS} }}] }}"
    );
    check(
        &[("narrow", &narrow), ("wide", wide)],
        &[
            "NP051 warning narrow spec.ingress[0] never decides: ClusterNetworkPolicy wide ingress[0] matches the same connections first",
        ],
    );
    check(&[("narrow", &narrow), ("wide", &wide.replace("priority: 1", "priority: 3"))], &[]);
    check(&[("narrow", &narrow.replace("Admin", "Baseline")), ("wide", wide)], &[]);
    let twice = format!(
        "{{ tier: Admin, priority: 2, {SHOP}, ingress: [
            {{ action: Accept, {FROM_OPS} }}, {{ action: Deny, {FROM_OPS}, protocols: [{{ tcp: {{}} }}] }}] }}"
    );
    check(
        &[("twice", &twice)],
        &[
            "NP051 warning twice spec.ingress[1] never decides: ClusterNetworkPolicy twice ingress[0] matches the same connections first",
        ],
    );
}

#[test]
fn passes_that_skip_nothing_are_found() {
    let pass = format!(
        "{{ tier: Admin, priority: 1, {SHOP}, ingress: [{{ action: Pass, {FROM_OPS} }}] }}"
    );
    let deny = "{ tier: Admin, priority: 2, subject: { namespaces: {} }, ingress: [{ action: Deny, from: [{ namespaces: {} }] }] }";
    check(&[("deny", deny), ("pass", &pass)], &[]);
    let expected = "NP052 warning pass spec.ingress[0] passes connections on, but no later rule of the tier matches one of them";
    check(&[("pass", &pass)], &[expected]);
    check(&[("deny", &deny.replace("Admin", "Baseline")), ("pass", &pass)], &[expected]);
    let of_others = deny.replace(
        "from: [{ namespaces: {} }]",
        "from: [{ namespaces: { matchLabels: { team: infra } } }]",
    );
    check(&[("deny", &of_others), ("pass", &pass)], &[expected]);
    let expected = expected.replace("warning", "info");
    assert_eq!(found(&[("pass", &pass)], Scope::Partial), [expected]);
}

#[test]
fn denies_of_dns_are_found() {
    let deny = |tier: &str, to: &str| {
        format!("{{ tier: {tier}, priority: 2, {SHOP}, egress: [{{ action: Deny, to: [{to}] }}] }}")
    };
    for (tier, to) in [
        ("Admin", "{ namespaces: {} }"),
        ("Baseline", "{ namespaces: {} }"),
        ("Admin", "{ namespaces: { matchLabels: { team: infra } } }"),
    ] {
        check(
            &[("deny", &deny(tier, to))],
            &[
                "NP053 warning deny spec.egress[0] denies port 53/UDP of the cluster's DNS, and no rule before it accepts that",
            ],
        );
    }
    check(&[("deny", &deny("Admin", "{ namespaces: { matchLabels: { team: ops } } }"))], &[]);
    let accept = format!(
        "{{ tier: Admin, priority: 1, {SHOP}, egress: [{{ action: Accept, to: [{{ namespaces: {{}} }}],
            protocols: [{{ udp: {{ destinationPort: {{ number: 53 }} }} }}] }}] }}"
    );
    check(&[("accept", &accept), ("deny", &deny("Admin", "{ namespaces: {} }"))], &[]);
    check(&[("accept", &accept), ("deny", &deny("Baseline", "{ namespaces: {} }"))], &[]);
}

#[test]
fn a_baseline_that_network_policies_shadow_is_found() {
    let of = |team: &str| {
        format!(
            "{{ tier: Baseline, priority: 1, subject: {{ namespaces: {{ matchLabels: {{ team: {team} }} }} }},
                ingress: [{{ action: Deny, from: [{{ namespaces: {{}} }}] }}] }}"
        )
    };
    check(
        &[("baseline", &of("ops"))],
        &[
            "NP054 info baseline spec.ingress decides about no ingress connection: NetworkPolicies isolate every pod that the policy selects",
        ],
    );
    check(&[("baseline", &of("shop"))], &[]);
}

#[test]
fn an_accepted_dns_of_the_admin_tier_counts_for_network_policies() {
    let egress = "{ apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: { name: p, namespace: shop },
        spec: { podSelector: {}, policyTypes: [Egress], egress: [{ ports: [{ port: 80 }] }] } }\n---\n";
    let codes = |policies: &str| -> Vec<&str> {
        let state = state(&format!("{CLUSTER}{MORE}{egress}{policies}"));
        let findings = lint(&state, &Options::new(Scope::Complete)).into_iter();
        findings.map(|finding| finding.check.code).filter(|code| *code == "NP020").collect()
    };
    assert_eq!(codes(""), ["NP020"]);
    let accept = format!(
        "{{ tier: Admin, priority: 1, {SHOP}, egress: [{{ action: Accept, to: [{{ namespaces: {{}} }}],
            protocols: [{{ udp: {{ destinationPort: {{ number: 53 }} }} }}, {{ tcp: {{}} }}] }}] }}"
    );
    assert!(codes(&policy("dns", &accept)).is_empty());
}
