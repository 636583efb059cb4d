//! Blocking netlink, for the CNI plugin and for attaching programs.
//!
//! In: plain values. Out: plain values, or the error of the kernel. Each request waits for its answer, so there is no state
//! between calls. A socket belongs to the network namespace of the thread that opened it, wherever it is used later.
//!
//! [`Netlink`] reads and changes links, addresses, routes and neighbours; [`TrafficControl`] manages clsact filters;
//! [`ExitGuard`] manages the nftables table of netpol, and [`NfTables`] reads the rules of others. The asynchronous watch of the node's devices is in `netpol-datapath`. Must
//! not: depend on tokio or aya, because the CNI plugin is started once for every pod and must stay small.
#![forbid(unsafe_code)]

mod address;
mod connection;
mod device;
mod exit_guard;
mod link;
mod netlink;
mod nf_tables;
mod nfnetlink;
mod route;
mod traffic_control;

pub use netpol_common::ids::IfIndex;

pub use device::device_name;
pub use exit_guard::{Ensured, ExitGuard, Others, TABLE};
pub use link::{AdminState, Link, LinkKind, VethPair};
pub use netlink::Netlink;
pub use nf_tables::{Bounded, Listed, NfTables};
pub use nfnetlink::{attribute, attributes, number};
pub use route::Route;
pub use traffic_control::{CLSACT, Filter, Position, Side, TrafficControl};
