//! Pods.

use std::sync::Arc;

use serde::Deserialize;

use super::address::collect_address;
use super::metadata::{ALLOW_FORWARDING, CONFIG_HASH, Metadata, SHORT_CUT};
use super::nullable::{items, or_default};
use super::walk::{Findings, Path, quoted};
use crate::model::{
    Addresses, Code, ContainerPort, Diagnostic, Kind, Pod, PodPhase, PortName, Transport,
};

/// core/v1 `PodSpec`, trimmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// `nodeName`, empty while the pod is not scheduled.
    #[serde(deserialize_with = "or_default")]
    pub node_name: Arc<str>,
    /// `hostNetwork`.
    #[serde(deserialize_with = "or_default")]
    pub host_network: bool,
    /// `containers`.
    #[serde(deserialize_with = "items")]
    pub containers: Vec<Container>,
    /// `initContainers`.
    #[serde(deserialize_with = "items")]
    pub init_containers: Vec<Container>,
}

/// core/v1 `Container`, trimmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// `restartPolicy`; `Always` makes an init container a sidecar.
    #[serde(deserialize_with = "or_default")]
    pub restart_policy: Option<Arc<str>>,
    /// `ports`.
    #[serde(deserialize_with = "items")]
    pub ports: Vec<DeclaredPort>,
}

/// core/v1 `ContainerPort`, trimmed and not yet checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeclaredPort {
    /// `name`.
    #[serde(deserialize_with = "or_default")]
    pub name: Option<Arc<str>>,
    /// `containerPort`.
    #[serde(deserialize_with = "or_default")]
    pub container_port: i32,
    /// `hostPort`; missing and 0 are none.
    #[serde(deserialize_with = "or_default")]
    pub host_port: Option<i32>,
    /// `protocol`.
    #[serde(deserialize_with = "or_default")]
    pub protocol: Option<Arc<str>>,
}

/// core/v1 `PodStatus`, trimmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `phase`.
    #[serde(deserialize_with = "or_default")]
    pub phase: PodPhase,
    /// `podIP`.
    #[serde(rename = "podIP", deserialize_with = "or_default")]
    pub pod_ip: Arc<str>,
    /// `podIPs`.
    #[serde(rename = "podIPs", deserialize_with = "items")]
    pub pod_ips: Vec<PodAddress>,
}

/// core/v1 `PodIP`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PodAddress {
    /// `ip`.
    #[serde(deserialize_with = "or_default")]
    pub ip: Arc<str>,
}

/// Normalises a pod. `None` only when it has no name.
///
/// Source: core/v1 `Pod`; its labels, addresses and container ports are what `NetworkPolicy` refers to.
pub fn pod(
    metadata: Metadata,
    spec: &PodSpec,
    status: Option<&PodStatus>,
) -> (Option<Pod>, Vec<Diagnostic>) {
    let name = metadata.object_name(Kind::Pod);
    let mut findings = Findings::new(Kind::Pod, name.clone());
    if !metadata.has_name(&mut findings) {
        return (None, findings.into_diagnostics());
    }
    metadata.check_annotations(&[ALLOW_FORWARDING, SHORT_CUT], &mut findings);
    let allows_forwarding =
        metadata.choice(ALLOW_FORWARDING, [("false", false), ("true", true)], &mut findings);
    let declines_short_cut =
        metadata.choice(SHORT_CUT, [("on", false), ("off", true)], &mut findings);
    let ports = ports(spec, &mut findings);
    let static_uid = metadata.annotations.get(CONFIG_HASH).cloned().unwrap_or_default();
    let pod = Pod {
        name,
        uid: metadata.uid,
        static_uid,
        created_s: metadata.created_s,
        labels: metadata.labels,
        node: Arc::clone(&spec.node_name),
        reported_addresses: status.map(|s| addresses(s, &mut findings)).unwrap_or_default(),
        host_network: spec.host_network,
        phase: status.map(|status| status.phase).unwrap_or_default(),
        terminating: metadata.terminating,
        ports: ports.into(),
        allows_forwarding,
        declines_short_cut,
    };
    (Some(pod), findings.into_diagnostics())
}

/// The ports of all containers, then those of sidecars. Other init containers have ended before
/// anybody connects.
fn ports(spec: &PodSpec, findings: &mut Findings) -> Vec<ContainerPort> {
    let mut ports = Vec::new();
    let root = Path::Root.field("spec");
    let containers = root.field("containers");
    for (index, container) in spec.containers.iter().enumerate() {
        declared_ports(container, &containers.item(index), &mut ports, findings);
    }
    let init_containers = root.field("initContainers");
    for (index, container) in spec.init_containers.iter().enumerate() {
        if container.restart_policy.as_deref() == Some("Always") {
            declared_ports(container, &init_containers.item(index), &mut ports, findings);
        }
    }
    ports
}

fn declared_ports(
    container: &Container,
    path: &Path<'_>,
    ports: &mut Vec<ContainerPort>,
    findings: &mut Findings,
) {
    let list = path.field("ports");
    for (index, declared) in container.ports.iter().enumerate() {
        ports.extend(declared_port(declared, &list.item(index), findings));
    }
}

