//! Real rules of nft and iptables, read and judged; and bytes that no kernel sends.

use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use netpol_common::ids::IfIndex;
use proptest::collection::vec;
use proptest::prelude::{any, proptest};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, unshare_unsafe};

use super::legacy::{self, Info};
use super::*;

/// Pods on `cni0`, in 10.244.1.0/24 and fd00:10:244:1::/64.
fn traffic() -> PodTraffic {
    let names = |names: &[(u32, &str)]| {
        names.iter().map(|(index, name)| (IfIndex(*index), (*name).to_owned())).collect()
    };
    let networks = ["10.244.1.7", "fd00:10:244:1::7", "fe80::1"];
    PodTraffic {
        bridges: names(&[(5, "cni0")]),
        ports: names(&[(7, "veth12ab"), (8, "veth34cd")]),
        networks: networks.map(|at| Network::around(at.parse::<IpAddr>().unwrap())).into(),
    }
}

proptest! {
    #[test]
    fn no_attributes_make_the_reader_of_rules_panic(bytes in vec(any::<u8>(), 0..300)) {
        drop(nftables::rule(Family::Inet, &bytes));
        drop(nftables::base(&bytes));
        drop(nftables::table(1, &bytes));
        drop(nftables::chain_name(1, &bytes));
    }
}
