//! What agents report, and what of it a user of a namespace sees.
//!
//! In: records of the agents. Out: the same without what belongs to namespaces that the user may not see. Must not: pass on a field that
//! this module does not know.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use netpol_common::ids::Direction;
use netpol_policy::model::ObjectName;
use netpol_policy::resolve::Tier;
use netpol_policy::simulate::DirectionExplanation;
use serde::{Deserialize, Serialize};

/// A packet that was dropped, or that audit mode has let pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRecord {
    /// Time of the drop, in seconds since 1970-01-01 UTC.
    pub unix_s: u64,
    /// The same in milliseconds.
    #[serde(default)]
    pub unix_ms: u64,
    /// The pod at whose interface it was dropped; `None` if its endpoint has been removed since.
    pub pod: Option<ObjectName>,
    /// Whether `pod` is `None` because the reader may not see it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_pod_hidden: bool,
    /// The direction from the pod's point of view.
    pub direction: Direction,
    /// Whether it was dropped; false in audit mode.
    pub is_dropped: bool,
    /// The reason, as in the metric `netpol_drops_total`; `unknown` if this version does not know it.
    pub reason: String,
    /// The IP protocol.
    pub protocol: String,
    /// Source address.
    pub source: IpAddr,
    /// Source port; 0 if the protocol has none.
    pub source_port: u16,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port; 0 if the protocol has none.
    pub destination_port: u16,
    /// The pod of the remote address, if there is one.
    pub peer: Option<ObjectName>,
    /// The policies that isolate the pod in this direction.
    pub policies: Vec<ObjectName>,
    /// The rule that denies it, or, in audit mode, would; `None` if none does. Only ClusterNetworkPolicies have such rules.
    pub rule: Option<String>,
    /// The tier of this rule.
    pub tier: Option<Tier>,
    /// Records of this pod that the rate limit has suppressed before this one.
    pub n_suppressed: u32,
}

/// Drops without a record, because of the rate limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotShownRecord {
    /// Time of the report, in milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// The pod; `None` if its endpoint has been removed since, or if they are of many.
    pub pod: Option<ObjectName>,
    /// The direction from the pod's point of view; `None` if they are of many.
    pub direction: Option<Direction>,
    /// Whether they were dropped; false in audit mode.
    pub is_dropped: bool,
    /// The reason; `None` if they are of many.
    pub reason: Option<String>,
    /// Their number since the latest such report.
    pub n_not_shown: u64,
}

/// A live connection of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// The pod.
    pub pod: ObjectName,
    /// Direction in which it began, from the pod's point of view: `ingress` if the peer began it.
    pub origin: Direction,
    /// The IP protocol.
    pub protocol: String,
    /// The pod's port or echo identifier.
    pub local_port: u16,
    /// The remote address.
    pub remote: IpAddr,
    /// The remote port or echo identifier.
    pub remote_port: u16,
    /// The pod of the remote address, if there is one.
    pub peer: Option<ObjectName>,
    /// `opening`, `open`, `closing` or `revoked`.
    pub state: String,
    /// The rule that allows it; `None` if the pod is not isolated in that direction.
    pub rule: Option<String>,
    /// The tier of this rule.
    pub tier: Option<Tier>,
    /// Seconds since the last packet, accurate to about a second.
    pub idle_s: u64,
    /// What would decide it if it began now; only for the connections of one pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<DecidedNow>,
}

/// What would decide a live connection if it began now, at the pod in question. Its rule may have been removed since it began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecidedNow {
    /// Whether it would be allowed.
    pub is_allowed: bool,
    /// The rules that would allow it.
    pub rules: Vec<String>,
    /// The verdict as a sentence.
    pub summary: String,
}

/// The namespaces that a user sees in an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The one that was asked for; `None`: all.
    pub(crate) asked: Option<String>,
    /// Others whose names may be shown.
    pub(crate) others: BTreeSet<Arc<str>>,
}

impl Seen {
    /// Whether the question is about this namespace.
    fn is_asked(&self, name: Option<&ObjectName>) -> bool {
        match (&self.asked, name) {
            (None, _) => true,
            (Some(asked), Some(name)) => **asked == *name.namespace,
            (Some(_), None) => false,
        }
    }

    fn shows(&self, name: &ObjectName) -> bool {
        self.is_asked(Some(name)) || self.others.contains(&name.namespace)
    }

    /// A drop, if an end of it is in the namespace. Of the other pod only the address is left, unless its namespace may be seen.
    pub(crate) fn drop_record(&self, record: DropRecord) -> Option<DropRecord> {
        if !self.is_asked(record.pod.as_ref()) && !self.is_asked(record.peer.as_ref()) {
            return None;
        }
        let mut record = record;
        if record.pod.as_ref().is_some_and(|pod| !self.shows(pod)) {
            record.pod = None;
            record.is_pod_hidden = true;
            record.policies = Vec::new();
            record.n_suppressed = 0;
        }
        record.peer = record.peer.filter(|peer| self.shows(peer));
        Some(record)
    }

