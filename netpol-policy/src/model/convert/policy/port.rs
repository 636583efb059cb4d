//! Items of `ports`.

use serde_json::Value;

use crate::model::convert::walk::{Fields, Findings, Path, quoted};
use crate::model::{Code, PortMatch, PortName, PortRange, PortSpec, Transport};

/// What becomes of an item that is not understood.
const MATCHES_NOTHING: &str = "the item matches nothing";

/// Reads one item. An empty one (also null) is every port of TCP.
///
/// Source: networking.k8s.io/v1 `NetworkPolicyPort`.
pub(super) fn port(value: &Value, path: &Path<'_>, findings: &mut Findings) -> Option<PortMatch> {
    let fields = findings.mapping(path, value, MATCHES_NOTHING)?;
    let known = ["protocol", "port", "endPort"];
    let all_known = findings.all_known(path, fields, &known, MATCHES_NOTHING);
    let transport = transport(fields, path, findings);
    let ports = port_spec(fields, path, findings);
    let port = PortMatch { transport: transport?, ports: ports? };
    all_known.then_some(port)
}

/// `protocol`, TCP when missing.
fn transport(fields: Fields<'_>, path: &Path<'_>, findings: &mut Findings) -> Option<Transport> {
    let Some(value) = fields.get("protocol") else { return Some(Transport::Tcp) };
    let path = path.field("protocol");
    let text = findings.text(&path, value, MATCHES_NOTHING)?;
    let transport = Transport::from_api(text);
    if transport.is_none() {
        let message = format!("{} is not TCP, UDP or SCTP: {MATCHES_NOTHING}", quoted(text));
        findings.report(Code::InvalidPort, &path, message);
    }
    transport
}

/// `port` with `endPort`.
fn port_spec(fields: Fields<'_>, path: &Path<'_>, findings: &mut Findings) -> Option<PortSpec> {
    let end_port = fields.get("endPort");
    let end_path = path.field("endPort");
    let port_path = path.field("port");
    match fields.get("port") {
        None => {
            if end_port.is_some() {
                let message = format!("needs a port to begin with: {MATCHES_NOTHING}");
                findings.report(Code::InvalidPort, &end_path, message);
                return None;
            }
            Some(PortSpec::Any)
        }
        Some(Value::String(text)) => {
            let name = PortName::parse(text);
            if name.is_none() {
                let message = format!("{} is not a port name: {MATCHES_NOTHING}", quoted(text));
                findings.report(Code::InvalidPort, &port_path, message);
            }
            if end_port.is_some() {
                let message = format!("cannot follow a port name: {MATCHES_NOTHING}");
                findings.report(Code::InvalidPort, &end_path, message);
                return None;
            }
            name.map(PortSpec::Named)
        }
        Some(value) => {
            let first =
                number(value, "a whole number or a name", &port_path, MATCHES_NOTHING, findings);
            let Some(end_port) = end_port else {
                return first.and_then(PortRange::single).map(PortSpec::Range);
            };
            let last = number(end_port, "a whole number", &end_path, MATCHES_NOTHING, findings);
            let (first, last) = (first?, last?);
            let range = PortRange::new(first, last);
            if range.is_none() {
                let message = format!("{last} is below port {first}: {MATCHES_NOTHING}");
                findings.report(Code::InvalidPort, &end_path, message);
            }
            range.map(PortSpec::Range)
        }
    }
}

/// A port number, 1 to 65535.
pub(in crate::model::convert) fn number(
    value: &Value,
    wanted: &str,
    path: &Path<'_>,
    effect: &str,
    findings: &mut Findings,
) -> Option<u16> {
    let Some(number) = value.as_number().filter(|number| !number.is_f64()) else {
        if value.is_number() {
            let message = format!("{value} is not a whole number: {effect}");
            findings.report(Code::Malformed, path, message);
        } else {
            findings.wrong_type(path, value, wanted, effect);
        }
        return None;
    };
    let port = number.as_u64().and_then(|number| u16::try_from(number).ok());
    let port = port.filter(|port| *port != 0);
    if port.is_none() {
        let message = format!("{number} is not within 1 and 65535: {effect}");
        findings.report(Code::InvalidPort, path, message);
    }
    port
}
