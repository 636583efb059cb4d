//! Items of `protocols`.

use std::sync::Arc;

use serde_json::Value;

use super::rules::report_length;
use crate::model::convert::policy::number;
use crate::model::convert::walk::{Fields, Findings, Path, quoted};
use crate::model::{Code, PortMatch, PortName, PortRange, PortSpec, Ports, Transport};

/// Reads `protocols`. Missing and null are every protocol; `None` if they were not understood.
///
/// Source: policy.networking.k8s.io/v1alpha2 `ClusterNetworkPolicyProtocol`: exactly one field of each.
pub(super) fn ports(
    value: Option<&Value>,
    path: &Path<'_>,
    effect: &str,
    findings: &mut Findings,
) -> Option<Ports> {
    if value.is_none() {
        return Some(Ports::All);
    }
    let items = findings.list(path, value, effect)?;
    if items.is_empty() {
        let message = format!("is empty, which does not mean all protocols: {effect}");
        findings.report(Code::InvalidPort, path, message);
        return None;
    }
    report_length(items.len(), path, findings);
    let mut ports = Some(Vec::new());
    for (index, item) in items.iter().enumerate() {
        let read = protocol(item, &path.item(index), effect, findings);
        ports = ports.zip(read).map(|(mut ports, read)| {
            ports.extend(read);
            ports
        });
    }
    ports.map(Ports::AnyOf)
}

fn protocol(
    value: &Value,
    path: &Path<'_>,
    effect: &str,
    findings: &mut Findings,
) -> Option<Vec<PortMatch>> {
    let fields = findings.mapping(path, value, effect)?;
    let known = ["tcp", "udp", "sctp", "destinationNamedPort"];
    if !findings.all_known(path, fields, &known, effect) {
        return None;
    }
    let is_given = |value: &&Value| value.as_str() != Some("");
    let given = known.into_iter().filter_map(|name| {
        let value = fields.get(name).filter(is_given)?;
        Some((name, value))
    });
    let given: Vec<_> = given.collect();
    let [(name, value)] = given.as_slice() else {
        let message = format!("has not exactly one of {}: {effect}", known.join(", "));
        findings.report(Code::InvalidPort, path, message);
        return None;
    };
    let path = path.field(name);
    let Some(transport) = Transport::from_argument(name).ok() else {
        let text = findings.text(&path, value, effect)?;
        if PortName::parse(text).is_none() {
            let message = format!("{} is not a port name: no pod has it", quoted(text));
            findings.report(Code::InvalidPort, &path, message);
        }
        let name = PortName(Arc::from(text));
        let of = |transport| PortMatch { transport, ports: PortSpec::Named(name.clone()) };
        return Some(Transport::ALL.map(of).into());
    };
    let fields = findings.mapping(&path, value, effect)?;
    if !findings.all_known(&path, fields, &["destinationPort"], effect) {
        return None;
    }
    let ports = match fields.get("destinationPort") {
        None => PortSpec::Any,
        Some(port) => {
            PortSpec::Range(range(port, &path.field("destinationPort"), effect, findings)?)
        }
    };
    Some(vec![PortMatch { transport, ports }])
}

/// `destinationPort`: a number, or a range that begins below its end.
fn range(
    value: &Value,
    path: &Path<'_>,
    effect: &str,
    findings: &mut Findings,
) -> Option<PortRange> {
    let fields = findings.mapping(path, value, effect)?;
    if !findings.all_known(path, fields, &["number", "range"], effect) {
        return None;
    }
    match (fields.get("number"), fields.get("range")) {
        (Some(value), None) => {
            let number = number(value, "a whole number", &path.field("number"), effect, findings);
            PortRange::single(number?)
        }
        (None, Some(range)) => {
            let path = path.field("range");
            let fields = findings.mapping(&path, range, effect)?;
            if !findings.all_known(&path, fields, &["start", "end"], effect) {
                return None;
            }
            let first = end_of_range(fields, "start", &path, effect, findings);
            let last = end_of_range(fields, "end", &path, effect, findings);
            let (first, last) = (first?, last?);
            let range = PortRange::new(first, last).filter(|_| first != last);
            if range.is_none() {
                let message = format!("{last} is not above the start {first}: {effect}");
                findings.report(Code::InvalidPort, &path.field("end"), message);
            }
            range
        }
        (None, None) | (Some(_), Some(_)) => {
            let message = format!("has not exactly one of number and range: {effect}");
            findings.report(Code::InvalidPort, path, message);
            None
        }
    }
}

fn end_of_range(
    fields: Fields<'_>,
    name: &str,
    path: &Path<'_>,
    effect: &str,
    findings: &mut Findings,
) -> Option<u16> {
    let value = fields.get(name).unwrap_or(&Value::Null);
    number(value, "a whole number", &path.field(name), effect, findings)
}
