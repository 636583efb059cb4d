//! Drops and live connections, with the names of pods, policies and rules in place of the kernel's numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use netpol_common::event::Event;
use netpol_common::flow;
use netpol_common::ids::{Direction, IfIndex, Nanos, RuleId};
use netpol_common::keys::{CounterKey, FlowKey, FlowValue};
use netpol_common::reason::Verdict;
use netpol_observer::records::{DecidedNow, DropRecord, FlowRecord, NotShownRecord};
use netpol_policy::dataplane::Counter;
use netpol_policy::dataplane::port::Kernel;
use netpol_policy::model::{ObjectName, Transport};
use netpol_policy::resolve::{Tier, rule_in_words};
use netpol_policy::simulate::{PodOrIp, PortChoice, Probe};

use crate::agent::state::Agent;

/// Connections of a pod for which it is found out what would decide them now.
const MAX_DECIDED: usize = 1000;

/// Records that a slow follower has missed.
pub(super) fn of_unnamed(n_not_shown: u64, unix: Duration) -> NotShownRecord {
    NotShownRecord {
        unix_ms: milliseconds(unix),
        pod: None,
        direction: None,
        is_dropped: true,
        reason: None,
        n_not_shown,
    }
}

fn milliseconds(unix: Duration) -> u64 {
    u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
}

impl<K: Kernel> Agent<K> {
    /// Names the pods and policies of a ring-buffer record. `unix` is the time since 1970.
    pub fn name_event(&self, event: &Event, unix: Duration) -> DropRecord {
        let direction = Direction::try_from(event.direction).unwrap_or(Direction::Ingress);
        let verdict = Verdict::try_from(event.verdict).ok();
        let remote = match direction {
            Direction::Ingress => event.src,
            Direction::Egress => event.dst,
        };
        let pod = self.pod_at(event.ifindex);
        let policies = pod.as_ref().and_then(|name| self.state.pod(name)).map(|pod| {
            let (_, policies) = netpol_policy::resolve::isolating(&self.state, pod, direction);
            policies.into_iter().map(|policy| policy.name.clone()).collect()
        });
        let (rule, tier) = self.rule_and_tier(event.rule);
        DropRecord {
            unix_s: unix.as_secs(),
            unix_ms: milliseconds(unix),
            pod,
            is_pod_hidden: false,
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
            rule,
            tier,
            n_suppressed: event.n_suppressed,
        }
    }

    /// The kernel's counters of drops.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn counters(&self) -> Result<BTreeMap<CounterKey, Counter>, K::Error> {
        self.kernel.counters()
    }

    /// Names the pod of drops without a record. `unix` is the time since 1970.
    pub(super) fn name_not_shown(
        &self,
        key: CounterKey,
        n_not_shown: u64,
        unix: Duration,
    ) -> NotShownRecord {
        let verdict = Verdict::try_from(key.verdict).ok();
        NotShownRecord {
            unix_ms: milliseconds(unix),
            pod: self.pod_at(key.ifindex),
            direction: Direction::try_from(key.direction).ok(),
            is_dropped: !verdict.is_some_and(Verdict::is_pass),
            reason: Some(verdict.map_or("unknown", Verdict::as_str).to_owned()),
            n_not_shown,
        }
    }

    /// The live connections of the pods of this node. `now` is the kernel's coarse monotonic time.
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
        let (rule, tier) = self.rule_and_tier(value.rule);
        Some(FlowRecord {
            pod: self.pod_at(key.ifindex)?,
            origin: Direction::try_from(value.origin).ok()?,
            protocol: key.protocol.to_string(),
            local_port: key.local_port.get(),
            remote: key.remote.to_ip(),
            remote_port: key.remote_port.get(),
            peer: self.state.owner(key.remote.to_ip()).map(|pod| pod.name.clone()),
            state: state.to_owned(),
            rule,
            tier,
            idle_s: now.0.saturating_sub(value.last_seen.0) / 1_000_000_000,
            now: None,
        })
    }

    /// The live connections of a pod, each with what would decide it now. `now` is the kernel's coarse monotonic time.
    ///
    /// # Errors
    /// The flow map cannot be read.
    pub(super) fn name_flows_of(
        &self,
        pod: &ObjectName,
        now: Nanos,
    ) -> Result<Vec<FlowRecord>, K::Error> {
        let mut flows = self.name_flows(now)?;
        flows.retain(|flow| flow.pod == *pod);
        for flow in flows.iter_mut().take(MAX_DECIDED) {
            flow.now = self.decided_now(flow);
        }
        Ok(flows)
    }

    fn decided_now(&self, flow: &FlowRecord) -> Option<DecidedNow> {
        let pod = PodOrIp::Pod { name: flow.pod.clone(), address: None };
        let remote = match &flow.peer {
            Some(peer) => PodOrIp::Pod { name: peer.clone(), address: Some(flow.remote) },
            None => PodOrIp::Address(flow.remote),
        };
        let (from, to, port) = match flow.origin {
            Direction::Ingress => (remote, pod, flow.local_port),
            Direction::Egress => (pod, remote, flow.remote_port),
        };
        let transport = Transport::from_api(&flow.protocol)?;
        let explanation =
            self.explain(&Probe { from, to, port: PortChoice::Number(port), transport });
        if explanation.problem.is_some() {
            return None;
        }
        let end = match flow.origin {
            Direction::Ingress => explanation.ingress,
            Direction::Egress => explanation.egress,
        };
        let end = end?;
        let rules = end.allowing.iter().map(|allowing| allowing.rule.to_string());
        Some(DecidedNow {
            is_allowed: end.is_allowed,
            rules: rules.collect(),
            summary: end.summary,
        })
    }

    fn pod_at(&self, ifindex: IfIndex) -> Option<ObjectName> {
        self.state.endpoint(ifindex).map(|endpoint| endpoint.pod.clone())
    }

    /// A rule in words, as explanations name it, and its tier.
    fn rule_and_tier(&self, rule: RuleId) -> (Option<String>, Option<Tier>) {
        let Some(rule) = self.compiled.rule(rule) else { return (None, None) };
        // The rule of a policy that has been deleted since has no name and no tier.
        let listed = rule_in_words(&self.state, rule);
        let name = listed.map(|listed| listed.name_in_brackets()).unwrap_or_default();
        (Some(format!("{rule}{name}")), listed.map(|listed| listed.tier))
    }
}
