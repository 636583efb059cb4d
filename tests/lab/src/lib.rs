//! The harness that the suites and the benchmarks share: clusters, nodes, packets, traffic, oracles.
#![forbid(unsafe_code)]

pub mod binaries;
pub mod browser;
pub mod case;
pub mod cluster;
pub mod container;
pub mod containerd;
pub mod demo;
pub mod deployment;
pub mod fake_api;
pub mod flannel;
pub mod generator;
pub mod law;
pub mod node;
pub mod options;
pub mod oracle;
pub mod oracles;
pub mod packets;
pub mod privilege;
pub mod probe;
pub mod programs;
pub mod repository;
pub mod scenario;
pub mod settings;

pub mod soak;
pub mod tools;
pub mod verified;
pub mod view;
pub mod watched;
pub mod wire;
