//! The manifests for a cluster: they build, request only needed permissions, and refer only to what exists.
#![forbid(unsafe_code)]

mod chart;
mod conventions;
mod monitoring;

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use netpol_lab::binaries;
use netpol_lab::deployment::{
    at, containers, folder, host_path, items, kustomize, kustomize_manifest, kustomize_with,
    objects, of_kind, texts,
};
use netpol_lab::privilege::{Need, met};
use netpol_policy::model::Kind;
use serde_json::{Value, json};

/// The objects of an overlay; `None` without kubectl.
fn overlay(name: &str) -> Result<Option<Vec<Value>>> {
    if !met(&[Need::Program("kubectl")]) {
        return Ok(None);
    }
    kustomize(&format!("overlays/{name}")).map(Some)
}

fn base(file: &str) -> Result<Vec<Value>> {
    objects(&std::fs::read_to_string(folder().join("base").join(file))?)
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
    for container in containers(daemon_set) {
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
            Kind::ClusterNetworkPolicy => "clusternetworkpolicies",
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
fn the_containers_have_the_capabilities_that_they_are_tested_with_and_no_more() -> Result<()> {
    let objects = base("daemonset.yaml")?;
    for container in containers(of_kind(&objects, "DaemonSet")?) {
        let context = at(container, "/securityContext");
        ensure!(at(context, "/privileged").is_null(), "{context}");
        ensure!(at(context, "/readOnlyRootFilesystem") == true, "{context}");
        ensure!(*at(context, "/capabilities/drop") == json!(["ALL"]), "{context}");
        let added = texts(at(context, "/capabilities/add"));
        let expected = match at(container, "/name").as_str() {
            // tests/tests/netns/restarts.rs and tests/tests/image/main.rs
            Some("agent") => BTreeSet::from(["NET_ADMIN", "SYS_ADMIN"]),
            // tests/tests/image/main.rs
            _ => BTreeSet::from(["CHOWN", "DAC_OVERRIDE", "FOWNER"]),
        };
        ensure!(added == expected, "{added:?} instead of {expected:?}");
        for resource in ["cpu", "memory"] {
            let requested = at(container, &format!("/resources/requests/{resource}"));
            ensure!(requested.is_string(), "no request of {resource}: {container}");
        }
        let limit = at(container, "/resources/limits/memory");
        ensure!(limit.is_string(), "no limit of memory: {container}");
    }
    Ok(())
}

#[test]
fn no_security_module_confines_the_containers() -> Result<()> {
    let objects = base("daemonset.yaml")?;
    for container in containers(of_kind(&objects, "DaemonSet")?) {
        let context = at(container, "/securityContext");
        ensure!(*at(context, "/appArmorProfile") == json!({ "type": "Unconfined" }), "{context}");
        ensure!(*at(context, "/seLinuxOptions") == json!({ "type": "spc_t" }), "{context}");
    }
    Ok(())
}

#[test]
fn before_kubernetes_1_30_annotations_take_the_place_of_the_apparmor_field() -> Result<()> {
    if !met(&[Need::Program("kubectl")]) {
        return Ok(());
    }
    let (older, removal) = ("components/pre-1.30", "uninstall/component");
    for components in [[older].as_slice(), &[older, removal]] {
        let objects = kustomize_with("overlays/kubeadm-flannel", components)?;
        let daemon_set = of_kind(&objects, "DaemonSet")?;
        let mut expected = BTreeSet::new();
        for container in containers(daemon_set) {
            ensure!(at(container, "/securityContext/appArmorProfile").is_null(), "{container}");
            expected.extend(at(container, "/name").as_str());
        }
        // The API server refuses an annotation for a container that does not exist.
        let annotations = at(daemon_set, "/spec/template/metadata/annotations").as_object();
        let found: BTreeSet<_> = annotations
            .context("no annotations")?
            .iter()
            .filter(|(_, value)| **value == "unconfined")
            .filter_map(|(key, _)| {
                key.strip_prefix("container.apparmor.security.beta.kubernetes.io/")
            })
            .collect();
        ensure!(found == expected, "{components:?}: {found:?} instead of {expected:?}");
    }
    Ok(())
}

#[test]
fn the_removal_keeps_the_names_and_folders_of_each_overlay() -> Result<()> {
    for name in ["kubeadm-flannel", "k3s", "microk8s", "minikube"] {
        let Some(installed) = overlay(name)? else { return Ok(()) };
        let removing = kustomize(&format!("uninstall/{name}"))?;
        let (installed, removing) =
            (of_kind(&installed, "DaemonSet")?, of_kind(&removing, "DaemonSet")?);
        // The same DaemonSet name, so the node's agent ends before the removal begins.
        for same in [
            "/metadata/name",
            "/metadata/namespace",
            "/spec/selector",
            "/spec/template/spec/volumes",
        ] {
            ensure!(at(installed, same) == at(removing, same), "{name}: {same}");
        }
        let commands: Vec<_> =
            containers(removing).map(|container| at(container, "/command")).collect();
        ensure!(commands == [&json!(["netpol-agent", "uninstall", "--stay"])], "{commands:?}");
        // A failed removal exits before that, and does not count as done.
        ensure!(at(removing, "/spec/minReadySeconds").as_u64() >= Some(15));
        check_image(removing)?;
        check_commands(removing)?;
    }
    Ok(())
}

#[test]
fn the_daemon_set_uses_only_commands_arguments_and_variables_that_exist() -> Result<()> {
    check_commands(of_kind(&base("daemonset.yaml")?, "DaemonSet")?)
}

/// Variables of the agent that the removal inherits.
const RUN_ONLY: [&str; 6] = [
    "NETPOL_PUBLISH_ADDRESSES",
    "NETPOL_STARTUP_TAINT",
    "NODE_NAME",
    "NETPOL_HEALTH",
    "NETPOL_METRICS",
    "NETPOL_BPFFS",
];

fn variable<'a>(daemon_set: &'a Value, name: &str) -> Option<&'a str> {
    let agent = containers(daemon_set).find(|container| at(container, "/name") == "agent")?;
    let found = items(at(agent, "/env")).find(|variable| at(variable, "/name") == name)?;
    at(found, "/value").as_str()
}

