//! Decides whether a policy is in force at all pods that it selects.
//!
//! In: what the API server has, and what agents answer, each at another time. Out: what is missing. Must not: ask anybody, or forget
//! that an answer is about the revision that the agent had then.

use std::collections::{BTreeMap, BTreeSet};

/// A state of the policy's object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Revision {
    pub(super) uid: String,
    pub(super) resource_version: String,
}

/// A selected pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SelectedPod {
    /// `NAMESPACE/NAME`.
    pub(super) name: String,
    pub(super) node: String,
    /// Without an address it has not started: then its containers start in the policies that its node has.
    pub(super) has_address: bool,
}

/// What the API server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) revision: Revision,
    pub(super) pods: Vec<SelectedPod>,
}

/// What an agent answers about the policy.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// The revision that it knows; `None` if it does not know the policy.
    pub(super) revision: Option<Revision>,
    /// Whether everything that it knows is in force.
    pub(super) is_in_force: bool,
    /// The pods whose policies are in force.
    pub(super) ready: BTreeSet<String>,
}

/// A node with selected pods at which the policy may not be in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// The whole node.
    Node(String),
    /// These pods of it.
    Pods(String, Vec<String>),
}

impl Missing {
    pub(super) fn node(&self) -> &str {
        match self {
            Self::Node(node) | Self::Pods(node, _) => node,
        }
    }
}

/// The nodes that have had a revision in force. It stays in force until the agent knows another one.
#[derive(Debug, Default)]
pub(super) struct Progress {
    by_node: BTreeMap<String, (Revision, BTreeSet<String>)>,
}

impl Progress {
    /// Records the answer of a node.
    pub(super) fn record(&mut self, node: &str, answer: Answer) {
        let Answer { revision, is_in_force, ready } = answer;
        if let (Some(revision), true) = (revision, is_in_force) {
            self.by_node.insert(node.to_owned(), (revision, ready));
        }
    }

