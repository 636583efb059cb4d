//! The manifests for a cluster: they build, ask for no more than is needed, and name only what exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use netpol_agent::model::Kind;
use netpol_tests::binaries;
use netpol_tests::privilege::{Need, met};
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The objects of an overlay, as `kubectl apply -k` would send them; `None` without kubectl.
fn overlay(name: &str) -> Result<Option<Vec<Value>>> {
    if !met(&[Need::Program("kubectl")]) {
        return Ok(None);
    }
    let output = Command::new("kubectl")
        .arg("kustomize")
        .arg(folder().join("overlays").join(name))
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && errors.is_empty(), "{name}: {errors}");
    let text = String::from_utf8(output.stdout)?;
    text.split("\n---\n")
        .map(|document| Ok(serde_saphyr::from_str(document)?))
        .collect::<Result<_>>()
        .map(Some)
}

fn base(file: &str) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(folder().join("base").join(file))?;
    text.split("\n---\n").map(|document| Ok(serde_saphyr::from_str(document)?)).collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    objects.iter().find(|object| at(object, "/kind") == kind).with_context(|| format!("no {kind}"))
}

/// The value at a path, null if there is none.
fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    value.pointer(path).unwrap_or(&Value::Null)
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn texts(value: &Value) -> BTreeSet<&str> {
    items(value).filter_map(Value::as_str).collect()
}

/// The host's folders that a DaemonSet uses, by volume.
fn host_path<'a>(daemon_set: &'a Value, volume: &str) -> Option<&'a str> {
    let volumes = at(daemon_set, "/spec/template/spec/volumes");
    let volume = items(volumes).find(|found| at(found, "/name") == volume)?;
    at(volume, "/hostPath/path").as_str()
}

#[test]
fn the_overlay_for_kubeadm_uses_the_usual_folders() -> Result<()> {
    let Some(objects) = overlay("kubeadm-flannel")? else { return Ok(()) };
    let daemon_set = of_kind(&objects, "DaemonSet")?;
    ensure!(host_path(daemon_set, "cni-conf") == Some("/etc/cni/net.d"));
    ensure!(host_path(daemon_set, "cni-bin") == Some("/opt/cni/bin"));
    check_image(daemon_set)
}

#[test]
fn the_overlay_for_k3s_uses_the_folders_of_k3s_and_keeps_the_others() -> Result<()> {
    let Some(objects) = overlay("k3s")? else { return Ok(()) };
    let daemon_set = of_kind(&objects, "DaemonSet")?;
    let conf = host_path(daemon_set, "cni-conf");
    ensure!(conf == Some("/var/lib/rancher/k3s/agent/etc/cni/net.d"), "{conf:?}");
    ensure!(host_path(daemon_set, "cni-bin") == Some("/var/lib/rancher/k3s/data/cni"));
    ensure!(host_path(daemon_set, "bpffs") == Some("/sys/fs/bpf"));
    ensure!(host_path(daemon_set, "run") == Some("/run/netpol"));
    check_image(daemon_set)
}

fn check_image(daemon_set: &Value) -> Result<()> {
    let tag = format!("netpol:{}", env!("CARGO_PKG_VERSION"));
    for container in items(at(daemon_set, "/spec/template/spec/containers")) {
        ensure!(
            at(container, "/image") == tag.as_str(),
            "{} instead of {tag}",
            at(container, "/image")
        );
    }
    Ok(())
}

#[test]
fn the_agent_may_read_every_kind_that_it_watches_and_write_nothing_but_events() -> Result<()> {
    let objects = base("rbac.yaml")?;
    let mut watched = BTreeSet::new();
    for rule in items(at(of_kind(&objects, "ClusterRole")?, "/rules")) {
        let (resources, verbs) = (texts(at(rule, "/resources")), texts(at(rule, "/verbs")));
        if resources.contains("events") {
            ensure!(verbs == BTreeSet::from(["create"]), "{rule}");
            continue;
        }
        ensure!(verbs.is_subset(&BTreeSet::from(["get", "list", "watch"])), "{rule}");
        if verbs.contains("list") && verbs.contains("watch") {
            watched.extend(resources);
        }
    }
    let needed: BTreeSet<_> = Kind::ALL
        .map(|kind| match kind {
            Kind::NetworkPolicy => "networkpolicies",
            Kind::Pod => "pods",
            Kind::Namespace => "namespaces",
            Kind::Service => "services",
            Kind::Node => "nodes",
        })
        .into();
    ensure!(watched == needed, "{watched:?} instead of {needed:?}");
    Ok(())
}

#[test]
fn the_containers_have_the_capabilities_that_the_namespace_tests_run_with_and_no_more() -> Result<()>
{
    let objects = base("daemonset.yaml")?;
    let pod = at(of_kind(&objects, "DaemonSet")?, "/spec/template/spec");
    for container in items(at(pod, "/containers")) {
        let context = at(container, "/securityContext");
        ensure!(at(context, "/privileged").is_null(), "{context}");
        ensure!(at(context, "/readOnlyRootFilesystem") == true, "{context}");
        ensure!(*at(context, "/capabilities/drop") == json!(["ALL"]), "{context}");
        // tests/tests/netns/restarts.rs
        let added = texts(at(context, "/capabilities/add"));
        let expected = match at(container, "/name").as_str() {
            Some("agent") => BTreeSet::from(["NET_ADMIN", "SYS_ADMIN"]),
            _ => BTreeSet::new(),
        };
        ensure!(added == expected, "{added:?} instead of {expected:?}");
    }
    Ok(())
}

#[test]
fn the_daemon_set_uses_only_commands_arguments_and_variables_that_exist() -> Result<()> {
    let agent = binaries::binary("netpol-agent")?;
    let objects = base("daemonset.yaml")?;
    let pod = at(of_kind(&objects, "DaemonSet")?, "/spec/template/spec");
    for container in items(at(pod, "/containers")) {
        let words: Vec<_> = items(at(container, "/command"))
            .chain(items(at(container, "/args")))
            .filter_map(Value::as_str)
            .collect();
        let (program, words) = words.split_first().context("a container has no command")?;
        ensure!(*program == "netpol-agent", "{program}");
        let (options, verbs): (Vec<&str>, Vec<&str>) =
            words.iter().partition(|word| word.starts_with("--"));
        let output = Command::new(&agent).args(&verbs).arg("--help").output()?;
        let help = String::from_utf8(output.stdout)?;
        ensure!(output.status.success(), "there is no {verbs:?}");
        let variables =
            items(at(container, "/env")).filter_map(|variable| at(variable, "/name").as_str());
        let options = options.iter().map(|option| option.split('=').next().unwrap_or(option));
        for name in options.chain(variables) {
            ensure!(help.contains(name), "{verbs:?} does not know {name}");
        }
    }
    Ok(())
}
