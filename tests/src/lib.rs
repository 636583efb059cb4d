//! Test harness.

pub mod fake_api;
