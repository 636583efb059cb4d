//! The policies of `deploy/examples` are valid, have no findings, begin with an explanation, and do what it says.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::{Result, ensure};
use netpol_lab::demo;
use netpol_policy::lint::{Level, Options, Scope, lint};
use netpol_policy::manifests;
use netpol_policy::model::{Object, Transport};
use netpol_policy::simulate::{Cluster, Engine, PortChoice, Probe, with_implicit_namespaces};
use netpol_policy::store::{ClusterState, Delta};

/// The examples, by file.
fn examples() -> Result<Vec<(PathBuf, String)>> {
    let mut examples = Vec::new();
    for entry in std::fs::read_dir(demo::examples())? {
        let path = entry?.path();
        // The folder holds examples of ClusterNetworkPolicies.
        if path.is_dir() || path.ends_with(demo::PODS) {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        examples.push((path, text));
    }
    ensure!(!examples.is_empty(), "there are no examples");
    Ok(examples)
}

/// The examples of ClusterNetworkPolicies, by file.
fn cluster_policies() -> Result<Vec<(PathBuf, String)>> {
    let mut examples = Vec::new();
    for entry in std::fs::read_dir(demo::examples().join("cluster-policies"))? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        examples.push((path, text));
    }
    Ok(examples)
}

/// Pods by namespace, name and `k8s-app`, and a node.
const CLUSTER: &str = r"
{ apiVersion: v1, kind: Namespace, metadata: { name: own, labels: { tenant: self-managed } } }
---
{ apiVersion: v1, kind: Node, metadata: { name: n1 }, status: { addresses: [{ type: InternalIP, address: 192.168.0.1 }] } }
---
{ apiVersion: v1, kind: Pod, metadata: { namespace: payments, name: db }, spec: { nodeName: n1 }, status: { podIP: 10.0.0.1 } }
---
{ apiVersion: v1, kind: Pod, metadata: { namespace: payments, name: app }, spec: { nodeName: n1 }, status: { podIP: 10.0.0.2 } }
---
{ apiVersion: v1, kind: Pod, metadata: { namespace: monitoring, name: prom }, spec: { nodeName: n1 }, status: { podIP: 10.0.0.3 } }
---
{ apiVersion: v1, kind: Pod, metadata: { namespace: shop, name: web }, spec: { nodeName: n1 }, status: { podIP: 10.0.0.4 } }
---
{ apiVersion: v1, kind: Pod, metadata: { namespace: ingress-nginx, name: in }, spec: { nodeName: n1 }, status: { podIP: 10.0.0.5 } }
---
{ apiVersion: v1, kind: Pod, metadata: { namespace: own, name: app }, spec: { nodeName: n1 }, status: { podIP: 10.0.0.6 } }
---
apiVersion: v1
kind: Pod
metadata: { namespace: kube-system, name: dns, labels: { k8s-app: kube-dns } }
spec: { nodeName: n1 }
status: { podIP: 10.0.0.7 }
";

/// Whether each connection is allowed with the example alone, in the reference and with the compiled maps.
fn check(example: &str, expected: &[(&str, &str, u16, Transport, bool)]) -> Result<()> {
    let path = demo::examples().join("cluster-policies").join(example);
    let text = format!("{CLUSTER}---\n{}", std::fs::read_to_string(path)?);
    let objects = manifests::parse(example, &text).objects.into_iter();
    let (objects, _) = with_implicit_namespaces(objects.map(|sourced| sourced.object).collect());
    for engine in [Engine::Reference, Engine::compiled()] {
        let mut cluster = Cluster::new(engine);
        cluster.set(objects.clone())?;
        for (from, to, port, transport, is_allowed) in expected {
            let probe = Probe {
                from: from.parse()?,
                to: to.parse()?,
                port: PortChoice::Number(*port),
                transport: *transport,
            };
            let found = cluster.probe(&probe)?;
            ensure!(found.is_allowed == *is_allowed, "{example}: {probe:?} {found:?}");
        }
    }
    Ok(())
}

