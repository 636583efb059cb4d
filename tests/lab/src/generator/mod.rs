//! Random cases: clusters, policies, probes, and changes that cover the API.
//!
//! In: a seed. Out: [`Case`]s, as proptest strategies that shrink. Must not: compute verdicts, which is the oracles' task.

mod blocks;
mod changes;
mod cluster;
mod cluster_policies;
mod draw;
pub mod features;
mod policies;
mod ports;
mod probes;
mod selectors;
mod smaller;
mod spoil;
mod stored;

use fastrand::Rng;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;

pub use changes::change;
pub use cluster::{Cluster, PodFacts};
pub use draw::Draw;
pub use policies::policy;
pub use stored::stored;

use crate::case::Case;

/// Maximum number of probes of a case.
const N_PROBES: usize = 48;

/// Clusters: most in one state, some in several.
pub fn clusters() -> impl Strategy<Value = Vec<Case>> {
    clusters_of(Cluster::generate)
}

/// The same with policies of all tiers.
pub fn clusters_with_tiers() -> impl Strategy<Value = Vec<Case>> {
    clusters_of(Cluster::generate_with_tiers)
}

/// Clusters in several states.
pub fn sequences() -> impl Strategy<Value = Vec<Case>> {
    from_rng(|rng, name| sequence(rng, name, Cluster::generate))
}

/// The same with policies of all tiers.
pub fn sequences_with_tiers() -> impl Strategy<Value = Vec<Case>> {
    from_rng(|rng, name| sequence(rng, name, Cluster::generate_with_tiers))
}

fn clusters_of(generate: fn(&mut Rng) -> Cluster) -> impl Strategy<Value = Vec<Case>> {
    from_rng(move |rng, name| {
        if rng.chance(88) {
            vec![single(rng, name, generate)]
        } else {
            sequence(rng, name, generate)
        }
    })
}

/// An endless, reproducible stream of cases. About a third of them belong to sequences.
pub fn cases(seed: u64) -> impl Iterator<Item = Case> {
    cases_of(clusters(), seed)
}

/// The same with policies of all tiers.
pub fn cases_with_tiers(seed: u64) -> impl Iterator<Item = Case> {
    cases_of(clusters_with_tiers(), seed)
}

fn cases_of(clusters: impl Strategy<Value = Vec<Case>>, seed: u64) -> impl Iterator<Item = Case> {
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), test_rng(seed));
    // These strategies reject nothing, so every call yields a value.
    std::iter::from_fn(move || clusters.new_tree(&mut runner).ok().map(|tree| tree.current()))
        .flatten()
}

/// Proptest's random number generator, seeded.
pub fn test_rng(seed: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

/// The strategy of a function that generates cases from random numbers and a name, which contains the seed. Its values
/// shrink by losing parts.
fn from_rng(generate: impl Fn(&mut Rng, &str) -> Vec<Case>) -> impl Strategy<Value = Vec<Case>> {
    let generate = move |seed| generate(&mut Rng::with_seed(seed), &format!("seed-{seed}"));
    any::<u64>().no_shrink().prop_map(generate).prop_flat_map(smaller::smaller)
}

fn single(rng: &mut Rng, name: &str, generate: fn(&mut Rng) -> Cluster) -> Case {
    let cluster = generate(rng);
    let objects = cluster.objects(rng);
    let probes = probes::probes(rng, &objects, N_PROBES);
    Case { name: name.to_owned(), objects, probes, sequence: None }
}

fn sequence(rng: &mut Rng, name: &str, generate: fn(&mut Rng) -> Cluster) -> Vec<Case> {
    let mut cluster = generate(rng);
    let n_steps = 3 + rng.usize(..4);
    let mut cases = Vec::new();
    for step in 0..n_steps {
        if step > 0 {
            for _ in 0..=rng.usize(..3) {
                change(rng, &mut cluster);
            }
        }
        let objects = cluster.objects(rng);
        let probes = probes::probes(rng, &objects, N_PROBES / 2);
        cases.push(Case {
            name: format!("{name}-step-{step}"),
            objects,
            probes,
            sequence: Some(name.to_owned()),
        });
    }
    cases
}

/// Sets a field to one of the spellings of "nothing": null, missing, or an empty list.
fn set_nothing(rng: &mut Rng, object: &mut Value, name: &str) {
    match rng.usize(..4) {
        0 => set(object, name, Value::Null),
        1 => set(object, name, Value::Array(Vec::new())),
        _ => {}
    }
}

/// Sets a field of a JSON object.
fn set(object: &mut Value, name: &str, value: Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert(name.to_owned(), value);
    }
}
