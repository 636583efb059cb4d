//! A frame that can be parsed.

use super::bytes::PacketBytes;
use super::link_message::is_link_message;
use super::parse::{parse, parse_quoted};
use super::parsed::{Packet, Parsed};
use crate::ids::{Direction, Protocol};

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

    /// [`is_link_message()`].
    #[inline(always)]
    fn is_link_message(&self, direction: Direction, packet: &Packet) -> bool {
        is_link_message(self, direction, packet)
    }
}

impl Frame for [u8] {}
