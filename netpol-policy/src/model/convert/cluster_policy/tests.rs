//! Every item of the reading, as text.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::cluster_policy;
use crate::model::{ClusterPolicy, Diagnostic, Peers, PolicyMode, Ports};

/// Converts the policy `p` with this spec (YAML) and compares what it means and what was found.
#[track_caller]
fn check(spec: &str, expected: &Expect) {
    let spec: Value = serde_saphyr::from_str(spec).unwrap();
    check_object(&json!({ "metadata": { "name": "p" }, "spec": spec }), expected);
}

/// The same for a policy of the Admin tier for all pods with these rules (YAML).
#[track_caller]
fn check_rules(rules: &str, expected: &Expect) {
    check(
        &format!("{{ tier: Admin, priority: 5, subject: {{ namespaces: {{}} }}, {rules} }}"),
        expected,
    );
}

#[track_caller]
fn check_object(object: &Value, expected: &Expect) {
    let (policy, diagnostics) = cluster_policy(object);
    let mut lines = policy.as_ref().map_or_else(|| vec!["left out".to_owned()], render);
    lines.extend(diagnostics.into_iter().map(|diagnostic| {
        let Diagnostic { code, field, message, .. } = diagnostic;
        format!("! {} {field} {message}", code.as_str())
    }));
    expected.assert_eq(&lines.join("\n"));
}

fn render(policy: &ClusterPolicy) -> Vec<String> {
    let ClusterPolicy { name, tier, priority, subject, .. } = policy;
    let audit = if policy.mode == PolicyMode::Audit { ", audit" } else { "" };
    let mut lines = vec![format!(
        "{name} {tier:?} {priority} pods {} in {}{audit}",
        subject.pods, subject.namespaces
    )];
    for (field, rules) in [("ingress", &policy.ingress), ("egress", &policy.egress)] {
        for listed in rules.iter() {
            let peers = match &listed.rule.peers {
                Peers::All => "everybody".to_owned(),
                Peers::AnyOf(peers) => {
                    peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
                }
            };
            let ports = match &listed.rule.ports {
                Ports::All => "everything".to_owned(),
                Ports::AnyOf(ports) => {
                    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                }
            };
            let (index, action) = (listed.rule.index, listed.action);
            lines.push(format!("{field}[{index}] {action:?} {} {peers} on {ports}", listed.name));
        }
    }
    lines
}

