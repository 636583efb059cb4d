//! Parsing: from the bytes of a frame to the facts that a verdict needs.
//!
//! In: a frame through [`PacketBytes`], starting at the Ethernet header. Out: addresses, protocol, ports,
//! fragment and ICMP facts, or a [`DropReason`](crate::reason::DropReason). The walk over IPv6 extension headers is bounded.

mod bytes;
mod claim;
mod frame;
mod headers;
mod hops;
mod link_message;
mod parse;
mod parsed;
mod plain;

pub use bytes::{PacketBytes, pod_mac_offset};
pub use claim::{Claim, claim};
pub use frame::Frame;
pub use hops::{hops_offset, routed_v4};
pub use link_message::is_link_message;
pub use parse::{parse, parse_quoted};
pub use parsed::{
    ARP_SENDER_OFFSET, ETHERNET_LEN, Fragment, MAX_EXTENSION_HEADERS, Packet, Parsed,
};
pub use plain::{Plain, parse_plain};
