//! The rows and columns of a matrix: pods that are alike are one row.

use std::collections::BTreeMap;
use std::sync::Arc;

use netpol_policy::model::{Labels, Pod, Selector};
use netpol_policy::simulate::{PodOrIp, Reachability};
use netpol_policy::store::ClusterState;

/// Labels that controllers give to single pods or revisions.
const GENERATED_LABELS: [&str; 8] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/job-name",
    "batch.kubernetes.io/controller-uid",
];

/// The pods that the matrix contains.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// Namespaces; all if empty.
    pub(super) namespaces: Vec<String>,
    /// Selector of their labels.
    pub(super) selector: Option<Selector>,
}

impl Filter {
    /// Whether a pod of one of these clusters is included.
    pub(super) fn includes(&self, peer: &PodOrIp, states: &[Option<&ClusterState>]) -> bool {
        let Some(name) = peer.pod_name() else { return true };
        let is_in = |wanted: &String| *wanted == *name.namespace;
        let is_selected = |selector: &Selector| {
            let pods = states.iter().flatten().filter_map(|state| state.pod(name));
            pods.into_iter().any(|pod| selector.matches(&pod.labels))
        };
        (self.namespaces.is_empty() || self.namespaces.iter().any(is_in))
            && self.selector.as_ref().is_none_or(is_selected)
    }
}

/// A row or column: one address, one pod, or pods with the same labels and the same verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Name, with the number of pods if there are several.
    pub(crate) name: String,
    /// Positions of the peers; never empty.
    pub(crate) members: Vec<usize>,
}

/// What the pods of one row have in common in one cluster.
type Likeness = Option<(Arc<str>, Labels, usize, usize)>;

/// Divides the peers into rows. With several clusters, the pods of one row are alike in each.
pub(super) fn rows(peers: &[PodOrIp], clusters: &[&Reachability]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut known: BTreeMap<Vec<Likeness>, usize> = BTreeMap::new();
    for (index, peer) in peers.iter().enumerate() {
        let alike: Vec<Likeness> =
            clusters.iter().map(|cluster| likeness(cluster, index, peer)).collect();
        let is_pod = alike.iter().any(Option::is_some);
        let row = known.get(&alike).filter(|_| is_pod);
        if let Some(row) = row.and_then(|row| rows.get_mut(*row)) {
            row.members.push(index);
        } else {
            known.insert(alike, rows.len());
            rows.push(Row { name: peer.to_string(), members: vec![index] });
        }
    }
    for row in &mut rows {
        if let [first, _, ..] = *row.members.as_slice() {
            let names = row.members.iter().filter_map(|member| peers.get(*member));
            let first = peers.get(first).map(ToString::to_string).unwrap_or_default();
            row.name = common_name(&first, names, row.members.len());
        }
    }
    rows
}

/// `None` for an address, and for a pod that does not exist in the cluster or is alone.
fn likeness(cluster: &Reachability, index: usize, peer: &PodOrIp) -> Likeness {
    let pod = cluster.state().pod(peer.pod_name()?)?;
    let group = cluster.group(index)?;
    let is_chosen = |(key, _): &(&Arc<str>, &Arc<str>)| {
        !GENERATED_LABELS.contains(&&***key) && &***key != "controller-uid" && &***key != "job-name"
    };
    let labels = pod.labels.iter().filter(is_chosen);
    let labels = labels.map(|(key, value)| (Arc::clone(key), Arc::clone(value))).collect();
    Some((Arc::clone(&pod.name.namespace), labels, ports(pod), group))
}

/// The memory address of the pod's ports, which is the same for equal ports.
fn ports(pod: &Pod) -> usize {
    pod.ports.as_ptr().addr()
}

/// The common beginning of the names up to a hyphen, with the number of pods.
fn common_name<'a>(first: &str, names: impl Iterator<Item = &'a PodOrIp>, n_pods: usize) -> String {
    let common = names.fold(first.to_owned(), |common, name| {
        let name = name.to_string();
        let n_equal =
            common.bytes().zip(name.bytes()).take_while(|(one, other)| one == other).count();
        common.get(..n_equal).map(ToOwned::to_owned).unwrap_or_default()
    });
    match common.rfind('-').and_then(|end| common.get(..=end)) {
        Some(prefix) => format!("{prefix}* ({n_pods})"),
        None => format!("{first} ({n_pods})"),
    }
}
