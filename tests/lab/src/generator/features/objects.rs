//! Features of pods and probes.

use serde_json::Value;

use super::{Features, items, text};
use crate::case::{End, Port, Probe, Protocol};

pub(super) fn of_pod(pod: &Value, features: &mut Features) {
    let ips: Vec<&str> = items(pod, "/status/podIPs").iter().map(|ip| text(ip, "/ip")).collect();
    features.insert(match ips.as_slice() {
        [] => "pod: without address",
        [ip] if ip.contains(':') => "pod: IPv6",
        [_] => "pod: IPv4",
        _ => "pod: dual-stack",
    });
    features.extend(match text(pod, "/status/phase") {
        "Pending" if !ips.is_empty() => Some("pod: pending with address"),
        "Succeeded" | "Failed" => Some("pod: finished"),
        "" => Some("pod: without phase"),
        _ => None,
    });
    let is_terminating = pod.pointer("/metadata/deletionTimestamp").is_some();
    features.extend(is_terminating.then_some("pod: terminating"));
    let uses_host = pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true));
    features.extend(uses_host.then_some("pod: hostNetwork"));
    let ports = declared(pod, "/spec/containers");
    features.extend(ports.iter().any(|(name, ..)| !name.is_empty()).then_some("pod: named port"));
    let mut names: Vec<_> = ports.iter().map(|(name, protocol, _)| (name, protocol)).collect();
    names.retain(|(name, _)| !name.is_empty());
    names.sort_unstable();
    if names.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
        features.insert("pod: name twice");
    }
    for container in items(pod, "/spec/initContainers") {
        if !items(container, "/ports").is_empty() {
            features.insert(match text(container, "/restartPolicy") {
                "Always" => "pod: sidecar with ports",
                _ => "pod: init container with ports",
            });
        }
    }
}

/// Name, protocol, and number of container ports.
pub(super) fn declared<'v>(pod: &'v Value, containers: &str) -> Vec<(&'v str, &'v str, u64)> {
    let ports = items(pod, containers).iter().flat_map(|container| items(container, "/ports"));
    ports
        .map(|port| {
            let number = port.get("containerPort").and_then(Value::as_u64).unwrap_or_default();
            (text(port, "/name"), text(port, "/protocol"), number)
        })
        .collect()
}

pub(super) fn of_probe(probe: &Probe, features: &mut Features) {
    features.insert(match (&probe.from, &probe.to) {
        (End::Address { .. }, _) => "probe: from outside",
        (_, End::Address { .. }) => "probe: to outside",
        (from, to) if from == to => "probe: pod to itself",
        _ => "probe: pod to pod",
    });
    let is_v6 = |end: &End| match end {
        End::Address { ip } | End::Pod { ip: Some(ip), .. } => ip.is_ipv6(),
        End::Pod { ip: None, .. } => false,
    };
    features.extend((is_v6(&probe.from) || is_v6(&probe.to)).then_some("probe: IPv6"));
    features.extend(matches!(probe.port, Port::Name(_)).then_some("probe: by port name"));
    features.extend((probe.protocol == Protocol::Sctp).then_some("probe: SCTP"));
}
