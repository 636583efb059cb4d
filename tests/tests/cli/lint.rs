//! `lint`, and its documentation.

use std::fmt::Write as _;

use expect_test::{expect, expect_file};
use netpol_policy::compile::{Capacities, Shared};
use netpol_policy::lint::{CHECKS, Level};
use netpol_policy::manifests::FileCode;
use netpol_policy::model::{Code, Severity};

use crate::{REPAIRED, check, check_stdin, output};

#[test]
fn lint_names_file_line_and_field_and_gives_advice() {
    check(
        "netpol lint -f DIR/shop.yaml",
        &expect![[r#"
            exit code 1
            DIR/shop.yaml:39: warning NP005 split-peer: NetworkPolicy shop/db: spec.ingress[1].from[1] allows all pods of namespaces with team=ops, and also pods with app=web of the policy's namespace
               |
            39 |     - podSelector: { matchLabels: { app: web } }
               |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
                To allow only these pods in these namespaces, write both selectors in one list item, without the second dash.
            DIR/shop.yaml:40: error invalid-port: NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing
               |
            40 |     ports: [{ port: pg }, { port: 70000 }]
               |                             ^^^^^^^^^^^
            7 objects: 1 error, 1 warning, 0 infos
        "#]],
    );
}

#[test]
fn lint_fails_from_the_denied_level_on() {
    check(
        "netpol lint -f DIR/shop.yaml --allow invalid-port --allow NP005",
        &expect![[r#"
            exit code 0
            7 objects: 0 errors, 0 warnings, 0 infos
        "#]],
    );
    let exit_code = |command| output(command, "").lines().next().map(ToOwned::to_owned);
    let warnings = "netpol lint -f DIR/shop.yaml --allow invalid-port --deny warnings";
    assert_eq!(exit_code(warnings).as_deref(), Some("exit code 1"));
    let broken = "netpol lint -f DIR/broken.yaml";
    assert_eq!(exit_code(broken).as_deref(), Some("exit code 2"));
}

#[test]
fn lint_writes_json() {
    check(
        "netpol lint -f DIR/shop.yaml --allow NP005 -o json",
        &expect![[r#"
            exit code 1
            [
              {
                "code": "invalid-port",
                "level": "error",
                "location": "DIR/shop.yaml:40",
                "column": 29,
                "object": "NetworkPolicy shop/db",
                "field": "spec.ingress[1].ports[1].port",
                "message": "70000 is not within 1 and 65535: the item matches nothing"
              }
            ]
        "#]],
    );
}

#[test]
fn lint_writes_sarif() {
    check(
        "netpol lint -f DIR/shop.yaml --allow invalid-port -o sarif",
        &expect![[r#"
            exit code 0
            {
              "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
              "runs": [
                {
                  "columnKind": "unicodeCodePoints",
                  "results": [
                    {
                      "level": "warning",
                      "locations": [
                        {
                          "logicalLocations": [
                            {
                              "fullyQualifiedName": "NetworkPolicy shop/db spec.ingress[1].from[1]",
                              "kind": "object"
                            }
                          ],
                          "physicalLocation": {
                            "artifactLocation": {
                              "uri": "file://DIR/shop.yaml"
                            },
                            "region": {
                              "startColumn": 7,
                              "startLine": 39
                            }
                          }
                        }
                      ],
                      "message": {
                        "text": "NetworkPolicy shop/db: allows all pods of namespaces with team=ops, and also pods with app=web of the policy's namespace"
                      },
                      "ruleId": "NP005",
                      "ruleIndex": 0
                    }
                  ],
                  "tool": {
                    "driver": {
                      "informationUri": "https://kubernetes.io/docs/concepts/services-networking/network-policies/",
                      "name": "netpol",
                      "rules": [
                        {
                          "defaultConfiguration": {
                            "level": "warning"
                          },
                          "fullDescription": {
                            "text": "A `namespaceSelector` and a `podSelector` in two consecutive peers: either one allows the connection (OR), where both (AND) were probably intended. To allow only these pods in these namespaces, write both selectors in one list item, without the second dash."
                          },
                          "help": {
                            "markdown": "A `namespaceSelector` and a `podSelector` in two consecutive peers: either one allows the connection (OR), where both (AND) were probably intended.\n\nTo allow only these pods in these namespaces, write both selectors in one list item, without the second dash.",
                            "text": "To allow only these pods in these namespaces, write both selectors in one list item, without the second dash."
                          },
                          "helpUri": "https://kubernetes.io/docs/concepts/services-networking/network-policies/",
                          "id": "NP005",
                          "name": "split-peer",
                          "properties": {
                            "tags": [
                              "networkpolicy",
                              "probable-mistake"
                            ]
                          },
                          "shortDescription": {
                            "text": "A `namespaceSelector` and a `podSelector` in two consecutive peers: either one allows the connection (OR), where both (AND) were probably intended."
                          }
                        }
                      ],
                      "semanticVersion": "0.1.0",
                      "version": "0.1.0"
                    }
                  }
                }
              ],
              "version": "2.1.0"
            }
        "#]],
    );
}

#[test]
fn lint_reads_the_standard_input() {
    check_stdin(
        "netpol lint -f -",
        REPAIRED,
        &expect![[r#"
            exit code 0
            1 object: 0 errors, 0 warnings, 0 infos
        "#]],
    );
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: {name}, namespace: shop }}\nspec: {spec}\n"
    )
}

/// The findings of all levels on this input, each as its code and the rest of the line.
fn findings(input: &str, options: &str) -> Vec<String> {
    let text = output(&format!("netpol lint -f - {options}"), input);
    let is_finding = |line: &&str| line.starts_with("-:");
    let without_location =
        |line: &str| line.split_once(": ").map_or(line, |(_, rest)| rest).to_owned();
    text.lines().filter(is_finding).map(without_location).collect()
}

const SHOP_NAMESPACE: &str =
    "{ apiVersion: v1, kind: Namespace, metadata: { name: shop, labels: { team: a } } }\n";

#[test]
fn namespaces_that_the_input_does_not_contain_may_exist() {
    for selector in [
        "kubernetes.io/metadata.name: kube-system",
        "kubernetes.io/metadata.name: ingress-nginx",
        "team: platform",
        "name: kube-system",
    ] {
        let spec = format!(
            "{{ podSelector: {{}}, ingress: [{{ from: [{{ namespaceSelector: {{ matchLabels: {{ {selector} }} }} }}] }}] }}"
        );
        let input = format!("{SHOP_NAMESPACE}{}", policy("a", &spec));
        assert_eq!(findings(&input, ""), Vec::<String>::new(), "{selector}");
        let elsewhere = input.replace("namespace: shop", "namespace: other");
        assert_eq!(findings(&elsewhere, ""), Vec::<String>::new(), "{selector}");
        let complete = findings(&input, "--complete");
        assert!(complete[0].starts_with("warning NP003"), "{complete:?}");
        assert!(findings(&elsewhere, "--complete")[0].starts_with("warning NP002"));
    }
    let every = "---\n{ apiVersion: v1, kind: NamespaceList, items: [{ metadata: { name: default } }, { metadata: { name: kube-system } }] }\n";
    let spec = "{ podSelector: {}, ingress: [{ from: [{ namespaceSelector: { matchLabels: { team: b } } }] }] }";
    let input = format!("{SHOP_NAMESPACE}{every}{}", policy("a", spec));
    assert!(findings(&input, "")[0].starts_with("warning NP003"));
}

#[test]
fn a_label_that_differs_by_a_letter_is_suggested() {
    let pod = "---\n{ apiVersion: v1, kind: Pod, metadata: { name: p, namespace: shop, labels: { app: frontend } } }\n";
    for (spec, expected) in [
        (
            "{ podSelector: { matchLabels: { app: frontent } } }",
            "warning NP001 selects-no-pod: NetworkPolicy shop/a: spec.podSelector selects no pod in namespace shop: app=frontent (did you mean app=frontend?)",
        ),
        (
            "{ podSelector: { matchLabels: { apps: frontend } } }",
            "warning NP001 selects-no-pod: NetworkPolicy shop/a: spec.podSelector selects no pod in namespace shop: apps=frontend (did you mean app=frontend?)",
        ),
        (
            "{ podSelector: {}, ingress: [{ from: [{ podSelector: { matchLabels: { app: fronted } } }] }] }",
            "warning NP003 peer-selects-nothing: NetworkPolicy shop/a: spec.ingress[0].from[0] selects no pod in namespace shop: app=fronted (did you mean app=frontend?)",
        ),
        (
            "{ podSelector: {}, ingress: [{ from: [{ namespaceSelector: { matchLabels: { tean: a } } }] }] }",
            "warning NP003 peer-selects-nothing: NetworkPolicy shop/a: spec.ingress[0].from[0] selects no namespace: tean=a (did you mean team=a?)",
        ),
        (
            "{ podSelector: {}, ingress: [{ from: [{ namespaceSelector: { matchLabels: { name: shop } } }] }] }",
            "warning NP007 namespace-name-label: NetworkPolicy shop/a: spec.ingress[0].from[0] selects namespaces with name=shop, but namespace shop has no label name: the API server sets only kubernetes.io/metadata.name",
        ),
    ] {
        let input = format!("{SHOP_NAMESPACE}{pod}{}", policy("a", spec));
        assert_eq!(findings(&input, ""), [expected]);
    }
}

#[test]
fn the_label_name_is_missing_only_from_a_namespace_whose_labels_are_given() {
    let pod = "---\n{ apiVersion: v1, kind: Pod, metadata: { name: p, namespace: ops, labels: { app: web } } }\n";
    let ops = |labels: &str| {
        format!(
            "---\n{{ apiVersion: v1, kind: Namespace, metadata: {{ name: ops, labels: {labels} }} }}\n"
        )
    };
    for selector in [
        "{ matchLabels: { name: ops } }",
        "{ matchExpressions: [{ key: name, operator: In, values: [elsewhere, ops] }] }",
    ] {
        let spec = format!(
            "{{ podSelector: {{}}, ingress: [{{ from: [{{ namespaceSelector: {selector} }}] }}] }}"
        );
        let input = |namespaces: &str| format!("{pod}{namespaces}{}", policy("a", &spec));
        // There are pods in the namespace, and perhaps its labels are in another repository.
        assert_eq!(findings(&input(""), ""), Vec::<String>::new());
        assert_eq!(findings(&input(&ops("{ name: ops }")), ""), Vec::<String>::new());
        let found = findings(&input(&ops("{ team: ops }")), "");
        assert!(found[0].starts_with("warning NP007") && found.len() == 1, "{found:?}");
    }
}

#[test]
fn dns_that_another_policy_allows_is_allowed() {
    let api = policy(
        "api",
        "{ podSelector: { matchLabels: { app: api } }, policyTypes: [Egress], egress: [{ to: [{ podSelector: { matchLabels: { app: db } } }], ports: [{ port: 5432 }] }] }",
    );
    let dns = |selector: &str, port: u16| {
        let spec = format!(
            "{{ podSelector: {selector}, policyTypes: [Egress], egress: [{{ ports: [{{ protocol: UDP, port: {port} }}, {{ protocol: TCP, port: {port} }}] }}] }}"
        );
        policy("dns", &spec)
    };
    for (selector, port) in [("{}", 53), ("{ matchLabels: { app: api } }", 53), ("{}", 5353)] {
        let input = format!("{}{api}", dns(selector, port));
        assert_eq!(findings(&input, ""), Vec::<String>::new(), "{selector} {port}");
        // OpenShift's pods listen on another port than the Service.
        assert_eq!(findings(&dns(selector, port), ""), Vec::<String>::new());
    }
    for (selector, port) in [("{ matchLabels: { app: web } }", 53), ("{}", 54)] {
        let found = findings(&format!("{}{api}", dns(selector, port)), "");
        assert!(found[0].starts_with("warning NP020"), "{selector} {port}: {found:?}");
    }
    let audited =
        dns("{}", 53).replace("name: dns,", "name: dns, annotations: { netpol/mode: audit },");
    let pod = "{ apiVersion: v1, kind: Pod, metadata: { name: api-0, namespace: shop, labels: { app: api } } }\n";
    let found = findings(&format!("{pod}{audited}{api}"), "");
    assert!(found.iter().any(|found| found.starts_with("warning NP020")), "{found:?}");
}

#[test]
fn a_peer_on_the_hosts_network_is_not_matched_by_labels() {
    let server = |host: &str| {
        format!(
            "{{ apiVersion: v1, kind: Pod, metadata: {{ name: api-cp1, namespace: kube-system, labels: {{ component: api }} }}, spec: {{ nodeName: cp1, hostNetwork: {host} }}, status: {{ podIP: 192.168.1.11 }} }}\n"
        )
    };
    let pod = "---\n{ apiVersion: v1, kind: Pod, metadata: { name: hook, namespace: shop, labels: { app: hook } }, status: { podIP: 10.0.0.1 } }\n";
    let hook = policy(
        "hook",
        "{ podSelector: { matchLabels: { app: hook } }, ingress: [{ from: [{ namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: kube-system } }, podSelector: { matchLabels: { component: api } } }] }] }",
    );
    assert_eq!(
        findings(&format!("{}{pod}{hook}", server("true")), ""),
        [
            "warning NP008 peer-on-host-network: NetworkPolicy shop/hook: spec.ingress[0].from[0] selects pod kube-system/api-cp1 in namespace kube-system, which uses the host's network: no policy matches its packets, which have the address of its node (192.168.1.11)"
        ]
    );
    assert_eq!(findings(&format!("{}{pod}{hook}", server("false")), ""), Vec::<String>::new());
}

#[test]
fn only_a_direction_that_the_author_has_not_named_is_doubtful() {
    let found = findings(&policy("a", "{ podSelector: {}, egress: [{}] }"), "--allow NP012");
    assert!(found[0].starts_with("warning NP011"), "{found:?}");
    for spec in [
        "{ podSelector: {} }",
        "{ podSelector: {}, policyTypes: [Ingress, Egress], egress: [{ ports: [{ port: 53 }, { port: 53, protocol: UDP }] }] }",
        "{ podSelector: {}, policyTypes: [Ingress] }",
        "{ podSelector: {}, policyTypes: [Ingress, Egress] }",
        "{ podSelector: {}, egress: [{ ports: [{ port: 53 }, { port: 53, protocol: UDP }] }], ingress: [{ ports: [{ port: 80 }] }] }",
    ] {
        assert_eq!(findings(&policy("a", spec), ""), Vec::<String>::new(), "{spec}");
    }
}

#[test]
fn codes_are_listed_and_explained() {
    let list = output("netpol lint --list", "");
    for check in CHECKS {
        assert!(list.contains(&format!("{} {} (", check.code, check.name)), "{}", check.code);
    }
    assert!(list.contains("no-kind (warning): A document without `kind`."));
    check(
        "netpol lint --explain NP022",
        &expect![[r#"
        exit code 0
        NP022 service-port (warning)

        A Service's `port` that is not a port of the backend pods: policies apply after Service translation, to the pods' ports.

        Use the Service's `targetPort`, which is the port of the pods.
    "#]],
    );
    check(
        "netpol lint --explain no-dsn",
        &expect![[r#"
        exit code 2
        ! netpol: there is no code no-dsn (did you mean no-dns?)
    "#]],
    );
    assert_eq!(
        output("netpol lint --explain np020", ""),
        output("netpol lint --explain no-dns", "")
    );
}

/// The page up to its first table.
const INTRODUCTION: &str = "# Findings of `netpol lint`\n\n\
         `netpol lint` reports mistakes in NetworkPolicies.\n\n\
         ```sh\n\
         netpol lint -f policies/            # files and directories\n\
         netpol lint --cluster               # the live cluster\n\
         netpol lint --cluster -f policies/  # the cluster as it would be with these files applied\n\
         ```\n\n\
         Some checks compare policies with pods, workloads, namespaces and Services. The input may be a part of a cluster, such\n\
         as the output of a chart: a namespace or Service that it does not contain may exist. With `--complete`, with `--cluster`,\n\
         and if the input contains the namespaces `default` and `kube-system`, it is a whole cluster, and selectors of namespaces\n\
         and pods that it does not contain are findings: `kubectl get networkpolicies,pods,namespaces,services -A -o yaml`.\n\n\
         Each finding names file, line, object and field. The exit code is 0 if no finding has at least the level of\n\
         `--deny errors|warnings|infos` (default: errors), 1 if one has, and 2 if a file cannot be read. `--allow CODE`\n\
         suppresses findings by code or name. `-o short` writes one line for each finding,\n\
         `-o json`, `-o sarif` and `-o github` write them for programs ([ci.md](ci.md)). `--fix` shows what can be mended without a decision as a diff,\n\
         and `--fix --write` writes it. `netpol lint --list` lists\n\
         the checks, `netpol lint --explain NP020` explains one.\n\n\
         A test keeps this file equal to the program's checks; `UPDATE_EXPECT=1 cargo nextest run -p netpol-tests --test cli`\n\
         regenerates it.\n\n\
         ## Probable mistakes\n\n\
         | code | name | level | finding | advice |\n|---|---|---|---|---|\n";

#[test]
fn the_documentation_lists_every_finding() {
    let mut text = String::from(INTRODUCTION);
    for check in CHECKS {
        let level = level(check.level);
        writeln!(
            text,
            "| <a id=\"{}\"></a>{} | `{}` | {level} | {} | {} |",
            check.code.to_lowercase(),
            check.code,
            check.name,
            check.finds,
            check.advice
        )
        .unwrap();
    }
    text.push_str(
        "\n## Not in force as written\n\n\
         The API server rejects most of these objects, or drops a field with a warning. netpol isolates the pods that such a\n\
         policy selects, allows the traffic of its valid rules, and reports the invalid parts, in `lint` and on the live cluster.\n\n\
         | code | level | finding |\n|---|---|---|\n",
    );
    let of_objects = Code::ALL.iter().map(|c| (c.as_str(), c.severity(), c.meaning()));
    let of_files = FileCode::ALL.iter().map(|c| (c.as_str(), c.severity(), c.meaning()));
    for (code, severity, meaning) in of_objects.chain(of_files) {
        let level = match severity {
            Severity::Error => level(Level::Error),
            Severity::Warning => level(Level::Warning),
        };
        writeln!(text, "| <a id=\"{code}\"></a>`{code}` | {level} | {meaning} |").unwrap();
    }
    let Capacities {
        n_prefixes,
        n_identities,
        n_allow_entries,
        n_deferred,
        n_comparisons,
        n_times_each: _,
        n_entries,
    } = Capacities::default();
    let shared = |of: Shared| format!("{} | {}", of.total, of.of_namespace);
    let [prefixes, identities, deferred] = [n_prefixes, n_identities, n_deferred].map(shared);
    let [comparisons, entries] = [n_comparisons, n_entries].map(shared);
    write!(
        text,
        "\n## Capacity\n\n\
         The maps of a node have these capacities, which namespaces share:\n\n\
         | capacity | most of one namespace | for |\n|---|---|---|\n\
         | {prefixes} | address blocks and `except` blocks of all policies that select pods of the node |\n\
         | {identities} | addresses of pods that the peers of these policies select |\n\
         | {n_allow_entries} | | entries for each direction of a pod: combinations of an identity and a port, or an aligned range of ports |\n\
         | {entries} | entries of all pods of the node together; pods that the same policies select count once |\n\
         | {deferred} | addresses of Services and of the node |\n\
         | {comparisons} | comparisons of the selectors of peers with the labels of pods, where pods with equal labels and ports count once; more in a cluster with more than 16,384 different ones |\n\n\
         A namespace that needs less than its share (a capacity divided by the number of namespaces) always gets it. Within a\n\
         namespace, capacity is assigned to one policy after the other, the smallest first. A rule that exceeds the capacity\n\
         allows nothing. Its policy still isolates, and all other rules are in force. If a Service exceeds it, all policies stay\n\
         in force, and isolated pods of the node send by a slower path.\n\n\
         `netpol lint` reports rules whose peers exceed the capacity of a node that runs pods of all policies.\n\
         `netpol simulate --engine compiled` also checks the entries of each pod. A running agent reports such rules by Events, in\n\
         `netpol-agent status` and `explain`, and in the metric `netpol_diagnostics`.\n"
    )
    .unwrap();
    expect_file!["../../../docs/lint.md"].assert_eq(&text);
}

const fn level(level: Level) -> &'static str {
    level.as_str()
}
