//! Workloads, and pods that have no address yet, in every command.

use std::path::Path;

use expect_test::{Expect, expect};

use crate::output_in;

/// Runs a command on `input.yaml` with this text.
#[track_caller]
fn check(input: &str, command: &str, expected: &Expect) {
    expected.assert_eq(&on(input, command));
}

fn on(input: &str, command: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("input.yaml"), input).unwrap();
    run(directory.path(), command)
}

fn run(directory: &Path, command: &str) -> String {
    output_in(directory, &command.replace("INPUT", "-f DIR/input.yaml"), "")
}

/// A pod template with this label and one port.
fn template(app: &str, port: &str) -> String {
    format!(
        "{{ metadata: {{ labels: {{ app: {app} }} }}, spec: {{ containers: [{{ name: c, image: x, ports: [{port}] }}] }} }}"
    )
}

fn workload(kind: &str, name: &str, template: &str) -> String {
    let (version, spec) = match kind {
        "CronJob" => {
            ("batch/v1", format!("spec: {{ jobTemplate: {{ spec: {{ template: {template} }} }} }}"))
        }
        "Job" => ("batch/v1", format!("spec: {{ template: {template} }}")),
        "ReplicationController" => ("v1", format!("spec: {{ template: {template} }}")),
        "PodTemplate" => ("v1", format!("template: {template}")),
        "Pod" => {
            let (metadata, spec) = template.split_once(", spec: ").unwrap();
            let labels = metadata.strip_prefix("{ metadata: { ").unwrap();
            return format!(
                "{{ apiVersion: v1, kind: Pod, metadata: {{ name: {name}, namespace: s, {labels}, spec: {spec}\n---\n"
            );
        }
        _ => ("apps/v1", format!("spec: {{ template: {template} }}")),
    };
    format!(
        "{{ apiVersion: {version}, kind: {kind}, metadata: {{ name: {name}, namespace: s }}, {spec} }}\n---\n"
    )
}

/// Clients with `app: web` reach the port `pg` of `app: db`.
const DB_FROM_WEB: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: db, namespace: s }
spec: { podSelector: { matchLabels: { app: db } }, ingress: [{ from: [{ podSelector: { matchLabels: { app: web } } }], ports: [{ port: pg }] }] }
---
{ apiVersion: v1, kind: Namespace, metadata: { name: s } }
";

/// Every kind of workload, with the short name of its pod.
const KINDS: [(&str, &str); 9] = [
    ("Deployment", "deploy/"),
    ("StatefulSet", "sts/"),
    ("DaemonSet", "ds/"),
    ("ReplicaSet", "rs/"),
    ("ReplicationController", "rc/"),
    ("Job", "job/"),
    ("CronJob", "cj/"),
    ("PodTemplate", "podtemplate/"),
    ("Pod", ""),
];

#[test]
fn every_kind_of_workload_is_a_source_and_a_destination() {
    for (kind, short) in KINDS {
        let pg = "{ name: pg, containerPort: 5432 }";
        let mut input = workload(kind, "web", &template("web", ""));
        input += &workload(kind, "db", &template("db", pg));
        input += &workload(kind, "dump", &template("dump", ""));
        input += DB_FROM_WEB;
        for (from, verdict) in [("web", "exit code 0"), ("dump", "exit code 1")] {
            let command = format!("netpol explain INPUT --from s/{from} --to s/db --port pg");
            let text = on(&input, &command);
            assert!(text.starts_with(verdict), "{kind}: {text}");
            assert!(text.contains(&format!("s/{short}{from} -> s/{short}db")), "{kind}: {text}");
        }
        let csv = on(&input, "netpol simulate INPUT -o csv");
        let line =
            |from: &str, verdict: &str| format!("s/{short}{from},s/{short}db,5432,TCP,{verdict}\n");
        assert!(csv.contains(&line("web", "allow")), "{kind}: {csv}");
        assert!(csv.contains(&line("dump", "deny")), "{kind}: {csv}");
        let findings = on(&input, "netpol lint INPUT");
        assert!(
            findings.contains("5 objects: 0 errors, 0 warnings, 0 infos"),
            "{kind}: {findings}"
        );
    }
}

