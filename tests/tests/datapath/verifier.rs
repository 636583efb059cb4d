//! The verifier's results.

use netpol_datapath::{Adaptation, Arguments, Clock, Config, Datapath, FlowReads, Program, Trace};
use netpol_lab::privilege::{Need, met};
use netpol_lab::verified::{MAX_VERIFIED, committed, measure};

#[test]
fn programs_cost_the_verifier_what_the_table_says() {
    if !met(&[Need::Root]) {
        return;
    }
    let measured = measure().unwrap();
    assert_eq!(measured.by_program.len(), Program::ALL.len());
    // `cargo xtask vm` looks for these lines.
    for line in measured.to_text().lines() {
        println!("verified.txt: {line}");
    }
    let excesses = measured.compare(&committed().unwrap()).excesses;
    assert!(excesses.is_empty(), "cargo xtask verify --update, if that is intended: {excesses:#?}");
}

#[test]
fn all_programs_pass_the_verifier_with_tracing() {
    check_limit(&Config { trace: Trace::On, ..Config::private() });
}

#[test]
fn all_programs_pass_the_verifier_when_readers_of_flows_take_the_lock() {
    check_limit(&Config { flow_reads: FlowReads::Locked, ..Config::private() });
}

#[test]
fn all_programs_pass_the_verifier_with_the_precise_clock_and_without_the_kernels_btf() {
    // Debian 12's verifier walks static functions for minutes, and its kernel has BTF.
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let arguments = if release.starts_with("6.1.") { Arguments::All } else { Arguments::NoContext };
    let adaptation = Adaptation { clock: Clock::Precise, arguments };
    check_limit(&Config { adaptation: Some(adaptation), ..Config::private() });
}

fn check_limit(config: &Config) {
    if !met(&[Need::Root]) {
        return;
    }
    for verified in Datapath::load(config).unwrap().verified().unwrap() {
        assert!(verified.n_verified.unwrap_or(0) < MAX_VERIFIED, "{verified:?}");
    }
}
