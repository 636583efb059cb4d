//! The agent's metrics.
//!
//! To add one, push it in [`Agent::metrics`], show it in `deploy/grafana/netpol.json`, and run the tests with
//! `UPDATE_EXPECT=1`, which writes `docs/metrics.md`.

use std::collections::BTreeMap;
use std::time::Instant;

use netpol_common::maps;
use netpol_policy::dataplane::port::Kernel;
use netpol_policy::model::{Kind, ObjectName};
use netpol_policy::resolve::RuleRef;
use netpol_proto::build;
use prometheus_client::registry::Unit;

use super::device_metrics::{endpoint_metrics, uplink_samples};
use super::foreign::foreign_metrics;
use super::samples::{count, counter, gauge, histogram, labelled};
use super::status::{MapStatus, SourceStatus, Status};
use crate::agent::state::Agent;
use crate::agent::state::drop_totals::DropLabels;
use crate::agent::state::rule_totals::RuleGroup;
use crate::telemetry::{Metric, Sample};
use netpol_policy::dataplane::Counter;

impl<K: Kernel> Agent<K> {
    /// The current metrics.
    ///
    /// # Errors
    /// The kernel's counters cannot be read.
    pub fn metrics(&mut self, now: Instant) -> Result<Vec<Metric>, K::Error> {
        self.observe_drops()?;
        self.observe_rules(now)?;
        let status = self.describe();
        let mut metrics = vec![
            in_force(status.is_in_force.into()),
            build_info(),
            counter(
                "changes",
                "Updates of the maps since the agent started",
                Sample::plain(status.n_changes),
            ),
        ];
        metrics.extend(self.latency_metrics(&status));
        metrics.extend(source_metrics(&status));
        metrics.extend(endpoint_metrics(&status));
        let rule_counts = MapStatus {
            n_entries: self.rule_totals.n_counted(),
            capacity: usize::try_from(maps::MAX_RULE_COUNTS).unwrap_or(usize::MAX),
        };
        let rule_counts = ("rule_counts".to_owned(), rule_counts);
        let by_map = |value: fn(&MapStatus) -> usize| {
            let of_rules = std::iter::once((&rule_counts.0, &rule_counts.1));
            let all = status.maps.iter().chain(of_rules);
            labelled("map", all.map(|(name, map)| (name.clone(), count(value(map)))))
        };
        metrics.extend([
            gauge("map_entries", "Entries in each map", by_map(|map| map.n_entries)),
            gauge("map_capacity", "Entries that each map can hold", by_map(|map| map.capacity)),
            counter(
                "connections_evicted",
                "Connections evicted from the flow table before they had ended",
                Sample::plain(self.kernel.n_evicted_flows()?),
            ),
            gauge(
                "policies",
                "Policies that isolate a pod of this node",
                Sample::plain(count(status.policies.len())),
            ),
            gauge(
                "uplinks",
                "Devices through which packets leave the node, by how their program is attached",
                uplink_samples(&status.uplinks),
            ),
            gauge(
                "exit_guard",
                "1 if the nftables table that drops deferred packets before devices without program is in place, else 0",
                Sample::plain(status.exit_guard.is_in_place.into()),
            ),
            counter(
                "reattached",
                "Times that others had detached programs from a device, which were attached again",
                labelled(
                    "role",
                    ["pod", "uplink"].map(str::to_owned).into_iter().zip(status.n_reattached),
                ),
            ),
            gauge(
                "endpoints_awaiting_gc",
                "Removed endpoints whose connections and counters wait for garbage collection",
                Sample::plain(count(status.n_awaiting_gc)),
            ),
        ]);
        let mut by_code: BTreeMap<String, u64> = BTreeMap::new();
        for diagnostic in self.diagnostics.iter() {
            *by_code.entry(diagnostic.code.as_str().to_owned()).or_default() += 1;
        }
        metrics.push(gauge(
            "diagnostics",
            "Current diagnostics of objects, by code",
            labelled("code", by_code),
        ));
        metrics.extend(foreign_metrics(&status.netfilter));
        metrics.extend(self.packet_metrics());
        metrics.extend([self.rule_metric(), self.tier_metric()]);
        Ok(metrics)
    }

