//! `decide` in the kernel compared with `decide` on the host: same maps, same packets, same results.

use std::cell::RefCell;
use std::thread;

use netpol_datapath::FlowReads;
use netpol_lab::privilege::{Need, met};
use netpol_lab::settings::n_cases;
use proptest::test_runner::{Config, TestRunner};

use super::fast_slow_equivalence::Equivalence;
use super::strategies::{map_state, steps};

/// Default number of clusters.
const N_CASES: usize = 128;
/// Stack size for the generators, which recurse deeply without optimisation.
const STACK_LEN_BYTES: usize = 1 << 26;

#[test]
fn kernel_and_host_agree_on_random_packets_in_random_clusters() {
    check(FlowReads::LockFree, N_CASES);
}

/// As on processors that reorder loads and stores.
#[test]
fn kernel_and_host_agree_when_readers_of_flows_take_the_lock() {
    check(FlowReads::Locked, N_CASES / 4);
}

fn check(flow_reads: FlowReads, n_cases_by_default: usize) {
    if !met(&[Need::Root]) {
        return;
    }
    let cases = u32::try_from(n_cases(n_cases_by_default)).unwrap();
    let thread = thread::Builder::new().stack_size(STACK_LEN_BYTES).spawn(move || {
        let equivalence = RefCell::new(Equivalence::new(flow_reads));
        let mut runner = TestRunner::new(Config { cases, ..Config::default() });
        let outcome = runner.run(&(map_state(), steps()), |(map_state, steps)| {
            let mut equivalence = equivalence.borrow_mut();
            equivalence.start(&map_state);
            steps.iter().try_for_each(|step| equivalence.step(step))
        });
        outcome.map_err(|error| error.to_string())
    });
    let outcome = thread.unwrap().join().unwrap();
    assert_eq!(outcome, Ok(()));
}
