//! Whole cases from a seed: clusters, policies, probes and changes that cover the API.
//!
//! In: a seed. Out: [`Case`]s, the same for the same seed. Must not: know what the answer is; that is for judges.

mod blocks;
mod changes;
mod cluster;
pub mod features;
mod policies;
mod ports;
mod probes;
mod rng;
mod selectors;
mod spoil;
mod stored;

use serde_json::Value;

pub use changes::change;
pub use cluster::{Cluster, PodFacts};
pub use policies::policy;
pub use rng::Rng;
pub use stored::stored;

use crate::case::Case;

/// How many probes a case has, at most.
const N_PROBES: usize = 48;

/// The cases of a seed, without end. About a third of them belong to sequences.
pub fn cases(seed: u64) -> impl Iterator<Item = Case> {
    (0_u64..).flat_map(move |part| {
        let mut rng = Rng::part(seed, part);
        if rng.chance(88) {
            vec![single(&mut rng, seed, part)]
        } else {
            sequence(&mut rng, seed, part)
        }
    })
}

/// Only sequences, without end.
pub fn sequences(seed: u64) -> impl Iterator<Item = Vec<Case>> {
    (0_u64..).map(move |part| sequence(&mut Rng::part(!seed, part), seed, part))
}

fn single(rng: &mut Rng, seed: u64, part: u64) -> Case {
    let cluster = Cluster::generate(rng);
    let objects = cluster.objects(rng);
    let probes = probes::probes(rng, &objects, N_PROBES);
    Case { name: format!("seed-{seed}-{part}"), objects, probes, sequence: None }
}

/// One cluster in several states.
fn sequence(rng: &mut Rng, seed: u64, part: u64) -> Vec<Case> {
    let mut cluster = Cluster::generate(rng);
    let n_steps = 3 + rng.below(4);
    let mut cases = Vec::new();
    for step in 0..n_steps {
        if step > 0 {
            for _ in 0..=rng.below(3) {
                change(rng, &mut cluster);
            }
        }
        let objects = cluster.objects(rng);
        let probes = probes::probes(rng, &objects, N_PROBES / 2);
        cases.push(Case {
            name: format!("seed-{seed}-{part}-step-{step}"),
            objects,
            probes,
            sequence: Some(format!("seed-{seed}-{part}")),
        });
    }
    cases
}

/// Sets a field in one of the spellings of "nothing": null, missing, or (for lists) empty.
fn set_nothing(rng: &mut Rng, object: &mut Value, name: &str) {
    match rng.below(4) {
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