    /// Latencies of changes and of CNI ADDs, and the ADDs that were refused.
    fn latency_metrics(&self, status: &Status) -> [Metric; 4] {
        let in_seconds = |metric| Metric { unit: Some(Unit::Seconds), ..metric };
        [
            in_seconds(histogram(
                "change_latency",
                "Time from the arrival of a change of objects to its entry in the maps",
                self.latencies.changes(),
            )),
            in_seconds(histogram(
                "add_latency",
                "Time from a CNI ADD to the answer that the policy of the new pod is in force",
                self.latencies.adds(),
            )),
            in_seconds(gauge(
                "lag",
                "Age of the oldest change that is not in the maps yet, 0 if there is none",
                Sample::plain(status.lag_ms.unwrap_or_default().div_ceil(1000)),
            )),
            counter(
                "add_failures",
                "CNI ADDs that were refused, which the runtime repeats, by cause",
                labelled("cause", self.add_failures.by_cause()),
            ),
        ]
    }

    /// Adds what the kernel's counters have gained to the sums of drops.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub(in crate::agent) fn observe_drops(&mut self) -> Result<(), K::Error> {
        let Self { kernel, state, drop_totals, .. } = self;
        let pod_at = |ifindex| state.endpoint(ifindex).map(|endpoint| endpoint.pod.clone());
        drop_totals.observe(kernel.counters()?, pod_at);
        Ok(())
    }

    /// Connections by rule.
    fn rule_metric(&self) -> Metric {
        let sample = |(rule, value): (Option<&RuleRef>, u64)| {
            let labels = rule.map(|rule| {
                let kind = Kind::from(rule.policy.kind).to_string();
                let ObjectName { namespace, name } = &rule.policy.name;
                let direction = rule.direction.to_string();
                [kind, namespace.to_string(), name.to_string(), direction, rule.index.to_string()]
            });
            let names = ["kind", "namespace", "policy", "direction", "rule"];
            let labels = names.into_iter().zip(labels.unwrap_or_default()).collect();
            Sample { labels, value }
        };
        counter(
            "rule_connections",
            "Connections that a rule of a policy has decided: begun if it accepts, attempted if it denies, for the 50 rules of the node with most of them; the rest has no policy",
            self.rule_totals.of_rules().map(sample).collect(),
        )
    }

    /// Connections by the tier of the rule.
    fn tier_metric(&self) -> Metric {
        let sample = |group: RuleGroup| {
            let labels = group.labels().map(|(name, value)| (name, value.to_owned())).to_vec();
            Sample { labels, value: self.rule_totals.of_group(group) }
        };
        counter(
            "tier_connections",
            "Connections that rules have decided, by tier and action of the rule and mode of its policy: begun if it accepts, attempted if it denies, reported if it denies in audit mode",
            RuleGroup::deciding().map(sample).collect(),
        )
    }

    /// Packets that were dropped, or that audit mode has let pass.
    fn packet_metrics(&self) -> [Metric; 3] {
        let samples = |value: fn(&Counter) -> u64| {
            let totals = self.drop_totals.of_node().iter();
            totals
                .map(|(labels, total)| Sample { labels: drop_labels(*labels), value: value(total) })
                .collect()
        };
        let mut of_pods = Vec::new();
        for (pod, totals) in self.drop_totals.of_pods() {
            let (namespace, name) = pod
                .map(|pod| (pod.namespace.to_string(), pod.name.to_string()))
                .unwrap_or_default();
            for (labels, total) in totals {
                let mut labels = drop_labels(*labels);
                labels.extend([("namespace", namespace.clone()), ("pod", name.clone())]);
                of_pods.push(Sample { labels, value: total.packets });
            }
        }
        let help =
            "Packets that were dropped, or that audit mode has let pass, by direction and reason";
        [
            counter("drops", help, samples(|total| total.packets)),
            Metric {
                unit: Some(Unit::Bytes),
                ..counter(
                    "drop",
                    "Bytes of the packets in netpol_drops_total",
                    samples(|total| total.bytes),
                )
            },
            counter(
                "pod_drops",
                "The packets in netpol_drops_total by pod, for the 20 pods of the node with most of them; the rest has no pod",
                of_pods,
            ),
        ]
    }
}

