//! Selectors that the API server refuses.

use expect_test::expect;

use super::*;

#[test]
fn what_is_not_understood_in_the_subjects_selector_selects_more() {
    check(
        "{ podSelector: [] }",
        &expect![[r#"
            default/p isolates () for ingress
            ! malformed spec.podSelector is a list, not a mapping: the policy selects pods as if it were not there, and allows nothing"#]],
    );
    check(
        "{ podSelector: { matchLabel: { a: b } } }",
        &expect![[r#"
            default/p isolates () for ingress
            ! unknown-field spec.podSelector.matchLabel is not a field of the API, which has matchLabels, matchExpressions here: the policy selects pods as if it were not there, and allows nothing"#]],
    );
    check(
        "{ podSelector: { matchLabels: { a: b, c: 5 } } }",
        &expect![[r#"
            default/p isolates (a in {"b"}) for ingress
            ! malformed spec.podSelector.matchLabels[c] is a number, not a string (it needs quotes): the policy selects pods as if it were not there, and allows nothing"#]],
    );
    check(
        "{ podSelector: { matchLabels: [a] } }",
        &expect![[r#"
            default/p isolates () for ingress
            ! malformed spec.podSelector.matchLabels is a list, not a mapping: the policy selects pods as if it were not there, and allows nothing"#]],
    );
    check(
        "{ podSelector: { matchLabels: { a: b }, matchExpressions: {} } }",
        &expect![[r#"
            default/p isolates (a in {"b"}) for ingress
            ! malformed spec.podSelector.matchExpressions is a mapping, not a list: the policy selects pods as if it were not there, and allows nothing"#]],
    );
    check(
        "{ podSelector: { matchLabels: { a: b }, matchExpressions: [{ key: c, operator: In, values: [x, [y]] }] } }",
        &expect![[r#"
            default/p isolates (a in {"b"}) for ingress
            ! malformed spec.podSelector.matchExpressions[0].values[1] is a list, not a string: the policy selects pods as if it were not there, and allows nothing"#]],
    );
}

#[test]
fn what_is_not_understood_in_a_peers_selector_matches_nobody() {
    check(
        "{ ingress: [{ from: [{ podSelector: [] }] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] nobody on every port
        ! malformed spec.ingress[0].from[0].podSelector is a list, not a mapping: the peer matches nobody"#]],
    );
    check(
        "{ ingress: [{ from: [{ podSelector: { matchLabel: { a: b } } }] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] nobody on every port
        ! unknown-field spec.ingress[0].from[0].podSelector.matchLabel is not a field of the API, which has matchLabels, matchExpressions here: the peer matches nobody"#]],
    );
    check(
        "{ ingress: [{ from: [{ podSelector: { matchLabels: { a: true } } }, { podSelector: { matchLabels: { a: b } } }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] pods (a in {"b"}) on every port
            ! malformed spec.ingress[0].from[0].podSelector.matchLabels[a] is a boolean, not a string (it needs quotes): the peer matches nobody"#]],
    );
    check(
        "{ ingress: [{ from: [{ podSelector: {}, namespaceSelector: { matchLabels: { a: 1.5 } } }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] nobody on every port
            ! malformed spec.ingress[0].from[0].namespaceSelector.matchLabels[a] is a number, not a string (it needs quotes): the peer matches nobody"#]],
    );
}

#[test]
fn expressions_are_checked_as_the_api_server_does() {
    check(
        r#"
        podSelector:
          matchExpressions:
            - { key: a, operator: In }
            - { key: a, operator: NotIn, values: [] }
            - { key: a, operator: Exists, values: [x] }
            - { key: a, operator: DoesNotExist, values: [""] }
            - { key: a, operator: Gt, values: ["1"] }
            - { key: a, operator: in, values: ["1"] }
            - { key: a }
            - { operator: Exists }
            - { key: a, operator: Exists, value: x }
            - { key: 5, operator: Exists }
            - { key: a, operator: In, values: b }
            - { key: a, operator: [] }
            - null
            - 5
        "#,
        &expect![[r#"
            default/p isolates () for ingress
            ! invalid-selector spec.podSelector.matchExpressions[0].values is empty, which In does not allow: the policy selects pods as if it were not there, and allows nothing
            ! invalid-selector spec.podSelector.matchExpressions[1].values is empty, which NotIn does not allow: the policy selects pods as if it were not there, and allows nothing
            ! invalid-selector spec.podSelector.matchExpressions[2].values is not empty, which Exists does not allow: the policy selects pods as if it were not there, and allows nothing
            ! invalid-selector spec.podSelector.matchExpressions[3].values is not empty, which DoesNotExist does not allow: the policy selects pods as if it were not there, and allows nothing
            ! invalid-selector spec.podSelector.matchExpressions[4].operator "Gt" is not In, NotIn, Exists or DoesNotExist: the policy selects pods as if it were not there, and allows nothing
            ! invalid-selector spec.podSelector.matchExpressions[5].operator "in" is not In, NotIn, Exists or DoesNotExist: the policy selects pods as if it were not there, and allows nothing
            ! invalid-selector spec.podSelector.matchExpressions[6].operator "" is not In, NotIn, Exists or DoesNotExist: the policy selects pods as if it were not there, and allows nothing
            ! invalid-selector spec.podSelector.matchExpressions[7].key "" is not a valid label key: the policy selects pods as if it were not there, and allows nothing
            ! unknown-field spec.podSelector.matchExpressions[8].value is not a field of the API, which has key, operator, values here: the policy selects pods as if it were not there, and allows nothing
            ! malformed spec.podSelector.matchExpressions[9].key is a number, not a string (it needs quotes): the policy selects pods as if it were not there, and allows nothing
            ! malformed spec.podSelector.matchExpressions[10].values is a string, not a list: the policy selects pods as if it were not there, and allows nothing
            ! malformed spec.podSelector.matchExpressions[11].operator is a list, not a string: the policy selects pods as if it were not there, and allows nothing
            ! invalid-selector spec.podSelector.matchExpressions[12].key "" is not a valid label key: the policy selects pods as if it were not there, and allows nothing
            ! malformed spec.podSelector.matchExpressions[13] is a number, not a mapping: the policy selects pods as if it were not there, and allows nothing"#]],
    );
}

#[test]
fn label_keys_and_values_are_checked_as_the_api_server_does() {
    check(
        r#"
        podSelector:
          matchLabels: { "a b": c, d: "e f", "/g": h, -i: j }
          matchExpressions:
            - { key: "a b", operator: Exists }
            - { key: a, operator: In, values: ["b c", d] }
        "#,
        &expect![[r#"
            default/p isolates () for ingress
            ! invalid-selector spec.podSelector.matchLabels[-i] "-i" is not a valid label key: the policy selects pods as if it were not there, and allows nothing
            ! invalid-selector spec.podSelector.matchLabels[/g] "/g" is not a valid label key: the policy selects pods as if it were not there, and allows nothing
            ! invalid-selector spec.podSelector.matchLabels[a b] "a b" is not a valid label key: the policy selects pods as if it were not there, and allows nothing
            ! invalid-selector spec.podSelector.matchLabels[d] "e f" is not a valid label value: the policy selects pods as if it were not there, and allows nothing
            ! invalid-selector spec.podSelector.matchExpressions[0].key "a b" is not a valid label key: the policy selects pods as if it were not there, and allows nothing
            ! invalid-selector spec.podSelector.matchExpressions[1].values[0] "b c" is not a valid label value: the policy selects pods as if it were not there, and allows nothing"#]],
    );
}
