//! The agent and the API server, with each kind of server: one in this process, a real one, or that of `cargo xtask e2e`;
//! see [`netpol_lab::cluster`].
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "shared code of tests fails them"
)]

mod access;
mod lists;
mod manifests;
mod outages;
mod privileged;
mod report;
mod rights;
mod validation;
