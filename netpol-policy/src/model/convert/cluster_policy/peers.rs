//! Items of `from` and `to`.

use netpol_common::ids::Direction;
use serde_json::Value;

use super::rules::report_length;
use crate::model::convert::address::parse_block;
use crate::model::convert::policy::report_oddities;
use crate::model::convert::selector::selector;
use crate::model::convert::walk::{Fields, Findings, Path, quoted};
use crate::model::{Code, IpBlock, NamespaceMatch, Peer, Selector};

/// Reads the peers of a rule; `None` if they were not understood.
///
/// Source: policy.networking.k8s.io/v1alpha2 `ClusterNetworkPolicyIngressPeer` and `ClusterNetworkPolicyEgressPeer`: exactly
/// one field of each.
pub(super) fn peers(
    value: Option<&Value>,
    direction: Direction,
    path: &Path<'_>,
    effect: &str,
    findings: &mut Findings,
) -> Option<Vec<Peer>> {
    let items = findings.list(path, value, effect)?;
    if items.is_empty() {
        let message = format!("has no peers, which does not mean all of them: {effect}");
        findings.report(Code::InvalidPeer, path, message);
        return None;
    }
    report_length(items.len(), path, findings);
    let mut peers = Some(Vec::new());
    for (index, item) in items.iter().enumerate() {
        let read = peer(item, direction, &path.item(index), effect, findings);
        peers = peers.zip(read).map(|(mut peers, read)| {
            peers.extend(read);
            peers
        });
    }
    peers
}

fn peer(
    value: &Value,
    direction: Direction,
    path: &Path<'_>,
    effect: &str,
    findings: &mut Findings,
) -> Option<Vec<Peer>> {
    let fields = findings.mapping(path, value, effect)?;
    let known: &[&str] = match direction {
        Direction::Ingress => &["namespaces", "pods"],
        Direction::Egress => &["namespaces", "pods", "nodes", "networks", "domainNames"],
    };
    if !findings.all_known(path, fields, known, effect) {
        return None;
    }
    let given: Vec<_> = known.iter().filter_map(|name| Some((*name, fields.get(name)?))).collect();
    let [(name, value)] = given.as_slice() else {
        let message = format!("has not exactly one of {}: {effect}", known.join(", "));
        findings.report(Code::InvalidPeer, path, message);
        return None;
    };
    let path = path.field(name);
    let mut complete = |value| {
        let read = selector(Some(value), &path, effect, findings);
        read.is_complete.then_some(read.selector)
    };
    match *name {
        "namespaces" => {
            let namespaces = NamespaceMatch::Selected(complete(value)?);
            Some(vec![Peer::Pods { namespaces, pods: Selector::everything() }])
        }
        "nodes" => Some(vec![Peer::Nodes(complete(value)?)]),
        "pods" => {
            let read = namespaced_pods(value, &path, effect, findings);
            let namespaces = NamespaceMatch::Selected(read.namespaces);
            read.is_complete.then(|| vec![Peer::Pods { namespaces, pods: read.pods }])
        }
        "networks" => networks(value, &path, effect, findings),
        _ => {
            domain_names(value, &path, effect, findings);
            None
        }
    }
}

/// Validates domain names, which are not evaluated: they close the rule, whether or not they are valid.
///
/// Source: policy.networking.k8s.io/v1alpha2 `DomainName`.
fn domain_names(value: &Value, path: &Path<'_>, effect: &str, findings: &mut Findings) {
    let Some(items) = findings.list(path, Some(value), effect) else { return };
    if items.is_empty() {
        let message = format!("has no names, which does not mean all of them: {effect}");
        findings.report(Code::InvalidPeer, path, message);
        return;
    }
    report_length(items.len(), path, findings);
    for (index, item) in items.iter().enumerate() {
        if !item.as_str().is_some_and(is_domain_name) {
            let message = format!("{item} is not a domain name such as *.example.org: {effect}");
            findings.report(Code::InvalidPeer, &path.item(index), message);
        }
    }
    let message = format!("domain names are not supported: {effect}");
    findings.report(Code::Unsupported, path, message);
}

/// Whether this is a name of two labels or more, the first of which may be a wildcard for several.
fn is_domain_name(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let is_label = |label: &str| {
        let is_outer = |c: char| c.is_ascii_alphanumeric();
        label.starts_with(is_outer) && label.ends_with(is_outer) && label.chars().all(is_inner)
    };
    name.contains('.') && name.split('.').all(is_label)
}

/// Pods by the labels of their namespace and their own.
pub(super) struct NamespacedPods {
    pub(super) namespaces: Selector,
    pub(super) pods: Selector,
    /// Whether both were understood. What was not selects more.
    pub(super) is_complete: bool,
}

/// Reads a `NamespacedPod`, of which both selectors are required.
///
/// Source: policy.networking.k8s.io/v1alpha2 `NamespacedPod`.
pub(super) fn namespaced_pods(
    value: &Value,
    path: &Path<'_>,
    effect: &str,
    findings: &mut Findings,
) -> NamespacedPods {
    let fields = findings.mapping(path, value, effect);
    let mut is_complete = fields.is_some();
    let fields = fields.unwrap_or(Fields::of(&Value::Null));
    is_complete &= findings.all_known(path, fields, &["namespaceSelector", "podSelector"], effect);
    let mut read = |name: &str| {
        let path = path.field(name);
        if is_complete && fields.get(name).is_none() {
            let message = format!("is missing, which does not mean everything: {effect}");
            findings.report(Code::InvalidSelector, &path, message);
            is_complete = false;
        }
        let read = selector(fields.get(name), &path, effect, findings);
        is_complete &= read.is_complete;
        read.selector
    };
    let (namespaces, pods) = (read("namespaceSelector"), read("podSelector"));
    NamespacedPods { namespaces, pods, is_complete }
}

fn networks(
    value: &Value,
    path: &Path<'_>,
    effect: &str,
    findings: &mut Findings,
) -> Option<Vec<Peer>> {
    let items = findings.list(path, Some(value), effect)?;
    if items.is_empty() {
        let message = format!("has no networks, which does not mean all of them: {effect}");
        findings.report(Code::InvalidBlock, path, message);
        return None;
    }
    report_length(items.len(), path, findings);
    let mut networks = Some(Vec::new());
    for (index, item) in items.iter().enumerate() {
        let read = network(item, &path.item(index), effect, findings);
        networks = networks.zip(read).map(|(mut networks, block)| {
            networks.push(Peer::IpBlock(block));
            networks
        });
    }
    networks
}

fn network(
    value: &Value,
    path: &Path<'_>,
    effect: &str,
    findings: &mut Findings,
) -> Option<IpBlock> {
    let text = findings.text(path, value, effect)?;
    let Some(block) = parse_block(text) else {
        let message =
            format!("{} is not an address block such as 10.0.0.0/8: {effect}", quoted(text));
        findings.report(Code::InvalidBlock, path, message);
        return None;
    };
    report_oddities(text, &block, path, findings);
    Some(IpBlock { cidr: block.network, except: Vec::new() })
}
