//! What this kernel can do.

use netpol_datapath::{Config, Datapath, Error, Feature};
use netpol_lab::privilege::{Need, met};

/// Debian 11's kernel (`cargo xtask vm 5.10`) is the newest that lacks a feature.
#[test]
fn a_kernel_runs_the_programs_or_is_refused_by_the_name_of_a_feature() {
    if !met(&[Need::Root]) {
        return;
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let missing = release.starts_with("5.10.").then_some(Feature::MemoryArguments);
    match Datapath::load(&Config::private()) {
        Ok(_loaded) => assert_eq!(missing, None),
        Err(Error::Lacks { feature, release: _ }) => assert_eq!(missing, Some(feature)),
        Err(error) => panic!("{error}: {error:?}"),
    }
}
