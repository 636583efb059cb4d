//! A frame that can be parsed.

use super::bytes::PacketBytes;
use super::parse::{parse, parse_quoted};
use super::parsed::{Packet, Parsed};
use crate::ids::Protocol;

/// A frame, and the functions that parse it. The kernel programs replace these by global functions, because the verifier walks
/// a global function only once.
pub trait Frame: PacketBytes {
    /// Reads the frame: [`parse`], which the kernel programs call as a function that is verified by itself.
    #[inline(always)]
    fn parse(&self, packet: &mut Packet) -> Parsed {
        parse(self, packet)
    }

    /// Reads what an ICMP error quotes: [`parse_quoted`], likewise.
    #[inline(always)]
    fn parse_quoted(&self, protocol: Protocol, start: u32, quoted: &mut Packet) -> Parsed {
        parse_quoted(self, protocol, start, quoted)
    }
}

impl Frame for [u8] {}
