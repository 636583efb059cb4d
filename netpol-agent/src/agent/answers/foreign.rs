//! Programs and netfilter rules of others, for `status`, metrics and explanations.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use netpol_datapath::netfilter::{Engine, Found, Judgement};
use netpol_policy::dataplane::port::{DeviceRole, Kernel};
use netpol_policy::model::ObjectName;
use netpol_policy::simulate::{Explanation, Probe};
use serde::{Deserialize, Serialize};

use super::samples::{count, gauge, labelled};
use crate::agent::state::Agent;
use crate::telemetry::Metric;

/// The netfilter rules of others, and what other NetworkPolicy engines have left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetfilterStatus {
    /// Whether the rules have been read.
    pub is_read: bool,
    /// Why they cannot be read. Then no pod takes the short cut.
    pub problem: Option<String>,
    /// The rules that packets between pods of the node may meet; `None` without `--short-cut on`.
    pub rules: Option<Judgement>,
    /// The rules that packets between pods of this node and of others may meet, with those above; `None` if no device leads there.
    #[serde(default)]
    pub rules_between_nodes: Option<Judgement>,
    /// Tables and chains of other engines.
    pub engines: BTreeMap<Engine, Found>,
    /// Traffic control programs of others on the interfaces of pods.
    pub programs: Vec<ForeignProgram>,
}

/// A traffic control program of others on the interface of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ForeignProgram {
    /// The pod.
    pub pod: ObjectName,
    /// Name of the program, as the kernel has it; empty if it has none.
    pub name: String,
    /// The engine that names programs like this.
    pub engine: Option<Engine>,
}

impl fmt::Display for ForeignProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pod, name, engine } = self;
        let of = engine.map_or("others", Engine::as_str);
        write!(f, "traffic control program of {of}, ")?;
        if name.is_empty() {
            f.write_str("without a name")?;
        } else {
            write!(f, "{name:?}")?;
        }
        write!(f, ", on the interface of {pod}")
    }
}

impl<K: Kernel> Agent<K> {
    /// What others have on this node.
    pub(super) fn describe_netfilter(&self) -> NetfilterStatus {
        NetfilterStatus {
            is_read: self.netfilter.is_read(),
            problem: self.netfilter.problem().map(str::to_owned),
            rules: self.netfilter.judgement().cloned(),
            rules_between_nodes: self.netfilter.judgement_between_nodes().cloned(),
            engines: self.netfilter.engines(),
            programs: self.foreign_programs(|_| true),
        }
    }

    /// The programs of others on the interfaces of these pods. An interface that the kernel does not tell about has none.
    fn foreign_programs(&self, is_asked: impl Fn(&ObjectName) -> bool) -> Vec<ForeignProgram> {
        let mut found = Vec::new();
        for endpoint in self.state.endpoints().filter(|endpoint| is_asked(&endpoint.pod)) {
            let names =
                self.kernel.foreign_programs(endpoint.ifindex, DeviceRole::Pod).unwrap_or_default();
            found.extend(names.into_iter().map(|name| ForeignProgram {
                pod: endpoint.pod.clone(),
                engine: Engine::of_program(&name),
                name,
            }));
        }
        found.sort();
        found
    }

    /// Explains the verdict on a connection, and says which programs of others may drop it all the same.
    pub fn explain_on_node(&self, probe: &Probe) -> Explanation {
        let mut explanation = self.explain(probe);
        let others = self.may_still_drop(&explanation, probe);
        explanation.diagnostics.extend(others);
        explanation
    }

    fn may_still_drop(&self, explanation: &Explanation, probe: &Probe) -> Vec<String> {
        if !explanation.is_allowed || explanation.problem.is_some() {
            return Vec::new();
        }
        let mut found = Vec::new();
        for (engine, Found { n, names }) in self.netfilter.engines() {
            let engine = engine.as_str();
            let name = names.first().map(String::as_str).unwrap_or_default();
            found.push(format!(
                "another program may still drop this: {engine} has {n} tables and chains on this node ({name})"
            ));
        }
        let ends = [&probe.from, &probe.to].into_iter();
        let pods: BTreeSet<&ObjectName> = ends.filter_map(|end| end.pod_name()).collect();
        let programs = self.foreign_programs(|pod| pods.contains(pod)).into_iter();
        found.extend(
            programs.map(|program| format!("another program may still drop this: the {program}")),
        );
        found
    }
}

/// Rules and programs of others.
pub(super) fn foreign_metrics(status: &NetfilterStatus) -> [Metric; 2] {
    let engines = Engine::ALL.map(|engine| (engine.as_str().to_owned(), 0));
    let mut by_engine = BTreeMap::from(engines);
    for (engine, found) in &status.engines {
        *by_engine.entry(engine.as_str().to_owned()).or_default() += count(found.n);
    }
    for program in &status.programs {
        let engine = program.engine.map_or("unknown", Engine::as_str);
        *by_engine.entry(engine.to_owned()).or_default() += 1;
    }
    let rules = status.rules.as_ref();
    let [alters, counts] =
        [rules.map_or(0, |rules| rules.n_altering), rules.map_or(0, |rules| rules.n_counting)];
    let unread = u64::from(status.problem.is_some());
    let by_effect = [("alters", count(alters)), ("counts", count(counts)), ("not-read", unread)];
    [
        gauge(
            "foreign_engines",
            "Tables and chains of other NetworkPolicy engines on this node, and traffic control programs of others on interfaces of pods, by engine",
            labelled("engine", by_engine),
        ),
        gauge(
            "foreign_rules",
            "With --short-cut on, netfilter rules of others that packets between pods of this node may meet, by whether they alter packets (drop, change, log, or not understood) or only count them; not-read is 1 if the rules cannot be read",
            labelled("effect", by_effect.map(|(effect, n)| (effect.to_owned(), n))),
        ),
    ]
}
