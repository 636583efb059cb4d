//! Connections and drops as `netpol-agent` prints them.
//!
//! In: JSON. Out: connections to learn from, and how many records were of no use, by reason. Must not: look at objects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netpol_common::ids::Direction;
use netpol_policy::learn::Observed;
use netpol_policy::model::{ObjectName, Transport};
use serde::Deserialize;
use serde_json::{Deserializer, Value};

/// A record of `netpol-agent flows -o json`.
#[derive(Debug, Deserialize)]
struct Flow {
    pod: ObjectName,
    origin: Direction,
    protocol: String,
    local_port: u16,
    remote: IpAddr,
    remote_port: u16,
    #[serde(default)]
    peer: Option<ObjectName>,
    state: String,
}

/// A record of `netpol-agent drops -o json`.
#[derive(Debug, Deserialize)]
struct Drop {
    pod: Option<ObjectName>,
    direction: Direction,
    reason: String,
    protocol: String,
    source: IpAddr,
    source_port: u16,
    destination: IpAddr,
    destination_port: u16,
    #[serde(default)]
    peer: Option<ObjectName>,
    #[serde(default)]
    rule: Option<String>,
}

/// Both ports of a connection, so that the same connection counts once however often it is recorded.
type Ports = (u16, u16);

/// What the agents have recorded.
#[derive(Debug, Default)]
pub(super) struct Records {
    connections: BTreeSet<(Observed, Ports)>,
    useless: BTreeMap<String, usize>,
}

impl Records {
    /// Adds the documents of a text: records, one by one or in arrays.
    ///
    /// # Errors
    /// The text is not JSON, or has other records.
    pub(super) fn add_text(&mut self, text: &str, kind: RecordKind) -> serde_json::Result<()> {
        for document in Deserializer::from_str(text).into_iter::<Value>() {
            self.add(document?, kind)?;
        }
        Ok(())
    }

    /// Adds a record, or an array of records.
    ///
    /// # Errors
    /// It is neither.
    pub(super) fn add(&mut self, document: Value, kind: RecordKind) -> serde_json::Result<()> {
        let records = if let Value::Array(records) = document { records } else { vec![document] };
        for record in records {
            match kind {
                RecordKind::Flow => self.add_flow(Flow::deserialize(record)?),
                RecordKind::Drop => self.add_drop(Drop::deserialize(record)?),
            }
        }
        Ok(())
    }

    fn add_flow(&mut self, flow: Flow) {
        let Flow { pod, origin, protocol, local_port, remote, remote_port, peer, state } = flow;
        if state == "revoked" {
            return self.leave_out("connections that a policy has ended".to_owned());
        }
        let Some(transport) = Transport::from_api(&protocol) else {
            return self.leave_out(no_ports(&protocol));
        };
        let port = match origin {
            Direction::Ingress => local_port,
            Direction::Egress => remote_port,
        };
        let observed = Observed { pod, direction: origin, transport, port, remote, peer };
        self.connections.insert((observed, (local_port, remote_port)));
    }

    fn add_drop(&mut self, drop: Drop) {
        let Drop { pod, direction, reason, protocol, peer, rule, .. } = drop;
        if !["not-allowed", "audited"].contains(&reason.as_str()) {
            return self.leave_out(format!("drops with the reason {reason}"));
        }
        if let Some(rule) = rule {
            return self.leave_out(format!("packets that the rule {rule} denies"));
        }
        let Some(pod) = pod else {
            return self.leave_out("drops of pods that were gone already".to_owned());
        };
        let Some(transport) = Transport::from_api(&protocol) else {
            return self.leave_out(no_ports(&protocol));
        };
        let remote = match direction {
            Direction::Ingress => drop.source,
            Direction::Egress => drop.destination,
        };
        let port = drop.destination_port;
        let observed = Observed { pod, direction, transport, port, remote, peer };
        self.connections.insert((observed, (drop.source_port, port)));
    }

    fn leave_out(&mut self, reason: String) {
        *self.useless.entry(reason).or_default() += 1;
    }

    /// The connections.
    pub(super) fn observed(&self) -> impl Iterator<Item = &Observed> {
        self.connections.iter().map(|(observed, _)| observed)
    }

    /// Records of no use, by reason.
    pub(super) fn useless(&self) -> impl Iterator<Item = String> {
        self.useless.iter().map(|(reason, n)| format!("left out: {reason} ({n})"))
    }
}

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordKind {
    /// A connection.
    Flow,
    /// A dropped packet, or one that audit mode has let pass.
    Drop,
}

fn no_ports(protocol: &str) -> String {
    format!("{protocol}, which NetworkPolicies cannot allow without all other protocols")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(text: &str, kind: RecordKind) -> (Vec<String>, Vec<String>) {
        let mut records = Records::default();
        records.add_text(text, kind).unwrap();
        let line = |of: &Observed| {
            format!(
                "{} {} {} {} {}",
                of.pod,
                of.direction,
                of.transport.as_str(),
                of.port,
                of.remote
            )
        };
        (records.observed().map(line).collect(), records.useless().collect())
    }

    #[test]
    fn a_connection_counts_once_however_often_it_is_listed() {
        let flow = r#"{"pod":{"namespace":"a","name":"b"},"origin":"egress","protocol":"TCP","local_port":40000,"remote":"10.0.0.1","remote_port":80,"peer":null,"state":"open","rule":null,"tier":null,"idle_s":1}"#;
        let ingress = flow.replace("egress", "ingress");
        let icmp = flow.replace("TCP", "ICMP");
        let revoked = flow.replace("open", "revoked");
        let other = flow.replace("40000", "40001").replace("open", "closing");
        let text = format!("[{flow},{flow},{other}]\n[{ingress},{icmp},{revoked}]");
        let (seen, useless) = observed(&text, RecordKind::Flow);
        let egress = "a/b egress TCP 80 10.0.0.1";
        assert_eq!(seen, ["a/b ingress TCP 40000 10.0.0.1", egress, egress]);
        assert_eq!(
            useless,
            [
                "left out: ICMP, which NetworkPolicies cannot allow without all other protocols (1)",
                "left out: connections that a policy has ended (1)"
            ]
        );
    }

    #[test]
    fn of_drops_only_those_that_a_networkpolicy_could_allow_are_learned_from() {
        let drop = r#"{"unix_s":1,"pod":{"namespace":"a","name":"b"},"direction":"ingress","is_dropped":false,"reason":"audited","protocol":"UDP","source":"10.0.0.2","source_port":4000,"destination":"10.0.0.1","destination_port":53,"peer":null,"policies":[],"rule":null,"tier":null,"n_suppressed":0}"#;
        let spoofed = drop.replace("audited", "spoofed");
        let denied = drop.replace("\"rule\":null", "\"rule\":\"ClusterNetworkPolicy x egress[0]\"");
        let (seen, useless) = observed(&format!("{drop}\n{spoofed}\n{denied}\n"), RecordKind::Drop);
        assert_eq!(seen, ["a/b ingress UDP 53 10.0.0.2"]);
        assert_eq!(
            useless,
            [
                "left out: drops with the reason spoofed (1)",
                "left out: packets that the rule ClusterNetworkPolicy x egress[0] denies (1)"
            ]
        );
        assert!(Records::default().add_text("{}", RecordKind::Drop).is_err());
    }
}
