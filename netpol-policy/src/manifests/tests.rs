//! Objects and findings of texts and directories.

use std::fs;

use expect_test::{Expect, expect};

use super::*;

fn render(manifests: &Manifests) -> String {
    let objects = manifests.objects.iter();
    let mut lines: Vec<_> = objects
        .map(|located| format!("{} {}", located.location, located.object.object_ref()))
        .collect();
    lines.extend(manifests.findings.iter().map(|finding| format!("! {finding}")));
    let unsupported = manifests.unsupported.iter();
    lines.extend(unsupported.map(|located| format!("- {} {}", located.location, located.object)));
    lines.join("\n")
}

/// Reads a text and compares objects (with their locations), findings (!) and objects of unsupported kinds (-).
#[track_caller]
fn check(text: &str, expected: &Expect) {
    expected.assert_eq(&render(&parse("web.yaml", text)));
}

/// Writes files into a directory, reads the directory, and compares as [`check`].
#[track_caller]
fn check_files(files: &[(&str, &str)], expected: &Expect) {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let manifests = read(&[directory.path().to_owned()], &mut std::io::empty());
    let root = format!("{}/", directory.path().display());
    expected.assert_eq(&render(&manifests).replace(&root, ""));
}

#[test]
fn findings_name_file_line_object_and_field() {
    check(
        "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: allow-web
  namespace: shop
spec:
  podSelector: {}
  ingress:
  - from:
    - podSelector:
        matchLabels:
          tier: 1
    ports:
    - port: 80
      endPort: 79
    - protocol: tcp
  policyType: [Ingress]
---
apiVersion: v1
kind: Pod
metadata: { namespace: shop }
",
        &expect![[r#"
            web.yaml:1 NetworkPolicy shop/allow-web
            ! web.yaml:12: NetworkPolicy shop/allow-web: spec.ingress[0].from[0].podSelector.matchLabels[tier] is a number, not a string (it needs quotes): the peer matches nobody [malformed]
            ! web.yaml:15: NetworkPolicy shop/allow-web: spec.ingress[0].ports[0].endPort 79 is below port 80: the item matches nothing [invalid-port]
            ! web.yaml:16: NetworkPolicy shop/allow-web: spec.ingress[0].ports[1].protocol "tcp" is not TCP, UDP or SCTP: the item matches nothing [invalid-port]
            ! web.yaml:17: NetworkPolicy shop/allow-web: spec.policyType is not a field of the API, which has podSelector, policyTypes, ingress, egress here: the policy isolates in both directions [unknown-field]
            ! web.yaml:21: Pod shop/: metadata.name is missing: the object is left out [malformed]"#]],
    );
}

#[test]
fn several_documents_and_lists_are_read() {
    check(
        "\
# nothing here
---
{ apiVersion: v1, kind: Namespace, metadata: { name: shop } }
---
apiVersion: v1
kind: List
items:
- { apiVersion: v1, kind: Pod, metadata: { name: a } }
- { apiVersion: apps/v1, kind: Deployment, metadata: { name: b } }
- apiVersion: v1
  kind: Pod
  metadata:
    name: c
    labels: { app: 1 }
---
apiVersion: v1
kind: PodList
items:
- metadata: { name: d }
",
        &expect![[r#"
            web.yaml:3 Namespace shop
            web.yaml:8 Pod default/a
            web.yaml:9 Deployment default/b
            web.yaml:10 Pod default/c
            web.yaml:19 Pod default/d
            ! web.yaml:14: Pod default/c: metadata.labels[app] is a number, not a string (it needs quotes): it is taken as it is written [malformed]"#]],
    );
}

#[test]
fn a_broken_document_does_not_hide_the_others() {
    check(
        "\
kind: Namespace
apiVersion: v1
metadata: { name: a }
---
kind: NetworkPolicy
metadata:
  name: [
spec: 5
---
kind: Namespace
apiVersion: v1
metadata: { name: b }
",
        &expect![[r#"
            web.yaml:1 Namespace a
            web.yaml:10 Namespace b
            ! web.yaml:7: unclosed bracket '[' [syntax]"#]],
    );
}

#[test]
fn a_syntax_error_names_the_object_that_it_truncates() {
    check(
        "\
apiVersion: v1
kind: List
items:
- { apiVersion: v1, kind: Pod, metadata: { name: whole } }
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: { name: p, namespace: shop }
  spec:
    podSelector: {}
    ingress:
    - ports:
      - port: 80
     from: []
",
        &expect![[r#"
            web.yaml:4 Pod default/whole
            ! web.yaml:5: NetworkPolicy shop/p: is truncated by a syntax error: the object is ignored [malformed]
            ! web.yaml:13: while parsing a block mapping, did not find expected key [syntax]"#]],
    );
}

#[test]
fn repeated_keys_are_findings_and_allow_nothing() {
    let text = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: p }
spec:
  podSelector: {}
  ingress:
  - ports: [{ port: 80 }]
    ports: [{ port: 81 }]
  - {}
";
    check(
        text,
        &expect![[r#"
            web.yaml:1 NetworkPolicy default/p
            ! web.yaml:8: key "ports" is given twice: both values are ignored [repeated-key]
            ! web.yaml:8: NetworkPolicy default/p: spec.ingress[0].ports cannot be read: the rule allows nothing [malformed]"#]],
    );
    let manifests = parse("p.yaml", text);
    let Object::Policy(policy) = &manifests.objects[0].object else { panic!("a policy") };
    assert_eq!(policy.ingress.iter().map(|rule| rule.index).collect::<Vec<_>>(), [1]);
}

#[test]
fn documents_without_a_kind_and_odd_lists_are_findings() {
    check(
        "replicas: 3\n---\n- a\n---\nkind: 5\n",
        &expect![[r#"
            ! web.yaml:1: the document has no kind: it is ignored [no-kind]
            ! web.yaml:3: the document has no kind: it is ignored [no-kind]
            ! web.yaml:5: the document has no kind: it is ignored [no-kind]"#]],
    );
    check(
        "apiVersion: v1\nkind: List\nitems: { a: b }\n",
        &expect![[r#"
            ! web.yaml:1: items is not a list: the document is ignored [invalid-value]
            - web.yaml:1 v1 List"#]],
    );
    check(
        "apiVersion: v1\nkind: List\nitems: [5, { kind: Pod }]\n",
        &expect![[r#"
            ! web.yaml:3: the document has no kind: it is ignored [no-kind]
            ! web.yaml:3: Pod default/: apiVersion is missing, not v1: the object is read as v1 [malformed]
            ! web.yaml:3: Pod default/: metadata.name is missing: the object is left out [malformed]"#]],
    );
}

#[test]
fn directories_are_read_in_the_order_of_paths_and_the_last_definition_is_used() {
    let namespace = |name: &str, label: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {name}, labels: {{ l: {label} }} }}\n"
        )
    };
    check_files(
        &[
            ("b.yaml", &namespace("x", "b")),
            ("a.yml", &namespace("x", "a")),
            (
                "sub/c.json",
                r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "y"}}"#,
            ),
            ("readme.txt", "not: [yaml"),
            (".hidden.yaml", "not: [yaml"),
            (".git/x.yaml", "not: [yaml"),
            ("z.yaml", "\u{0}"),
        ],
        &expect![[r#"
            b.yaml:1 Namespace x
            sub/c.json:1 Namespace y
            ! a.yml:1: Namespace x: is defined again at b.yaml:1: the later definition is used [defined-twice]
            ! z.yaml:1: unexpected character: `\u{0}' [syntax]"#]],
    );
}

#[test]
fn findings_on_a_replaced_definition_are_dropped() {
    let text = "\
{ apiVersion: v1, kind: Namespace, metadata: { name: x, labels: { a: 1 } } }
---
{ apiVersion: v1, kind: Namespace, metadata: { name: x } }
";
    check(
        text,
        &expect![[r#"
            web.yaml:3 Namespace x
            ! web.yaml:1: Namespace x: is defined again at web.yaml:3: the later definition is used [defined-twice]"#]],
    );
}

#[test]
fn a_missing_path_is_a_finding_and_the_standard_input_is_a_file() {
    let paths = [PathBuf::from("/nonexistent/a.yaml"), PathBuf::from(STDIN)];
    let text = "{ apiVersion: v1, kind: Node, metadata: { name: node } }";
    let manifests = read(&paths, &mut text.as_bytes());
    expect![[r#"
        -:1 Node node
        ! /nonexistent/a.yaml: No such file or directory (os error 2) [unreadable]"#]]
    .assert_eq(&render(&manifests));
}

#[test]
fn findings_are_serialised_flat() {
    let manifests = parse("a.yaml", "a: [\n---\n{ apiVersion: v1, kind: Pod, metadata: {} }");
    let json = serde_json::to_string_pretty(&manifests.findings).unwrap();
    expect![[r#"
        [
          {
            "location": "a.yaml:1",
            "code": "syntax",
            "message": "unclosed bracket '['"
          },
          {
            "location": "a.yaml:3",
            "code": "malformed",
            "object": {
              "kind": "Pod",
              "name": {
                "namespace": "default",
                "name": ""
              }
            },
            "field": "metadata.name",
            "message": "is missing: the object is left out"
          }
        ]"#]]
    .assert_eq(&json);
}

#[test]
fn items_have_the_kind_of_their_list_wherever_it_stands() {
    check(
        "\
items:
- metadata: { name: a }
- { kind: Pod, metadata: { name: b } }
- { apiVersion: apps/v1, kind: Deployment, metadata: { name: c } }
apiVersion: v1
kind: PodList
---
apiVersion: v1
items:
- { apiVersion: v1, kind: Pod, metadata: { name: d } }
kind: List
---
{ apiVersion: v1, kind: Pod, metadata: { name: e }, items: [{ apiVersion: v1, kind: Pod, metadata: { name: f } }] }
",
        &expect![[r#"
            web.yaml:2 Pod default/a
            web.yaml:3 Pod default/b
            web.yaml:4 Deployment default/c
            web.yaml:10 Pod default/d
            web.yaml:13 Pod default/e"#]],
    );
}

/// The largest memory of this process so far, in bytes.
fn peak_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

/// A text of 18 MB once took a gigabyte, whether it was one list or many documents.
#[test]
fn memory_depends_on_the_objects_and_not_on_the_text() {
    const N_PODS: usize = 1_500;
    let pod = |n: usize| {
        let env: Vec<_> = (0..40).map(|n| format!("{{name: E{n}, value: v}}")).collect();
        let env = env.join(", ");
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{namespace: x, name: p{n}}}, spec: {{containers: [{{name: c, env: [{env}]}}]}}}}\n"
        )
    };
    let pods: Vec<String> = (0..N_PODS).map(pod).collect();
    let list = format!("apiVersion: v1\nitems:\n- {}kind: List\n", pods.join("- "));
    let documents = pods.join("---\n");
    drop(pods);
    for text in [list, documents] {
        let before = peak_bytes();
        let manifests = parse("large.yaml", &text);
        assert_eq!(manifests.objects.len(), N_PODS, "{:?}", manifests.findings);
        let (n_more, len_bytes) = (peak_bytes() - before, text.len());
        assert!(len_bytes > 1_500_000, "{len_bytes}");
        assert!(n_more < 10 * len_bytes, "{n_more} bytes for a text of {len_bytes}");
    }
}
