//! The agent's edge to the API server, against every server that there is: the one in this process, a real one, or that of
//! `cargo xtask e2e`. See [`netpol_lab::cluster`] for which it is.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what several tests do fails them"
)]

mod access;
mod lists;
mod manifests;
mod outages;
mod privileged;
mod report;
mod rights;
mod validation;
