//! A short soak; `cargo xtask soak` runs a long one.
#![forbid(unsafe_code)]

use anyhow::Result;
use netpol_lab::privilege::{Need, met};
use netpol_lab::soak::{self, Options};

#[test]
fn transient_pods_leak_nothing_and_every_verdict_is_right() -> Result<()> {
    let bridge = Need::File { path: "/usr/lib/cni/bridge", from: "containernetworking-plugins" };
    if !met(&[Need::Root, Need::Program("ip"), bridge]) {
        return Ok(());
    }
    let report = soak::run(&Options {
        seconds: 6,
        pods_per_second: 100,
        n_endpoints: 40,
        outage_seconds: 1,
    })?;
    println!("{}", report.text());
    Ok(())
}