/// A deny-all pod reaches every port of its own node.
#[test]
fn only_the_component_for_prometheus_opens_a_port_to_pods() -> Result<()> {
    let Some(objects) = overlay("kubeadm-flannel")? else { return Ok(()) };
    let daemon_set = of_kind(&objects, "DaemonSet")?;
    ensure!(variable(daemon_set, "NETPOL_HEALTH") == Some("localhost:9470"));
    ensure!(variable(daemon_set, "NETPOL_METRICS").is_none());
    for container in containers(daemon_set) {
        for port in items(at(container, "/ports")) {
            ensure!(*port == json!({ "name": "health", "containerPort": 9470, "protocol": "TCP" }));
        }
        for probe in ["/startupProbe", "/livenessProbe", "/readinessProbe"] {
            let probe = at(container, probe);
            ensure!(probe.is_null() || at(probe, "/httpGet/host") == "localhost", "{probe}");
        }
    }

    let objects = kustomize_with("overlays/kubeadm-flannel", &["prometheus"])?;
    let daemon_set = of_kind(&objects, "DaemonSet")?;
    ensure!(variable(daemon_set, "NETPOL_HEALTH") == Some("localhost:9470"));
    ensure!(variable(daemon_set, "NETPOL_METRICS") == Some("[::]:9471"));
    check_commands(daemon_set)
}

fn check_commands(daemon_set: &Value) -> Result<()> {
    let agent = binaries::binary("netpol-agent")?;
    for container in containers(daemon_set) {
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
            // The removal inherits the variables of `run`, which it does not use.
            let is_known =
                help.contains(name) || (verbs.contains(&"uninstall") && RUN_ONLY.contains(&name));
            ensure!(is_known, "{verbs:?} has no option {name}");
        }
    }
    Ok(())
}

/// The part of Flannel's manifest that has its configuration.
fn flannel() -> String {
    let cni_conf = netpol_lab::flannel::CNI_CONF.trim_end().replace('\n', "\n    ");
    format!(
        r#"apiVersion: v1
kind: ConfigMap
metadata:
  name: kube-flannel-cfg
  namespace: kube-flannel
data:
  cni-conf.json: |
    {cni_conf}
  net-conf.json: |
    {{ "Network": "10.244.0.0/16", "Backend": {{ "Type": "vxlan" }} }}
"#
    )
}

