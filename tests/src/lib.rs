//! Test harness.

pub mod binaries;
pub mod case;
pub mod demo;
pub mod fake_api;
pub mod generator;
pub mod lab;
pub mod oracle;
pub mod packets;
pub mod panel;
pub mod privilege;
pub mod probe;
pub mod scenario;
pub mod settings;
pub mod shrink;
pub mod verified;
pub mod wire;
