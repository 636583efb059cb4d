//! Pods that run the same thing: those of a namespace with equal labels, apart from labels that differ between the pods or the
//! versions of one workload.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{Labels, ObjectName, Pod, PodPhase, WorkloadKind};
use crate::store::ClusterState;

/// Labels that controllers and tools set on each pod, or with each version.
const VOLATILE: [&str; 18] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "rollouts-pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "controller-uid",
    "job-name",
    "version",
    "chart",
    "heritage",
    "helm.sh/chart",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
    "service.istio.io/canonical-revision",
    "istio.io/rev",
    "kubernetes.io/metadata.name",
    "pod-template-revision",
];
/// Prefixes of such labels.
const VOLATILE_PREFIXES: [&str; 5] = [
    "batch.kubernetes.io/",
    "topology.kubernetes.io/",
    "deployment.kubernetes.io/",
    "argocd.argoproj.io/",
    "leaderworkerset.sigs.k8s.io/",
];

/// The letters of names that controllers make.
const LETTERS: &str = "bcdfghjklmnpqrstvwxz2456789";

fn is_stable(key: &str) -> bool {
    !VOLATILE.contains(&key) && !VOLATILE_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

/// A workload: its namespace, and the labels that all its pods have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WorkloadKey {
    pub(super) namespace: Arc<str>,
    pub(super) labels: Labels,
}

impl WorkloadKey {
    fn of(pod: &Pod) -> Self {
        let stable = pod.labels.iter().filter(|(key, _)| is_stable(key));
        let labels = stable.map(|(key, value)| (Arc::clone(key), Arc::clone(value))).collect();
        Self { namespace: Arc::clone(&pod.name.namespace), labels }
    }
}

/// The pods of a workload, as a selector in its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkloadSelector {
    /// The namespace.
    pub namespace: Arc<str>,
    /// Labels that the pods have.
    pub labels: Labels,
    /// Keys of labels that they do not have, because other workloads have all of `labels` too.
    pub absent: BTreeSet<Arc<str>>,
}

struct Workload {
    name: String,
    absent: BTreeSet<Arc<str>>,
}

/// The workloads of a cluster.
pub(super) struct Workloads {
    found: BTreeMap<WorkloadKey, Workload>,
    /// A pod for each namespace and name without what controllers add.
    by_base: BTreeMap<(Arc<str>, String), ObjectName>,
}

impl Workloads {
    pub(super) fn of(state: &ClusterState) -> Self {
        let mut bases: BTreeMap<WorkloadKey, BTreeSet<&str>> = BTreeMap::new();
        let mut by_base = BTreeMap::new();
        for pod in state.pods().filter(|pod| is_policed(pod)) {
            let base = base(&pod.name.name);
            bases.entry(WorkloadKey::of(pod)).or_default().insert(base);
            let namespace = Arc::clone(&pod.name.namespace);
            by_base.entry((namespace, base.to_owned())).or_insert_with(|| pod.name.clone());
        }
        let mut found = BTreeMap::new();
        let mut taken: BTreeSet<(&Arc<str>, String)> = BTreeSet::new();
        for (key, bases_of_it) in &bases {
            let wanted = name(key, bases_of_it);
            let mut name = wanted.clone();
            let mut number = 2;
            while !taken.insert((&key.namespace, name.clone())) {
                name = format!("{wanted}-{number}");
                number += 1;
            }
            let others = bases.keys().filter(|other| other.namespace == key.namespace);
            found.insert(key.clone(), Workload { name, absent: absent(key, others) });
        }
        Self { found, by_base }
    }

    /// The workload of a pod. `None` if policies do not concern the pod.
    pub(super) fn key(&self, pod: &Pod) -> Option<WorkloadKey> {
        let key = WorkloadKey::of(pod);
        (is_policed(pod) && self.found.contains_key(&key)).then_some(key)
    }

