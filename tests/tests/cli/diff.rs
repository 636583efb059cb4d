//! `diff`, and `simulate --what-if`: what opens and closes between two sets of objects.

use expect_test::{Expect, expect};

use crate::{OPEN_WEB, REPAIRED, SHOP, output_in};

const OLD: &str = r#"
{ apiVersion: apps/v1, kind: Deployment, metadata: { name: front, namespace: shop }, spec: { template: { metadata: { labels: { app: front } }, spec: { containers: [{ name: c, ports: [{ containerPort: 8080 }] }] } } } }
---
{ apiVersion: apps/v1, kind: Deployment, metadata: { name: redis, namespace: shop }, spec: { template: { metadata: { labels: { app: redis } }, spec: { containers: [{ name: c, ports: [{ containerPort: 6379 }] }] } } } }
---
{ apiVersion: batch/v1, kind: CronJob, metadata: { name: dump, namespace: ops }, spec: { jobTemplate: { spec: { template: { metadata: { labels: { app: dump } } } } } } }
"#;

/// `shop/redis` accepts `shop/front` on 6379 only; the `CronJob` is gone.
const NEW: &str = r#"
{ apiVersion: apps/v1, kind: Deployment, metadata: { name: front, namespace: shop }, spec: { template: { metadata: { labels: { app: front } }, spec: { containers: [{ name: c, ports: [{ containerPort: 8080 }] }] } } } }
---
{ apiVersion: apps/v1, kind: Deployment, metadata: { name: redis, namespace: shop }, spec: { template: { metadata: { labels: { app: redis } }, spec: { containers: [{ name: c, ports: [{ containerPort: 6379 }] }] } } } }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: redis, namespace: shop }
spec:
  podSelector: { matchLabels: { app: redis } }
  ingress: [{ from: [{ podSelector: { matchLabels: { app: front } } }], ports: [{ port: 6379 }] }]
"#;

#[track_caller]
fn check_files(files: &[(&str, &str)], command: &str, expected: &Expect) {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    let output = output_in(directory.path(), command, "");
    let is_named = |line: &&str| !line.contains("has no Namespace object");
    let lines: Vec<String> =
        output.lines().filter(is_named).map(|line| format!("{line}\n")).collect();
    expected.assert_eq(&lines.concat());
}

#[track_caller]
fn check(options: &str, expected: &Expect) {
    let command = format!("netpol diff DIR/old.yaml DIR/new.yaml {options}");
    check_files(&[("old.yaml", OLD), ("new.yaml", NEW)], &command, expected);
}