    /// A number of drops without a record, if they are of a pod of the namespace.
    pub(crate) fn not_shown(&self, record: NotShownRecord) -> Option<NotShownRecord> {
        self.is_asked(record.pod.as_ref()).then_some(record)
    }

    /// A connection of a pod of the namespace.
    pub(crate) fn flow(&self, record: FlowRecord) -> Option<FlowRecord> {
        let is_asked = self.is_asked(Some(&record.pod));
        is_asked.then(|| FlowRecord {
            peer: record.peer.clone().filter(|peer| self.shows(peer)),
            ..record
        })
    }

    /// The verdict of a pod of the namespace about a connection with this peer, if it is a pod. Why a rule does not match says which
    /// labels the peer has.
    pub(crate) fn decision(
        &self,
        decision: DirectionExplanation,
        peer: Option<&ObjectName>,
    ) -> Option<DirectionExplanation> {
        if !self.is_asked(Some(&decision.pod)) {
            return None;
        }
        let mut decision = decision;
        if peer.is_some_and(|peer| !self.shows(peer)) {
            decision.misses = Vec::new();
        }
        Some(decision)
    }
}

/// The namespaces that a drop names.
pub(crate) fn namespaces_of(record: &DropRecord) -> impl Iterator<Item = &Arc<str>> {
    record.pod.iter().chain(&record.peer).map(|name| &name.namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ObjectName {
        let (namespace, name) = text.split_once('/').unwrap();
        ObjectName::new(namespace, name)
    }

    fn dropped(pod: Option<&str>, peer: Option<&str>) -> DropRecord {
        DropRecord {
            unix_s: 1,
            unix_ms: 1000,
            pod: pod.map(name),
            is_pod_hidden: false,
            direction: Direction::Ingress,
            is_dropped: true,
            reason: "not-allowed".to_owned(),
            protocol: "TCP".to_owned(),
            source: [10, 0, 0, 1].into(),
            source_port: 1,
            destination: [10, 0, 0, 2].into(),
            destination_port: 80,
            peer: peer.map(name),
            policies: pod
                .map(|pod| ObjectName { name: "p".into(), ..name(pod) })
                .into_iter()
                .collect(),
            rule: None,
            tier: None,
            n_suppressed: 3,
        }
    }

    fn seen(others: &[&str]) -> Seen {
        Seen {
            asked: Some("shop".to_owned()),
            others: others.iter().map(|other| Arc::from(*other)).collect(),
        }
    }

    #[test]
    fn of_another_namespace_only_the_address_is_shown() {
        let own = dropped(Some("shop/web"), Some("ops/probe"));
        let shown = seen(&[]).drop_record(own.clone()).unwrap();
        assert_eq!((&shown.pod, &shown.peer), (&own.pod, &None));
        assert_eq!((shown.policies.len(), shown.n_suppressed), (1, 3));
        assert_eq!(seen(&["ops"]).drop_record(own.clone()), Some(own));

        let elsewhere = dropped(Some("ops/db"), Some("shop/web"));
        let shown = seen(&[]).drop_record(elsewhere.clone()).unwrap();
        assert_eq!((&shown.pod, &shown.peer), (&None, &elsewhere.peer));
        assert_eq!((shown.policies.len(), shown.n_suppressed), (0, 0));
        assert_eq!(shown.reason, "not-allowed");
    }

    #[test]
    fn a_drop_between_others_is_not_shown_at_all() {
        for record in [
            dropped(Some("ops/db"), Some("ops/probe")),
            dropped(Some("ops/db"), None),
            dropped(None, Some("ops/probe")),
            dropped(None, None),
        ] {
            // Not even where both may be seen: it was not asked for.
            assert_eq!(seen(&["ops"]).drop_record(record.clone()), None);
            assert_eq!(Seen::default().drop_record(record.clone()), Some(record), "all namespaces");
        }
    }

    #[test]
    fn numbers_and_connections_of_other_pods_are_not_shown() {
        let number = |pod: Option<&str>| NotShownRecord {
            unix_ms: 1,
            pod: pod.map(name),
            direction: None,
            is_dropped: true,
            reason: None,
            n_not_shown: 7,
        };
        assert!(seen(&[]).not_shown(number(Some("shop/web"))).is_some());
        assert!(seen(&["ops"]).not_shown(number(Some("ops/db"))).is_none());
        assert!(seen(&[]).not_shown(number(None)).is_none());
        let flow = |pod: &str, peer: &str| FlowRecord {
            pod: name(pod),
            origin: Direction::Ingress,
            protocol: "TCP".to_owned(),
            local_port: 80,
            remote: [10, 0, 0, 1].into(),
            remote_port: 1,
            peer: Some(name(peer)),
            state: "open".to_owned(),
            rule: None,
            tier: None,
            idle_s: 0,
            now: None,
        };
        assert_eq!(seen(&[]).flow(flow("ops/db", "shop/web")), None);
        assert_eq!(seen(&[]).flow(flow("shop/web", "ops/db")).unwrap().peer, None);
        let both = flow("shop/web", "shop/db");
        assert_eq!(seen(&[]).flow(both.clone()), Some(both));
    }
}
