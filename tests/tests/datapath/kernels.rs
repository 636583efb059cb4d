//! What this kernel can do.

use netpol_datapath::{Config, Datapath, Error};
use netpol_lab::privilege::{Need, met};

/// Debian 11's kernel is one that lacks a feature (`cargo xtask vm 5.10`).
#[test]
fn a_kernel_runs_the_programs_or_is_refused_by_the_name_of_a_feature() {
    if !met(&[Need::Root]) {
        return;
    }
    match Datapath::load(&Config::private()) {
        Ok(_loaded) => {}
        Err(Error::Lacks { feature, release }) => println!("{release} lacks {feature}"),
        Err(error) => panic!("{error}: {error:?}"),
    }
}
