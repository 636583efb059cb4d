//! The same commands on a live cluster: a small API server in this process.

use expect_test::{Expect, expect};
use netpol_lab::fake_api::FakeApi;
use netpol_policy::model::Kind;
use serde_json::json;

use crate::{OPEN_WEB, output_in};

/// Runs a command on a cluster with two pods; the directory holds `kubeconfig` and `new.yaml`.
#[track_caller]
fn check(command: &str, expected: &Expect) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.unwrap();
    let api = runtime.block_on(FakeApi::start()).unwrap();
    for namespace in ["shop", "ops"] {
        api.put(
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } }),
        );
    }
    for (namespace, name, ip) in [("shop", "web", "10.0.0.1"), ("ops", "probe", "10.0.0.2")] {
        api.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": namespace, "name": name, "labels": { "app": name } },
            "spec": { "containers": [{ "name": "c" }] },
            "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] },
        }));
    }
    api.put(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "namespace": "shop", "name": "web" },
        "spec": { "podSelector": {}, "ingress": [{ "from": [{ "podSelector": {} }], "ports": [{ "port": 80 }] }] },
    }));
    assert!(api.get(Kind::Pod, "shop", "web").is_some());
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("kubeconfig"), api.kubeconfig(&json!({}))).unwrap();
    std::fs::write(directory.path().join("new.yaml"), OPEN_WEB).unwrap();
    expected.assert_eq(&output_in(directory.path(), command, ""));
}

#[test]
fn explain_reads_a_live_cluster() {
    check(
        "netpol explain --from ops/probe --to shop/web --port 80 --cluster --kubeconfig DIR/kubeconfig",
        &expect![[r#"
            exit code 1
            ops/probe -> shop/web 80/TCP: denied
              packets: 10.0.0.2 -> 10.0.0.1:80

            egress: allowed: no policy isolates ops/probe for egress

            ingress: denied: shop/web is isolated for ingress, and no rule allows the connection
              isolated by shop/web
              - shop/web ingress[0] allows TCP/80 from all pods of the policy's namespace: ops/probe is in another namespace
        "#]],
    );
}

#[test]
fn objects_in_files_replace_those_of_the_live_cluster() {
    check(
        "netpol simulate --cluster --kubeconfig DIR/kubeconfig --what-if -f DIR/new.yaml --port 81",
        &expect![[r#"
            exit code 0
            + ops/probe -> shop/web: 81/TCP
            opens: 1 pair of pods, closes: 0 pairs
        "#]],
    );
}

#[test]
fn lint_reads_a_live_cluster() {
    check(
        "netpol lint --cluster --kubeconfig DIR/kubeconfig",
        &expect![[r#"
        exit code 0
        5 objects: 0 errors, 0 warnings, 0 infos
    "#]],
    );
}

#[test]
fn a_cluster_that_cannot_be_accessed_is_an_error() {
    check(
        "netpol lint --cluster --kubeconfig DIR/none",
        &expect![[r#"
            exit code 2
            ! netpol: cannot access the cluster: kubeconfig DIR/none: failed to read kubeconfig from '"DIR/none"': No such file or directory (os error 2)
        "#]],
    );
}
