//! What the verifier says.

use netpol_agent::ebpf::{Config, Datapath, Program, Trace};
use netpol_tests::privilege::{Need, met};

/// Half of what the kernel allows: other kernels walk further.
const MAX_VERIFIED: u32 = 500_000;

fn check(trace: Trace) {
    if !met(&[Need::Root]) {
        return;
    }
    let mut datapath = Datapath::load(&Config { trace, ..Config::private() }).unwrap();
    let verified = datapath.verified().unwrap();
    assert_eq!(verified.len(), Program::ALL.len());
    for verified in verified {
        println!("{verified:?}");
        assert!(verified.n_verified.unwrap_or(0) < MAX_VERIFIED, "{verified:?}");
    }
}

#[test]
fn all_programs_pass_the_verifier() {
    check(Trace::Off);
}

#[test]
fn all_programs_pass_the_verifier_with_tracing() {
    check(Trace::On);
}