/// One port; `None`, with a finding, when a part of it is invalid.
fn declared_port(
    declared: &DeclaredPort,
    path: &Path<'_>,
    findings: &mut Findings,
) -> Option<ContainerPort> {
    let number = u16::try_from(declared.container_port).ok().filter(|number| *number != 0);
    if number.is_none() {
        findings.report(
            Code::InvalidPort,
            &path.field("containerPort"),
            format!("{} is not within 1 and 65535: the port is left out", declared.container_port),
        );
    }
    let name = declared.name.as_deref().filter(|name| !name.is_empty());
    let parsed_name = name.map(|text| {
        let parsed = PortName::parse(text);
        if parsed.is_none() {
            findings.report(
                Code::InvalidPort,
                &path.field("name"),
                format!("{} is no port name: the port is left out", quoted(text)),
            );
        }
        parsed
    });
    let protocol = declared.protocol.as_deref().filter(|protocol| !protocol.is_empty());
    let transport = protocol.map_or(Some(Transport::Tcp), |text| {
        let transport = Transport::from_api(text);
        if transport.is_none() {
            findings.report(
                Code::InvalidPort,
                &path.field("protocol"),
                format!("{} is not TCP, UDP or SCTP: the port is left out", quoted(text)),
            );
        }
        transport
    });
    let name = match parsed_name {
        None => None,
        Some(parsed) => Some(parsed?),
    };
    let host_port = declared.host_port.and_then(|number| u16::try_from(number).ok());
    let host_port = host_port.filter(|number| *number != 0);
    Some(ContainerPort { name, transport: transport?, number: number?, host_port })
}

/// All reported addresses, once each.
fn addresses(status: &PodStatus, findings: &mut Findings) -> Addresses {
    let root = Path::Root.field("status");
    let list = root.field("podIPs");
    let mut addresses = Addresses::new();
    collect_address(&status.pod_ip, &root.field("podIP"), &mut addresses, findings);
    for (index, item) in status.pod_ips.iter().enumerate() {
        collect_address(&item.ip, &list.item(index).field("ip"), &mut addresses, findings);
    }
    addresses
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use serde_json::{Value, json};

    use super::*;

    fn convert(spec: Value, status: Value) -> (Pod, Vec<String>) {
        let metadata = Metadata { name: "a".into(), ..Metadata::default() };
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let status: PodStatus = serde_json::from_value(status).unwrap();
        let (pod, diagnostics) = pod(metadata, &spec, Some(&status));
        (pod.unwrap(), diagnostics.iter().map(ToString::to_string).collect())
    }

    fn ports(pod: &Pod) -> Vec<String> {
        pod.ports
            .iter()
            .map(|port| {
                let name = port.name.as_ref().map_or("-", |name| &name.0);
                format!("{name} {}/{}", port.transport, port.number)
            })
            .collect()
    }

    #[test]
    fn ports_of_containers_and_sidecars_count_but_not_of_other_init_containers() {
        let spec = json!({
            "containers": [
                { "name": "a", "ports": [{ "name": "http", "containerPort": 80 }] },
                { "name": "b", "ports": [
                    { "name": "dns", "containerPort": 53, "protocol": "UDP" },
                    { "containerPort": 9000, "protocol": "SCTP" },
                ] },
                { "name": "c", "ports": null },
            ],
            "initContainers": [
                { "restartPolicy": "Always", "ports": [{ "name": "mesh", "containerPort": 15000 }] },
                { "ports": [{ "name": "setup", "containerPort": 1 }] },
            ],
        });
        let (pod, diagnostics) = convert(spec, json!({}));
        assert_eq!(ports(&pod), ["http TCP/80", "dns UDP/53", "- SCTP/9000", "mesh TCP/15000"]);
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
    }

    #[test]
    fn invalid_ports_and_addresses_are_left_out_and_reported() {
        let spec = json!({ "containers": [{ "ports": [
            { "containerPort": 0 },
            { "name": "Http", "containerPort": 80 },
            { "containerPort": 80, "protocol": "tcp" },
            { "containerPort": 65535 },
        ] }] });
        let status =
            json!({ "podIP": "10.0.0.300", "podIPs": [{ "ip": "10.0.0.3" }, { "ip": "x" }] });
        let (pod, diagnostics) = convert(spec, status);
        assert_eq!(ports(&pod), ["- TCP/65535"]);
        assert_eq!(*pod.reported_addresses, ["10.0.0.3".parse::<IpAddr>().unwrap()]);
        expect_test::expect![[r#"
            Pod default/a: spec.containers[0].ports[0].containerPort 0 is not within 1 and 65535: the port is left out [invalid-port]
            Pod default/a: spec.containers[0].ports[1].name "Http" is no port name: the port is left out [invalid-port]
            Pod default/a: spec.containers[0].ports[2].protocol "tcp" is not TCP, UDP or SCTP: the port is left out [invalid-port]
            Pod default/a: status.podIP "10.0.0.300" is no address: it is left out [invalid-address]
            Pod default/a: status.podIPs[1].ip "x" is no address: it is left out [invalid-address]"#]]
        .assert_eq(&diagnostics.join("\n"));
    }

    #[test]
    fn mapped_and_repeated_addresses_are_one_ipv4_address() {
        let status = json!({ "podIP": "10.0.0.3", "podIPs": [
            { "ip": "::ffff:10.0.0.3" }, { "ip": "fd00::3" }, { "ip": "10.0.0.3" },
        ] });
        let (pod, _) = convert(json!({}), status);
        let texts: Vec<_> = pod.reported_addresses.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.3", "fd00::3"]);
    }

    #[test]
    fn null_and_missing_fields_have_their_defaults() {
        let spec = json!({ "nodeName": null, "hostNetwork": null, "containers": null });
        let (pod, diagnostics) = convert(spec, json!({ "phase": null, "podIPs": null }));
        assert!(!pod.host_network && pod.ports.is_empty() && pod.reported_addresses.is_empty());
        assert_eq!(pod.phase, PodPhase::Unknown);
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
    }

    #[test]
    fn a_pod_without_a_name_is_left_out() {
        let (pod, diagnostics) = pod(Metadata::default(), &PodSpec::default(), None);
        assert_eq!(pod, None);
        assert_eq!(diagnostics.len(), 1);
    }
}