fn drop_labels((direction, reason): DropLabels) -> Vec<(&'static str, String)> {
    vec![("direction", direction.to_owned()), ("reason", reason.to_owned())]
}

/// The metrics of an agent that cannot load the programs.
pub(in crate::agent) fn not_in_force() -> Vec<Metric> {
    vec![in_force(0), build_info()]
}

fn in_force(value: u64) -> Metric {
    let help = "1 if the maps hold the policies of all known objects, else 0";
    gauge("in_force", help, Sample::plain(value))
}

fn build_info() -> Metric {
    let labels = [("version", build::VERSION), ("revision", build::REVISION.unwrap_or_default())];
    let labels = labels.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
    let help = "1, with the version and the git revision of the agent";
    gauge("build_info", help, vec![Sample { labels, value: 1 }])
}

/// Health of the watch of each kind.
fn source_metrics(status: &Status) -> [Metric; 3] {
    let by_kind = |kind: &Kind, value| Sample { labels: vec![("kind", kind.to_string())], value };
    let is_synced = |source: &SourceStatus| matches!(source, SourceStatus::Synced { .. });
    let silence = status.sources.iter().filter_map(|(kind, source)| match source {
        SourceStatus::Synced { heard_s } => Some(by_kind(kind, *heard_s)),
        SourceStatus::Broken { error: _, since_s } => Some(by_kind(kind, *since_s)),
        SourceStatus::Listing => None,
    });
    [
        gauge(
            "objects",
            "Known objects, by kind",
            status.n_objects.iter().map(|(kind, n)| by_kind(kind, count(*n))).collect(),
        ),
        gauge(
            "source_synced",
            "1 if the objects of a kind are listed and watched, else 0",
            status
                .sources
                .iter()
                .map(|(kind, source)| by_kind(kind, is_synced(source).into()))
                .collect(),
        ),
        Metric {
            unit: Some(Unit::Seconds),
            ..gauge(
                "source_silence",
                "Time since the latest message of the source about a kind, or since its watch began to fail",
                silence.collect(),
            )
        },
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;
    use std::sync::Arc;
    use std::time::Duration;

    use expect_test::expect_file;
    use serde_json::Value;

    use super::*;
    use crate::agent::tests::{fixture, full_lists, pod, update};
    use crate::own_process::OwnProcess;
    use crate::telemetry::render;
    use netpol_policy::model::{Code, Diagnostic, Kind as ObjectKind, ObjectName, ObjectRef};
    use netpol_policy::source::{Health, SourceUpdate};

    /// The metrics of an agent for which every metric has a sample.
    fn text() -> String {
        let mut fixture = fixture();
        let mut lists = full_lists();
        let heard = fixture.now;
        lists.health = ObjectKind::BUILT_IN
            .map(|kind| (kind, Health::Synced { since: heard, heard }))
            .to_vec();
        drop(fixture.agent.update(lists));
        drop(fixture.agent.update(update(pod("a"))));
        let object =
            ObjectRef { kind: ObjectKind::NetworkPolicy, name: ObjectName::new("x", "bad") };
        let diagnostic = Diagnostic {
            code: Code::Malformed,
            object: object.clone(),
            field: String::new(),
            message: String::new(),
        };
        let diagnostics = vec![(object, vec![diagnostic])];
        drop(fixture.agent.update(SourceUpdate { diagnostics, ..SourceUpdate::default() }));
        let answer = fixture.add();
        fixture.agent.sync();
        drop(answer);
        let process = OwnProcess::read();
        assert!(process.is_some(), "no /proc");
        render(fixture.agent.metrics(fixture.now).unwrap(), process).unwrap()
    }

    /// Name and labels of a line `name{label="value",..} number`.
    fn sample(line: &str) -> (String, Vec<String>) {
        let (name, rest) = line.split_once(['{', ' ']).unwrap();
        let labels = rest.split_once('}').map_or("", |(labels, _)| labels);
        let labels = labels.split(',').filter_map(|label| label.split_once('='));
        (name.to_owned(), labels.map(|(label, _)| label.to_owned()).collect())
    }

    /// The labels of all samples, by name.
    fn samples() -> BTreeMap<String, BTreeSet<String>> {
        let text = text();
        let mut samples: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, labels) = sample(line);
            samples.entry(name).or_default().extend(labels);
        }
        samples
    }

    #[test]
    fn the_documentation_lists_every_metric() {
        let mut page = String::from(
            "# Metrics\n\n\
             With `--metrics ADDRESS` (`NETPOL_METRICS`; `[::]:9471` in the component `deploy/prometheus`) the agent serves these on\n\
             `/metrics`, as OpenMetrics to a client that asks for it, else in Prometheus' text format. Times are in seconds, sizes in bytes. Directions are\n\
             from the pod's point of view. [`deploy/grafana/netpol.json`](../deploy/grafana/netpol.json) is a dashboard for Grafana,\n\
             [`deploy/prometheus/rules.yaml`](../deploy/prometheus/rules.yaml) has alerts for Prometheus. The label `reason` is\n\
             one of [these](drops.md).\n\n\
             Drops are exact, because the kernel counts every packet; `netpol-agent drops` and Events report only some of them. They count\n\
             from the agent's start, together with what the kernel had counted for the pods that ran then. Of a removed pod, the packets of\n\
             the moment in which its counters are removed are missing. `netpol_pod_drops_total` has the 20 pods of a node with the most drops;\n\
             another pod takes the place of the one with the fewest when it has gained more than twice as many between two scrapes, and\n\
             begins there. The drops of all others are the series without namespace and pod. Which policies concern a dropped packet is not\n\
             counted: `netpol-agent drops` names them for the packets that it reports. Nor is the tier, but the reason tells a part of it:\n\
             `denied` is a rule of a ClusterNetworkPolicy, `not-allowed` is a pod that a NetworkPolicy isolates.\n\n\
             `netpol_rule_connections_total` counts connections where they are decided. One that several rules allow counts for one of them;\n\
             one to a Service counts when it leaves for its backend; a repeated first packet counts again. A rule that denies counts each\n\
             attempt. It has the 50 rules of a node with the most connections, chosen as the pods are; `netpol-agent rules` has all of them.\n\
             The kernel counts 16,384 rules at most: when `netpol_map_entries{map=\"rule_counts\"}` is there, further rules are not counted.\n\
             `netpol_tier_connections_total` is the sum of all rules by tier. It counts connections, not packets, and has no denials of\n\
             NetworkPolicies, which have no rules that deny: those are the drops with the reason `not-allowed`.\n\n\
             A test keeps this page equal to the program; with `UPDATE_EXPECT=1` the test writes it.\n\n\
             | metric | type | labels | meaning |\n|---|---|---|---|\n",
        );
        let text = text();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let Some((name, help)) =
                line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '))
            else {
                continue;
            };
            let type_line = lines.next().unwrap();
            let kind = type_line.rsplit(' ').next().unwrap();
            while lines.peek().is_some_and(|line| line.starts_with("# UNIT")) {
                lines.next();
            }
            let first = lines.peek().filter(|line| line.starts_with(name));
            let (found, labels) = sample(first.expect("a metric without a sample"));
            let (name, labels) = match kind {
                "histogram" => (name.to_owned(), Vec::new()),
                _ => (found, labels),
            };
            let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
            let help = help.trim_end_matches('.');
            writeln!(page, "| `{name}` | {kind} | {} | {help}. |", labels.join(", ")).unwrap();
        }
        expect_file!["../../../../docs/metrics.md"].assert_eq(&page);
    }

    #[test]
    fn the_dashboard_shows_every_metric_and_queries_no_other() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/grafana/netpol.json");
        let dashboard: Value =
            serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let samples = samples();
        let mut asked = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                asked.extend(check_query(target["expr"].as_str().unwrap(), &samples));
            }
        }
        // The dashboard need not show all three parts of a histogram.
        let endings = ["_bucket", "_sum", "_count"];
        for name in samples.keys() {
            let is_shown = asked.contains(name);
            assert!(is_shown || endings.iter().any(|ending| name.ends_with(ending)), "{name}");
        }
    }

    /// Returns the metrics of a Prometheus query. Asserts that they exist, with the labels that the query names.
    fn check_query(query: &str, samples: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
        let names: Vec<_> = query
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| ["netpol_", "process_"].iter().any(|start| word.starts_with(start)))
            .map(str::to_owned)
            .collect();
        assert!(!names.is_empty(), "{query}");
        for name in &names {
            let labels = samples.get(name);
            let labels = labels.unwrap_or_else(|| panic!("{query}: there is no {name}"));
            let by = query.split("by (").nth(1).and_then(|rest| rest.split(')').next());
            let by = by.unwrap_or_default().split(", ").filter(|by| !by.is_empty());
            let matched = query.split(&format!("{name}{{")).nth(1);
            let matched = matched.and_then(|rest| rest.split('}').next()).unwrap_or_default();
            let matched = matched.split(", ").filter_map(|part| part.split(['=', '!']).next());
            for label in by.chain(matched.filter(|label| !label.is_empty())) {
                // Prometheus adds the label `instance`.
                let is_known = labels.contains(label) || label == "instance";
                assert!(is_known, "{query}: {name} has no label {label}");
            }
        }
        names
    }

    #[test]
    fn the_alerts_query_metrics_and_labels_that_exist() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus/rules.yaml");
        let samples = samples();
        let text = std::fs::read_to_string(file).unwrap();
        let queries: Vec<_> =
            text.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
        assert_eq!(queries.len(), text.matches("- alert: ").count());
        for query in queries {
            check_query(query, &samples);
        }
    }

    #[test]
    fn refused_adds_are_counted_by_cause() {
        let mut fixture = fixture();
        for lists in [None, Some(full_lists())] {
            if let Some(lists) = lists {
                drop(fixture.agent.update(lists));
            }
            let answer = fixture.add();
            fixture.agent.expire(fixture.now + Duration::from_mins(1));
            drop(answer);
        }
        let text = render(fixture.agent.metrics(fixture.now).unwrap(), None).unwrap();
        for (cause, n) in [("kernel", 0), ("not-listed", 1), ("unknown-pod", 1)] {
            let line = format!("netpol_add_failures_total{{cause=\"{cause}\"}} {n}");
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn changes_and_adds_are_measured_until_they_are_in_force() {
        let mut fixture = fixture();
        let begin = fixture.now;
        let at = |ms: u64| begin + Duration::from_millis(ms);
        // The first lists do not count as changes.
        drop(fixture.agent.update(full_lists()));
        fixture.agent.arrived(begin);
        drop(fixture.agent.update(update(pod("a"))));
        fixture.agent.sync();
        let answer = fixture.add();
        fixture.agent.end_step(at(30));
        drop(answer);
        let line = |agent: &mut Agent<crate::agent::fake_kernel::FakeKernel>, line: &str| {
            render(agent.metrics(begin).unwrap(), None).unwrap().lines().any(|found| found == line)
        };
        assert!(line(&mut fixture.agent, "netpol_add_latency_seconds_count 1"));
        assert!(line(&mut fixture.agent, "netpol_change_latency_seconds_count 0"));

        fixture.agent.kernel.refuses = Some(|_| true);
        drop(fixture.agent.update(update(renamed(pod("a")))));
        fixture.agent.arrived(at(40));
        fixture.agent.sync();
        fixture.agent.end_step(at(1540));
        assert_eq!(fixture.agent.describe().lag_ms, Some(1500));
        assert!(line(&mut fixture.agent, "netpol_lag_seconds 2"));
        fixture.agent.kernel.refuses = None;
        fixture.agent.sync();
        fixture.agent.end_step(at(2040));
        assert_eq!(fixture.agent.describe().lag_ms, None);
        assert!(line(&mut fixture.agent, "netpol_change_latency_seconds_count 1"));
        assert!(line(&mut fixture.agent, "netpol_change_latency_seconds_sum 2.0"));
    }

    /// The same pod with another address.
    fn renamed(delta: netpol_policy::store::Delta) -> netpol_policy::store::Delta {
        use netpol_policy::model::Object;
        use netpol_policy::store::Delta;
        let Delta::Upsert(Object::Pod(mut pod)) = delta else { return delta };
        pod.reported_addresses = ["10.0.0.2".parse().unwrap()].into_iter().collect();
        pod.static_uid = Arc::from("");
        Delta::Upsert(Object::Pod(pod))
    }
}
