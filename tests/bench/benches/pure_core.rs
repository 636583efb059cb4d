//! Costs of the pure core, by cluster shape.
//!
//! `cargo bench -p netpol-bench --bench pure_core`. Measures time and allocated memory and asserts nothing. `cargo xtask
//! bench cp` publishes the figures that have gates.
#![forbid(unsafe_code)]

use std::hint::black_box;

use divan::{AllocProfiler, Bencher};
use netpol_bench::scale::{ClusterModel, Follower, Shape, events};
use netpol_policy::compile::{MapState, Numbering, compile};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const SHAPES: [&str; 3] = ["10k/1k/100", "100k/10k/1k", "100k/75k/25k"];

fn main() {
    divan::main();
}

fn shape(name: &str) -> Shape {
    match name {
        "10k/1k/100" => Shape::MEDIUM,
        "100k/10k/1k" => Shape::LARGE,
        _ => Shape::MANY_NAMESPACES,
    }
}

/// From decoded lists to the cluster state.
#[divan::bench(args = SHAPES, sample_count = 7, sample_size = 1)]
fn store(bencher: Bencher<'_, '_>, name: &str) {
    let cluster = ClusterModel::new(&shape(name));
    bencher.with_inputs(|| cluster.clone().into_deltas()).bench_local_values(Follower::read);
}

/// From decoded lists to the map state.
#[divan::bench(args = SHAPES, sample_count = 7, sample_size = 1)]
fn cold(bencher: Bencher<'_, '_>, name: &str) {
    let cluster = ClusterModel::new(&shape(name));
    bencher.with_inputs(|| cluster.clone().into_deltas()).bench_local_values(|deltas| {
        let mut follower = Follower::read(deltas);
        black_box(follower.update());
        follower
    });
}

/// The reference: from the cluster state to the map state, without incremental state.
#[divan::bench(args = &SHAPES[..1], sample_count = 3, sample_size = 1)]
fn reference(bencher: Bencher<'_, '_>, name: &str) {
    let state = ClusterModel::new(&shape(name)).into_state();
    bencher.bench_local(|| compile(&state, &mut Numbering::default(), &MapState::default()));
}

/// From the event of one pod to map operations, for pods anywhere in the cluster.
#[divan::bench(args = SHAPES, sample_count = 2000, sample_size = 1)]
fn pod_event(bencher: Bencher<'_, '_>, name: &str) {
    let shape = shape(name);
    let mut follower = Follower::read(ClusterModel::new(&shape).into_deltas());
    drop(follower.update());
    let mut events = events(&shape);
    bencher.with_inputs(|| events.next()).bench_local_values(|event| {
        event.map(|delta| {
            follower.apply(delta);
            follower.update()
        })
    });
}
