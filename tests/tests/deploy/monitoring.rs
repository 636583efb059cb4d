//! What a Prometheus reads: alerts, the Service, and the objects for the Prometheus operator.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use netpol_lab::deployment::{at, containers, folder, items, kustomize_with, objects, of_kind};
use netpol_lab::privilege::{Need, met};
use serde_json::Value;

#[test]
fn prometheus_itself_accepts_the_alerts() -> Result<()> {
    if !met(&[Need::Program("promtool")]) {
        return Ok(());
    }
    // Once a template without quotes was read as a YAML map, and Prometheus refused the whole file.
    let rules = folder().join("prometheus/rules.yaml");
    let output = Command::new("promtool").args(["check", "rules"]).arg(rules).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

#[test]
fn the_operators_rule_has_the_alerts_of_the_file_for_prometheus() -> Result<()> {
    if !met(&[Need::Program("kubectl")]) {
        return Ok(());
    }
    let found = kustomize_with("overlays/k3s", &["components/prometheus-operator"])?;
    let file = std::fs::read_to_string(folder().join("prometheus/rules.yaml"))?;
    let file = objects(&file)?;
    let file = at(file.first().context("no rules")?, "/groups");
    ensure!(
        items(file).count() > 0 && at(of_kind(&found, "PrometheusRule")?, "/spec/groups") == file
    );
    Ok(())
}

#[test]
fn the_service_and_the_pod_monitor_name_the_port_of_the_agents_pods() -> Result<()> {
    if !met(&[Need::Program("kubectl")]) {
        return Ok(());
    }
    let found = kustomize_with("overlays/k3s", &["components/prometheus-operator"])?;
    let daemon_set = of_kind(&found, "DaemonSet")?;
    let labels = at(daemon_set, "/spec/template/metadata/labels");
    let named = |name: &Value| {
        let ports = containers(daemon_set).flat_map(|container| items(at(container, "/ports")));
        ports.filter(|port| at(port, "/name") == name).count()
    };
    let selects = |selector: &Value| {
        let selector = selector.as_object().filter(|selector| !selector.is_empty());
        selector.is_some_and(|selector| {
            selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        })
    };
    let service = of_kind(&found, "Service")?;
    ensure!(at(service, "/spec/clusterIP") == "None" && selects(at(service, "/spec/selector")));
    ensure!(named(at(service, "/spec/ports/0/targetPort")) == 1);
    let monitor = of_kind(&found, "PodMonitor")?;
    ensure!(selects(at(monitor, "/spec/selector/matchLabels")));
    ensure!(named(at(monitor, "/spec/podMetricsEndpoints/0/port")) == 1);
    let annotations = at(daemon_set, "/spec/template/metadata/annotations");
    ensure!(annotations.get("prometheus.io/scrape").is_some_and(|scrape| scrape == "true"));
    Ok(())
}
