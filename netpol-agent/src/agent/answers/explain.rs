//! `/explain`: why a connection is allowed or denied, by the state of the agent.

use std::collections::BTreeSet;

use netpol_policy::model::Transport;
use netpol_policy::simulate::{self, Explanation, PortChoice, Probe};

use crate::agent::state::Agent;

impl<K> Agent<K> {
    /// Explains the verdict on a connection.
    pub fn explain(&self, probe: &Probe) -> Explanation {
        let diagnostics = self.diagnostics.iter();
        let mut explanation = simulate::explain(&self.state, probe, diagnostics, |pod, rule| {
            let mut ifindexes = self.state.endpoints_of(&pod.name);
            ifindexes.any(|ifindex| self.compiled.is_over_capacity(rule, ifindex))
        });
        let ends = [&explanation.egress, &explanation.ingress].into_iter().flatten();
        let isolating = ends.flat_map(|end| &end.isolating).map(|policy| &policy.name);
        let held: BTreeSet<_> = isolating.filter(|name| self.held.contains(name)).collect();
        let held = held.into_iter().map(|name| {
            format!(
                "NetworkPolicy {name} is deleted, and stays in force until its namespace is gone"
            )
        });
        let held: Vec<_> = held.collect();
        explanation.diagnostics.extend(held);
        explanation
    }
}

/// Parses `from=NS/POD&to=IP&port=80&protocol=TCP`. No value needs an escape.
///
/// # Errors
/// A message that names the field that is missing or not valid.
pub(super) fn question(query: &str) -> Result<Probe, String> {
    let field = |name: &str| {
        let mut fields = query.split('&').filter_map(|field| field.split_once('='));
        let found = fields.find_map(|(key, value)| (key == name).then_some(value));
        found.ok_or_else(|| format!("{name} is missing"))
    };
    let end = |name: &str| field(name)?.parse().map_err(|error| format!("{name}: {error}"));
    let protocol = field("protocol")?;
    Ok(Probe {
        from: end("from")?,
        to: end("to")?,
        port: PortChoice::from(field("port")?),
        transport: Transport::from_api(protocol)
            .ok_or_else(|| format!("protocol: {protocol} is not TCP, UDP or SCTP"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_parsed() {
        let probe = question("from=x/a@fd00::1&to=10.0.0.2&port=http&protocol=UDP").unwrap();
        assert_eq!(probe.from.to_string(), "x/a@fd00::1");
        assert_eq!(probe.to.to_string(), "10.0.0.2");
        assert_eq!(probe.port.to_string(), "http");
        assert_eq!(probe.transport, Transport::Udp);
    }

    #[test]
    fn an_invalid_query_names_the_field() {
        let errors = [
            ("from=x/a&to=1.2.3.4&port=80", "protocol is missing"),
            (
                "from=a&to=1.2.3.4&port=80&protocol=TCP",
                "from: \"a\" is neither NAMESPACE/POD nor an IP address",
            ),
            ("from=x/a&to=x/b&port=80&protocol=tcp", "protocol: tcp is not TCP, UDP or SCTP"),
        ];
        for (query, expected) in errors {
            assert_eq!(question(query).unwrap_err(), expected);
        }
    }
}
