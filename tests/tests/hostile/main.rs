//! Attacks on a node: raw frames from pods that the real plugins have connected, and hosts outside. One module per topic;
//! `docs/design/security.md` names the test of each threat.
//!
//! The tests need root, `ip`, `nft`, `python3` and Debian's CNI plugins.
#![forbid(unsafe_code)]
#![cfg(test)]

mod attribution;
mod discovery;
mod fixture;
mod mac;
mod sources;
mod tunnels;
mod variants;