#[test]
fn a_policy_is_read_as_it_is_written() {
    check(
        "
        tier: Baseline
        priority: 10
        subject: { pods: { namespaceSelector: { matchLabels: { team: a } }, podSelector: {} } }
        ingress:
        - { name: monitoring, action: Accept, from: [{ namespaces: { matchLabels: { app: prom } } }] }
        - action: Deny
          from: [{ pods: { namespaceSelector: {}, podSelector: { matchLabels: { app: web } } } }]
          protocols:
          - { tcp: { destinationPort: { number: 80 } } }
          - { udp: { destinationPort: { range: { start: 100, end: 200 } } } }
          - { sctp: {} }
          - { destinationNamedPort: http }
        egress:
        - action: Pass
          to:
          - { networks: [10.0.0.0/8, 'fd00::/8'] }
          - { nodes: {} }
          - { nodes: { matchLabels: { role: cp } } }
        ",
        &expect![[r#"
            p Baseline 10 pods {} in team=a
            ingress[0] Accept monitoring all pods of namespaces with app=prom on everything
            ingress[1] Deny  pods with app=web of all namespaces on TCP/80, UDP/100-200, SCTP, TCP/http, UDP/http, SCTP/http
            egress[0] Pass  10.0.0.0/8 or fd00::/8 or all nodes or nodes with role=cp on everything"#]],
    );
}

#[test]
fn a_rule_that_is_not_understood_is_closed() {
    check_rules(
        "ingress: [
          { action: Accept, from: [{ namespaces: {} }, { serviceAccounts: {} }] },
          { action: Deny, from: [{ namespaces: {} }, {}] },
          { action: Pass, from: [], protocols: [{ tcp: { destinationPort: { number: 80 } } }] },
          { action: Log, from: [{ namespaces: {} }] },
          { action: Deny, from: [{ namespaces: {}, pods: {} }] },
          { action: Accept, from: [{ pods: { podSelector: {} } }] },
          { action: Accept, from: [{ networks: [10.0.0.0/8] }] },
          { action: Deny, from: [{ namespaces: { matchLabels: { app: '%' } } }] },
          { action: Deny, from: [{ namespaces: {} }], when: night },
          7
        ]",
        &expect![[r#"
            p Admin 5 pods {} in {}
            ingress[1] Deny  everybody on everything
            ingress[2] Deny  everybody on everything
            ingress[3] Deny  everybody on everything
            ingress[4] Deny  everybody on everything
            ingress[7] Deny  everybody on everything
            ingress[8] Deny  everybody on everything
            ingress[9] Deny  everybody on everything
            ! unknown-field spec.ingress[0].from[1].serviceAccounts is not a field of the API, which has namespaces, pods here: the rule matches nothing
            ! invalid-peer spec.ingress[1].from[1] has not exactly one of namespaces, pods: the rule denies everything
            ! invalid-peer spec.ingress[2].from has no peers, which does not mean all of them: the rule denies everything
            ! malformed spec.ingress[3].action "Log" is not Accept, Deny or Pass: the rule denies everything
            ! invalid-peer spec.ingress[4].from[0] has not exactly one of namespaces, pods: the rule denies everything
            ! invalid-selector spec.ingress[5].from[0].pods.namespaceSelector is missing, which does not mean everything: the rule matches nothing
            ! unknown-field spec.ingress[6].from[0].networks is not a field of the API, which has namespaces, pods here: the rule matches nothing
            ! invalid-selector spec.ingress[7].from[0].namespaces.matchLabels[app] "%" is not a valid label value: the rule denies everything
            ! unknown-field spec.ingress[8].when is not a field of the API, which has name, action, from, protocols here: the rule denies everything
            ! malformed spec.ingress[9] is a number, not a mapping: the rule denies everything"#]],
    );
}

#[test]
fn protocols_that_are_not_understood_close_the_rule() {
    let rule = |protocols: &str| {
        format!("{{ action: Deny, from: [{{ namespaces: {{}} }}], protocols: {protocols} }}")
    };
    let rules: Vec<String> = [
        "[]",
        "[{}]",
        "[{ icmp: {} }]",
        "[{ tcp: {}, udp: {} }]",
        "[{ tcp: { destinationPort: {} } }]",
        "[{ tcp: { destinationPort: { number: 0 } } }]",
        "[{ tcp: { destinationPort: { range: { start: 5, end: 5 } } } }]",
        "[{ tcp: { destinationPort: { range: { start: 5 } } } }]",
        "[{ destinationNamedPort: '' }]",
        "[{ destinationNamedPort: HTTP }]",
    ]
    .map(rule)
    .into();
    check_rules(
        &format!("ingress: [{}]", rules.join(",")),
        &expect![[r#"
        p Admin 5 pods {} in {}
        ingress[0] Deny  everybody on everything
        ingress[1] Deny  everybody on everything
        ingress[2] Deny  everybody on everything
        ingress[3] Deny  everybody on everything
        ingress[4] Deny  everybody on everything
        ingress[5] Deny  everybody on everything
        ingress[6] Deny  everybody on everything
        ingress[7] Deny  everybody on everything
        ingress[8] Deny  everybody on everything
        ingress[9] Deny  all pods of all namespaces on TCP/HTTP, UDP/HTTP, SCTP/HTTP
        ! invalid-port spec.ingress[0].protocols is empty, which does not mean all protocols: the rule denies everything
        ! invalid-port spec.ingress[1].protocols[0] has not exactly one of tcp, udp, sctp, destinationNamedPort: the rule denies everything
        ! unknown-field spec.ingress[2].protocols[0].icmp is not a field of the API, which has tcp, udp, sctp, destinationNamedPort here: the rule denies everything
        ! invalid-port spec.ingress[3].protocols[0] has not exactly one of tcp, udp, sctp, destinationNamedPort: the rule denies everything
        ! invalid-port spec.ingress[4].protocols[0].tcp.destinationPort has not exactly one of number and range: the rule denies everything
        ! invalid-port spec.ingress[5].protocols[0].tcp.destinationPort.number 0 is not within 1 and 65535: the rule denies everything
        ! invalid-port spec.ingress[6].protocols[0].tcp.destinationPort.range.end 5 is not above the start 5: the rule denies everything
        ! malformed spec.ingress[7].protocols[0].tcp.destinationPort.range.end is null, not a whole number: the rule denies everything
        ! invalid-port spec.ingress[8].protocols[0] has not exactly one of tcp, udp, sctp, destinationNamedPort: the rule denies everything
        ! invalid-port spec.ingress[9].protocols[0].destinationNamedPort "HTTP" is not a port name: no pod has it"#]],
    );
}

#[test]
fn destinations_that_are_not_understood_close_the_rule() {
    check_rules(
        "egress: [
          { action: Accept, to: [{ domainNames: ['*.example.org'] }, { networks: [10.0.0.0/8] }] },
          { action: Deny, to: [{ domainNames: ['*.example.org'] }] },
          { action: Deny, to: [{ networks: [] }] },
          { action: Deny, to: [{ networks: [10.0.0.0] }] },
          { action: Accept, to: [{ networks: ['::ffff:10.1.2.3/104'] }] }
        ]",
        &expect![[r#"
            p Admin 5 pods {} in {}
            egress[1] Deny  everybody on everything
            egress[2] Deny  everybody on everything
            egress[3] Deny  everybody on everything
            egress[4] Accept  10.0.0.0/8 on everything
            ! unsupported spec.egress[0].to[0].domainNames domain names are not supported: the rule matches nothing
            ! unsupported spec.egress[1].to[0].domainNames domain names are not supported: the rule denies everything
            ! invalid-block spec.egress[2].to[0].networks has no networks, which does not mean all of them: the rule denies everything
            ! invalid-block spec.egress[3].to[0].networks[0] "10.0.0.0" is not an address block such as 10.0.0.0/8: the rule denies everything
            ! unusual-block spec.egress[4].to[0].networks[0] "::ffff:10.1.2.3/104" has an IPv4-mapped address and host bits: it is read as 10.0.0.0/8"#]],
    );
}

#[test]
fn domain_names_are_validated_and_close_the_rule() {
    check_rules(
        "egress: [
          { action: Accept, to: [{ domainNames: [example.org, 'a-b.example.org.', '*.example.org'] }] },
          { action: Accept, to: [{ domainNames: [] }] },
          { action: Pass, to: [{ domainNames: ['*', '-a.org', 'a..org', 'a.*.org', 7] }] },
          { action: Deny, to: [{ domainNames: example.org }] },
          { action: Accept, to: [{ domainNames: [example.org], nodes: {} }] }
        ]",
        &expect![[r#"
            p Admin 5 pods {} in {}
            egress[2] Deny  everybody on everything
            egress[3] Deny  everybody on everything
            ! unsupported spec.egress[0].to[0].domainNames domain names are not supported: the rule matches nothing
            ! invalid-peer spec.egress[1].to[0].domainNames has no names, which does not mean all of them: the rule matches nothing
            ! invalid-peer spec.egress[2].to[0].domainNames[0] "*" is not a domain name such as *.example.org: the rule denies everything
            ! invalid-peer spec.egress[2].to[0].domainNames[1] "-a.org" is not a domain name such as *.example.org: the rule denies everything
            ! invalid-peer spec.egress[2].to[0].domainNames[2] "a..org" is not a domain name such as *.example.org: the rule denies everything
            ! invalid-peer spec.egress[2].to[0].domainNames[3] "a.*.org" is not a domain name such as *.example.org: the rule denies everything
            ! invalid-peer spec.egress[2].to[0].domainNames[4] 7 is not a domain name such as *.example.org: the rule denies everything
            ! unsupported spec.egress[2].to[0].domainNames domain names are not supported: the rule denies everything
            ! malformed spec.egress[3].to[0].domainNames is a string, not a list: the rule denies everything
            ! invalid-peer spec.egress[4].to[0] has not exactly one of namespaces, pods, nodes, networks, domainNames: the rule matches nothing"#]],
    );
}

#[test]
fn a_policy_that_is_not_understood_accepts_nothing_and_passes_nothing_on() {
    let rules = "ingress: [
          { action: Accept, from: [{ namespaces: {} }] },
          { action: Pass, from: [{ namespaces: { matchLabels: { a: b } } }] },
          { action: Deny, from: [{ namespaces: { matchLabels: { c: d } } }] }
        ]";
    check(
        &format!("{{ tier: System, priority: 5, subject: {{ namespaces: {{}} }}, {rules} }}"),
        &expect![[r#"
            p Admin 5 pods {} in {}
            ingress[1] Deny  all pods of namespaces with a=b on everything
            ingress[2] Deny  all pods of namespaces with c=d on everything
            ! malformed spec.tier "System" is neither Admin nor Baseline: it is read as Admin, the Accept rules match nothing, and the Pass rules deny"#]],
    );
    check(
        &format!("{{ tier: Admin, priority: 1001, subject: {{ namespaces: {{}} }}, {rules} }}"),
        &expect![[r#"
            p Admin 0 pods {} in {}
            ingress[1] Deny  all pods of namespaces with a=b on everything
            ingress[2] Deny  all pods of namespaces with c=d on everything
            ! malformed spec.priority is 1001, not a whole number from 0 to 1000: it is read as 0, the Accept rules match nothing, and the Pass rules deny"#]],
    );
    check(
        &format!("{{ tier: Admin, priority: 5, subject: {{}}, {rules} }}"),
        &expect![[r#"
        p Admin 5 pods {} in {}
        ingress[1] Deny  all pods of namespaces with a=b on everything
        ingress[2] Deny  all pods of namespaces with c=d on everything
        ! invalid-selector spec.subject has not exactly one of namespaces and pods: the policy concerns every pod that the rest of it selects, the Accept rules match nothing, and the Pass rules deny"#]],
    );
    check(
        &format!(
            "{{ tier: Admin, priority: 5, subject: {{ namespaces: {{ matchLabels: {{ x: 'b', z: '%' }} }} }}, {rules} }}"
        ),
        &expect![[r#"
            p Admin 5 pods {} in x=b
            ingress[1] Deny  all pods of namespaces with a=b on everything
            ingress[2] Deny  all pods of namespaces with c=d on everything
            ! invalid-selector spec.subject.namespaces.matchLabels[z] "%" is not a valid label value: the policy concerns every pod that the rest of it selects, the Accept rules match nothing, and the Pass rules deny"#]],
    );
    check(
        &format!(
            "{{ tier: Admin, priority: 5, subject: {{ namespaces: {{}} }}, order: 3, {rules} }}"
        ),
        &expect![[r#"
            p Admin 5 pods {} in {}
            ingress[1] Deny  all pods of namespaces with a=b on everything
            ingress[2] Deny  all pods of namespaces with c=d on everything
            ! unknown-field spec.order is not a field of the API, which has tier, priority, subject, ingress, egress here: the Accept rules match nothing, and the Pass rules deny"#]],
    );
}

#[test]
fn an_annotation_makes_a_policy_report_only() {
    let object = |mode: &str| {
        json!({
            "metadata": { "name": "p", "annotations": { "netpol/mode": mode } },
            "spec": { "tier": "Admin", "priority": 0, "subject": { "namespaces": {} } },
        })
    };
    check_object(&object("audit"), &expect!["p Admin 0 pods {} in {}, audit"]);
    check_object(
        &object("Audit"),
        &expect![[r#"
        p Admin 0 pods {} in {}
        ! invalid-annotation metadata.annotations[netpol/mode] "Audit" is neither "enforce" nor "audit": it is "enforce""#]],
    );
}

#[test]
fn more_items_than_the_api_accepts_are_in_force() {
    let rules: Vec<&str> = vec!["{ action: Deny, from: [{ namespaces: {} }] }"; 26];
    let rules = format!(
        "{{ tier: Admin, priority: 5, subject: {{ namespaces: {{}} }}, ingress: [{}] }}",
        rules.join(",")
    );
    let spec: Value = serde_saphyr::from_str(&rules).unwrap();
    let (policy, diagnostics) =
        cluster_policy(&json!({ "metadata": { "name": "p" }, "spec": spec }));
    assert_eq!(policy.unwrap().ingress.len(), 26);
    assert_eq!(diagnostics.len(), 1);
}