#[test]
fn a_matrix_of_workloads_has_a_row_for_each() {
    let mut input =
        workload("Deployment", "web", &template("web", "{ name: http, containerPort: 8080 }"));
    input += &workload("StatefulSet", "db", &template("db", "{ name: pg, containerPort: 5432 }"));
    input += &workload("CronJob", "dump", &template("dump", ""));
    input += DB_FROM_WEB;
    check(
        &input,
        "netpol simulate INPUT --matrix",
        &expect![[r#"
        exit code 0
        +--------------+--------+
        | 5432/TCP     |   s/   |
        |              | sts/db |
        +=======================+
        | s/cj/dump    |   no   |
        | s/deploy/web |   yes  |
        | s/sts/db     |    .   |
        +--------------+--------+

        +--------------+------------+
        | 8080/TCP     |     s/     |
        |              | deploy/web |
        +===========================+
        | s/cj/dump    |     yes    |
        | s/deploy/web |      .     |
        | s/sts/db     |     yes    |
        +--------------+------------+

    "#]],
    );
    check(
        &input,
        "netpol explain INPUT --from cronjob/dump --to db --port pg",
        &expect![[r#"
        exit code 1
        s/cj/dump -> s/sts/db pg/TCP: denied
          packets: a pod of CronJob s/dump -> a pod of StatefulSet s/db, port 5432

        egress: allowed: no policy isolates s/cj/dump for egress

        ingress: denied: s/sts/db is isolated for ingress, and no rule allows the connection
          isolated by s/db
          - s/db ingress[0] allows TCP/5432 from pods with app=web of the policy's namespace: a pod of CronJob s/dump has app=dump
    "#]],
    );
}

#[test]
fn lint_compares_policies_with_the_pods_of_templates() {
    let mut input = workload("Deployment", "api", &template("api", "{ containerPort: 8080 }"));
    input += "{ apiVersion: v1, kind: Namespace, metadata: { name: s } }\n---\n";
    input += "{ apiVersion: v1, kind: Service, metadata: { name: api, namespace: s }, spec: { selector: { app: api }, ports: [{ port: 80, targetPort: 8080 }] } }\n---\n";
    let policy = |app: &str| {
        format!(
            "{{ apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{ name: api, namespace: s }}, spec: {{ podSelector: {{ matchLabels: {{ app: {app} }} }}, ingress: [{{ ports: [{{ port: 80 }}] }}] }} }}"
        )
    };
    check(
        &(input.clone() + &policy("apii")),
        "netpol lint INPUT",
        &expect![[r#"
            exit code 0
            DIR/input.yaml:7: warning NP001 selects-no-pod: NetworkPolicy s/api: spec.podSelector selects no pod in namespace s: app=apii (did you mean app=api?)
              |
            7 | ...data: { name: api, namespace: s }, spec: { podSelector: { matchLabels: { app: apii } }, ingress: [{ ports: [{ port: 80 }] }] } }
              |                                               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
                Compare the selector with the labels of the pods that the policy should select.
            DIR/input.yaml:7: warning NP022 service-port: NetworkPolicy s/api: spec.ingress[0].ports[0] TCP/80 is a port of Service s/api, whose target port on a pod of Deployment s/api is 8080
              |
            7 | ...ector: { matchLabels: { app: apii } }, ingress: [{ ports: [{ port: 80 }] }] } }
              |                                                               ^^^^^^^^^^^^
                Use the Service's `targetPort`, which is the port of the pods.
            4 objects: 0 errors, 2 warnings, 0 infos
        "#]],
    );
    check(
        &(input + &policy("api")),
        "netpol lint INPUT",
        &expect![[r#"
            exit code 0
            DIR/input.yaml:7: warning NP022 service-port: NetworkPolicy s/api: spec.ingress[0].ports[0] TCP/80 is a port of Service s/api, whose target port on a pod of Deployment s/api is 8080
              |
            7 | ...lector: { matchLabels: { app: api } }, ingress: [{ ports: [{ port: 80 }] }] } }
              |                                                               ^^^^^^^^^^^^
                Use the Service's `targetPort`, which is the port of the pods.
            4 objects: 0 errors, 1 warning, 0 infos
        "#]],
    );
}

#[test]
fn a_block_that_could_contain_the_address_of_a_pod_is_named() {
    let mut input = workload("Deployment", "web", &template("web", ""));
    input += &workload("Deployment", "db", &template("db", "{ containerPort: 5432 }"));
    let policy = "
{ apiVersion: v1, kind: Namespace, metadata: { name: s } }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: db, namespace: s }
spec: { podSelector: { matchLabels: { app: db } }, ingress: [{ from: [{ ipBlock: { cidr: CIDR } }] }] }
";
    let verdict = |cidr: &str, options: &str| {
        let input = input.clone() + &policy.replace("CIDR", cidr);
        let command = format!("netpol explain INPUT --from s/web --to s/db --port 5432 {options}");
        on(&input, &command).lines().nth(1).unwrap().to_owned()
    };
    for (cidr, options, expected) in [
        ("10.0.0.0/8", "", "depends on an address that is not known"),
        ("0.0.0.0/0", "", "allowed"),
        ("0.0.0.0/0, except: [10.0.0.0/8]", "", "depends on an address that is not known"),
        ("8.8.8.8/32", "", "denied"),
        ("fd00::/8", "", "denied"),
        ("10.0.0.0/8", "--pod-cidr 10.244.0.0/16", "allowed"),
        ("10.0.0.0/8, except: [10.244.0.0/16]", "--pod-cidr 10.244.0.0/16", "denied"),
        ("10.244.3.0/24", "--pod-cidr 10.244.0.0/16", "depends on an address that is not known"),
        ("fd00::/8", "--pod-cidr fd00:1::/64", "allowed"),
    ] {
        let expected = format!("s/deploy/web -> s/deploy/db 5432/TCP: {expected}");
        assert_eq!(verdict(cidr, options), expected, "{cidr} {options}");
    }
    let input = input + &policy.replace("CIDR", "10.0.0.0/8");
    check(
        &input,
        "netpol explain INPUT --from s/web --to s/db --port 5432",
        &expect![[r#"
            exit code 1
            s/deploy/web -> s/deploy/db 5432/TCP: depends on an address that is not known
              packets: a pod of Deployment s/web -> a pod of Deployment s/db, port 5432

            egress: allowed: no policy isolates s/deploy/web for egress

            ingress: depends: s/deploy/db is isolated for ingress, and a rule allows the connection for some addresses
              isolated by s/db
              ? s/db ingress[0] allows every port from 10.0.0.0/8
        "#]],
    );
    check(
        &input,
        "netpol simulate INPUT",
        &expect![[r#"
        exit code 0
        +--------------+-----------+
        | 5432/TCP     |     s/    |
        |              | deploy/db |
        +==========================+
        | s/deploy/db  |     .     |
        | s/deploy/web |   maybe   |
        +--------------+-----------+

    "#]],
    );
}

#[test]
fn a_name_that_nothing_has_gets_a_suggestion() {
    let input = workload("Deployment", "front", &template("front", ""));
    check(
        &input,
        "netpol explain INPUT --from s/frnt --to external --port 443",
        &expect![[r#"
        exit code 2
        s/frnt -> external 443/TCP: impossible
          there is no pod, workload, Service or node s/frnt (did you mean s/front?)
    "#]],
    );
}

#[test]
fn a_service_is_a_destination_by_any_of_its_names() {
    let mut input = workload("Deployment", "web", &template("web", ""));
    input += &workload("StatefulSet", "db", &template("db", "{ name: pg, containerPort: 5432 }"));
    input += "{ apiVersion: v1, kind: Service, metadata: { name: data, namespace: s }, spec: { selector: { app: db }, ports: [{ name: sql, port: 80, targetPort: pg }] } }\n---\n";
    input += DB_FROM_WEB;
    for (name, port) in [
        ("svc/data", "80"),
        ("data.s.svc", "80"),
        ("s/data", "sql"),
        ("data.s.svc.cluster.local", "sql"),
    ] {
        let text = on(
            &input,
            &format!("netpol explain INPUT --from deploy/web --to {name} --port {port}"),
        );
        assert!(text.starts_with("exit code 0"), "{text}");
        assert!(
            text.contains(
                "Service s/data has backends a pod of StatefulSet s/db, port 5432 (allowed)"
            ),
            "{text}"
        );
    }
    check(
        &input,
        "netpol explain INPUT --from svc/data --to svc/data --port 81",
        &expect![[r#"
        exit code 2
        svc/s/data -> svc/s/data 81/TCP: impossible
          Service s/data has no backend for port 81/TCP
    "#]],
    );
}

#[test]
fn blocks_and_external_addresses_are_answered_for_each_range() {
    let mut input = workload("Deployment", "db", &template("db", "{ containerPort: 5432 }"));
    input += "
{ apiVersion: v1, kind: Namespace, metadata: { name: s } }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: db, namespace: s }
spec: { podSelector: { matchLabels: { app: db } }, ingress: [{ from: [{ ipBlock: { cidr: 203.0.113.0/24, except: [203.0.113.128/25] } }] }] }
";
    let ranges = |from: &str| {
        let text = on(&input, &format!("netpol explain INPUT --from {from} --to s/db --port 5432"));
        text.lines().find(|line| line.contains(" from ")).unwrap().trim().to_owned()
    };
    assert_eq!(ranges("203.0.113.0/26"), "allowed from 203.0.113.0/26");
    assert_eq!(
        ranges("203.0.113.0/24"),
        "allowed from 203.0.113.0/25; denied from 203.0.113.128/25"
    );
    assert!(ranges("external").starts_with("allowed from 203.0.113.0/25; denied from 1.0.0.0-"));
}