    /// The pod of this name, or another one of the same workload, if the pod is gone or only its workload is known.
    pub(super) fn pod<'a>(&self, state: &'a ClusterState, name: &ObjectName) -> Option<&'a Pod> {
        let alike = || {
            let base = base(&name.name).to_owned();
            self.by_base.get(&(Arc::clone(&name.namespace), base)).and_then(|pod| state.pod(pod))
        };
        state.pod(name).or_else(alike)
    }

    /// The name of a workload.
    pub(super) fn name(&self, key: &WorkloadKey) -> String {
        self.found.get(key).map(|found| found.name.clone()).unwrap_or_default()
    }

    /// The pods of a workload.
    pub(super) fn selector(&self, key: &WorkloadKey) -> WorkloadSelector {
        let absent = self.found.get(key).map(|found| found.absent.clone()).unwrap_or_default();
        let WorkloadKey { namespace, labels } = key.clone();
        WorkloadSelector { namespace, labels, absent }
    }

    /// The workloads of a namespace.
    pub(super) fn within(&self, namespace: &str) -> impl Iterator<Item = &WorkloadKey> {
        self.found.keys().filter(move |key| *key.namespace == *namespace)
    }
}

/// Whether policies concern the pod.
fn is_policed(pod: &Pod) -> bool {
    !pod.host_network && !matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed)
}

/// The fewest keys that tell a workload from those that have all of its labels and more.
fn absent<'a>(
    key: &WorkloadKey,
    others: impl Iterator<Item = &'a WorkloadKey>,
) -> BTreeSet<Arc<str>> {
    let mut absent: BTreeSet<Arc<str>> = BTreeSet::new();
    for other in others {
        let mut own = key.labels.iter();
        let has_all = own.all(|(key, value)| other.labels.get(key) == Some(value));
        let mut further = other
            .labels
            .iter()
            .map(|(label, _)| label)
            .filter(|label| !key.labels.contains_key(label));
        if has_all && !other.labels.iter().any(|(label, _)| absent.contains(label)) {
            absent.extend(further.next().cloned());
        }
    }
    absent
}

/// The name of a workload: that of its pods, if they have one in common, else what its labels say.
fn name(key: &WorkloadKey, bases: &BTreeSet<&str>) -> String {
    let mut bases = bases.iter();
    if let (Some(base), None) = (bases.next(), bases.next()) {
        return (*base).to_owned();
    }
    let labels = &key.labels;
    let of = |key: &str| labels.get(key).map(|value| value.to_ascii_lowercase());
    let named = ["app.kubernetes.io/name", "app", "k8s-app", "name"].into_iter().find_map(of);
    let component =
        ["app.kubernetes.io/component", "component", "role", "tier"].into_iter().find_map(of);
    let parts: Vec<String> = named.into_iter().chain(component).collect();
    let text = if parts.is_empty() { "pods".to_owned() } else { parts.join("-") };
    let valid = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    let valid: String = valid.take(200).collect();
    valid.trim_matches('-').to_owned()
}

/// The name of a pod without what the controllers of its workload have added.
fn base(name: &str) -> &str {
    if let Some((_, name)) = WorkloadKind::of_pod(name) {
        return name;
    }
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_made = |text: &str| text.chars().all(|letter| LETTERS.contains(letter));
    let Some((rest, last)) = name.rsplit_once('-') else { return name };
    if is_number(last) {
        return rest;
    }
    if last.len() != 5 || !is_made(last) {
        return name;
    }
    match rest.rsplit_once('-') {
        // The hash of a ReplicaSet, or the time of a CronJob.
        Some((first, hash))
            if (6..=10).contains(&hash.len()) && (is_made(hash) || is_number(hash)) =>
        {
            first
        }
        _ => rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_pod_tells_its_workload() {
        for (name, expected) in [
            ("web-5d4f8c7b9-x2k4q", "web"),
            ("deploy/web", "web"),
            ("redis-0", "redis"),
            ("agent-x7z9k", "agent"),
            ("backup-28391234-x7z9k", "backup"),
            ("front", "front"),
            ("my-redis", "my-redis"),
            ("a-proxy", "a-proxy"),
        ] {
            assert_eq!(base(name), expected, "{name}");
        }
    }
}
