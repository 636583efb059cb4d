//! Records of the kernel with the names that people know.

use std::net::IpAddr;
use std::time::Duration;

use netpol_common::event::Event;
use netpol_common::flow;
use netpol_common::ids::{Direction, IfIndex, Nanos, RuleId};
use netpol_common::keys::{FlowKey, FlowValue};
use netpol_common::reason::Verdict;
use serde::{Deserialize, Serialize};

use super::{Agent, Kernel};
use netpol_policy::model::ObjectName;

/// A packet that was dropped, or would have been but for an audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRecord {
    /// Time of day, seconds since 1970.
    pub unix_s: u64,
    /// The pod whose policy decided; missing if its endpoint is gone by now.
    pub pod: Option<ObjectName>,
    /// The direction as the pod sees it.
    pub direction: Direction,
    /// Whether it was dropped, or only reported.
    pub is_dropped: bool,
    /// Why, as metrics spell it.
    pub reason: String,
    /// The IP protocol.
    pub protocol: String,
    /// Where the packet came from.
    pub source: IpAddr,
    /// Its port, 0 if it has none.
    pub source_port: u16,
    /// Where it went.
    pub destination: IpAddr,
    /// Its port, 0 if it has none.
    pub destination_port: u16,
    /// The pod at the other end, if it is one.
    pub peer: Option<ObjectName>,
    /// The policies that isolate the pod in this direction.
    pub policies: Vec<ObjectName>,
    /// Records of this pod that were left out before this one for the rate limit.
    pub n_suppressed: u32,
}

/// A live connection of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// The pod.
    pub pod: ObjectName,
    /// Who began: `ingress` is the other end.
    pub origin: Direction,
    /// The IP protocol.
    pub protocol: String,
    /// The pod's port or echo identifier.
    pub local_port: u16,
    /// The other end.
    pub remote: IpAddr,
    /// Its port or echo identifier.
    pub remote_port: u16,
    /// The pod at the other end, if it is one.
    pub peer: Option<ObjectName>,
    /// `opening`, `open`, `closing` or `revoked`.
    pub state: String,
    /// The rule that allows it, if one does.
    pub rule: Option<String>,
    /// Since the last packet, accurate to about a second.
    pub idle_s: u64,
}

impl<K: Kernel> Agent<K> {
    /// Names what a ring-buffer record speaks of. `unix` is the time of day.
    pub fn name_event(&self, event: &Event, unix: Duration) -> DropRecord {
        let direction = Direction::try_from(event.direction).unwrap_or(Direction::Ingress);
        let verdict = Verdict::try_from(event.verdict).ok();
        let remote = match direction {
            Direction::Ingress => event.src,
            Direction::Egress => event.dst,
        };
        let pod = self.pod_behind(event.ifindex);
        let policies = pod.as_ref().and_then(|name| self.state.pod(name)).map(|pod| {
            let (_, policies) = netpol_policy::resolve::isolating(&self.state, pod, direction);
            policies.into_iter().map(|policy| policy.name.clone()).collect()
        });
        DropRecord {
            unix_s: unix.as_secs(),
            pod,
            direction,
            is_dropped: !verdict.is_some_and(Verdict::is_pass),
            reason: verdict.map_or("unknown", Verdict::as_str).to_owned(),
            protocol: event.protocol.to_string(),
            source: event.src.to_ip(),
            source_port: event.src_port.get(),
            destination: event.dst.to_ip(),
            destination_port: event.dst_port.get(),
            peer: self.state.owner(remote.to_ip()).map(|pod| pod.name.clone()),
            policies: policies.unwrap_or_default(),
            n_suppressed: event.n_suppressed,
        }
    }

    /// The live connections. `now` is the kernel's coarse monotonic time.
    ///
    /// # Errors
    /// The flow map cannot be read.
    pub fn name_flows(&self, now: Nanos) -> Result<Vec<FlowRecord>, K::Error> {
        let flows = self.kernel.flows()?;
        let live = flows.iter().filter(|(key, value)| !flow::is_expired(value, key.protocol, now));
        Ok(live.filter_map(|(key, value)| self.name_flow(key, value, now)).collect())
    }

    fn name_flow(&self, key: &FlowKey, value: &FlowValue, now: Nanos) -> Option<FlowRecord> {
        let state = if value.marks & FlowValue::REVOKED != 0 {
            "revoked"
        } else {
            match value.state {
                flow::OPENING => "opening",
                flow::CLOSING => "closing",
                _ => "open",
            }
        };
        Some(FlowRecord {
            pod: self.pod_behind(key.ifindex)?,
            origin: Direction::try_from(value.origin).ok()?,
            protocol: key.protocol.to_string(),
            local_port: key.local_port.get(),
            remote: key.remote.to_ip(),
            remote_port: key.remote_port.get(),
            peer: self.state.owner(key.remote.to_ip()).map(|pod| pod.name.clone()),
            state: state.to_owned(),
            rule: self.rule_name(value.rule),
            idle_s: now.0.saturating_sub(value.last_seen.0) / 1_000_000_000,
        })
    }

    fn pod_behind(&self, ifindex: IfIndex) -> Option<ObjectName> {
        self.state.endpoint(ifindex).map(|endpoint| endpoint.pod.clone())
    }

    fn rule_name(&self, rule: RuleId) -> Option<String> {
        self.compiled.rule(rule).map(ToString::to_string)
    }
}
