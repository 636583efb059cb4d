//! Every item of the validation and the defaulting, as text.

mod defaulting;
mod laws;
mod validation_of_peers;
mod validation_of_ports;
mod validation_of_selectors;
mod validation_of_structure;

use expect_test::Expect;
use serde_json::{Value, json};

use super::policy;
use crate::model::{
    Diagnostic, NamespaceMatch, Peer, Peers, Policy, PolicyMode, Ports, Requirement, Rule, Selector,
};

/// Converts the policy `default/p` with this spec (YAML) and compares what it means and what was found.
#[track_caller]
fn check(spec: &str, expected: &Expect) {
    let spec: Value = serde_saphyr::from_str(spec).unwrap();
    check_object(&json!({ "metadata": { "name": "p" }, "spec": spec }), expected);
}

/// Converts a whole object and compares what it means and what was found.
#[track_caller]
fn check_object(object: &Value, expected: &Expect) {
    let (policy, diagnostics) = policy(object);
    let mut lines = policy.as_ref().map_or_else(|| vec!["left out".to_owned()], render);
    lines.extend(diagnostics.into_iter().map(|diagnostic| {
        let Diagnostic { code, field, message, .. } = diagnostic;
        format!("! {} {field} {message}", code.as_str())
    }));
    expected.assert_eq(&lines.join("\n"));
}

fn render(policy: &Policy) -> Vec<String> {
    let types = match (policy.policy_types.ingress, policy.policy_types.egress) {
        (true, true) => "ingress+egress",
        (true, false) => "ingress",
        (false, true) => "egress",
        (false, false) => "nothing",
    };
    let pods = render_selector(&policy.pod_selector);
    let mut text = format!("{} isolates {pods} for {types}", policy.name);
    if policy.mode == PolicyMode::Audit {
        text.push_str(", audit");
    }
    if policy.keeps_connections {
        text.push_str(", keep");
    }
    let mut lines = vec![text];
    for (field, rules) in [("ingress", &policy.ingress), ("egress", &policy.egress)] {
        for rule in rules.iter() {
            lines.push(format!("{field}[{}] {}", rule.index, render_rule(rule)));
        }
    }
    lines
}

fn render_rule(rule: &Rule) -> String {
    let peers = match &rule.peers {
        Peers::All => "everybody".to_owned(),
        Peers::AnyOf(peers) if peers.is_empty() => "nobody".to_owned(),
        Peers::AnyOf(peers) => peers.iter().map(render_peer).collect::<Vec<_>>().join(" or "),
    };
    let ports = match &rule.ports {
        Ports::All => "every port".to_owned(),
        Ports::AnyOf(ports) if ports.is_empty() => "no port".to_owned(),
        Ports::AnyOf(ports) => ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    format!("{peers} on {ports}")
}

fn render_peer(peer: &Peer) -> String {
    match peer {
        Peer::Pods { namespaces: NamespaceMatch::Own, pods } => {
            format!("pods {}", render_selector(pods))
        }
        Peer::Pods { namespaces: NamespaceMatch::Selected(namespaces), pods } => {
            format!("pods {} in {}", render_selector(pods), render_selector(namespaces))
        }
        Peer::IpBlock(block) => {
            let holes: Vec<_> = block.except.iter().map(ToString::to_string).collect();
            let but = if holes.is_empty() { "" } else { " but " };
            format!("{}{but}{}", block.cidr, holes.join(" "))
        }
        Peer::Nodes(_) => panic!("a NetworkPolicy has no nodes as peers"),
    }
}

fn render_selector(selector: &Selector) -> String {
    let requirements: Vec<_> = selector
        .requirements()
        .map(|requirement| match requirement {
            Requirement::In(key, values) => format!("{key} in {values:?}"),
            Requirement::NotIn(key, values) => format!("{key} not in {values:?}"),
            Requirement::Exists(key) => format!("has {key}"),
            Requirement::DoesNotExist(key) => format!("lacks {key}"),
        })
        .collect();
    format!("({})", requirements.join(", "))
}
