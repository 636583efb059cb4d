//! Items of `spec.ingress` and `spec.egress`.

use std::sync::Arc;

use netpol_common::ids::Direction;
use serde_json::Value;

use super::peers::peers;
use super::protocols::ports;
use crate::model::convert::walk::{Fields, Findings, Path, quoted};
use crate::model::{Action, ClusterRule, Code, Peers, Ports, Rule};

/// The most items that the API accepts in a list.
const MAX_ITEMS: usize = 25;

/// Reads the rules of one direction. Null and missing are none.
///
/// Source: policy.networking.k8s.io/v1alpha2 `ClusterNetworkPolicySpec.ingress` and `.egress`.
pub(super) fn rules(
    spec: Fields<'_>,
    direction: Direction,
    path: &Path<'_>,
    findings: &mut Findings,
) -> Vec<ClusterRule> {
    let field = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let path = path.field(field);
    let Some(items) = findings.list(&path, spec.get(field), denies_everything(Action::Deny)) else {
        return not_understood(Action::Deny, 0, Arc::from("")).into_iter().collect();
    };
    report_length(items.len(), &path, findings);
    let read = |(index, item)| rule(item, index, direction, &path.item(index), findings);
    items.iter().enumerate().filter_map(read).collect()
}

/// Reports a list that the API server refuses because of its length. All items count.
pub(super) fn report_length(n_items: usize, path: &Path<'_>, findings: &mut Findings) {
    if n_items > MAX_ITEMS {
        let message = format!(
            "has {n_items} items, and the API server accepts {MAX_ITEMS}: all are in force"
        );
        findings.report(Code::Malformed, path, message);
    }
}

/// What becomes of a rule with this action that is not understood.
const fn denies_everything(action: Action) -> &'static str {
    match action {
        Action::Accept => "the rule matches nothing",
        Action::Deny | Action::Pass => "the rule denies everything",
    }
}

fn not_understood(action: Action, index: usize, name: Arc<str>) -> Option<ClusterRule> {
    match action {
        Action::Accept => None,
        Action::Deny | Action::Pass => {
            let rule = Rule { index, peers: Peers::All, ports: Ports::All };
            Some(ClusterRule { name, action: Action::Deny, rule })
        }
    }
}

fn rule(
    value: &Value,
    index: usize,
    direction: Direction,
    path: &Path<'_>,
    findings: &mut Findings,
) -> Option<ClusterRule> {
    let Some(fields) = findings.mapping(path, value, denies_everything(Action::Deny)) else {
        return not_understood(Action::Deny, index, Arc::from(""));
    };
    let known_action = action(fields, path, findings);
    let action = known_action.unwrap_or(Action::Deny);
    let effect = denies_everything(action);
    let name = fields
        .get("name")
        .and_then(|name| findings.text(&path.field("name"), name, "it is ignored"));
    let name = Arc::from(name.unwrap_or_default());
    let peers_field = Peers::field(direction);
    let known = ["name", "action", peers_field, "protocols"];
    let all_known = findings.all_known(path, fields, &known, effect);
    let peers_path = path.field(peers_field);
    let peers = peers(fields.get(peers_field), direction, &peers_path, effect, findings);
    let ports = ports(fields.get("protocols"), &path.field("protocols"), effect, findings);
    let is_complete = all_known && known_action.is_some();
    let (Some(peers), Some(ports), true) = (peers, ports, is_complete) else {
        return not_understood(action, index, name);
    };
    let rule = Rule { index, peers: Peers::AnyOf(peers), ports };
    Some(ClusterRule { name, action, rule })
}

/// `action`, if it was understood.
fn action(fields: Fields<'_>, path: &Path<'_>, findings: &mut Findings) -> Option<Action> {
    let path = path.field("action");
    let effect = denies_everything(Action::Deny);
    let value = fields.get("action").unwrap_or(&Value::Null);
    let text = findings.text(&path, value, effect)?;
    let known = Action::ALL.into_iter().find(|action| action.as_str() == text);
    if known.is_none() {
        let message = format!("{} is not Accept, Deny or Pass: {effect}", quoted(text));
        findings.report(Code::Malformed, &path, message);
    }
    known
}
