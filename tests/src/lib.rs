//! Test harness.

pub mod case;
pub mod fake_api;
pub mod generator;
pub mod oracle;
pub mod panel;
pub mod settings;
pub mod shrink;
