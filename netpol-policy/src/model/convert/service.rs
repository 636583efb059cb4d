//! Services: their addresses, and for explanations what is behind them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;

use super::address::collect_address;
use super::metadata::Metadata;
use super::nullable::{items, or_default};
use super::walk::{Findings, Path};
use crate::model::{
    BackendPort, Diagnostic, Kind, PortName, Requirement, Selector, Service, ServicePort, Transport,
};

/// `spec.clusterIP` of a headless Service.
const HEADLESS: &str = "None";

/// core/v1 `ServiceSpec`, trimmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `type`; an `ExternalName` has no address.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub service_type: Arc<str>,
    /// `clusterIP`.
    #[serde(rename = "clusterIP", deserialize_with = "or_default")]
    pub cluster_ip: Arc<str>,
    /// `clusterIPs`.
    #[serde(rename = "clusterIPs", deserialize_with = "items")]
    pub cluster_ips: Vec<Arc<str>>,
    /// `externalIPs`.
    #[serde(rename = "externalIPs", deserialize_with = "items")]
    pub external_ips: Vec<Arc<str>>,
    /// `externalTrafficPolicy`.
    #[serde(deserialize_with = "or_default")]
    pub external_traffic_policy: Arc<str>,
    /// `selector`.
    #[serde(deserialize_with = "or_default")]
    pub selector: BTreeMap<Arc<str>, Arc<str>>,
    /// `ports`.
    #[serde(deserialize_with = "items")]
    pub ports: Vec<OfferedPort>,
}

/// core/v1 `ServicePort`, trimmed and not yet checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OfferedPort {
    /// `name`.
    #[serde(deserialize_with = "or_default")]
    pub name: Option<Arc<str>>,
    /// `port`.
    #[serde(deserialize_with = "or_default")]
    pub port: i32,
    /// `protocol`.
    #[serde(deserialize_with = "or_default")]
    pub protocol: Option<Arc<str>>,
    /// `nodePort`.
    #[serde(deserialize_with = "or_default")]
    pub node_port: Option<i32>,
    /// `targetPort`.
    #[serde(deserialize_with = "or_default")]
    pub target_port: Option<IntOrString>,
}

/// core/v1 `ServiceStatus`, trimmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// `loadBalancer`.
    #[serde(deserialize_with = "or_default")]
    pub load_balancer: LoadBalancerStatus,
}

/// core/v1 `LoadBalancerStatus`, trimmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LoadBalancerStatus {
    /// `ingress`.
    #[serde(deserialize_with = "items")]
    pub ingress: Vec<LoadBalancerIngress>,
}

/// core/v1 `LoadBalancerIngress`, trimmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerIngress {
    /// `ip`, empty when the load balancer has a host name only.
    #[serde(deserialize_with = "or_default")]
    pub ip: Arc<str>,
    /// `ipMode`; with `Proxy` the node does not translate the address.
    #[serde(deserialize_with = "or_default")]
    pub ip_mode: Option<Arc<str>>,
}

/// Normalises a Service. `None` only when it has no name.
///
/// Its addresses are those that the node translates to backends: none for a headless Service, and not
/// those of a load balancer that does the translation itself (`ipMode: Proxy`).
///
/// Source: core/v1 `ServiceSpec` and `LoadBalancerIngress.ipMode`.
pub fn service(
    metadata: &Metadata,
    spec: &ServiceSpec,
    status: Option<&ServiceStatus>,
) -> (Option<Service>, Vec<Diagnostic>) {
    let name = metadata.object_name(Kind::Service);
    let mut findings = Findings::new(Kind::Service, name.clone());
    if !metadata.has_name(&mut findings) {
        return (None, findings.into_diagnostics());
    }
    let translated = &*spec.cluster_ip != HEADLESS && &*spec.service_type != "ExternalName";
    let (mut addresses, mut external_addresses) = (Vec::new(), Vec::new());
    if translated {
        addresses = cluster_addresses(spec, &mut findings);
        external_addresses = self::external_addresses(spec, status, &mut findings);
        external_addresses.retain(|address| !addresses.contains(address));
        addresses.extend(&external_addresses);
    }
    let required = spec
        .selector
        .iter()
        .map(|(key, value)| Requirement::In(Arc::clone(key), [Arc::clone(value)].into()));
    let selector = (!spec.selector.is_empty()).then(|| Selector::new(required));
    let ports = spec.ports.iter().filter_map(offered_port).collect();
    let service = Service {
        name,
        addresses,
        external_addresses,
        keeps_source: &*spec.external_traffic_policy == "Local",
        selector,
        ports,
        backends: Vec::new(),
    };
    (Some(service), findings.into_diagnostics())
}

/// One port; `None` when it is invalid, which changes nothing of what is enforced.
///
/// Source: core/v1 `ServicePort` (a missing protocol is TCP, a missing `targetPort` is `port`).
fn offered_port(offered: &OfferedPort) -> Option<ServicePort> {
    let valid = |number: i32| u16::try_from(number).ok().filter(|number| *number != 0);
    let number = valid(offered.port)?;
    let protocol = offered.protocol.as_deref().filter(|protocol| !protocol.is_empty());
    let backend = match &offered.target_port {
        None | Some(IntOrString::Int(0)) => BackendPort::Number(number),
        Some(IntOrString::Int(number)) => BackendPort::Number(valid(*number)?),
        Some(IntOrString::String(name)) => BackendPort::Named(PortName::parse(name)?),
    };
    let transport = protocol.map_or(Some(Transport::Tcp), Transport::from_api)?;
    let name = offered.name.clone().unwrap_or_default();
    let node_port = offered.node_port.and_then(valid);
    Some(ServicePort { name, transport, number, node_port, backend })
}

fn cluster_addresses(spec: &ServiceSpec, findings: &mut Findings) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let root = Path::Root.field("spec");
    collect_address(&spec.cluster_ip, &root.field("clusterIP"), &mut addresses, findings);
    let path = root.field("clusterIPs");
    for (index, text) in spec.cluster_ips.iter().enumerate() {
        collect_address(text, &path.item(index), &mut addresses, findings);
    }
    addresses
}

fn external_addresses(
    spec: &ServiceSpec,
    status: Option<&ServiceStatus>,
    findings: &mut Findings,
) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let root = Path::Root.field("spec");
    let path = root.field("externalIPs");
    for (index, text) in spec.external_ips.iter().enumerate() {
        collect_address(text, &path.item(index), &mut addresses, findings);
    }
    let root = Path::Root.field("status");
    let balancer = root.field("loadBalancer");
    let path = balancer.field("ingress");
    let ingress = status.map(|status| &*status.load_balancer.ingress).unwrap_or_default();
    for (index, item) in ingress.iter().enumerate() {
        if item.ip_mode.as_deref() != Some("Proxy") {
            collect_address(&item.ip, &path.item(index).field("ip"), &mut addresses, findings);
        }
    }
    addresses
}
