//! The rows and cells of the page.
//!
//! In: a matrix. Out: what the page shows of a row, and of the verdicts of a pair. Must not: evaluate policies.

use netpol_policy::model::{Pod, Transport};
use netpol_policy::simulate::PodOrIp;

use super::answers::{RowSummary, VerdictSummary};
use crate::simulate::{Matrix, OfPair, PairVerdict, PortVerdict, Row, verdict};

/// A row of the page.
pub(super) fn summary(matrix: &Matrix, row: &Row) -> RowSummary {
    let state = matrix.cluster().state();
    let names: Vec<&PodOrIp> =
        row.members.iter().filter_map(|member| matrix.peer(*member)).collect();
    let pods: Vec<&Pod> = names.iter().filter_map(|peer| state.pod(peer.pod_name()?)).collect();
    let namespace = names.first().and_then(|peer| Some(peer.pod_name()?.namespace.to_string()));
    let short = match &namespace {
        Some(namespace) => {
            let rest = row.name.strip_prefix(namespace.as_str());
            rest.and_then(|rest| rest.strip_prefix('/')).unwrap_or(&row.name)
        }
        None => &row.name,
    };
    let workloads: Vec<Option<&str>> = pods.iter().map(|pod| workload(pod)).collect();
    let name = match workloads.as_slice() {
        [Some(first), rest @ ..] if rest.iter().all(|other| *other == Some(first)) => *first,
        _ => short,
    };
    let ports =
        matrix.declared(row).into_iter().map(|(transport, port)| format!("{port}/{transport}"));
    RowSummary {
        namespace,
        name: name.to_owned(),
        title: row.name.clone(),
        n_pods: row.members.len(),
        members: names.iter().take(2).map(ToString::to_string).collect(),
        ports: ports.collect(),
    }
}

/// The name of the workload that has created a pod, by the labels that its controller gives to pods.
fn workload(pod: &Pod) -> Option<&str> {
    let label = |wanted: &str| {
        pod.labels.iter().find(|(key, _)| ***key == *wanted).map(|(_, value)| &**value)
    };
    let name: &str = &pod.name.name;
    if let Some(hash) = label("pod-template-hash") {
        let (rest, _) = name.rsplit_once('-')?;
        return rest.strip_suffix(hash)?.strip_suffix('-');
    }
    let is_created = ["controller-revision-hash", "batch.kubernetes.io/job-name", "job-name"]
        .into_iter()
        .any(|wanted| label(wanted).is_some());
    if is_created { name.rsplit_once('-').map(|(name, _)| name) } else { None }
}

/// The verdicts of a pair. Those of all protocols are one if they are equal.
pub(super) fn verdicts(pattern: &OfPair) -> Vec<VerdictSummary> {
    let is_whole = |of: &PortVerdict| of.ports == (1, u16::MAX);
    let whole: Vec<PairVerdict> =
        pattern.iter().filter(|of| is_whole(of)).map(|of| of.verdict).collect();
    if let [first, rest @ ..] = whole.as_slice()
        && whole.len() == Transport::ALL.len()
        && rest.iter().all(|other| other == first)
    {
        return vec![in_words(None, (1, u16::MAX), *first)];
    }
    pattern.iter().map(|of| in_words(Some(of.transport), of.ports, of.verdict)).collect()
}

fn in_words(
    protocol: Option<Transport>,
    (first, last): (u16, u16),
    of: PairVerdict,
) -> VerdictSummary {
    VerdictSummary {
        protocol,
        first,
        last,
        answer: verdict(of.answer),
        before: of.before.filter(|before| *before != of.answer).map(verdict),
        change: of.change(),
        enforced: of.enforced.map(verdict),
    }
}
