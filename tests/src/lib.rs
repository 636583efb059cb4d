//! Test harness.

pub mod binaries;
pub mod fake_api;
pub mod privilege;
pub mod lab;
pub mod probe;
