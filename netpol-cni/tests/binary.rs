//! The binary itself: process in, process out. What it does is tested in `netpol-tests`, against real plugins.
//!
//! As a test of this package it also makes cargo build the binary whenever the tests are built.
#![forbid(unsafe_code)]

use std::process::{Command, Stdio};

#[test]
fn environment_and_standard_streams_reach_the_library() {
    let run = |command: &str| {
        Command::new(env!("CARGO_BIN_EXE_netpol-cni"))
            .env("CNI_COMMAND", command)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    let version = run("VERSION");
    assert!(version.status.success());
    assert!(
        String::from_utf8(version.stdout).unwrap().contains("\"supportedVersions\":[\"0.3.0\"")
    );
    let unknown = run("EAT");
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8(unknown.stdout).unwrap().contains("\"code\":4"));
}
