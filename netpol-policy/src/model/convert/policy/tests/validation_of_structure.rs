//! Objects, specs, policy types and rules that the API server refuses.

use expect_test::expect;

use super::*;

#[test]
fn an_object_without_a_readable_name_is_left_out() {
    check_object(
        &json!({}),
        &expect![[r#"
        left out
        ! malformed metadata.name is missing: the object is left out"#]],
    );
    check_object(
        &json!([]),
        &expect![[r#"
        left out
        ! malformed  is a list, not a mapping: the object is left out"#]],
    );
    check_object(
        &json!(null),
        &expect![[r#"
        left out
        ! malformed metadata.name is missing: the object is left out"#]],
    );
    check_object(
        &json!({ "metadata": { "name": "" } }),
        &expect![[r#"
        left out
        ! malformed metadata.name is missing: the object is left out"#]],
    );
    check_object(
        &json!({ "metadata": { "name": ["a"] } }),
        &expect![[r#"
        left out
        ! malformed metadata.name is a list, not a string: it is ignored
        ! malformed metadata.name is missing: the object is left out"#]],
    );
    check_object(
        &json!({ "metadata": { "name": "a", "namespace": ["b"] } }),
        &expect![[r#"
        left out
        ! malformed metadata.namespace is a list, not a string: the object is left out"#]],
    );
    check_object(
        &json!({ "metadata": [] }),
        &expect![[r#"
        left out
        ! malformed metadata is a list, not a mapping: it is ignored
        ! malformed metadata.name is missing: the object is left out"#]],
    );
    check_object(
        &json!({ "metadata": { "generateName": "a-" } }),
        &expect![[r#"
        left out
        ! malformed metadata.name is missing: the object is left out"#]],
    );
}

#[test]
fn odd_names_are_taken_as_they_are_written() {
    check_object(
        &json!({ "metadata": { "name": 5, "namespace": true } }),
        &expect![[r#"
            true/5 isolates () for ingress
            ! malformed metadata.name is a number, not a string (it needs quotes): it is taken as it is written
            ! malformed metadata.namespace is a boolean, not a string (it needs quotes): it is taken as it is written"#]],
    );
    check_object(
        &json!({ "metadata": { "name": "A b", "namespace": "a.b" } }),
        &expect![[r#"
        a.b/A b isolates () for ingress
        ! invalid-name metadata.name "A b" is not a valid name: it is taken as it is written
        ! invalid-name metadata.namespace "a.b" is not a valid name: it is taken as it is written"#]],
    );
}

#[test]
fn wrong_metadata_has_no_effect() {
    check_object(
        &json!({ "metadata": { "name": "a", "colour": 1, "labels": [], "annotations": { "netpol/mode": "off", "netpol/existing-connections": true, "netpol/mood": "x" }, "creationTimestamp": "yesterday" }, "spec": { "policyTypes": ["Egress"] } }),
        &expect![[r#"
            default/a isolates () for egress
            ! ignored-field metadata.colour is not a field of the API: it has no effect
            ! malformed metadata.creationTimestamp is not a time (failed to parse four digit integer as year: invalid digit, expected 0-9 but got y): it is ignored
            ! malformed metadata.labels is a list, not a mapping: it is ignored
            ! malformed metadata.annotations[netpol/existing-connections] is a boolean, not a string (it needs quotes): it is taken as it is written
            ! invalid-annotation metadata.annotations[netpol/mood] is not known, only netpol/mode, netpol/existing-connections: it has no effect
            ! invalid-annotation metadata.annotations[netpol/mode] "off" is neither "enforce" nor "audit": it is "enforce"
            ! invalid-annotation metadata.annotations[netpol/existing-connections] "true" is neither "cut" nor "keep": it is "cut""#]],
    );
    check_object(
        &json!({ "metadata": { "name": "a", "labels": { "a b": "c", "d": "e f", "g": 1, "h": {} }, "creationTimestamp": "2026-01-02T03:04:05Z", "uid": "u" } }),
        &expect![[r#"
            default/a isolates () for ingress
            ! malformed metadata.labels[g] is a number, not a string (it needs quotes): it is taken as it is written
            ! malformed metadata.labels[h] is a mapping, not a string: it is ignored
            ! invalid-name metadata.labels[a b] is not a valid label: it is taken as it is written
            ! invalid-name metadata.labels[d] is not a valid label: it is taken as it is written"#]],
    );
}

#[test]
fn a_spec_that_is_no_mapping_isolates_all_pods_in_both_directions() {
    check_object(
        &json!({ "metadata": { "name": "a" }, "spec": [] }),
        &expect![[r#"
        default/a isolates () for ingress+egress
        ! malformed spec is a list, not a mapping: the policy isolates all pods of its namespace in both directions"#]],
    );
    check_object(
        &json!({ "metadata": { "name": "a" }, "spec": "x" }),
        &expect![[r#"
        default/a isolates () for ingress+egress
        ! malformed spec is a string, not a mapping: the policy isolates all pods of its namespace in both directions"#]],
    );
}

#[test]
fn an_unknown_field_of_the_spec_or_beside_it_isolates_in_both_directions() {
    check(
        "{ types: [Egress], ingress: [{}] }",
        &expect![[r#"
            default/p isolates () for ingress+egress
            ! unknown-field spec.types is not a field of the API, which has podSelector, policyTypes, ingress, egress here: the policy isolates in both directions and allows nothing, since it names no podSelector"#]],
    );
    check(
        "{ PodSelector: { matchLabels: { a: b } } }",
        &expect![[r#"
            default/p isolates () for ingress+egress
            ! unknown-field spec.PodSelector is not a field of the API, which has podSelector, policyTypes, ingress, egress here: the policy isolates in both directions and allows nothing, since it names no podSelector"#]],
    );
    check_object(
        &json!({ "metadata": { "name": "a" }, "spec": {}, "policyTypes": ["Egress"] }),
        &expect![[r#"
            default/a isolates () for ingress+egress
            ! unknown-field policyTypes is not a field of the API, which has apiVersion, kind, metadata, spec, status here: the policy isolates in both directions and allows nothing, since it names no podSelector"#]],
    );
}

#[test]
fn rules_that_the_policy_types_leave_out_do_not_come_into_force_by_an_unknown_field() {
    check(
        "{ podSelector: {}, policyTypes: [Ingress], ingress: [{}], egress: [{}], types: [] }",
        &expect![[r#"
            default/p isolates () for ingress+egress
            ingress[0] everybody on every port
            ! unknown-field spec.types is not a field of the API, which has podSelector, policyTypes, ingress, egress here: the policy isolates in both directions"#]],
    );
}

#[test]
fn wrong_policy_types_isolate_in_both_directions() {
    check(
        "{ policyTypes: Ingress }",
        &expect![[r#"
        default/p isolates () for ingress+egress
        ! malformed spec.policyTypes is a string, not a list: the policy isolates in both directions"#]],
    );
    check(
        "{ policyTypes: [ingress] }",
        &expect![[r#"
        default/p isolates () for ingress+egress
        ! invalid-policy-types spec.policyTypes[0] "ingress" is neither Ingress nor Egress: the policy isolates in both directions"#]],
    );
    check(
        "{ policyTypes: [Ingress, 5] }",
        &expect![[r#"
            default/p isolates () for ingress+egress
            ! malformed spec.policyTypes[1] is a number, not a string (it needs quotes): the policy isolates in both directions"#]],
    );
    check(
        "{ policyTypes: [null] }",
        &expect![[r#"
        default/p isolates () for ingress+egress
        ! invalid-policy-types spec.policyTypes[0] "" is neither Ingress nor Egress: the policy isolates in both directions"#]],
    );
    check(
        "{ policyTypes: [Ingress, Ingress, Ingress] }",
        &expect![[r#"
        default/p isolates () for ingress+egress
        ! invalid-policy-types spec.policyTypes has more than 2 items: the policy isolates in both directions"#]],
    );
    check(
        "{ policyTypes: {} }",
        &expect![[r#"
        default/p isolates () for ingress+egress
        ! malformed spec.policyTypes is a mapping, not a list: the policy isolates in both directions"#]],
    );
}

#[test]
fn rules_that_are_no_list_allow_nothing_and_count_as_rules() {
    check(
        "{ ingress: {} }",
        &expect![[r#"
        default/p isolates () for ingress
        ! malformed spec.ingress is a mapping, not a list: the policy allows nothing in this direction"#]],
    );
    check(
        "{ egress: {} }",
        &expect![[r#"
        default/p isolates () for ingress+egress
        ! malformed spec.egress is a mapping, not a list: the policy allows nothing in this direction"#]],
    );
    check(
        "{ egress: 80 }",
        &expect![[r#"
        default/p isolates () for ingress+egress
        ! malformed spec.egress is a number, not a list: the policy allows nothing in this direction"#]],
    );
}

#[test]
fn a_rule_that_is_not_understood_allows_nothing() {
    check(
        "{ ingress: [{}, 5, { to: [] }, {}] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] everybody on every port
        ingress[3] everybody on every port
        ! malformed spec.ingress[1] is a number, not a mapping: the rule allows nothing
        ! unknown-field spec.ingress[2].to is not a field of the API, which has from, ports here: the rule allows nothing"#]],
    );
    check(
        "{ ingress: [{ from: {} }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ! malformed spec.ingress[0].from is a mapping, not a list: the rule allows nothing"#]],
    );
    check(
        "{ ingress: [{ ports: 80 }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ! malformed spec.ingress[0].ports is a number, not a list: the rule allows nothing"#]],
    );
    check(
        "{ egress: [{ from: [{ podSelector: {} }] }] }",
        &expect![[r#"
        default/p isolates () for ingress+egress
        ! unknown-field spec.egress[0].from is not a field of the API, which has to, ports here: the rule allows nothing"#]],
    );
    check(
        "{ ingress: [[]] }",
        &expect![[r#"
        default/p isolates () for ingress
        ! malformed spec.ingress[0] is a list, not a mapping: the rule allows nothing"#]],
    );
    check(
        "{ ingress: [{ form: [] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ! unknown-field spec.ingress[0].form is not a field of the API, which has from, ports here: the rule allows nothing"#]],
    );
}

#[test]
fn several_mistakes_are_all_reported() {
    check(
        "
        podSelector: { matchLabel: { app: web } }
        ingress:
          - form: []
            ports:
              - { port: 0 }
              - { port: 443 }
            from:
              - {}
              - podSelector: {}
          - ports: [{ port: 80 }, { port: 81, endPort: 80 }]
        ",
        &expect![[r#"
            default/p isolates () for ingress
            ! unknown-field spec.podSelector.matchLabel is not a field of the API, which has matchLabels, matchExpressions here: the policy selects pods as if it were not there, and allows nothing
            ! unknown-field spec.ingress[0].form is not a field of the API, which has from, ports here: the rule allows nothing
            ! invalid-peer spec.ingress[0].from[0] has neither a selector nor an ipBlock: the peer matches nobody
            ! invalid-port spec.ingress[0].ports[0].port 0 is not within 1 and 65535: the item matches nothing
            ! invalid-port spec.ingress[1].ports[1].endPort 80 is below port 81: the item matches nothing"#]],
    );
}
