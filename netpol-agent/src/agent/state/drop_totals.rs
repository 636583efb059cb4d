//! Drops since the agent started, from the kernel's counters, which end with the endpoint that they belong to.
//!
//! In: what the counters say, again and again, and the pods of interfaces. Out: sums that never go down. Must not: read the kernel.

use std::collections::BTreeMap;

use netpol_common::ids::{Direction, IfIndex};
use netpol_common::keys::CounterKey;
use netpol_common::reason::Verdict;
use netpol_policy::dataplane::Counter;
use netpol_policy::model::ObjectName;

/// Pods with sums of their own. A node has some hundred pods, and each has a few reasons, so more would cost a Prometheus more than
/// they tell.
const MAX_PODS: usize = 20;

/// Direction and reason of drops, as metrics name them.
pub(in crate::agent) type DropLabels = (&'static str, &'static str);

/// Sums by direction and reason.
pub(in crate::agent) type ByReason = BTreeMap<DropLabels, Counter>;

/// The sums.
#[derive(Debug, Default)]
pub(in crate::agent) struct DropTotals {
    latest: BTreeMap<CounterKey, Counter>,
    /// The pods of removed endpoints whose counters are still there.
    removed: BTreeMap<IfIndex, ObjectName>,
    of_node: ByReason,
    /// The pods with sums of their own.
    of_pods: BTreeMap<ObjectName, ByReason>,
    /// Drops of pods while they had no sums of their own, and of interfaces without a pod.
    of_others: ByReason,
}

impl DropTotals {
    /// Records the pod of an endpoint that is being removed.
    pub(in crate::agent) fn remove(&mut self, ifindex: IfIndex, pod: ObjectName) {
        self.removed.insert(ifindex, pod);
    }

    /// Adds what the counters have gained. A pod that is not among those with sums of their own takes the place of the one with the
    /// fewest drops, if it has gained more than twice as much: sums that come and go would cost more than they tell.
    pub(in crate::agent) fn observe(
        &mut self,
        counters: BTreeMap<CounterKey, Counter>,
        pod_at: impl Fn(IfIndex) -> Option<ObjectName>,
    ) {
        let mut gains: BTreeMap<Option<ObjectName>, ByReason> = BTreeMap::new();
        for (&key, now) in &counters {
            let gain = gain(self.latest.get(&key).copied(), *now);
            if gain.packets > 0 {
                let pod = pod_at(key.ifindex).or_else(|| self.removed.get(&key.ifindex).cloned());
                let gains = gains.entry(pod).or_default();
                add(gains, labels(key), gain);
                add(&mut self.of_node, labels(key), gain);
            }
        }
        // An endpoint without counters has no more to say.
        self.removed.retain(|ifindex, _| counters.keys().any(|key| key.ifindex == *ifindex));
        self.latest = counters;
        for (pod, gains) in gains {
            let own = pod.and_then(|pod| self.own(pod, n_packets(&gains)));
            let sums = match own {
                Some(pod) => self.of_pods.entry(pod).or_default(),
                None => &mut self.of_others,
            };
            for (labels, gain) in gains {
                add(sums, labels, gain);
            }
        }
    }

    /// The pod, if it has sums of its own or gets them.
    fn own(&mut self, pod: ObjectName, n_gained: u64) -> Option<ObjectName> {
        if self.of_pods.contains_key(&pod) || self.of_pods.len() < MAX_PODS {
            return Some(pod);
        }
        let least = self.of_pods.iter().map(|(name, sums)| (n_packets(sums), name.clone())).min();
        let (n_packets, name) = least?;
        if n_gained <= n_packets.saturating_mul(2) {
            return None;
        }
        self.of_pods.remove(&name);
        Some(pod)
    }

    /// The sums of the node.
    pub(in crate::agent) const fn of_node(&self) -> &ByReason {
        &self.of_node
    }

    /// The sums of pods, and under `None` those of all others.
    pub(in crate::agent) fn of_pods(
        &self,
    ) -> impl Iterator<Item = (Option<&ObjectName>, &ByReason)> {
        let others = std::iter::once((None, &self.of_others));
        self.of_pods.iter().map(|(pod, sums)| (Some(pod), sums)).chain(others)
    }
}

/// A number without a name, which another version of the programs counted, is `unknown`.
fn labels(key: CounterKey) -> DropLabels {
    let direction = Direction::try_from(key.direction).map_or("unknown", Direction::as_str);
    let reason = Verdict::try_from(key.verdict).map_or("unknown", Verdict::as_str);
    (direction, reason)
}

