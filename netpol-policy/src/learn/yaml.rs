//! Learned policies as YAML, with comments that say how often each peer was seen.

use std::fmt::{self, Write as _};

use super::cover::{LearnedPeer, LearnedPort, LearnedRule};
use super::workloads::WorkloadSelector;
use super::{Learned, LearnedPolicy};

/// Whether the policies drop, or only report what they would drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// With the annotation `netpol/mode: audit`.
    Audit,
    /// Without.
    Enforce,
}

impl Learned {
    /// The policies as a stream of YAML documents.
    pub fn yaml(&self, mode: Mode) -> String {
        let mut text = String::new();
        for note in &self.notes {
            text.extend(["# Left out: ", &printable(note), "\n"]);
        }
        for (number, policy) in self.policies.iter().enumerate() {
            if number > 0 || !self.notes.is_empty() {
                text.push_str("---\n");
            }
            // Writing to a string does not fail.
            write(&mut text, policy, mode).unwrap_or_default();
        }
        text
    }
}

fn write(out: &mut String, policy: &LearnedPolicy, mode: Mode) -> fmt::Result {
    let LearnedPolicy { name, workload, selector, ingress, egress, n_own_node, n_itself } = policy;
    writeln!(out, "# Learned for {}/{workload}.", name.namespace)?;
    if *n_own_node > 0 {
        let connections = connections(*n_own_node);
        writeln!(
            out,
            "# Left out, because a pod and its own node always reach each other: {connections}."
        )?;
    }
    if *n_itself > 0 {
        let connections = connections(*n_itself);
        writeln!(out, "# Left out, because a pod always reaches itself: {connections}.")?;
    }
    writeln!(out, "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:")?;
    writeln!(out, "  name: {}\n  namespace: {}", scalar(&name.name), scalar(&name.namespace))?;
    if mode == Mode::Audit {
        writeln!(out, "  annotations:\n    netpol/mode: audit")?;
    }
    writeln!(out, "spec:")?;
    write_selector(out, "  podSelector:", "    ", selector)?;
    writeln!(out, "  policyTypes: [Ingress, Egress]")?;
    write_rules(out, ("ingress", "from"), ingress, &name.namespace)?;
    write_rules(out, ("egress", "to"), egress, &name.namespace)
}

fn write_rules(
    out: &mut String,
    (list, peers): (&str, &str),
    rules: &[LearnedRule],
    namespace: &str,
) -> fmt::Result {
    if rules.is_empty() {
        return writeln!(out, "  # Nothing was seen.\n  {list}: []");
    }
    writeln!(out, "  {list}:")?;
    for LearnedRule { peers: of_rule, ports } in rules {
        writeln!(out, "  - {peers}:")?;
        for (peer, n) in of_rule {
            write_peer(out, peer, *n, namespace)?;
        }
        writeln!(out, "    ports:")?;
        for LearnedPort { transport, first, last } in ports {
            write!(out, "    - {{ protocol: {}, port: {first}", transport.as_str())?;
            if last > first {
                write!(out, ", endPort: {last}")?;
            }
            writeln!(out, " }}")?;
        }
    }
    Ok(())
}

fn write_peer(out: &mut String, peer: &LearnedPeer, n: u64, namespace: &str) -> fmt::Result {
    let connections = connections(n);
    match peer {
        LearnedPeer::Workload { selector, name } => {
            writeln!(out, "    # {}: {connections}", printable(name))?;
            if *selector.namespace == *namespace {
                return write_selector(out, "    - podSelector:", "        ", selector);
            }
            let namespace = scalar(&selector.namespace);
            writeln!(out, "    - namespaceSelector:\n        matchLabels:")?;
            writeln!(out, "          kubernetes.io/metadata.name: {namespace}")?;
            write_selector(out, "      podSelector:", "        ", selector)
        }
        LearnedPeer::Node { block, node, pods } => {
            let node = if node.is_empty() { "a node".to_owned() } else { format!("node {node}") };
            let pods = match pods.as_slice() {
                [] => String::new(),
                pods => format!(", whose address these pods share: {}", pods.join(", ")),
            };
            writeln!(out, "    # {}: {connections}", printable(&(node + &pods)))?;
            writeln!(out, "    - ipBlock: {{ cidr: {} }}", scalar(&block.to_string()))
        }
        LearnedPeer::Block(block) => {
            writeln!(out, "    # {connections}")?;
            writeln!(out, "    - ipBlock: {{ cidr: {} }}", scalar(&block.to_string()))
        }
    }
}

fn write_selector(
    out: &mut String,
    key: &str,
    indent: &str,
    selector: &WorkloadSelector,
) -> fmt::Result {
    let WorkloadSelector { namespace: _, labels, absent } = selector;
    let mut labels = labels.iter().peekable();
    if labels.peek().is_none() && absent.is_empty() {
        return writeln!(out, "{key} {{}}");
    }
    writeln!(out, "{key}")?;
    if labels.peek().is_some() {
        writeln!(out, "{indent}matchLabels:")?;
    }
    for (label, value) in labels {
        writeln!(out, "{indent}  {}: {}", scalar(label), scalar(value))?;
    }
    if !absent.is_empty() {
        writeln!(out, "{indent}matchExpressions:")?;
    }
    for label in absent {
        writeln!(out, "{indent}- {{ key: {}, operator: DoesNotExist }}", scalar(label))?;
    }
    Ok(())
}

/// The text without control characters, which would end a comment.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn connections(n: u64) -> String {
    if n == 1 { "1 connection".to_owned() } else { format!("{n} connections") }
}

/// A text as YAML: plain if it can be nothing else, else in quotes.
fn scalar(text: &str) -> String {
    let words = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && !words.contains(&text.to_ascii_lowercase().as_str());
    if is_plain { text.to_owned() } else { format!("{text:?}") }
}
