//! The benchmarks work: they run, and their checks pass. Times are ignored.
#![forbid(unsafe_code)]
#![cfg(test)]

use netpol_bench::gates::ROWS;
use netpol_bench::{SUITES, Settings};
use netpol_lab::browser::NEEDS;
use netpol_lab::privilege::{Need, met};

#[track_caller]
fn check(suite: &str) {
    let programs = ["nft", "iptables-restore", "ipset", "conntrack", "iperf3"].map(Need::Program);
    let browser: &[Need] = if suite == "offline" { &NEEDS } else { &[] };
    if !met(&[&[Need::Root], programs.as_slice(), browser].concat()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        is_quick: true,
        n_rounds: Some(1),
        is_load_ignored: true,
        output: Some(folder.path().to_owned()),
        part: None,
        seed: 1,
    };
    let report = netpol_bench::run(suite, settings, "a test").unwrap();
    let rows = ROWS.iter().filter(|row| row.suite == suite);
    let unanswered: Vec<_> =
        rows.filter(|row| report.answer(row.number).is_none()).map(|row| row.number).collect();
    assert!(unanswered.is_empty(), "rows without an answer: {unanswered:?}");
    let page = std::fs::read_to_string(folder.path().join("benchmarks.md")).unwrap();
    for series in &report.series {
        assert!(page.contains(&series.title), "{}", series.title);
    }
    assert!(SUITES.iter().any(|(name, _)| *name == suite));
}

#[test]
fn packets() {
    check("dp");
}

#[test]
fn starting_pods() {
    check("cni");
}

#[test]
fn netpol_on_files() {
    check("offline");
}

#[test]
fn the_agent() {
    check("cp");
}