#[test]
fn text_names_the_pods_and_the_ports_that_open_and_close() {
    check(
        "",
        &expect![[r#"
        exit code 0
        - everybody -> ops/cj/dump: every port
        - ops/cj/dump -> everybody: every port
        - shop/deploy/front -> shop/deploy/redis: every port but 6379/TCP
        opens: 0 pairs of pods, closes: 5 pairs
    "#]],
    );
    check(
        "--fail-on closes -n shop",
        &expect![[r#"
        exit code 1
        - shop/deploy/front -> shop/deploy/redis: every port but 6379/TCP
        opens: 0 pairs of pods, closes: 1 pair
    "#]],
    );
    check(
        "--fail-on opens -l app=front --port 6379,8080",
        &expect![[r#"
        exit code 0
        no connection changes
    "#]],
    );
}

#[test]
fn changes_for_programs_have_a_line_for_each_range_of_ports() {
    check(
        "-n shop -o json",
        &expect![[r#"
        exit code 0
        [
          {
            "from": "shop/deploy/front",
            "to": "shop/deploy/redis",
            "port": "1-6378",
            "protocol": "TCP",
            "effect": "closes",
            "before": "allow",
            "now": "deny"
          },
          {
            "from": "shop/deploy/front",
            "to": "shop/deploy/redis",
            "port": "6380-65535",
            "protocol": "TCP",
            "effect": "closes",
            "before": "allow",
            "now": "deny"
          },
          {
            "from": "shop/deploy/front",
            "to": "shop/deploy/redis",
            "port": "1-65535",
            "protocol": "UDP",
            "effect": "closes",
            "before": "allow",
            "now": "deny"
          },
          {
            "from": "shop/deploy/front",
            "to": "shop/deploy/redis",
            "port": "1-65535",
            "protocol": "SCTP",
            "effect": "closes",
            "before": "allow",
            "now": "deny"
          }
        ]
    "#]],
    );
    check(
        "-n shop -o csv",
        &expect![[r#"
        exit code 0
        from,to,port,protocol,effect,before,now
        shop/deploy/front,shop/deploy/redis,1-6378,TCP,closes,allow,deny
        shop/deploy/front,shop/deploy/redis,6380-65535,TCP,closes,allow,deny
        shop/deploy/front,shop/deploy/redis,1-65535,UDP,closes,allow,deny
        shop/deploy/front,shop/deploy/redis,1-65535,SCTP,closes,allow,deny
    "#]],
    );
}

#[test]
fn changes_are_a_table_or_a_graph() {
    check(
        "-n shop -o md",
        &expect![[r#"
        exit code 0
        | | from | to | ports | before | now |
        |---|---|---|---|---|---|
        | closes | shop/deploy/front | shop/deploy/redis | every port but 6379/TCP | yes | no |
    "#]],
    );
    check(
        "-n shop -o dot",
        &expect![[r#"
        exit code 0
        digraph netpol {
          rankdir=LR;
          node [shape=box];
          n0 [label="shop/deploy/front"];
          n1 [label="shop/deploy/redis"];
          n0 -> n1 [label="every port but 6379/TCP", color=red, style=dashed];
        }
    "#]],
    );
    check(
        "-n shop -o mermaid",
        &expect![[r#"
        exit code 0
        flowchart LR
          n0["shop/deploy/front"]
          n1["shop/deploy/redis"]
          n0 -.->|"every port but 6379/TCP"| n1
    "#]],
    );
}

#[test]
fn equal_objects_have_no_changes() {
    let files = [("old.yaml", NEW), ("new.yaml", NEW)];
    let command = "netpol diff DIR/old.yaml DIR/new.yaml --fail-on any";
    check_files(
        &files,
        command,
        &expect![[r#"
        exit code 0
        no connection changes
    "#]],
    );
    check_files(
        &files,
        &format!("{command} -o json"),
        &expect![[r#"
        exit code 0
        []
    "#]],
    );
    check_files(
        &files,
        &format!("{command} -o mermaid"),
        &expect![[r#"
        exit code 0
        flowchart LR
    "#]],
    );
}

#[test]
fn a_port_that_no_pod_declares_opens_too() {
    // `--fail-on opens` passed a change that opened such a port.
    let closed = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: web, namespace: shop }
spec: { podSelector: { matchLabels: { app: web } }, ingress: [] }
";
    let old = format!("{SHOP}---{closed}");
    let files = [("old.yaml", old.as_str()), ("new.yaml", OPEN_WEB)];
    let command = "netpol simulate -f DIR/old.yaml --what-if -f DIR/new.yaml --fail-on opens";
    check_files(
        &files,
        command,
        &expect![[r#"
        exit code 1
        + everybody -> shop/web: 81/TCP
        opens: 2 pairs of pods, closes: 0 pairs
        ! netpol: DIR/old.yaml:40: NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
    "#]],
    );
    check_files(
        &files,
        &format!("{command} -o csv"),
        &expect![[r#"
        exit code 1
        from,to,port,protocol,effect,before,now
        ops/probe,shop/web,81,TCP,opens,deny,allow
        shop/db,shop/web,81,TCP,opens,deny,allow
        ! netpol: DIR/old.yaml:40: NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
    "#]],
    );
}

#[test]
fn what_if_keeps_the_objects_that_the_new_files_lack_and_diff_does_not() {
    let files = [("old.yaml", SHOP), ("new.yaml", REPAIRED)];
    check_files(
        &files,
        "netpol simulate -f DIR/old.yaml --what-if -f DIR/new.yaml",
        &expect![[r#"
            exit code 0
            - ops/probe -> shop/db: 5432/TCP
            - shop/web -> shop/db: 5433/TCP
            opens: 0 pairs of pods, closes: 2 pairs
            ! netpol: DIR/old.yaml:40: NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
        "#]],
    );
    check_files(
        &files,
        "netpol diff DIR/old.yaml DIR/new.yaml --fail-on closes",
        &expect![[r#"
        exit code 1
        - shop/web -> shop/db: 5432-5433/TCP
        - ops/probe -> shop/db: 5432/TCP
        - everybody -> ops/probe, shop/web: every port
        opens: 0 pairs of pods, closes: 6 pairs
        ! netpol: DIR/old.yaml:40: NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
    "#]],
    );
}

#[test]
fn incomplete_input_exits_with_2() {
    let files = [("old.yaml", OLD), ("new.yaml", "a: [\n")];
    check_files(
        &files,
        "netpol diff DIR/old.yaml DIR/new.yaml -n shop -o csv --port 1",
        &expect![[r#"
            exit code 2
            from,to,port,protocol,effect,before,now
            shop/deploy/front,shop/deploy/redis,1,TCP,closes,allow,deny
            shop/deploy/redis,shop/deploy/front,1,TCP,closes,allow,deny
            ! netpol: DIR/new.yaml:1: unclosed bracket '[' [syntax]
        "#]],
    );
    check_files(
        &files,
        "netpol diff DIR/old.yaml",
        &expect![[r#"
        exit code 2
        ! error: the following required arguments were not provided:
        !   <NEW>
        ! 
        ! Usage: netpol diff <OLD> <NEW>
        ! 
        ! For more information, try '--help'.
    "#]],
    );
}
