//! `learn`: policies from recorded connections, and the connections that they would drop.

use std::fs;

use expect_test::{expect, expect_file};
use netpol_lab::repository;

use crate::output_in;

/// Runs `netpol learn` in `deploy/learn`, which DIR stands for.
fn learn(options: &str) -> String {
    let directory = repository::path("deploy/learn");
    output_in(&directory, &format!("netpol learn {options}"), "")
}

const FROM_FILES: &str = "-n shop --flows DIR/flows.json -f DIR/objects.yaml";

/// The documentation judges another connection by this file.
#[test]
fn policies_allow_the_recorded_connections_and_say_how_often_each_was_seen() {
    let output = learn(FROM_FILES);
    let policies = output.strip_prefix("exit code 0\n").unwrap();
    let (policies, problems): (Vec<_>, Vec<_>) =
        policies.lines().partition(|line| !line.starts_with("! "));
    expect_file!["../../../deploy/learn/learned.yaml"].assert_eq(&(policies.join("\n") + "\n"));
    expect![[r#"! netpol: left out: ICMP, which NetworkPolicies cannot allow without all other protocols (1)"#]]
        .assert_eq(&problems.join("\n"));
    assert!(output.contains("netpol/mode: audit"));
    let enforced = learn(&format!("{FROM_FILES} --enforce"));
    assert_eq!(
        enforced.replace("  annotations:\n    netpol/mode: audit\n", ""),
        output.replace("  annotations:\n    netpol/mode: audit\n", "")
    );
    assert!(!enforced.contains("audit"));
}

#[test]
fn learned_policies_change_nothing_that_is_learned_from_the_same_records() {
    assert_eq!(learn(&format!("{FROM_FILES} DIR/learned.yaml")), learn(FROM_FILES));
}

#[test]
fn verify_lists_what_the_present_policies_would_drop() {
    let with_policies = "-n shop -f DIR/objects.yaml DIR/learned.yaml --verify";
    let output = learn(&format!("{with_policies} --flows DIR/flows.json"));
    assert!(
        output.starts_with("exit code 0\nnone of 8 recorded connections would drop\n"),
        "{output}"
    );
    expect![[r#"
        exit code 1
        shop/front-5d4f8c7b9-x2k4q -> 203.0.113.77 TCP 443: dropped at shop/front-5d4f8c7b9-x2k4q, egress, by shop/learned-front
        would drop: 1 (of 1 recorded connections)
    "#]]
    .assert_eq(&learn(&format!("{with_policies} --flows DIR/later.json")));
}

#[test]
fn drops_are_learned_from_as_connections_are() {
    let directory = tempfile::tempdir().unwrap();
    let objects = repository::path("deploy/learn/objects.yaml");
    fs::copy(objects, directory.path().join("objects.yaml")).unwrap();
    let drops = concat!(
        r#"{"unix_s":1,"pod":{"namespace":"shop","name":"redis-0"},"direction":"ingress","is_dropped":false,"reason":"audited","protocol":"TCP","source":"10.0.1.1","source_port":4000,"destination":"10.0.2.1","destination_port":9121,"peer":{"namespace":"shop","name":"front-5d4f8c7b9-x2k4q"},"policies":[],"rule":null,"tier":null,"n_suppressed":0}"#,
        "\n",
        r#"{"unix_s":1,"pod":{"namespace":"shop","name":"a\n- ipBlock"},"direction":"egress","is_dropped":true,"reason":"not-allowed","protocol":"TCP","source":"10.0.1.9","source_port":4000,"destination":"10.0.2.1","destination_port":1,"peer":null,"policies":[],"rule":null,"tier":null,"n_suppressed":0}"#,
        "\n"
    );
    fs::write(directory.path().join("drops.json"), drops).unwrap();
    let command = "netpol learn -n shop --drops DIR/drops.json -f DIR/objects.yaml --enforce";
    expect![[r#"
        exit code 0
        # Left out: pod shop/a�- ipBlock is not among the objects
        ---
        # Learned for shop/front.
        apiVersion: networking.k8s.io/v1
        kind: NetworkPolicy
        metadata:
          name: learned-front
          namespace: shop
        spec:
          podSelector:
            matchLabels:
              app: front
          policyTypes: [Ingress, Egress]
          # Nothing was seen.
          ingress: []
          egress:
          - to:
            # shop/redis: 1 connection
            - podSelector:
                matchLabels:
                  app: redis
            ports:
            - { protocol: TCP, port: 9121 }
        ---
        # Learned for shop/redis.
        apiVersion: networking.k8s.io/v1
        kind: NetworkPolicy
        metadata:
          name: learned-redis
          namespace: shop
        spec:
          podSelector:
            matchLabels:
              app: redis
          policyTypes: [Ingress, Egress]
          ingress:
          - from:
            # shop/front: 1 connection
            - podSelector:
                matchLabels:
                  app: front
            ports:
            - { protocol: TCP, port: 9121 }
          # Nothing was seen.
          egress: []
        ! netpol: left out: pod shop/a�- ipBlock is not among the objects
    "#]]
    .assert_eq(&output_in(directory.path(), command, ""));
}

#[test]
fn no_policies_are_written_for_a_namespace_without_records() {
    for (options, expected) in [
        (
            "-n shop kube-system --flows DIR/later.json -f DIR/objects.yaml",
            "exit code 2\n! netpol: no connection of namespace kube-system was recorded\n",
        ),
        (
            "-n shpo --flows DIR/later.json -f DIR/objects.yaml",
            "exit code 2\n! netpol: namespace shpo has no pods\n",
        ),
    ] {
        assert_eq!(learn(options), expected);
    }
    let output = learn("-n shop --flows DIR/objects.yaml -f DIR/objects.yaml");
    assert!(output.starts_with("exit code 2\n! netpol: cannot read the records of "), "{output}");
    let output = learn("-n shop --flows DIR/flows.json");
    assert!(output.starts_with("exit code 2\n! error: "), "{output}");
    let output = learn("-n shop --for 1s --flows DIR/flows.json");
    assert!(output.contains("cannot be used with"), "{output}");
}
