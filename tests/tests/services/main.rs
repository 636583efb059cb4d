//! Services, the node, spoofing, and live connections, with real traffic, real CNI plugins, the real agent, and real NAT rules.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "all of it is test, also outside functions marked so"
)]

mod cluster;
mod cluster_ip;
mod exits;
mod flood;
mod live;
mod node;
mod own_node;
mod pushed;
mod sizes;
mod spoof;
mod told;
