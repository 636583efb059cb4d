//! Which API features a case exercises, derived from the case itself, so that it works for hand-written cases too.

mod change;
mod cluster_policy;
mod names;
mod objects;
mod policy;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

pub use names::ALL;

use change::of_change;
use cluster_policy::of_cluster_policies;
use objects::{declared, of_pod, of_probe};
use policy::of_policy;

use crate::case::{Case, End};

/// Names of features, as tables show them.
pub type Features = BTreeSet<&'static str>;

/// How many cases have each feature.
#[derive(Clone, Debug, Default)]
pub struct Census {
    counts: BTreeMap<&'static str, usize>,
    n_cases: usize,
    n_probes: usize,
    previous: Option<Case>,
}

impl Census {
    /// Counts a case. Consecutive cases of a sequence are compared for features of changes.
    pub fn add(&mut self, case: &Case) {
        let mut features = of_case(case);
        let before = self
            .previous
            .as_ref()
            .filter(|previous| previous.sequence.is_some() && previous.sequence == case.sequence);
        if let Some(before) = before {
            of_change(before, case, &mut features);
        }
        for feature in features {
            *self.counts.entry(feature).or_default() += 1;
        }
        self.n_cases += 1;
        self.n_probes += case.probes.len();
        self.previous = Some(case.clone());
    }

    /// How many cases have each feature that any case has.
    pub const fn counts(&self) -> &BTreeMap<&'static str, usize> {
        &self.counts
    }

    /// The features of [`ALL`] that no case has.
    pub fn missing(&self) -> Vec<&'static str> {
        ALL.iter().copied().filter(|feature| !self.counts.contains_key(feature)).collect()
    }

    /// The table.
    pub fn table(&self) -> String {
        let head = format!("{} cases, {} probes\n", self.n_cases, self.n_probes);
        let line = |feature: &&str| {
            let count = self.counts.get(feature).copied().unwrap_or_default();
            format!("{count:>8}  {feature}\n")
        };
        head + &ALL.iter().map(line).collect::<String>()
    }
}

/// The features of one case.
pub fn of_case(case: &Case) -> Features {
    let mut features = Features::new();
    let of_kind = |kind: &'static str| case.objects.iter().filter(move |o| kind_of(o) == kind);
    let mut per_namespace: BTreeMap<&str, usize> = BTreeMap::new();
    for policy in of_kind("NetworkPolicy") {
        of_policy(policy, &mut features);
        *per_namespace.entry(text(policy, "/metadata/namespace")).or_default() += 1;
    }
    if per_namespace.values().any(|count| *count > 1) {
        features.insert("policy: several in one namespace");
    }
    of_cluster_policies(&case.objects, &mut features);
    let namespaces: BTreeSet<&str> =
        of_kind("Namespace").map(|namespace| text(namespace, "/metadata/name")).collect();
    let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
    let mut numbers: BTreeMap<(&str, &str), BTreeSet<u64>> = BTreeMap::new();
    for pod in of_kind("Pod") {
        of_pod(pod, &mut features);
        for ip in items(pod, "/status/podIPs") {
            *owners.entry(text(ip, "/ip")).or_default() += 1;
        }
        for (name, protocol, number) in declared(pod, "/spec/containers") {
            numbers.entry((name, protocol)).or_default().insert(number);
        }
        if !namespaces.contains(text(pod, "/metadata/namespace")) {
            features.insert("namespace: not among the objects");
        }
    }
    if owners.values().any(|count| *count > 1) {
        features.insert("pods: one address twice");
    }
    if numbers.values().any(|numbers| numbers.len() > 1) {
        features.insert("pods: a name with two numbers");
    }
    features.extend(of_kind("Node").next().map(|_| "node"));
    features.extend(of_kind("Service").next().map(|_| "service"));
    let vips: Vec<&str> =
        of_kind("Service").map(|service| text(service, "/spec/clusterIP")).collect();
    for probe in &case.probes {
        if matches!(&probe.to, End::Address { ip } if vips.contains(&ip.to_string().as_str())) {
            features.insert("probe: to a Service");
        }
        of_probe(probe, &mut features);
    }
    features
}

fn kind_of(object: &Value) -> &str {
    text(object, "/kind")
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
