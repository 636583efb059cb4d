//! The Helm chart: it renders what kustomize builds, and refuses values that mean nothing.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use anyhow::{Result, ensure};
use netpol_lab::deployment::{at, folder, kustomize, kustomize_with, objects};
use netpol_lab::privilege::{Need, met};
use netpol_lab::tools;
use serde_json::Value;

const NEEDS: [Need; 2] = [Need::Program("kubectl"), Need::Tool("helm")];

fn helm(words: &[&str], chart_arguments: &[&str]) -> Result<Output> {
    let mut helm = Command::new(tools::path("helm")?);
    // helm writes into the user's folders otherwise.
    let home = tempfile::tempdir()?;
    helm.env("HOME", home.path()).args(words).arg(folder().join("helm")).args(chart_arguments);
    Ok(helm.output()?)
}

fn template(arguments: &[&str]) -> Result<Vec<Value>> {
    let output = helm(&["template", "netpol"], arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let text = text.strip_prefix("---\n").unwrap_or(&text);
    objects(text)
}

/// The objects by kind and name, without the two labels that differ, and with lists of named things in order of the names.
fn comparable(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let key = |object: &Value| format!("{} {}", at(object, "/kind"), at(object, "/metadata/name"));
    let made = objects.into_iter().map(|mut object| {
        normalise(&mut object);
        (key(&object), object)
    });
    made.collect()
}

fn normalise(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.iter_mut().for_each(normalise);
            let name = |item: &Value| {
                let text = |field| item.get(field).and_then(Value::as_str).map(str::to_owned);
                text("mountPath").or_else(|| text("name"))
            };
            if items.iter().all(|item| name(item).is_some()) {
                items.sort_by_key(name);
            }
        }
        Value::Object(fields) => {
            fields.remove("app.kubernetes.io/managed-by");
            fields.remove("helm.sh/chart");
            fields.values_mut().for_each(normalise);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[track_caller]
fn check_equal(arguments: &[&str], kustomized: Vec<Value>) -> Result<()> {
    let (chart, kustomized) = (comparable(template(arguments)?), comparable(kustomized));
    let names = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
    ensure!(names(&chart) == names(&kustomized), "{arguments:?}: {:?}", names(&chart));
    for (name, object) in &kustomized {
        let found = chart.get(name);
        ensure!(
            found == Some(object),
            "{arguments:?}: {name}: the chart has\n{:#}\nand kustomize has\n{object:#}",
            found.unwrap_or(&Value::Null)
        );
    }
    Ok(())
}

#[test]
fn the_chart_renders_what_kustomize_builds_for_each_platform() -> Result<()> {
    if !met(&NEEDS) {
        return Ok(());
    }
    for platform in ["kubeadm-flannel", "k3s", "microk8s", "minikube"] {
        let set = format!("platform={platform}");
        check_equal(&["--set", &set], kustomize(&format!("overlays/{platform}"))?)?;
        let removal = ["--set", &set, "--set", "remove=true"];
        check_equal(&removal, kustomize(&format!("uninstall/{platform}"))?)?;
    }
    check_equal(&[], kustomize("overlays/kubeadm-flannel")?)
}

#[test]
fn each_switch_of_the_chart_renders_what_its_component_adds() -> Result<()> {
    if !met(&NEEDS) {
        return Ok(());
    }
    for (value, component) in [
        ("startupTaint.enabled=true", "components/startup-taint"),
        ("ownNodeEgress=judge", "components/own-node"),
        ("publishAddresses.enabled=false", "components/without-addresses"),
        ("observer.enabled=true", "components/observer"),
        ("metrics.enabled=true", "prometheus"),
        ("prometheusOperator.enabled=true", "components/prometheus-operator"),
    ] {
        let expected = kustomize_with("overlays/k3s", &[component])?;
        check_equal(&["--set", "platform=k3s", "--set", value], expected)?;
    }
    let older = kustomize_with("overlays/kubeadm-flannel", &["components/pre-1.30"])?;
    check_equal(&["--kube-version", "1.29.0"], older)
}

#[test]
fn helm_has_nothing_to_say_about_the_chart() -> Result<()> {
    if !met(&NEEDS) {
        return Ok(());
    }
    for values in [
        "remove=false",
        "prometheusOperator.enabled=true,startupTaint.enabled=true,observer.enabled=true",
    ] {
        let output = helm(&["lint", "--strict"], &["--set", values])?;
        let text = String::from_utf8_lossy(&output.stdout);
        let is_clean = !text.contains("[WARNING]") && !text.contains("[ERROR]");
        ensure!(output.status.success() && is_clean, "{output:?}");
    }
    Ok(())
}

#[test]
fn values_that_mean_nothing_are_refused() -> Result<()> {
    if !met(&NEEDS) {
        return Ok(());
    }
    for value in [
        "platform=openshift",
        "markMask=12",
        "paths.cniBin=opt",
        "podTunnels=maybe",
        "podTunnels=deny",
        "shortCut=maybe",
        "tunnelPorts={0}",
        "ownNodeEgress=deny",
        "imagge.tag=1",
    ] {
        let output = helm(&["template", "netpol"], &["--set", value])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.contains("schema"), "{value}: {output:?}");
    }
    Ok(())
}

#[test]
fn helm_makes_the_namespace_or_the_chart_does_and_an_image_by_digest_has_no_tag() -> Result<()> {
    if !met(&NEEDS) {
        return Ok(());
    }
    let has_namespace =
        |objects: &[Value]| objects.iter().any(|object| at(object, "/kind") == "Namespace");
    ensure!(has_namespace(&template(&[])?));
    ensure!(!has_namespace(&template(&["--namespace", "netpol-system"])?));
    let digest = format!("sha256:{}", "0".repeat(64));
    let arguments = ["--set", "image.repository=r.example/n", "--set"];
    let found = template(&[&arguments[..], &[&format!("image.digest={digest}")]].concat())?;
    let image = format!("r.example/n@{digest}");
    ensure!(serde_json::to_string(&found)?.contains(&image), "{found:?}");
    Ok(())
}

#[test]
fn the_chart_has_the_version_of_the_programs_and_the_alerts_of_prometheus() -> Result<()> {
    let read = |path: &str| std::fs::read_to_string(folder().join(path));
    let chart = objects(&read("helm/Chart.yaml")?)?;
    for field in ["/version", "/appVersion"] {
        let version = chart.first().map(|chart| at(chart, field));
        ensure!(version.is_some_and(|version| version == env!("CARGO_PKG_VERSION")), "{version:?}");
    }
    ensure!(read("helm/files/rules.yaml")? == read("prometheus/rules.yaml")?);
    Ok(())
}
