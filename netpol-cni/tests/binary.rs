//! The binary: environment and standard streams. Its behaviour is tested in `netpol-tests`, with real plugins.
//!
//! Because this is a test of the package, cargo builds the binary whenever it builds the tests.
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