    /// What is missing. Empty if the wanted revision is in force at all pods, and it was so at some time before `wanted` was read, if
    /// every answer was recorded before.
    pub(super) fn missing(&self, wanted: &Wanted) -> Vec<Missing> {
        let nodes: BTreeSet<_> = wanted.pods.iter().map(|pod| &pod.node).collect();
        let missing = nodes.into_iter().filter_map(|node| {
            let Some((revision, ready)) = self.by_node.get(node) else {
                return Some(Missing::Node(node.clone()));
            };
            if *revision != wanted.revision {
                return Some(Missing::Node(node.clone()));
            }
            let started = wanted.pods.iter().filter(|pod| pod.node == *node && pod.has_address);
            let without = started.filter(|pod| !ready.contains(&pod.name));
            let without: Vec<_> = without.map(|pod| pod.name.clone()).collect();
            (!without.is_empty()).then(|| Missing::Pods(node.clone(), without))
        });
        missing.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interleavings of the model.
    const N_RUNS: u64 = 10_000;

    fn revision(of: u64) -> Revision {
        Revision { uid: "u".to_owned(), resource_version: of.to_string() }
    }

    /// A node: what its agent knows, and what its maps hold.
    #[derive(Debug, Default)]
    struct Node {
        known: u64,
        in_force: u64,
        /// Pods with an endpoint, and whether the maps hold it.
        pods: BTreeMap<String, bool>,
    }

    #[derive(Debug)]
    struct Cluster {
        policy: u64,
        pods: Vec<SelectedPod>,
        nodes: BTreeMap<String, Node>,
        n_pods: usize,
    }

    impl Cluster {
        fn new(random: &mut fastrand::Rng) -> Self {
            let nodes = (0..3).map(|n| (format!("n{n}"), Node::default())).collect();
            let mut cluster = Self { policy: 1, pods: Vec::new(), nodes, n_pods: 0 };
            for _ in 0..random.usize(0..4) {
                cluster.create(random);
                if let Some(pod) = cluster.pods.last_mut() {
                    // It is older than the agent, which has not found its interface.
                    pod.has_address = random.bool();
                }
            }
            cluster
        }

        fn create(&mut self, random: &mut fastrand::Rng) {
            self.n_pods += 1;
            let node = format!("n{}", random.u8(0..3));
            let name = format!("shop/p{}", self.n_pods);
            self.pods.push(SelectedPod { name, node, has_address: false });
        }

        /// One thing happens.
        fn step(&mut self, random: &mut fastrand::Rng) {
            let node = format!("n{}", random.u8(0..3));
            let policy = self.policy;
            let Some(of) = self.nodes.get_mut(&node) else { return };
            match random.u8(0..8) {
                0 if policy < 4 => self.policy += 1,
                1 | 2 => of.known = random.u64(of.known..=policy),
                3 | 4 => {
                    of.in_force = of.known;
                    of.pods.values_mut().for_each(|is_ready| *is_ready = true);
                }
                5 if self.n_pods < 6 => self.create(random),
                6 if !self.pods.is_empty() => {
                    // ADD, or adoption: an endpoint, in the maps with the next update.
                    let at = random.usize(0..self.pods.len());
                    let pod = &self.pods[at];
                    let of = self.nodes.get_mut(&pod.node).unwrap();
                    of.pods.entry(pod.name.clone()).or_insert(false);
                }
                7 if !self.pods.is_empty() => {
                    let at = random.usize(0..self.pods.len());
                    if random.u8(0..4) == 0 {
                        let pod = self.pods.remove(at);
                        self.nodes.get_mut(&pod.node).unwrap().pods.remove(&pod.name);
                    } else if self.is_enforced(&self.pods[at], 0) {
                        self.pods[at].has_address = true;
                    }
                }
                _ => {}
            }
        }

        /// Nothing new happens, and every agent catches up.
        fn catch_up(&mut self) {
            for pod in &self.pods {
                self.nodes.get_mut(&pod.node).unwrap().pods.insert(pod.name.clone(), true);
            }
            for node in self.nodes.values_mut() {
                (node.known, node.in_force) = (self.policy, self.policy);
            }
        }

        fn is_enforced(&self, pod: &SelectedPod, policy: u64) -> bool {
            let node = &self.nodes[&pod.node];
            node.in_force >= policy && node.pods.get(&pod.name) == Some(&true)
        }

        fn answer(&self, node: &str) -> Answer {
            let node = &self.nodes[node];
            let ready = node.pods.iter().filter(|(_, is_ready)| **is_ready);
            Answer {
                revision: (node.known > 0).then(|| revision(node.known)),
                is_in_force: node.known == node.in_force && node.pods.values().all(|ready| *ready),
                ready: ready.map(|(name, _)| name.clone()).collect(),
            }
        }
    }

    /// Runs a waiter whose steps interleave with those of the cluster. Returns whether it ended before the cluster calmed down.
    fn run(seed: u64) -> bool {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut cluster = Cluster::new(&mut random);
        let mut progress = Progress::default();
        let mut rounds_after = 0;
        for round in 0.. {
            let mut others = |cluster: &mut Cluster| {
                if round < 12 {
                    (0..random.u8(0..4)).for_each(|_| cluster.step(&mut random));
                } else {
                    cluster.catch_up();
                }
            };
            let policy = cluster.policy;
            others(&mut cluster);
            let wanted = Wanted { revision: revision(policy), pods: cluster.pods.clone() };
            let missing = progress.missing(&wanted);
            if missing.is_empty() {
                // Never before: at this moment every pod that was read has the policy that was read, or a newer one.
                for pod in wanted.pods.iter().filter(|pod| pod.has_address) {
                    assert!(
                        cluster.is_enforced(pod, policy),
                        "seed {seed}: {pod:?} in {cluster:?}"
                    );
                }
                for pod in &wanted.pods {
                    assert!(
                        cluster.nodes[&pod.node].in_force >= policy,
                        "seed {seed}: {cluster:?}"
                    );
                }
                return round < 12;
            }
            for missing in missing {
                others(&mut cluster);
                let answer = cluster.answer(missing.node());
                others(&mut cluster);
                progress.record(missing.node(), answer);
            }
            rounds_after += usize::from(round >= 12);
            assert!(rounds_after <= 2, "seed {seed}: it does not end: {cluster:?}");
        }
        false
    }

    #[test]
    fn over_ten_thousand_interleavings_it_ends_after_the_last_node_and_never_before() {
        let n_early = (0..N_RUNS).filter(|seed| run(*seed)).count();
        // Otherwise the model would never try the interesting case.
        assert!(n_early > 2_000, "{n_early}");
    }

    #[test]
    fn a_node_that_has_an_older_revision_in_force_is_missing() {
        let mut progress = Progress::default();
        let pod =
            SelectedPod { name: "shop/a".to_owned(), node: "n".to_owned(), has_address: true };
        let wanted = Wanted { revision: revision(2), pods: vec![pod] };
        assert_eq!(progress.missing(&wanted), [Missing::Node("n".to_owned())]);
        let answer = |of, ready: &[&str]| Answer {
            revision: Some(revision(of)),
            is_in_force: true,
            ready: ready.iter().map(|name| (*name).to_owned()).collect(),
        };
        progress.record("n", answer(1, &["shop/a"]));
        assert_eq!(progress.missing(&wanted), [Missing::Node("n".to_owned())]);
        progress.record("n", answer(2, &[]));
        let without = Missing::Pods("n".to_owned(), vec!["shop/a".to_owned()]);
        assert_eq!(progress.missing(&wanted), [without]);
        progress.record("n", answer(2, &["shop/a"]));
        assert_eq!(progress.missing(&wanted), []);
    }
}