#[test]
fn the_component_for_flannel_adds_what_cni_install_adds_and_keeps_the_rest() -> Result<()> {
    if !met(&[Need::Program("kubectl")]) {
        return Ok(());
    }
    let patched = kustomize_manifest(&flannel(), &["components/flannel"])?;
    let config_map = of_kind(&patched, "ConfigMap")?;
    let text = |key: &str| at(config_map, &format!("/data/{key}")).as_str().context("no text");
    ensure!(text("net-conf.json")?.contains("10.244.0.0/16"));

    let before = objects(&flannel())?;
    let original = at(of_kind(&before, "ConfigMap")?, "/data/cni-conf.json");
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("10-flannel.conflist");
    std::fs::write(&file, original.as_str().context("no text")?)?;
    let entry = netpol_agent::conflist::Entry { socket: netpol_proto::SOCKET_PATH.to_owned() };
    let report = netpol_agent::conflist::install(folder.path(), &entry)?;
    ensure!(report.problems.is_empty(), "{report:?}");
    ensure!(text("cni-conf.json")?.trim_end() == std::fs::read_to_string(&file)?.trim_end());
    Ok(())
}

#[test]
fn the_agent_writes_leases_in_its_own_namespace_and_of_policies_only_the_status() -> Result<()> {
    let objects = base("policy-status.yaml")?;
    let role = of_kind(&objects, "Role")?;
    ensure!(at(role, "/metadata/namespace") == netpol_kube::published::NAMESPACE);
    let verbs = ["get", "list", "create", "update", "patch"];
    let expected = json!([
        { "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs },
    ]);
    ensure!(*at(role, "/rules") == expected, "{role}");
    let rules = at(of_kind(&objects, "ClusterRole")?, "/rules");
    let resources = ["clusternetworkpolicies/status"];
    let group = "policy.networking.k8s.io";
    let expected = json!([{ "apiGroups": [group], "resources": resources, "verbs": ["patch"] }]);
    ensure!(*rules == expected, "{rules}");
    Ok(())
}

#[test]
fn the_agent_writes_config_maps_in_its_own_namespace_only_and_a_component_takes_that_away()
-> Result<()> {
    let objects = base("addresses.yaml")?;
    let role = of_kind(&objects, "Role")?;
    ensure!(at(role, "/metadata/namespace") == netpol_kube::published::NAMESPACE);
    let rules = at(role, "/rules");
    let verbs = ["get", "list", "watch", "create", "patch"];
    ensure!(
        *rules == json!([{ "apiGroups": [""], "resources": ["configmaps"], "verbs": verbs }]),
        "{rules}"
    );
    let rules = at(of_kind(&objects, "ClusterRole")?, "/rules");
    let [resources, names] = ["/0/resources", "/0/resourceNames"].map(|field| at(rules, field));
    let guards = ["validatingadmissionpolicies", "validatingadmissionpolicybindings"];
    ensure!(items(rules).count() == 1 && *resources == json!(guards), "{rules}");
    ensure!(*names == json!([netpol_kube::published::GUARD]), "{names}");
    ensure!(*at(rules, "/0/verbs") == json!(["get"]), "{rules}");
    for kind in ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"] {
        let name = at(of_kind(&objects, kind)?, "/metadata/name");
        ensure!(name == netpol_kube::published::GUARD, "{kind}: {name}");
    }
    if !met(&[Need::Program("kubectl")]) {
        return Ok(());
    }
    let without = kustomize_with("overlays/k3s", &["components/without-addresses"])?;
    let names: BTreeSet<_> =
        without.iter().filter_map(|object| at(object, "/metadata/name").as_str()).collect();
    ensure!(!names.contains("netpol-agent-addresses"), "{names:?}");
    check_commands(of_kind(&without, "DaemonSet")?)
}

#[test]
fn the_component_for_the_start_up_taint_adds_one_right_and_the_policy_that_limits_it() -> Result<()>
{
    if !met(&[Need::Program("kubectl")]) {
        return Ok(());
    }
    let found = kustomize_with("overlays/k3s", &["components/startup-taint"])?;
    let daemon_set = of_kind(&found, "DaemonSet")?;
    ensure!(variable(daemon_set, "NETPOL_STARTUP_TAINT") == Some("netpol.dev/agent-not-ready"));
    check_commands(daemon_set)?;
    let is_new = |object: &&Value| at(object, "/metadata/name") == "netpol-agent-startup-taint";
    let new: Vec<_> = found.iter().filter(is_new).collect();
    let kinds: BTreeSet<_> = new.iter().filter_map(|object| at(object, "/kind").as_str()).collect();
    let expected = [
        "ClusterRole",
        "ClusterRoleBinding",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ];
    ensure!(kinds == BTreeSet::from(expected), "{kinds:?}");
    let role = new.iter().find(|object| at(object, "/kind") == "ClusterRole");
    let rules = at(role.context("no role")?, "/rules");
    ensure!(*rules == json!([{ "apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"] }]));
    Ok(())
}
