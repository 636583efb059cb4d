//! Labels, probes and profiles as the conventions of Kubernetes have them, in every overlay and with every component.

use anyhow::{Context as _, Result, ensure};
use netpol_lab::deployment::{at, containers, items, kustomize, kustomize_with, of_kind};
use netpol_lab::privilege::{Need, met};
use serde_json::{Value, json};

/// The selector of the first version. The API server refuses another one.
const SELECTOR: [(&str, &str); 1] = [("app.kubernetes.io/name", "netpol-agent")];

fn check_labels(object: &Value, labels: &Value) -> Result<()> {
    let name = format!("{} {}", at(object, "/kind"), at(object, "/metadata/name"));
    let label = |key: &str| labels.get(format!("app.kubernetes.io/{key}"));
    let is_observers = label("name") == Some(&json!("netpol-observer"));
    let expected = [
        ("component", if is_observers { "observer" } else { "agent" }),
        ("managed-by", "kustomize"),
        ("part-of", "netpol"),
        ("version", env!("CARGO_PKG_VERSION")),
    ];
    for (key, value) in expected {
        ensure!(label(key) == Some(&json!(value)), "{name}: {key}: {labels}");
    }
    ensure!(label("name").is_some(), "{name}: no name: {labels}");
    Ok(())
}

#[test]
fn every_object_has_the_recommended_labels_and_the_selector_stays() -> Result<()> {
    if !met(&[Need::Program("kubectl")]) {
        return Ok(());
    }
    let components = [
        "components/startup-taint",
        "components/own-node",
        "components/observer",
        "components/prometheus-operator",
    ];
    for overlay in ["kubeadm-flannel", "k3s", "microk8s", "minikube"] {
        let objects = kustomize_with(&format!("overlays/{overlay}"), &components)?;
        for object in &objects {
            check_labels(object, at(object, "/metadata/labels"))?;
        }
        let daemon_set = of_kind(&objects, "DaemonSet")?;
        check_labels(daemon_set, at(daemon_set, "/spec/template/metadata/labels"))?;
        let selector = json!({ "matchLabels": serde_json::Map::from_iter(
            SELECTOR.map(|(key, value)| (key.to_owned(), json!(value)))) });
        ensure!(*at(daemon_set, "/spec/selector") == selector, "{overlay}: {selector}");
    }
    Ok(())
}

#[test]
fn a_pod_runs_where_the_image_runs_under_the_runtimes_system_call_filter() -> Result<()> {
    if !met(&[Need::Program("kubectl")]) {
        return Ok(());
    }
    for name in ["overlays/kubeadm-flannel", "uninstall/kubeadm-flannel"] {
        let objects = kustomize(name)?;
        let daemon_set = of_kind(&objects, "DaemonSet")?;
        let pod = at(daemon_set, "/spec/template/spec");
        ensure!(*at(pod, "/nodeSelector") == json!({ "kubernetes.io/os": "linux" }));
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let term =
            format!("/affinity/nodeAffinity/{required}/nodeSelectorTerms/0/matchExpressions/0");
        let processors = at(pod, &format!("{term}/values"));
        ensure!(*processors == json!(["amd64", "arm64"]), "{processors}");
        // tests/tests/image/runtime.rs
        let profile = at(pod, "/securityContext/seccompProfile");
        ensure!(*profile == json!({ "type": "RuntimeDefault" }), "{profile}");
        for container in containers(daemon_set) {
            ensure!(at(container, "/securityContext/seccompProfile").is_null(), "{container}");
            let policy = at(container, "/terminationMessagePolicy");
            ensure!(policy == "FallbackToLogsOnError", "{container}");
        }
    }
    Ok(())
}

#[test]
fn the_other_probes_wait_for_the_first_answer_of_a_slow_start() -> Result<()> {
    if !met(&[Need::Program("kubectl")]) {
        return Ok(());
    }
    let objects = kustomize("overlays/kubeadm-flannel")?;
    let daemon_set = of_kind(&objects, "DaemonSet")?;
    ensure!(at(daemon_set, "/spec/minReadySeconds").as_u64() >= Some(10));
    let agent = containers(daemon_set).find(|container| at(container, "/name") == "agent");
    let agent = agent.context("no agent")?;
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let port = at(agent, &format!("/{probe}/httpGet/port"));
        let is_named = items(at(agent, "/ports")).any(|named| at(named, "/name") == port);
        ensure!(is_named, "{probe} asks port {port}, which has no name");
    }
    let number = |field: &str| at(agent, &format!("/startupProbe/{field}")).as_u64();
    let seconds = number("periodSeconds").zip(number("failureThreshold")).map(|(a, b)| a * b);
    ensure!(seconds >= Some(60), "{seconds:?}");
    Ok(())
}
