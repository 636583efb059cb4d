//! Pod events of a generated cluster.

use std::sync::Arc;

use fastrand::Rng;
use netpol_lab::generator::Draw as _;
use netpol_policy::model::{Kind, Object, ObjectRef, Pod};
use netpol_policy::store::Delta;

use super::{Shape, addresses, labels, pod};

/// The kinds of pod event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// Its Deployment creates another pod, with a new address and the same labels.
    Begins,
    /// It is deleted.
    Ends,
    /// Its labels change to those of other pods.
    Moves,
    /// Its labels change to new ones.
    Differs,
    /// Nothing relevant changes, as in most updates.
    Stays,
}

impl Event {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Begins, Self::Ends, Self::Moves, Self::Differs, Self::Stays];
}

/// An endless stream of events of random pods, each followed by the event that undoes it.
pub fn events(shape: &Shape) -> impl Iterator<Item = Delta> {
    let shape = *shape;
    let mut rng = Rng::with_seed(3);
    let mut n_born = shape.n_pods;
    std::iter::from_fn(move || {
        let n = rng.usize(..shape.n_pods);
        let kind = rng.one_of(Event::ALL);
        n_born += 1;
        Some(event(&shape, n, n_born, kind))
    })
    .flatten()
}

/// An event of pod number `n`, and the event that undoes it. `n_born` is an unused pod number.
pub fn event(shape: &Shape, n: usize, n_born: usize, kind: Event) -> [Delta; 2] {
    let old = pod(shape, n);
    let relabelled = |pairs: &[(&str, &str)]| Pod { labels: labels(pairs), ..old.clone() };
    let upsert = |pod: &Pod| Delta::Upsert(Object::Pod(pod.clone()));
    let remove = |pod: &Pod| Delta::Remove {
        object: ObjectRef { kind: Kind::Pod, name: pod.name.clone() },
        uid: None,
    };
    let born = || {
        let number = format!("born-{n_born}");
        let mut name = old.name.clone();
        name.name = Arc::from(number.as_str());
        let reported_addresses = addresses(n_born);
        Pod { name, uid: Arc::from(number), reported_addresses, ..old.clone() }
    };
    match kind {
        Event::Begins => [upsert(&born()), remove(&born())],
        Event::Ends => [remove(&old), upsert(&old)],
        Event::Moves => {
            let other = pod(shape, (n + shape.n_namespaces) % shape.n_pods);
            [upsert(&Pod { labels: other.labels, ..old.clone() }), upsert(&old)]
        }
        Event::Differs => {
            let number = n_born.to_string();
            [upsert(&relabelled(&[("tier", "front"), ("number", &number)])), upsert(&old)]
        }
        Event::Stays => [upsert(&Pod { terminating: true, ..old.clone() }), upsert(&old)],
    }
}
