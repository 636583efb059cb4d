//! `EndpointSlices` and Endpoints: the backends of Services that have no selector.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use super::metadata::Metadata;
use super::walk::Fields;
use crate::model::{Kind, ObjectName, ServiceBackend, Transport};

/// The label of an `EndpointSlice` that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The endpoints that one object lists for a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedBackends {
    /// The Service.
    pub service: ObjectName,
    /// The endpoints that a packet may reach.
    pub backends: Vec<ServiceBackend>,
}

/// Reads an `EndpointSlice` or an Endpoints object. `None` if the object is neither, or names no Service. Items that cannot be
/// understood are left out, as kube-proxy leaves them out. An endpoint that terminates but still serves is one too: a Service that has
/// no ready endpoint sends packets there.
///
/// Source: discovery.k8s.io/v1 `EndpointSlice` and `EndpointConditions`, core/v1 `Endpoints`; KEP-1669.
pub fn listed_backends(value: &Value) -> Option<ListedBackends> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let (metadata, _) = Metadata::from_value(Kind::Service, Fields::of(value));
    let mut name = metadata.object_name(Kind::Service);
    let mut backends = Vec::new();
    match (text("apiVersion"), text("kind")) {
        ("discovery.k8s.io/v1" | "discovery.k8s.io/v1beta1", "EndpointSlice") => {
            name.name = Arc::clone(metadata.labels.get(SERVICE_NAME)?);
            let reachable = items(value, "endpoints").filter(|endpoint| {
                let condition = |name: &str| endpoint.get("conditions")?.get(name)?.as_bool();
                condition("ready").unwrap_or(true) || condition("serving").unwrap_or(false)
            });
            let texts = reachable.flat_map(|endpoint| items(endpoint, "addresses"));
            collect(texts, value, &mut backends);
        }
        ("v1", "Endpoints") => {
            for subset in items(value, "subsets") {
                let texts = items(subset, "addresses").filter_map(|address| address.get("ip"));
                collect(texts, subset, &mut backends);
            }
        }
        _ => return None,
    }
    Some(ListedBackends { service: name, backends })
}

fn items<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

/// Every address with every port of `ports`.
fn collect<'v>(
    addresses: impl Iterator<Item = &'v Value>,
    ports: &Value,
    backends: &mut Vec<ServiceBackend>,
) {
    for address in addresses {
        let Some(address) = address.as_str().and_then(|text| text.parse::<IpAddr>().ok()) else {
            continue;
        };
        for port in items(ports, "ports") {
            let text = |field: &str| port.get(field).and_then(Value::as_str).unwrap_or_default();
            let transport = match text("protocol") {
                "" => Some(Transport::Tcp),
                name => Transport::from_api(name),
            };
            let number = port.get("port").and_then(Value::as_u64);
            let number = number.and_then(|number| u16::try_from(number).ok());
            let (Some(transport), Some(number)) = (transport, number) else { continue };
            backends.push(ServiceBackend {
                port_name: Arc::from(text("name")),
                transport,
                address: address.to_canonical(),
                number,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(value: &Value, service: &str, expected: &[&str]) {
        let listed = listed_backends(value).unwrap();
        assert_eq!(listed.service.to_string(), service);
        let found = listed.backends.iter().map(|backend| {
            let ServiceBackend { port_name, transport, address, number } = backend;
            format!("{port_name} {transport} {address} {number}")
        });
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn reachable_endpoints_of_slices_and_endpoints_are_read() {
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": "api-x", "namespace": "a", "labels": { SERVICE_NAME: "api" } },
            "endpoints": [
                { "addresses": ["192.0.2.1"] },
                { "addresses": ["192.0.2.2"], "conditions": { "ready": false } },
                { "addresses": ["192.0.2.3"], "conditions": { "ready": false, "serving": false, "terminating": true } },
                { "addresses": ["192.0.2.4"], "conditions": { "ready": false, "serving": true, "terminating": true } },
                { "addresses": ["fd00::1", "x"], "conditions": { "ready": true } },
            ],
            "ports": [{ "name": "https", "port": 6443 }, { "port": 53, "protocol": "UDP" }, {}],
        });
        check(
            &slice,
            "a/api",
            &[
                "https TCP 192.0.2.1 6443",
                " UDP 192.0.2.1 53",
                "https TCP 192.0.2.4 6443",
                " UDP 192.0.2.4 53",
                "https TCP fd00::1 6443",
                " UDP fd00::1 53",
            ],
        );
        let endpoints = json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": "api" },
            "subsets": [{ "addresses": [{ "ip": "192.0.2.1" }], "ports": [{ "port": 80 }] }],
        });
        check(&endpoints, "default/api", &[" TCP 192.0.2.1 80"]);
    }

    #[test]
    fn other_objects_list_no_endpoints() {
        let slice = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": { "name": "a" } });
        for value in [slice, json!({ "apiVersion": "v1", "kind": "Service" }), json!(null)] {
            assert_eq!(listed_backends(&value), None);
        }
    }
}
