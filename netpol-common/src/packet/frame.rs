//! A frame that can be parsed.

use super::bytes::PacketBytes;
use super::parse::{parse, parse_quoted};
use super::parsed::{Packet, Parsed};
use crate::ids::Protocol;

/// A frame, and the functions that parse it. The kernel programs replace these by global functions, because the verifier walks
/// a global function only once.
pub trait Frame: PacketBytes {
    /// [`parse()`].
    #[inline(always)]
    fn parse(&self, packet: &mut Packet) -> Parsed {
        parse(self, packet)
    }

    /// [`parse_quoted`].
    #[inline(always)]
    fn parse_quoted(&self, protocol: Protocol, start: u32, quoted: &mut Packet) -> Parsed {
        parse_quoted(self, protocol, start, quoted)
    }
}

impl Frame for [u8] {}
