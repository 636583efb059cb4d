//! `lint`, and its documentation.

use std::fmt::Write as _;

use expect_test::{expect, expect_file};
use netpol_policy::compile::Capacities;
use netpol_policy::lint::{CHECKS, Level};
use netpol_policy::manifests::FileCode;
use netpol_policy::model::{Code, Severity};

use crate::{REPAIRED, check, check_stdin, output};

#[test]
fn lint_names_file_line_field_and_remedy() {
    check(
        "netpol lint -f DIR/shop.yaml",
        &expect![[r#"
            exit code 1
            DIR/shop.yaml:39: warning NP005 split-peer: NetworkPolicy shop/db: spec.ingress[1].from[1] allows all pods of namespaces with team=ops, and also pods with app=web of the policy's namespace
                For these pods in these namespaces write both selectors in one list item, without the second dash.
            DIR/shop.yaml:40: error invalid-port: NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing
            7 objects: 1 error, 1 warning, 0 infos
        "#]],
    );
}

#[test]
fn lint_findings_are_denied_from_the_level_that_is_asked_for() {
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
fn lint_prints_json_and_sarif() {
    check(
        "netpol lint -f DIR/shop.yaml --allow NP005 -o json",
        &expect![[r#"
            exit code 1
            [
              {
                "code": "invalid-port",
                "level": "error",
                "place": "DIR/shop.yaml:40",
                "object": "NetworkPolicy shop/db",
                "field": "spec.ingress[1].ports[1].port",
                "message": "70000 is not within 1 and 65535: the item matches nothing"
              }
            ]
        "#]],
    );
    check(
        "netpol lint -f DIR/shop.yaml --allow invalid-port -o sarif",
        &expect![[r#"
            exit code 0
            {
              "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
              "runs": [
                {
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
                              "uri": "DIR/shop.yaml"
                            },
                            "region": {
                              "startLine": 39
                            }
                          }
                        }
                      ],
                      "message": {
                        "text": "NetworkPolicy shop/db: allows all pods of namespaces with team=ops, and also pods with app=web of the policy's namespace"
                      },
                      "ruleId": "NP005"
                    }
                  ],
                  "tool": {
                    "driver": {
                      "name": "netpol",
                      "rules": [
                        {
                          "defaultConfiguration": {
                            "level": "warning"
                          },
                          "help": {
                            "text": "For these pods in these namespaces write both selectors in one list item, without the second dash."
                          },
                          "id": "NP005",
                          "name": "split-peer",
                          "shortDescription": {
                            "text": "A `namespaceSelector` and a `podSelector` as two peers, one after the other: an OR where an AND was probably meant."
                          }
                        }
                      ],
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

#[test]
fn the_documentation_lists_every_finding() {
    let mut text = String::from(
        "# What `netpol lint` finds\n\n\
         `netpol lint -f PATH...` reads objects as they would be applied: policies, and to compare them with also\n\
         pods, namespaces and Services (`kubectl get networkpolicies,pods,namespaces,services -A -o yaml` has them all).\n\
         Findings name file, line, object and field. The exit code is 0 if nothing is found from the level on that\n\
         `--deny errors|warnings|infos` names (errors, unless told otherwise), 1 if something is, and 2 if a file cannot be\n\
         read. `--allow CODE` leaves findings out. `-o json` and `-o sarif` are for programs.\n\n\
         A test keeps this file equal to what the program knows; `UPDATE_EXPECT=1` writes it anew.\n\n\
         ## Valid, but probably not meant\n\n\
         | code | name | level | finds | what to do |\n|---|---|---|---|---|\n",
    );
    for check in CHECKS {
        let level = level(check.level);
        writeln!(
            text,
            "| {} | `{}` | {level} | {} | {} |",
            check.code, check.name, check.finds, check.advice
        )
        .unwrap();
    }
    text.push_str(
        "\n## Not in force as written\n\n\
         The API server would refuse most of these, or drop a field with a warning. netpol isolates what such a policy\n\
         selects, allows what it understands of it, and reports the rest, here and on the live cluster.\n\n\
         | code | level | finds |\n|---|---|---|\n",
    );
    let of_objects = Code::ALL.iter().map(|c| (c.as_str(), c.severity(), c.meaning()));
    let of_files = FileCode::ALL.iter().map(|c| (c.as_str(), c.severity(), c.meaning()));
    for (code, severity, meaning) in of_objects.chain(of_files) {
        let level = match severity {
            Severity::Error => level(Level::Error),
            Severity::Warning => level(Level::Warning),
        };
        writeln!(text, "| `{code}` | {level} | {meaning} |").unwrap();
    }
    let Capacities { n_prefixes, n_identities, n_allow_entries } = Capacities::default();
    write!(
        text,
        "\n## Capacity\n\n\
         On one node there is room for {n_prefixes} address blocks and exceptions and for {n_identities} addresses of pods that\n\
         peers select, of all policies together that select its pods, and for {n_allow_entries} entries (a peer that is told\n\
         apart and a port, or an aligned block of ports) for each direction of a pod. Policies find room one after the\n\
         other, the smallest first. A rule that finds none allows nothing; its policy isolates all the same, and all other\n\
         rules are in force. `netpol lint` looks for rules whose peers find no room on a node that runs pods of all\n\
         policies; what meets at one pod, `netpol simulate --engine compiled` finds too. A running agent tells by Events,\n\
         `netpol-agent status`, `explain` and the metric `netpol_diagnostics`.\n"
    )
    .unwrap();
    expect_file!["../../../docs/lint.md"].assert_eq(&text);
}

const fn level(level: Level) -> &'static str {
    level.as_str()
}
