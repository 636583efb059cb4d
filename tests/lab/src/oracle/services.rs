//! Services and the pods behind them.

use std::net::IpAddr;

use serde_json::Value;

use super::pods::{ClusterModel, namespace_of};
use super::{block, field, labels, list, ports, text};
use crate::case::Protocol;

/// Whether an address is a Service's.
pub(super) fn is_virtual(cluster: &ClusterModel<'_>, address: IpAddr) -> bool {
    cluster.services.iter().any(|service| addresses(service).contains(&address))
}

/// Address and port of every pod behind a Service's address and port. Finished, terminating, and pending pods are not
/// backends.
pub(super) fn behind(
    cluster: &ClusterModel<'_>,
    address: IpAddr,
    port: u16,
    protocol: Protocol,
) -> Vec<(IpAddr, u16)> {
    among(cluster, (address, port), protocol, |namespace| cluster.running(namespace))
}

/// The same for host-network pods that have not ended: a terminating one is a backend while there is no other.
pub(super) fn behind_on_host(
    cluster: &ClusterModel<'_>,
    address: IpAddr,
    port: u16,
    protocol: Protocol,
) -> Vec<(IpAddr, u16)> {
    among(cluster, (address, port), protocol, |namespace| cluster.on_host(namespace))
}

fn among<'a>(
    cluster: &ClusterModel<'a>,
    (address, port): (IpAddr, u16),
    protocol: Protocol,
    pods: impl Fn(&str) -> Vec<(&'a Value, Vec<IpAddr>)>,
) -> Vec<(IpAddr, u16)> {
    let mut found = Vec::new();
    for service in cluster.services.iter().filter(|service| addresses(service).contains(&address)) {
        let spec = field(service, "spec").unwrap_or(&Value::Null);
        let Some(selector) = field(spec, "selector").and_then(Value::as_object) else { continue };
        let is_asked = |item: &&Value| {
            field(item, "port").and_then(Value::as_u64) == Some(u64::from(port))
                && text(item, &["protocol"]).unwrap_or("TCP") == protocol.as_str()
        };
        let Some(offered) = list(spec, &["ports"]).iter().find(is_asked) else { continue };
        for (pod, own) in pods(namespace_of(service)) {
            let labels = labels::of(pod);
            let is_selected = selector.iter().all(|(key, value)| labels.get(key) == Some(value));
            let Some(own) = own.into_iter().find(|own| own.is_ipv4() == address.is_ipv4()) else {
                continue;
            };
            let number = match field(offered, "targetPort") {
                None => Some(port),
                Some(Value::String(name)) => ports::declared(pod, name, protocol).first().copied(),
                Some(number) => number.as_u64().and_then(|number| u16::try_from(number).ok()),
            };
            found.extend(number.filter(|_| is_selected).map(|number| (own, number)));
        }
    }
    found
}

fn addresses(service: &Value) -> Vec<IpAddr> {
    let spec = field(service, "spec").unwrap_or(&Value::Null);
    let one = text(spec, &["clusterIP"]).into_iter();
    let texts = one.chain(list(spec, &["clusterIPs"]).iter().filter_map(Value::as_str));
    texts.filter_map(block::address).collect()
}
