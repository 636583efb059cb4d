//! The offline commands, from arguments to output: golden texts.
#![expect(clippy::unwrap_used, reason = "a harness fails the test")]

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use expect_test::{Expect, expect, expect_file};
use netpol_agent::cli::{Terminal, run};
use netpol_agent::lint::{CHECKS, Level};
use netpol_agent::manifests::FileCode;
use netpol_agent::model::{Code, Severity};

const SHOP: &str = r"
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
metadata: { name: probe, namespace: ops, labels: { app: probe } }
spec: { containers: [{ name: c }] }
status: { phase: Running, podIPs: [{ ip: 10.0.0.3 }] }
---
apiVersion: v1
kind: Service
metadata: { name: db, namespace: shop }
spec: { clusterIP: 10.96.0.1, selector: { app: db }, ports: [{ port: 80, targetPort: pg }] }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: db, namespace: shop }
spec:
  podSelector: { matchLabels: { app: db } }
  ingress:
  - from: [{ podSelector: { matchLabels: { app: web } } }]
    ports: [{ port: 5433 }]
  - from:
    - namespaceSelector: { matchLabels: { team: ops } }
    - podSelector: { matchLabels: { app: web } }
    ports: [{ port: pg }, { port: 70000 }]
";

const REPAIRED: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: db, namespace: shop }
spec:
  podSelector: { matchLabels: { app: db } }
  ingress: [{ from: [{ podSelector: { matchLabels: { app: web } } }], ports: [{ port: 5432 }] }]
";

/// Runs a command in a directory with `shop.yaml`, `repaired.yaml` and `broken.yaml`. Returns exit code, output and
/// problems as one text; the directory is called DIR in it.
fn output(command: &str, stdin: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let files = [("shop.yaml", SHOP), ("repaired.yaml", REPAIRED), ("broken.yaml", "a: [\n")];
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    output_in(directory.path(), command, stdin)
}

fn output_in(directory: &Path, command: &str, stdin: &str) -> String {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let directory = directory.to_str().unwrap();
    let args: Vec<String> =
        command.split_whitespace().map(|arg| arg.replace("DIR", directory)).collect();
    let code = run(
        &args,
        &mut Terminal {
            stdin: Box::new(stdin.as_bytes()),
            stdout: Box::new(&mut stdout),
            stderr: Box::new(&mut stderr),
            is_styled: false,
        },
    );
    let mut text = format!("exit code {code}\n{}", String::from_utf8(stdout).unwrap());
    for line in String::from_utf8(stderr).unwrap().lines() {
        writeln!(text, "! {line}").unwrap();
    }
    text.replace(directory, "DIR")
}

#[track_caller]
fn check(command: &str, expected: &Expect) {
    expected.assert_eq(&output(command, ""));
}

#[track_caller]
fn check_stdin(command: &str, stdin: &str, expected: &Expect) {
    expected.assert_eq(&output(command, stdin));
}