/// What a counter has gained. One that is lower than before began again.
fn gain(before: Option<Counter>, now: Counter) -> Counter {
    match before {
        Some(before) if before.packets <= now.packets => Counter {
            packets: now.packets - before.packets,
            bytes: now.bytes.saturating_sub(before.bytes),
        },
        _ => now,
    }
}

fn add(sums: &mut ByReason, labels: DropLabels, gain: Counter) {
    let sum = sums.entry(labels).or_default();
    sum.packets += gain.packets;
    sum.bytes += gain.bytes;
}

fn n_packets(sums: &ByReason) -> u64 {
    sums.values().map(|sum| sum.packets).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ifindex: u32, direction: u8, verdict: u8) -> CounterKey {
        CounterKey { ifindex: IfIndex(ifindex), direction, verdict, pad: [0; 2] }
    }

    fn total(packets: u64) -> Counter {
        Counter { packets, bytes: 10 * packets }
    }

    fn pod_at(ifindex: IfIndex) -> Option<ObjectName> {
        (ifindex.0 > 1).then(|| ObjectName::new("x", &format!("p{ifindex}")))
    }

    fn packets(totals: &DropTotals, pod: Option<&str>) -> u64 {
        let name = pod.map(|pod| ObjectName::new("x", pod));
        let found = totals.of_pods().find(|(found, _)| *found == name.as_ref());
        found.map_or(0, |(_, sums)| n_packets(sums))
    }

    #[test]
    fn packets_with_a_reason_that_has_no_name_are_counted_as_unknown() {
        let counters = [
            (key(7, 0, 128), total(3)),
            (key(8, 0, 128), total(4)),
            (key(7, 1, 255), total(5)),
            (key(7, 9, 128), total(6)),
        ];
        let mut totals = DropTotals::default();
        totals.observe(counters.into(), pod_at);
        let expected = [
            (("egress", "unknown"), total(5)),
            (("ingress", "not-allowed"), total(7)),
            (("unknown", "not-allowed"), total(6)),
        ];
        assert_eq!(totals.of_node(), &expected.into());
    }

    /// The sum was that of the counters, so it fell when a pod was removed, and Prometheus took that for a restart of the agent.
    #[test]
    fn sums_do_not_fall_when_an_endpoint_and_its_counters_are_removed() {
        let mut totals = DropTotals::default();
        totals.observe([(key(7, 0, 128), total(5)), (key(8, 0, 128), total(1))].into(), pod_at);
        totals.remove(IfIndex(7), ObjectName::new("x", "p7"));
        let only_8 = |ifindex| pod_at(ifindex).filter(|_| ifindex == IfIndex(8));
        totals.observe([(key(7, 0, 128), total(6)), (key(8, 0, 128), total(1))].into(), only_8);
        totals.observe([(key(8, 0, 128), total(2))].into(), only_8);
        assert_eq!(totals.of_node(), &[(("ingress", "not-allowed"), total(8))].into());
        assert_eq!((packets(&totals, Some("p7")), packets(&totals, Some("p8"))), (6, 2));
        assert!(totals.removed.is_empty());
        // The interface's number comes back with a counter of its own.
        totals.observe([(key(7, 0, 128), total(2)), (key(8, 0, 128), total(2))].into(), pod_at);
        assert_eq!(n_packets(totals.of_node()), 10);
    }

    #[test]
    fn only_so_many_pods_have_sums_of_their_own_and_the_rest_is_one() {
        let mut totals = DropTotals::default();
        let mut counters: BTreeMap<_, _> =
            (0..22).map(|n| (key(100 + n, 0, 128), total(10))).collect();
        counters.insert(key(1, 0, 129), total(7));
        totals.observe(counters.clone(), pod_at);
        assert_eq!(totals.of_pods().count(), MAX_PODS + 1);
        // Two pods found no place, and one interface has no pod.
        assert_eq!(packets(&totals, None), 27);
        counters.insert(key(121, 0, 128), total(31));
        totals.observe(counters.clone(), pod_at);
        assert_eq!(packets(&totals, Some("p121")), 21, "twice as many as the least");
        assert_eq!(totals.of_pods().count(), MAX_PODS + 1);
        assert_eq!(packets(&totals, None), 27);
        counters.insert(key(120, 0, 128), total(15));
        totals.observe(counters, pod_at);
        assert_eq!((packets(&totals, Some("p120")), packets(&totals, None)), (0, 32));
    }
}