#[test]
fn the_examples_of_cluster_policies_do_what_they_say() -> Result<()> {
    use Transport::{Tcp, Udp};
    check(
        "deny-namespace-to-others.yaml",
        &[
            ("monitoring/prom", "payments/db", 5432, Tcp, true),
            ("payments/app", "payments/db", 5432, Tcp, true),
            ("shop/web", "payments/db", 5432, Tcp, false),
            ("192.168.0.1", "payments/db", 5432, Tcp, true),
            ("shop/web", "shop/web", 80, Tcp, true),
        ],
    )?;
    check(
        "baseline-default-deny.yaml",
        &[
            ("shop/web", "kube-system/dns", 53, Udp, true),
            ("shop/web", "kube-system/dns", 9153, Tcp, false),
            ("shop/web", "payments/db", 5432, Tcp, false),
            ("shop/web", "203.0.113.1", 443, Tcp, false),
            ("shop/web", "192.168.0.1", 10250, Tcp, false),
            ("kube-system/dns", "203.0.113.1", 53, Udp, true),
        ],
    )?;
    check(
        "protect-metadata-and-nodes.yaml",
        &[
            ("shop/web", "169.254.169.254", 80, Tcp, false),
            ("shop/web", "192.168.0.1", 22, Tcp, false),
            ("shop/web", "192.168.0.1", 2380, Tcp, false),
            ("shop/web", "192.168.0.1", 80, Tcp, true),
            ("shop/web", "203.0.113.1", 22, Tcp, true),
            ("kube-system/dns", "192.168.0.1", 10250, Tcp, true),
        ],
    )?;
    check(
        "delegate-by-pass.yaml",
        &[
            ("shop/web", "own/app", 80, Tcp, true),
            ("ingress-nginx/in", "shop/web", 80, Tcp, true),
            ("own/app", "shop/web", 80, Tcp, false),
            ("203.0.113.1", "shop/web", 80, Tcp, true),
        ],
    )
}

#[test]
fn every_example_of_a_cluster_policy_is_valid() -> Result<()> {
    for (path, text) in cluster_policies()? {
        ensure!(text.starts_with("# "), "{} begins without a comment", path.display());
        let read = manifests::read(std::slice::from_ref(&path), &mut std::io::empty());
        ensure!(read.findings.is_empty(), "{:?}", read.findings);
        for sourced in &read.objects {
            let is_policy = matches!(sourced.object, Object::ClusterPolicy(_));
            ensure!(is_policy, "{} is no policy", path.display());
        }
    }
    Ok(())
}

#[test]
fn every_example_is_one_valid_policy() -> Result<()> {
    for (path, _) in examples()? {
        let read = manifests::read(std::slice::from_ref(&path), &mut std::io::empty());
        ensure!(read.findings.is_empty(), "{:?}", read.findings);
        let policies = read.objects.iter().map(|sourced| &sourced.object);
        ensure!(policies.clone().count() == 1, "{} has several objects", path.display());
        for policy in policies {
            ensure!(matches!(policy, Object::Policy(_)), "{} is no policy", path.display());
        }
    }
    Ok(())
}

#[test]
fn no_example_has_lint_findings() -> Result<()> {
    for (path, _) in examples()? {
        let mut state = ClusterState::default();
        for sourced in manifests::read(&[path], &mut std::io::empty()).objects {
            drop(state.apply(Delta::Upsert(sourced.object)));
        }
        let findings: Vec<_> = lint(&state, &Options::new(Scope::Partial))
            .into_iter()
            .filter(|finding| finding.level >= Level::Warning)
            .collect();
        ensure!(findings.is_empty(), "{findings:?}");
    }
    Ok(())
}

#[test]
fn every_example_begins_with_a_comment() -> Result<()> {
    for (path, text) in examples()? {
        ensure!(text.starts_with("# "), "{} begins without a comment", path.display());
    }
    Ok(())
}