#[test]
fn explain_tells_the_nearest_miss() {
    check(
        "netpol-agent explain --from shop/web --to shop/db --port 5432 -f DIR/shop.yaml",
        &expect![[r#"
            exit code 0
            shop/web -> shop/db 5432/TCP: allowed
              packets: 10.0.0.1 -> 10.0.0.2:5432

            egress: allowed: no policy isolates shop/web for egress

            ingress: allowed: shop/db is isolated, and a rule allows this
              isolated by shop/db
              + rule 2 of shop/db allows TCP/pg (5432 on shop/db) from all pods of namespaces with team=ops, or pods with app=web of the policy's namespace
              - rule 1 of shop/db allows this peer on TCP/5433, not on TCP/5432

            findings on these policies:
              ! NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
        "#]],
    );
    check(
        "netpol-agent explain --from 1.2.3.4 --to shop/db --port pg -f DIR/shop.yaml",
        &expect![[r#"
            exit code 1
            1.2.3.4 -> shop/db pg/TCP: denied
              packets: 1.2.3.4 -> 10.0.0.2:5432

            egress: allowed: 1.2.3.4 is no pod that a policy could govern

            ingress: denied: shop/db is isolated, and no rule allows this
              isolated by shop/db
              - rule 2 of shop/db allows TCP/5432 from all pods of namespaces with team=ops, or pods with app=web of the policy's namespace: no pod holds 1.2.3.4
              - rule 1 of shop/db allows TCP/5433 from pods with app=web of the policy's namespace: neither peer nor port is this one

            findings on these policies:
              ! NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
        "#]],
    );
}

#[test]
fn explain_follows_a_service_to_its_pods() {
    check(
        "netpol-agent explain --from shop/web --to 10.96.0.1 --port 80 -f DIR/shop.yaml",
        &expect![[r#"
            exit code 0
            shop/web -> 10.96.0.1 80/TCP: allowed
              10.96.0.1 is Service shop/db, which stands for 10.0.0.2:5432 (allowed)
              packets: 10.0.0.1 -> 10.0.0.2:5432

            egress: allowed: no policy isolates shop/web for egress

            ingress: allowed: shop/db is isolated, and a rule allows this
              isolated by shop/db
              + rule 2 of shop/db allows TCP/pg (5432 on shop/db) from all pods of namespaces with team=ops, or pods with app=web of the policy's namespace
              - rule 1 of shop/db allows this peer on TCP/5433, not on TCP/5432

            findings on these policies:
              ! NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
        "#]],
    );
    check(
        "netpol-agent explain --from shop/web --to 10.96.0.1 --port 81 -f DIR/shop.yaml",
        &expect![[r#"
            exit code 2
            shop/web -> 10.96.0.1 81/TCP: impossible
              10.96.0.1 is the address of a Service, and no pod behind this port of it is known
        "#]],
    );
}

#[test]
fn explain_speaks_json() {
    check(
        "netpol-agent explain --from ops/probe --to shop/db --port 80 -f DIR/shop.yaml -o json",
        &expect![[r#"
            exit code 1
            {
              "from": "ops/probe",
              "to": "shop/db",
              "port": "80",
              "protocol": "TCP",
              "is_allowed": false,
              "problem": null,
              "service": null,
              "connection": {
                "source": "10.0.0.3",
                "destination": "10.0.0.2",
                "port": 80
              },
              "egress": {
                "pod": {
                  "namespace": "ops",
                  "name": "probe"
                },
                "direction": "egress",
                "verdict": "not-isolated",
                "is_allowed": true,
                "summary": "allowed: no policy isolates ops/probe for egress",
                "isolating": [],
                "allowing": [],
                "misses": []
              },
              "ingress": {
                "pod": {
                  "namespace": "shop",
                  "name": "db"
                },
                "direction": "ingress",
                "verdict": "not-allowed",
                "is_allowed": false,
                "summary": "denied: shop/db is isolated, and no rule allows this",
                "isolating": [
                  {
                    "namespace": "shop",
                    "name": "db"
                  }
                ],
                "allowing": [],
                "misses": [
                  {
                    "rule": {
                      "policy": {
                        "namespace": "shop",
                        "name": "db"
                      },
                      "direction": "ingress",
                      "index": 1
                    },
                    "miss": "port",
                    "sentence": "rule 2 of shop/db allows this peer on TCP/pg (5432 on shop/db), not on TCP/80"
                  },
                  {
                    "rule": {
                      "policy": {
                        "namespace": "shop",
                        "name": "db"
                      },
                      "direction": "ingress",
                      "index": 0
                    },
                    "miss": "both",
                    "sentence": "rule 1 of shop/db allows TCP/5433 from pods with app=web of the policy's namespace: neither peer nor port is this one"
                  }
                ]
              },
              "diagnostics": [
                "NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]"
              ]
            }
        "#]],
    );
}

#[test]
fn explain_says_why_there_is_no_such_connection() {
    check(
        "netpol-agent explain --from shop/none --to shop/db --port 80 --protocol udp -f DIR/shop.yaml",
        &expect![[r#"
            exit code 2
            shop/none -> shop/db 80/UDP: impossible
              there is no pod shop/none
        "#]],
    );
    check(
        "netpol-agent explain --from shop --to shop/db --port 80",
        &expect![[r#"
        exit code 2
        ! error: invalid value 'shop' for '--from <NS/POD|IP>': "shop" is neither NAMESPACE/POD nor an address
        ! 
        ! For more information, try '--help'.
    "#]],
    );
    check(
        "netpol-agent explain --from shop/web --to shop/db --port 80 -f DIR/nothing",
        &expect![[r#"
            exit code 2
            shop/web -> shop/db 80/TCP: impossible
              there is no pod shop/web
            ! netpol-agent: DIR/nothing: No such file or directory (os error 2) [unreadable]
        "#]],
    );
}

#[test]
fn the_matrix_is_plain_without_a_terminal() {
    check(
        "netpol-agent simulate -f DIR/shop.yaml --port 5432,53/UDP --address 8.8.8.8",
        &expect![[r#"
            exit code 0
            +-----------+-------+-------+-------+---------+
            | 5432/TCP  |  ops/ | shop/ | shop/ | 8.8.8.8 |
            |           | probe |   db  |  web  |         |
            +=============================================+
            | ops/probe |   .   |  yes  |  yes  |   yes   |
            | shop/db   |  yes  |   .   |  yes  |   yes   |
            | shop/web  |  yes  |  yes  |   .   |   yes   |
            | 8.8.8.8   |  yes  |   no  |  yes  |    .    |
            +-----------+-------+-------+-------+---------+

            +-----------+-------+-------+-------+---------+
            | 53/UDP    |  ops/ | shop/ | shop/ | 8.8.8.8 |
            |           | probe |   db  |  web  |         |
            +=============================================+
            | ops/probe |   .   |   no  |  yes  |   yes   |
            | shop/db   |  yes  |   .   |  yes  |   yes   |
            | shop/web  |  yes  |   no  |   .   |   yes   |
            | 8.8.8.8   |  yes  |   no  |  yes  |    .    |
            +-----------+-------+-------+-------+---------+

            ! netpol-agent: DIR/shop.yaml:40: NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
        "#]],
    );
}

#[test]
fn what_if_shows_what_changes() {
    check(
        "netpol-agent simulate -f DIR/shop.yaml --matrix --port pg --what-if -f DIR/repaired.yaml",
        &expect![[r#"
            exit code 0
            +-----------+-------+-----------+-------+
            | pg/TCP    |  ops/ |   shop/   | shop/ |
            |           | probe |     db    |  web  |
            +=======================================+
            | ops/probe |   .   | yes -> no |   no  |
            | shop/db   |   no  |     .     |   no  |
            | shop/web  |   no  |    yes    |   .   |
            +-----------+-------+-----------+-------+

            - ops/probe -> shop/db pg/TCP would be denied
            1 of 6 connections would change
            ! netpol-agent: DIR/shop.yaml:40: NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
        "#]],
    );
    check(
        "netpol-agent simulate -f DIR/repaired.yaml --what-if -f DIR/repaired.yaml -o json",
        &expect![[r#"
            exit code 0
            []
            ! netpol-agent: namespace shop is not among the objects: it is taken as one with no label but its name
        "#]],
    );
}

#[test]
fn a_matrix_of_half_a_set_says_so() {
    check(
        "netpol-agent simulate -f DIR/shop.yaml -f DIR/broken.yaml --port 1",
        &expect![[r#"
            exit code 2
            +-----------+-------+-------+-------+
            | 1/TCP     |  ops/ | shop/ | shop/ |
            |           | probe |   db  |  web  |
            +===================================+
            | ops/probe |   .   |   no  |  yes  |
            | shop/db   |  yes  |   .   |  yes  |
            | shop/web  |  yes  |   no  |   .   |
            +-----------+-------+-------+-------+

            ! netpol-agent: DIR/shop.yaml:40: NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
            ! netpol-agent: DIR/broken.yaml:1: unclosed bracket '[' [syntax]
        "#]],
    );
    check(
        "netpol-agent simulate",
        &expect![[r#"
        exit code 2
        ! netpol-agent: give objects with -f, or cases with --cases
    "#]],
    );
}

#[test]
fn lint_names_file_line_field_and_what_to_do() {
    check(
        "netpol-agent lint -f DIR/shop.yaml",
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
        "netpol-agent lint -f DIR/shop.yaml --allow invalid-port --allow NP005",
        &expect![[r#"
            exit code 0
            7 objects: 0 errors, 0 warnings, 0 infos
        "#]],
    );
    let exit_code = |command| output(command, "").lines().next().map(ToOwned::to_owned);
    let warnings = "netpol-agent lint -f DIR/shop.yaml --allow invalid-port --deny warnings";
    assert_eq!(exit_code(warnings).as_deref(), Some("exit code 1"));
    let broken = "netpol-agent lint -f DIR/broken.yaml";
    assert_eq!(exit_code(broken).as_deref(), Some("exit code 2"));
}

#[test]
fn lint_speaks_json_and_sarif() {
    check(
        "netpol-agent lint -f DIR/shop.yaml --allow NP005 -o json",
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
        "netpol-agent lint -f DIR/shop.yaml --allow invalid-port -o sarif",
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
                      "name": "netpol-agent",
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
        "netpol-agent lint -f -",
        REPAIRED,
        &expect![[r#"
            exit code 0
            1 object: 0 errors, 0 warnings, 0 infos
        "#]],
    );
}

/// A case with two pods and these policies.
fn case(name: &str, sequence: &str, policies: &str, probes: &str) -> String {
    let pod = |name: &str, ip: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"namespace":"x","name":"{name}"}},"status":{{"phase":"Running","podIP":"{ip}"}}}}"#
        )
    };
    let [a, b] = [pod("a", "10.0.0.1"), pod("b", "10.0.0.2")];
    format!(r#"{{"name":"{name}"{sequence},"objects":[{a},{b}{policies}],"probes":[{probes}]}}"#)
}

const A_TO_B: &str =
    r#"{"from":{"namespace":"x","pod":"a"},"to":{"namespace":"x","pod":"b"},"port":80}"#;
const DENY_ALL: &str = r#",{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"namespace":"x","name":"p"},"spec":{"podSelector":{}}}"#;

#[test]
fn cases_are_answered_in_order_and_unreadable_lines_are_told() {
    let outside = r#"{"from":{"ip":"1.2.3.4"},"to":{"ip":"10.0.0.2"},"port":53,"protocol":"UDP"}"#;
    let nobody =
        r#"{"from":{"namespace":"x","pod":"none"},"to":{"namespace":"x","pod":"b"},"port":"http"}"#;
    let broken = DENY_ALL.replace(r#""podSelector":{}"#, r#""podSelector":{},"types":["Ingress"]"#);
    let no_ip = A_TO_B.replace(r#""pod":"a""#, r#""ip":"1.2.3.4.5""#);
    let lines = [
        case("open", "", "", &format!("{A_TO_B},{outside}")),
        String::new(),
        case("denied", "", DENY_ALL, &format!("{A_TO_B},{outside},{nobody}")),
        "{not json".to_owned(),
        case("unknown field", "", &broken, A_TO_B),
        case("bad probe", "", "", &no_ip),
        case("no end", "", "", &A_TO_B.replace(r#""pod":"a""#, r#""name":"a""#)),
        case("last", "", "", A_TO_B),
    ]
    .join("\n");
    let answers = |engine: &str| {
        output(&format!("netpol-agent simulate --cases - --engine {engine}"), &lines)
    };
    assert_eq!(answers("reference"), answers("compiled"));
    expect![[r#"
        exit code 2
        {"name":"open","verdicts":["allow","allow"],"diagnostics":[]}
        {"name":"denied","verdicts":["deny","deny","deny"],"diagnostics":[{"code":"unknown-pod","severity":"warning","probe":2,"message":"there is no pod x/none"}]}
        {"name":"unknown field","verdicts":["deny"],"diagnostics":[{"code":"unknown-field","severity":"error","object":"NetworkPolicy x/p","field":"spec.types","message":"is not a field of the API, which has podSelector, policyTypes, ingress, egress here: the policy isolates in both directions"}]}
        {"name":"last","verdicts":["allow"],"diagnostics":[]}
        ! netpol-agent: -:4: column 2: key must be a string
        ! netpol-agent: -:6: column 325: invalid IP address syntax
        ! netpol-agent: -:7: probes[0].from: an end is {"namespace", "pod"} or {"ip"}
        ! netpol-agent: -: 3 lines could not be read
    "#]].assert_eq(&answers("compiled"));
}

#[test]
fn a_sequence_is_one_changing_cluster() {
    let sequence = r#","sequence":"s""#;
    let reverse = A_TO_B.replace(r#""pod":"a""#, r#""pod":"c""#);
    let probes = format!("{A_TO_B},{reverse}");
    let lines = [
        case("1", sequence, "", &probes),
        case("2", sequence, DENY_ALL, &probes),
        case("3", sequence, "", &probes).replace(r#""name":"a""#, r#""name":"c""#),
        case("4", sequence, DENY_ALL, &probes),
        case("5", r#","sequence":"t""#, "", &probes),
    ]
    .join("\n");
    check_stdin(
        "netpol-agent simulate --cases -",
        &lines,
        &expect![[r#"
        exit code 0
        {"name":"1","verdicts":["allow","deny"],"diagnostics":[{"code":"unknown-pod","severity":"warning","probe":1,"message":"there is no pod x/c"}]}
        {"name":"2","verdicts":["deny","deny"],"diagnostics":[{"code":"unknown-pod","severity":"warning","probe":1,"message":"there is no pod x/c"}]}
        {"name":"3","verdicts":["deny","allow"],"diagnostics":[{"code":"unknown-pod","severity":"warning","probe":0,"message":"there is no pod x/a"}]}
        {"name":"4","verdicts":["deny","deny"],"diagnostics":[{"code":"unknown-pod","severity":"warning","probe":1,"message":"there is no pod x/c"}]}
        {"name":"5","verdicts":["allow","deny"],"diagnostics":[{"code":"unknown-pod","severity":"warning","probe":1,"message":"there is no pod x/c"}]}
    "#]],
    );
}

mod privileged {
    use netpol_tests::privilege::{Need, met};

    use super::*;

    #[test]
    fn the_kernel_gives_the_verdicts_of_the_reference() {
        if !met(&[Need::Root]) {
            return;
        }
        let allow_80 = DENY_ALL.replace(
            r#""podSelector":{}"#,
            r#""podSelector":{},"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/31"}}],"ports":[{"port":80}]}]"#,
        );
        let sequence = r#","sequence":"s""#;
        let probes =
            ["80", "81"].map(|port| A_TO_B.replace(":80}", &format!(":{port}}}"))).join(",");
        let lines = [
            case("open", "", "", &probes),
            case("closed", "", DENY_ALL, &probes),
            case("1", sequence, &allow_80, &probes),
            case("2", sequence, "", &probes),
            case("3", sequence, DENY_ALL, &probes),
            r#"{"name":"nothing","objects":[],"probes":[]}"#.to_owned(),
            case("last", "", &allow_80, &probes),
        ]
        .join("\n");
        let answers = |engine: &str| {
            output(&format!("netpol-agent simulate --cases - --engine {engine}"), &lines)
        };
        let reference = answers("reference");
        assert!(reference.contains(r#"{"name":"1","verdicts":["allow","deny"]"#), "{reference}");
        // The engine takes its thread into another network namespace.
        let kernel = std::thread::scope(|scope| scope.spawn(|| answers("kernel")).join().unwrap());
        assert_eq!(kernel, reference);
    }
}

#[test]
fn completions_know_every_command() {
    let script = output("netpol-agent completions bash", "");
    for command in ["explain", "lint", "simulate", "--cases", "--what-if"] {
        assert!(script.contains(command), "{command}");
    }
}

/// A reader that is gone.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let line = case("open", "", "", A_TO_B);
    for command in [
        "netpol-agent simulate --cases -",
        "netpol-agent completions zsh",
        "netpol-agent lint -f -",
        "netpol-agent help",
    ] {
        let mut stderr = Vec::new();
        let code = run(
            command.split(' '),
            &mut Terminal {
                stdin: Box::new(line.as_bytes()),
                stdout: Box::new(Closed),
                stderr: Box::new(&mut stderr),
                is_styled: false,
            },
        );
        assert_eq!((code, String::from_utf8(stderr).unwrap().as_str()), (0, ""), "{command}");
    }
}

#[test]
fn the_documentation_lists_every_finding() {
    let mut text = String::from(
        "# What `netpol-agent lint` finds\n\n\
         `netpol-agent lint -f PATH...` reads objects as they would be applied: policies, and to compare them with also\n\
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
    expect_file!["../../docs/lint.md"].assert_eq(&text);
}

const fn level(level: Level) -> &'static str {
    level.as_str()
}
