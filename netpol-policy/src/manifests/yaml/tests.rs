//! Texts, their documents and their flaws.

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

/// Reads a text and compares its documents and flaws.
#[track_caller]
fn check(text: &str, expected: &Expect) {
    expected.assert_eq(&render(text));
}

/// The documents of a text, without the items of lists.
fn documents(text: &str) -> Vec<Document> {
    let document = |part| match part {
        Part::Document(document) => Some(document),
        Part::Item(_) => None,
    };
    parts(Chunk::whole(text)).filter_map(document).collect()
}

fn render(text: &str) -> String {
    let mut rendered = String::new();
    for document in documents(text) {
        let broken = if document.is_broken { "broken " } else { "" };
        writeln!(rendered, "{broken}{}", document.value).unwrap();
        for flaw in document.flaws {
            writeln!(rendered, "! {}: {:?} {}", flaw.position.line(), flaw.kind, flaw.message)
                .unwrap();
        }
    }
    rendered
}

#[test]
fn documents_are_separated_and_empty_ones_skipped() {
    check("", &expect![[""]]);
    check("# only a comment\n---\n---\n...\n", &expect![[""]]);
    check(
        "a: 1\n---\n# x\nb: [2, {c: ~}]\n---\n",
        &expect![[r#"
        {"a":1}
        {"b":[2,{"c":null}]}
    "#]],
    );
    check(
        "\u{feff}a: 1\r\nb: \"x\\ty\"\r\n",
        &expect![[r#"
        {"a":1,"b":"x\ty"}
    "#]],
    );
}

#[test]
fn json_is_read_too() {
    check(
        "{\n\t\"a\": [1, \"\\u00e9\\/\\ud83d\\ude00\", null],\n\t\"b\": {\"c\": true}\n}\n",
        &expect![[r#"
            {"a":[1,"é/😀",null],"b":{"c":true}}
        "#]],
    );
    check(
        r#"{"a":"b","c":{"d":[]},"e":-1.5e2}"#,
        &expect![[r#"
        {"a":"b","c":{"d":[]},"e":-150}
    "#]],
    );
}

#[test]
fn both_values_of_a_repeated_key_are_ignored() {
    check(
        "a: 1\nb: {c: 1, c: 2}\na: 2\na: 3\n",
        &expect![[r#"
            {"a":{"(unreadable)":true},"b":{"c":{"(unreadable)":true}}}
            ! 2: RepeatedKey key "c" is given twice: both values are ignored
            ! 3: RepeatedKey key "a" is given twice: both values are ignored
            ! 4: RepeatedKey key "a" is given twice: both values are ignored
        "#]],
    );
    check(
        "yes: 1\ntrue: 2\n",
        &expect![[r#"
            {"true":{"(unreadable)":true}}
            ! 2: RepeatedKey key "true" is given twice: both values are ignored
        "#]],
    );
}

#[test]
fn a_syntax_error_marks_what_is_open_and_spares_other_documents() {
    check(
        "kind: NetworkPolicy\nspec:\n  ingress:\n  - from: [a\n  b: c\n---\nd: 1\n---\ne: 'x\n",
        &expect![[r#"
            broken {"(unreadable)":{"(unreadable)":true},"kind":"NetworkPolicy","spec":{"(unreadable)":{"(unreadable)":true},"ingress":[{"(unreadable)":{"(unreadable)":true},"from":[{"(unreadable)":true}]},{"(unreadable)":true}]}}
            ! 5: Syntax illegal placement of ':' indicator
            {"d":1}
            broken {"(unreadable)":{"(unreadable)":true},"e":{"(unreadable)":true}}
            ! 10: Syntax invalid indentation in multiline quoted scalar
        "#]],
    );
    check(
        "a:\n\t- b\n",
        &expect![[r#"
        broken {"(unreadable)":{"(unreadable)":true},"a":{"(unreadable)":true}}
        ! 2: Syntax tabs disallowed within this context (block indentation)
    "#]],
    );
    check(
        "a: 1\n b: 2\n---\nc: 3\n",
        &expect![[r#"
        broken {"(unreadable)":{"(unreadable)":true},"a":"1 b"}
        ! 2: Syntax mapping values are not allowed in this context
        {"c":3}
    "#]],
    );
    check(
        "a: @b\n---\nc: 3\n",
        &expect![[r#"
        broken {"(unreadable)":{"(unreadable)":true},"a":{"(unreadable)":true}}
        ! 1: Syntax unexpected character: `@'
        {"c":3}
    "#]],
    );
}

#[test]
fn anchors_aliases_and_merges_are_resolved() {
    check(
        "a: &x {p: 1, q: 2}\nb: *x\nc: {<<: *x, q: 3}\nd: {q: 5, <<: [*x, {q: 6, r: 4}], r: 5}\n",
        &expect![[r#"
            {"a":{"p":1,"q":2},"b":{"p":1,"q":2},"c":{"p":1,"q":3},"d":{"p":1,"q":2,"r":5}}
        "#]],
    );
    check(
        "a: &k key\n*k : 1\nb: \"<<\"\n\"<<\": {c: 1}\n",
        &expect![[r#"
        {"<<":{"c":1},"a":"key","b":"<<","key":1}
    "#]],
    );
    check(
        "a: {<<: [[{c: 1}], {d: 1}]}\n",
        &expect![[r#"
        {"a":{"(unreadable)":{"(unreadable)":true},"d":1}}
        ! 1: Value only mappings can be merged with <<
    "#]],
    );
    check(
        "a: {<<: 5, b: 1}\n",
        &expect![[r#"
        {"a":{"(unreadable)":{"(unreadable)":true},"b":1}}
        ! 1: Value only mappings can be merged with <<
    "#]],
    );
    check(
        "a: *nothing\nb: &self [1, *self]\n---\nc: 1\n",
        &expect![[r#"
            {"a":{"(unreadable)":true},"b":[1,{"(unreadable)":true}]}
            ! 1: Syntax there is no anchor "nothing" above
            ! 2: Syntax an alias refers to a value that contains the alias
            {"c":1}
        "#]],
    );
}

#[test]
fn values_that_json_does_not_have_are_flaws() {
    check(
        "a: .nan\nb: [1, .inf]\nc: !!int x\nd: !!str 5\ne: !custom 7\n",
        &expect![[r#"
            {"a":{"(unreadable)":true},"b":[1,{"(unreadable)":true}],"c":{"(unreadable)":true},"d":"5","e":"7"}
            ! 1: Value ".nan" cannot be represented in JSON
            ! 2: Value ".inf" cannot be represented in JSON
            ! 3: Value "x" cannot be represented in JSON
        "#]],
    );
    check(
        "? [a, b]\n: 1\n~: 2\nc: 3\n",
        &expect![[r#"
            {"(unreadable)":{"(unreadable)":true},"c":3}
            ! 1: Value a mapping key is not text
            ! 3: Value a mapping key is not text
        "#]],
    );
}

#[test]
fn an_alias_bomb_is_refused_without_being_built() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..30 {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(bomb, "a{level}: &a{level} [{below}]").unwrap();
    }
    let documents = documents(&bomb);
    let kinds: Vec<_> = documents.iter().flat_map(|d| &d.flaws).map(|flaw| flaw.kind).collect();
    assert!(kinds.contains(&FlawKind::TooLarge), "{kinds:?}");
    assert!(documents[0].value.to_string().len() < 10_000_000);
}

#[test]
fn deep_nesting_is_refused() {
    const N: usize = 100_000;
    let json = format!("{}1{}", "{\"a\":[".repeat(N), "]}".repeat(N));
    for text in ["[".repeat(N), "- ".repeat(N), "? ".repeat(N), "- ? ".repeat(N), json] {
        let documents = documents(&(text + "\n---\n{\"b\":1}\n"));
        assert!(documents[0].is_broken);
        assert_eq!(documents.last().unwrap().value, serde_json::json!({ "b": 1 }));
    }
    let mut chain = String::from("a0: &a0 [1]\n");
    for n in 1..100 {
        let [open, close] = ["[".repeat(50), "]".repeat(50)];
        writeln!(chain, "a{n}: &a{n} {open}*a{}{close}", n - 1).unwrap();
    }
    let kinds: Vec<_> = documents(&chain)[0].flaws.iter().map(|flaw| flaw.kind).collect();
    assert!(kinds.contains(&FlawKind::TooLarge), "{kinds:?}");
}

/// The output of `jq -c` was a syntax error, because YAML has no two documents without a line between them.
#[test]
fn json_documents_may_follow_each_other() {
    check(
        "{\"a\":1}\n{\"a\":2}{\"a\":3}\n---\n{\"a\":4}\n--- {\"a\":5}\n---\n",
        &expect![[r#"
            {"a":1}
            {"a":2}
            {"a":3}
            {"a":4}
            {"a":5}
        "#]],
    );
    let parts: Vec<_> = parts(Chunk::whole("\u{feff}{\"é\":\r\n1}\r\r\n {\"a\":2}\n")).collect();
    let positions: Vec<_> = parts
        .iter()
        .map(|part| match part {
            Part::Document(document) => document.find("").position,
            Part::Item(item) => item.document.find("").position,
        })
        .map(|position| (position.line(), position.column()))
        .collect();
    assert_eq!(positions, [(1, 1), (4, 2)]);
}

#[test]
fn a_text_that_is_not_json_throughout_is_yaml() {
    for text in [
        "",
        "a: 1",
        "{a: 1}",
        "{\"a\": 1} # comment",
        "{\"a\": 1,}",
        "{\"a\": 01}",
        "{'a': 1}",
        "{\"a\": \"x\ty\"}",
        "{\"a\": 1}\n---\nb: 2",
        "{\"a\": 1} ---\n{\"b\": 2}",
        "{\"a\": 1}\n---{\"b\": 2}",
        "{\"a\": 1}\n...\n",
        "%YAML 1.1\n---\n{\"a\": 1}",
        "{\"a\": 1} 5",
        "5",
    ] {
        assert_eq!(json::documents(text, 100), None, "{text:?}");
    }
    assert_eq!(json::documents("---\n[]\n---\r\n{\"a\":1}{}", 2), Some(vec![4..6, 12..19]));
    // As the decoder of kubectl reads half a pair.
    check(
        "{\"a\":\"\\ud800x\\\"\\\\\"}",
        &expect![[r#"
        {"a":"�x\"\\"}
    "#]],
    );
}

#[test]
fn every_part_of_a_document_has_its_line() {
    let text = "\
kind: List
items:
- metadata:
    labels:
      app.kubernetes.io/name: a
  spec:
    ingress:
    - from: []
      ports:
      - port: 80
        endPort: 79
";
    let parts: Vec<_> = parts(Chunk::whole(text)).collect();
    let [Part::Item(item), Part::Document(list)] = parts.as_slice() else { panic!("{parts:?}") };
    assert_eq!(list.find("").position.line(), 1);
    assert_eq!(list.find("items").position.line(), 2);
    let line = |path: &str| item.document.find(path).position.line();
    assert_eq!(line(""), 3);
    assert_eq!(line("metadata.labels[app.kubernetes.io/name]"), 5);
    assert_eq!(line("spec.ingress[0].ports[0].port"), 10);
    assert_eq!(line("spec.ingress[0].ports[0].endPort"), 11);
    assert_eq!(line("spec.ingress[0].ports[0].protocol"), 10);
    assert_eq!(line("metadata.name"), 3);
}

/// A document of a million ports once took more than two gigabytes.
#[test]
fn a_document_with_too_many_values_is_not_read_to_its_end() {
    let mut text = String::from("kind: NetworkPolicy\nspec: [{}]\nports:\n");
    for _ in 0..MAX_VALUES {
        text += "- port: 80\n";
    }
    text += "---\nkind: Pod\n";
    let documents = documents(&text);
    assert_eq!(documents.len(), 2);
    assert!(documents[0].is_broken && documents[0].value.get(UNREADABLE).is_some());
    let [flaw] = documents[0].flaws.as_slice() else { panic!("{:?}", documents[0].flaws) };
    assert_eq!(flaw.kind, FlawKind::TooLarge);
    assert!(flaw.message.contains("more than 300000 values"), "{}", flaw.message);
    assert_eq!(documents[1].value, serde_json::json!({ "kind": "Pod" }));
}

/// JSON with much of what its readers distinguish.
fn json_text() -> impl Strategy<Value = String> {
    let keys = ["a", "items", "kind", "apiVersion", "<<", "é", "app.kubernetes.io/name", "a\\n"];
    let scalars = [
        "null",
        "true",
        "0",
        "-0",
        "80",
        "-1.50",
        "1e3",
        "1E400",
        "65535",
        "99999999999999999999",
        "\"\"",
        "\"yes\"",
        "\"Pod\"",
        "\"PodList\"",
        "\"v1\"",
        "\"é\\u00e9\\ud83d\\ude00\\/\\\"\\\\\"",
        "\"# : ,]} - 😀\"",
        "\"\\b\\f\\n\\r\\t\"",
        "[]",
        "{}",
    ];
    let space = || prop::sample::select(vec!["", "", " ", "\n", "\r\n  ", "\n    "]);
    let scalar = prop::sample::select(scalars.to_vec()).prop_map(str::to_owned);
    let value = scalar.prop_recursive(4, 40, 5, move |inner| {
        let item = (space(), inner.clone(), space()).prop_map(|(a, b, c)| format!("{a}{b}{c}"));
        let key = prop::sample::select(keys.to_vec());
        let field = (space(), key, prop::sample::select(vec!["", " "]), inner, space());
        let field = field.prop_map(|(a, key, b, value, c)| format!("{a}\"{key}\":{b}{value}{c}"));
        prop_oneof![
            prop::collection::vec(item, 0..5).prop_map(|of| format!("[{}]", of.join(","))),
            prop::collection::vec(field, 0..5).prop_map(|of| format!("{{{}}}", of.join(","))),
        ]
    });
    let document = value.prop_filter("a document", |text| text.starts_with(['[', '{']));
    prop::collection::vec(document, 1..4).prop_map(|of| of.join("\n---\n"))
}

/// Lines of documents, of which many do not fit together.
const LINES: [&str; 26] = [
    "a: 1\n",
    "  b: 2\n",
    "- c\n",
    "- - d\n",
    "e: &x [1, {f: *x}]\n",
    "g: *x\n",
    "h: |\n",
    "  text\n",
    "i: \"open\n",
    "close\"\n",
    "j: 'open\n",
    "k: [1,\n",
    "]\n",
    "{l: 1\n",
    "}\n",
    "# comment\n",
    "...\n",
    "--- # next\n",
    "---\n",
    "--- m: 1\n",
    "--- |\n",
    "---n\n",
    "items:\n",
    "%TAG ! tag:x,2000:\n",
    "{\"o\": 1}\n",
    "\n",
];

#[test]
fn a_text_is_cut_between_documents_only() {
    let cut = |text, n_wanted| -> Vec<_> {
        let of = |chunk: &Chunk<'_>| (chunk.n_lines_before, chunk.text.len());
        chunks(text, n_wanted).iter().map(of).collect()
    };
    assert_eq!(cut("a: 1\n---\nb: 2\n---\nc: 3\n", 6), [(0, 8), (1, 12), (3, 9)]);
    assert_eq!(cut("a: 1\n---\nb: 2\n---\nc: 3\n", 3), [(0, 17), (3, 9)]);
    assert_eq!(cut("a: 1\n---\nb: 2\n--- c\n", 1), [(0, 20)]);
    assert_eq!(cut("a: 1\n---x\n", 2), [(0, 10)]);
    assert_eq!(cut("{\"a\": 1}\n---\n{}\n", 2), [(0, 16)]);
    for text in [
        "%YAML 1.2\n---\na: 1\n---\nb: 2\n",
        "a: 1\n...\n%YAML 1.2\n---\n",
        "a: 1\r---\nb: 1\n---\n",
    ] {
        assert_eq!(cut(text, 2), [(0, text.len())], "{text:?}");
    }
}

proptest! {
    #[test]
    fn json_means_what_it_means_as_yaml(text in json_text()) {
        let debug = |parts: Vec<Part>| format!("{parts:#?}");
        prop_assert!(json::documents(&text, 100).is_some());
        let read = debug(parts(Chunk::whole(&text)).collect());
        prop_assert_eq!(read, debug(Parts::of(yaml(&text, 0)).collect()));
    }

    #[test]
    fn chunks_of_a_text_have_its_documents(
        lines in prop::collection::vec(prop::sample::select(LINES.to_vec()), 0..24),
        n_wanted in 2_usize..5,
    ) {
        let text: String = lines.concat();
        let of = |chunks: Vec<Chunk<'_>>| -> Vec<String> {
            chunks.into_iter().flat_map(parts).map(|part| format!("{part:?}")).collect()
        };
        prop_assert_eq!(of(chunks(&text, n_wanted)), of(vec![Chunk::whole(&text)]), "{}", text);
    }

    #[test]
    fn text_like_json_never_panics(text in "([{}\\[\\],: \n-]|\"[a\\\\u\"]{0,3}\"|1){0,30}") {
        for document in documents(&text) {
            document.find("a.b[0].c");
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in "[-a-c0-9\\[\\]{}:,&*!'\"|> \n\t#?.~<%@]{0,60}") {
        for document in documents(&text) {
            document.find("a.b[0].c");
        }
    }
}
