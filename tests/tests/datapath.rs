//! The programs in the kernel, packet by packet (`BPF_PROG_TEST_RUN`).

use netpol_agent::ebpf::{Config, Datapath};
use netpol_tests::privilege::{Need, met};

#[test]
fn all_programs_pass_the_verifier() {
    if !met(&[Need::Root]) {
        return;
    }
    let mut datapath = Datapath::load(&Config::private()).unwrap();
    for verified in datapath.verified().unwrap() {
        println!("{verified:?}");
    }
}
