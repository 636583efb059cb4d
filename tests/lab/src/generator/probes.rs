//! Probes for a set of objects, close to the addresses and ports of its policies.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::cluster::{VIP, node_addresses};
use super::ports::PORT_NAMES;
use super::{Draw as _, Rng, blocks, ports};
use crate::case::{End, Port, Probe, Protocol};

/// Candidates for the parts of a probe.
#[derive(Debug, Default)]
struct Subjects {
    pods: Vec<End>,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
    /// Ports of Services.
    service_ports: Vec<(u16, Protocol)>,
    /// The pods that have only an IPv6 address.
    only_v6: Vec<End>,
}

/// Up to `n_probes` distinct probes, each with a pod at one end at least.
pub(super) fn probes(rng: &mut Rng, objects: &[Value], n_probes: usize) -> Vec<Probe> {
    let subjects = Subjects::of(objects);
    let mut seen = BTreeSet::new();
    let mut probes = Vec::new();
    for _ in 0..n_probes {
        let Some(probe) = subjects.probe(rng) else { continue };
        if seen.insert(probe.to_string()) {
            probes.push(probe);
        }
    }
    probes
}

impl Subjects {
    fn of(objects: &[Value]) -> Self {
        let mut subjects = Self::default();
        for object in objects {
            match object.get("kind").and_then(Value::as_str) {
                Some("Pod") => subjects.add_pod(object),
                Some("NetworkPolicy" | "ClusterNetworkPolicy") => subjects.add_policy(object),
                Some("Service") => {
                    let ports = object.pointer("/spec/ports").and_then(Value::as_array);
                    subjects.service_ports.extend(ports.into_iter().flatten().filter_map(|port| {
                        let number = u16::try_from(port.get("port")?.as_u64()?).ok()?;
                        let protocol = port.get("protocol")?.as_str()?;
                        let is_it = |known: &Protocol| known.as_str() == protocol;
                        Some((number, Protocol::ALL.into_iter().find(is_it)?))
                    }));
                }
                _ => {}
            }
        }
        let mut add = |ip: &str| subjects.addresses.extend(ip.parse::<IpAddr>().ok());
        for ip in blocks::OUTSIDE {
            add(ip);
        }
        for node in ["node-1", "node-2", "node-3"] {
            for ip in node_addresses(node) {
                add(&ip);
            }
        }
        subjects
    }

    fn add_pod(&mut self, pod: &Value) {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str);
        let (Some(namespace), Some(name)) = (text("/metadata/namespace"), text("/metadata/name"))
        else {
            return;
        };
        let ips = pod.pointer("/status/podIPs").and_then(Value::as_array);
        let ips: Vec<IpAddr> = ips
            .into_iter()
            .flatten()
            .filter_map(|item| item.get("ip")?.as_str()?.parse().ok())
            .collect();
        self.addresses.extend(&ips);
        let (namespace, pod_name) = (namespace.to_owned(), name.to_owned());
        if ips.len() > 1 {
            for ip in ips {
                let (namespace, pod) = (namespace.clone(), pod_name.clone());
                self.pods.push(End::Pod { namespace, pod, ip: Some(ip) });
            }
        } else {
            let end = End::Pod { namespace, pod: pod_name, ip: None };
            if ips.iter().any(IpAddr::is_ipv6) {
                self.only_v6.push(end.clone());
            }
            self.pods.push(end);
        }
        numbers(pod, "containerPort", &mut self.ports);
    }

    fn add_policy(&mut self, policy: &Value) {
        for name in ["port", "endPort", "number", "start", "end"] {
            numbers(policy, name, &mut self.ports);
        }
        texts_with(policy, '/', &mut |block| self.addresses.extend(blocks::edges(block)));
    }

    fn probe(&self, rng: &mut Rng) -> Option<Probe> {
        let pod = rng.choice(&self.pods)?.clone();
        if rng.chance(12)
            && let Some((port, protocol)) = rng.choice(&self.service_ports)
        {
            let to = End::Address { ip: VIP.parse().ok()? };
            return Some(Probe { from: pod, to, port: Port::Number(*port), protocol: *protocol });
        }
        let mut other = self.other(rng)?;
        // Ends of different families make no connection, so retry to get few of those.
        for _ in 0..3 {
            if self.is_v6(&other) != self.is_v6(&pod) {
                other = self.other(rng)?;
            }
        }
        let (from, to) = if rng.chance(50) { (pod, other) } else { (other, pod) };
        let protocol = rng.one_of([Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
        Some(Probe { from, to, port: self.port(rng), protocol })
    }

    fn other(&self, rng: &mut Rng) -> Option<End> {
        Some(if rng.chance(65) {
            rng.choice(&self.pods)?.clone()
        } else {
            End::Address { ip: *rng.choice(&self.addresses)? }
        })
    }

    fn is_v6(&self, end: &End) -> bool {
        match end {
            End::Address { ip } | End::Pod { ip: Some(ip), .. } => ip.is_ipv6(),
            End::Pod { ip: None, .. } => self.only_v6.contains(end),
        }
    }

    /// A port of a rule or container, its neighbour, or a random one; sometimes a name.
    fn port(&self, rng: &mut Rng) -> Port {
        if rng.chance(6) {
            return Port::Name(rng.one_of(PORT_NAMES).to_owned());
        }
        let known = rng.choice(&self.ports).copied().unwrap_or(80);
        let number = match rng.usize(..8) {
            0 => known.saturating_sub(1),
            1 => known.saturating_add(1),
            2 => ports::number(rng),
            _ => known,
        };
        Port::Number(number.max(1))
    }
}

/// Collects the numbers in all fields of this name.
fn numbers(value: &Value, name: &str, found: &mut Vec<u16>) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                if key == name
                    && let Some(number) =
                        inner.as_u64().and_then(|number| u16::try_from(number).ok())
                {
                    found.push(number);
                }
                numbers(inner, name, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| numbers(item, name, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Visits all strings that contain this character.
fn texts_with(value: &Value, wanted: char, found: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) if text.contains(wanted) => found(text),
        Value::Object(fields) => {
            fields.values().for_each(|inner| texts_with(inner, wanted, found));
        }
        Value::Array(items) => items.iter().for_each(|item| texts_with(item, wanted, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
