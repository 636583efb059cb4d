//! Rules and their peers.

use netpol_common::ids::Direction;
use serde_json::Value;

use super::block::ip_block;
use super::port::port;
use crate::model::convert::selector::selector;
use crate::model::convert::walk::{Fields, Findings, Path};
use crate::model::{Code, NamespaceMatch, Peer, Peers, Ports, Rule, Selector};

/// What becomes of a rule that is not understood.
const ALLOWS_NOTHING: &str = "the rule allows nothing";
/// What becomes of a peer that is not understood.
const MATCHES_NOBODY: &str = "the peer matches nobody";

/// Reads `ingress` or `egress`. Null and missing are no rules.
///
/// Source: networking.k8s.io/v1 `NetworkPolicySpec.ingress` and `.egress`.
pub(super) fn rules(
    value: Option<&Value>,
    direction: Direction,
    path: &Path<'_>,
    findings: &mut Findings,
) -> Vec<Rule> {
    let effect = "the policy allows nothing in this direction";
    let items = findings.list(path, value, effect).unwrap_or_default();
    let read = |(index, item)| rule(item, index, direction, &path.item(index), findings);
    items.iter().enumerate().filter_map(read).collect()
}

/// One rule; an empty one (also null) allows everything.
fn rule(
    value: &Value,
    index: usize,
    direction: Direction,
    path: &Path<'_>,
    findings: &mut Findings,
) -> Option<Rule> {
    let peers_field = Peers::field(direction);
    let fields = findings.mapping(path, value, ALLOWS_NOTHING)?;
    let all_known = findings.all_known(path, fields, &[peers_field, "ports"], ALLOWS_NOTHING);
    let peers = peers(fields.get(peers_field), &path.field(peers_field), findings);
    let ports = ports(fields.get("ports"), &path.field("ports"), findings);
    let rule = Rule { index, peers: peers?, ports: ports? };
    all_known.then_some(rule)
}

/// `from` or `to`: missing, null and empty are everybody.
fn peers(value: Option<&Value>, path: &Path<'_>, findings: &mut Findings) -> Option<Peers> {
    let items = findings.list(path, value, ALLOWS_NOTHING)?;
    if items.is_empty() {
        return Some(Peers::All);
    }
    let read = |(index, item)| peer(item, &path.item(index), findings);
    Some(Peers::AnyOf(items.iter().enumerate().filter_map(read).collect()))
}

/// `ports`: missing, null and empty are all ports of all protocols.
fn ports(value: Option<&Value>, path: &Path<'_>, findings: &mut Findings) -> Option<Ports> {
    let items = findings.list(path, value, ALLOWS_NOTHING)?;
    if items.is_empty() {
        return Some(Ports::All);
    }
    let read = |(index, item)| port(item, &path.item(index), findings);
    Some(Ports::AnyOf(items.iter().enumerate().filter_map(read).collect()))
}

/// One peer.
///
/// Source: networking.k8s.io/v1 `NetworkPolicyPeer`: an ipBlock alone, or at least one selector.
fn peer(value: &Value, path: &Path<'_>, findings: &mut Findings) -> Option<Peer> {
    let fields = findings.mapping(path, value, MATCHES_NOBODY)?;
    let known = ["podSelector", "namespaceSelector", "ipBlock"];
    let all_known = findings.all_known(path, fields, &known, MATCHES_NOBODY);
    let has_selector =
        fields.get("podSelector").is_some() || fields.get("namespaceSelector").is_some();
    let peer = match fields.get("ipBlock") {
        None if has_selector => pods(fields, path, findings),
        None => {
            if all_known {
                let message = format!("has neither a selector nor an ipBlock: {MATCHES_NOBODY}");
                findings.report(Code::InvalidPeer, path, message);
            }
            None
        }
        Some(block) => {
            let block = ip_block(block, &path.field("ipBlock"), findings);
            if has_selector {
                let message = format!("has an ipBlock together with a selector: {MATCHES_NOBODY}");
                findings.report(Code::InvalidPeer, path, message);
            }
            block.filter(|_| !has_selector).map(Peer::IpBlock)
        }
    };
    peer.filter(|_| all_known)
}

fn pods(fields: Fields<'_>, path: &Path<'_>, findings: &mut Findings) -> Option<Peer> {
    let mut read = |name: &str| -> Option<Option<Selector>> {
        let Some(value) = fields.get(name) else { return Some(None) };
        let read = selector(Some(value), &path.field(name), MATCHES_NOBODY, findings);
        read.is_complete.then_some(Some(read.selector))
    };
    let namespaces = read("namespaceSelector");
    let pods = read("podSelector");
    Some(Peer::Pods {
        namespaces: namespaces?.map_or(NamespaceMatch::Own, NamespaceMatch::Selected),
        pods: pods?.unwrap_or_default(),
    })
}
