//! nfnetlink: encoding and decoding `nf_tables` messages, and batches that the kernel applies as a whole.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// Number of the `nf_tables` subsystem (`NFNL_SUBSYS_NFTABLES`).
const NFTABLES: u8 = 10;
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// Types and flags of netlink messages.
const NLMSG_ERROR: u16 = 2;
/// The rules have changed during the dump: it may have gaps (`NLM_F_DUMP_INTR`).
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
/// Marks an attribute that contains attributes (`NLA_F_NESTED`).
const NESTED: u16 = 0x8000;
/// Length of a netlink header, and of it with the header of nfnetlink.
const HEADER_LEN: usize = 16;
const HEADERS_LEN: usize = 20;
/// Messages and attributes start at multiples of this many bytes.
const ALIGNMENT: usize = 4;
/// Size of the receive buffer. The kernel splits a dump into datagrams of at most 32 KiB.
const DATAGRAM_LEN: usize = 64 * 1024;

/// Attributes that are being written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// Adds an attribute.
    #[must_use]
    pub(crate) fn bytes(self, kind: u16, value: &[u8]) -> Self {
        self.add(kind, value)
    }

    /// Adds a text, which ends with a zero byte.
    #[must_use]
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.add(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds a number, in network byte order.
    #[must_use]
    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.add(kind, &value.to_be_bytes())
    }

    /// Adds an attribute that contains attributes.
    #[must_use]
    pub(crate) fn nested(self, kind: u16, value: &Self) -> Self {
        self.add(kind | NESTED, &value.0)
    }

    fn add(mut self, kind: u16, value: &[u8]) -> Self {
        // All attributes of this crate are shorter than 64 KiB.
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
        self
    }
}

/// The attributes in bytes, by kind.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1] = *bytes.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & !NESTED, value))
    })
}

/// The value of an attribute.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// The value of an attribute that is a number.
pub fn number(bytes: &[u8], kind: u16) -> Option<u32> {
    attribute(bytes, kind)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// A message of `nf_tables`.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// Its type within the subsystem.
    pub(crate) kind: u8,
    /// Flags besides `NLM_F_REQUEST`.
    pub(crate) flags: u16,
    /// Address family.
    pub(crate) family: u8,
    pub(crate) attributes: Attributes,
}

/// An nfnetlink socket.
pub(crate) struct Connection {
    socket: Socket,
    sequence: u32,
}

impl Connection {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The error of the kernel.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Applies all messages, or none of them.
    ///
    /// # Errors
    /// The error of the kernel about one of them.
    pub(crate) fn batch(&mut self, messages: &[Message]) -> io::Result<()> {
        let first = self.next();
        let mut bytes = encode(BATCH_BEGIN, 0, first, [0, 0, 0, NFTABLES], &[]);
        for (at, message) in messages.iter().enumerate() {
            // The kernel reports errors for each message, and success if asked.
            let ack = if at + 1 == messages.len() { NLM_F_ACK } else { 0 };
            let sequence = self.next();
            bytes.extend(self::message(message, ack, sequence));
        }
        let last = self.sequence;
        let end = self.next();
        bytes.extend(encode(BATCH_END, 0, end, [0, 0, 0, NFTABLES], &[]));
        self.socket.send(&bytes, 0)?;
        loop {
            let mut datagram = Vec::with_capacity(DATAGRAM_LEN);
            self.socket.recv(&mut datagram, 0)?;
            for answer in answers(&datagram) {
                if !(first..=end).contains(&answer.sequence) {
                    continue;
                }
                match answer.error() {
                    Some(0) if answer.sequence == last => return Ok(()),
                    Some(0) | None => {}
                    Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
                }
            }
        }
    }

    /// Sends a question, and returns the attributes of its answers.
    ///
    /// # Errors
    /// The error of the kernel.
    pub(crate) fn ask(&mut self, question: &Message) -> io::Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        self.ask_each(question, |_, attributes| found.push(attributes.to_vec()))?;
        Ok(found)
    }

    /// Sends a question, and calls `each` with the family and the attributes of each answer.
    ///
    /// # Errors
    /// The error of the kernel.
    pub(crate) fn ask_each(
        &mut self,
        question: &Message,
        mut each: impl FnMut(u8, &[u8]),
    ) -> io::Result<Listing> {
        let sequence = self.next();
        self.socket.send(&message(question, 0, sequence), 0)?;
        let mut listing = Listing::Whole;
        let mut datagram = Vec::with_capacity(DATAGRAM_LEN);
        loop {
            datagram.clear();
            self.socket.recv(&mut datagram, 0)?;
            let mut n_found = 0_usize;
            for answer in answers(&datagram).filter(|answer| answer.sequence == sequence) {
                if answer.flags & NLM_F_DUMP_INTR != 0 {
                    listing = Listing::Interrupted;
                }
                match (answer.kind, answer.error()) {
                    (NLMSG_DONE, _) | (_, Some(0)) => return Ok(listing),
                    (_, Some(errno)) => return Err(io::Error::from_raw_os_error(errno)),
                    (_, None) => {
                        n_found += 1;
                        let family = answer.body.first().copied().unwrap_or_default();
                        each(family, answer.body.get(4..).unwrap_or_default());
                    }
                }
            }
            if question.flags & NLM_F_DUMP == 0 && n_found > 0 {
                return Ok(listing);
            }
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

/// Whether a list has gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listing {
    /// It is whole.
    Whole,
    /// Others have changed rules meanwhile.
    Interrupted,
}

/// A message of the kernel.
#[derive(Debug)]
struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    /// Without the netlink header.
    body: &'a [u8],
}

impl Answer<'_> {
    /// The error number of an acknowledgement, 0 for success. `None` for other messages.
    fn error(&self) -> Option<i32> {
        let code = self.body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        (self.kind == NLMSG_ERROR).then_some(code.saturating_neg())
    }
}

fn answers(mut datagram: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] =
            *datagram.first_chunk::<HEADER_LEN>()?;
        let len = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let body = datagram.get(HEADER_LEN..len)?;
        datagram = datagram.get(len.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(Answer {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            body,
        })
    })
}

fn message(message: &Message, flags: u16, sequence: u32) -> Vec<u8> {
    let Message { kind, flags: own, family, attributes } = message;
    let kind = u16::from_be_bytes([NFTABLES, *kind]);
    encode(kind, own | flags, sequence, [*family, 0, 0, 0], &attributes.0)
}

/// `nfgenmsg` has the family, the version 0, and a number in network byte order.
fn encode(kind: u16, flags: u16, sequence: u32, nfgenmsg: [u8; 4], attributes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADERS_LEN + attributes.len()).unwrap_or(u32::MAX);
    let mut bytes = len.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(nfgenmsg);
    bytes.extend(attributes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let inner = Attributes::default().number(1, 0x0102_0304);
        let written = Attributes::default().text(3, "abc").nested(4, &inner).bytes(5, &[9]);
        let read: Vec<_> =
            attributes(&written.0).map(|(kind, value)| (kind, value.len())).collect();
        assert_eq!(read, [(3, 4), (4, 8), (5, 1)]);
        assert_eq!(number(attribute(&written.0, 4).unwrap(), 1), Some(0x0102_0304));
        assert_eq!(attribute(&written.0, 6), None);
        assert_eq!(attributes(&[1, 0, 0, 0, 0]).count(), 0, "shorter than its header");
    }

    #[test]
    fn an_acknowledgement_has_an_error_number_and_other_messages_have_none() {
        let error = encode(NLMSG_ERROR, 0, 7, (-2_i32).to_ne_bytes(), &[]);
        let other = encode(0x0a00, 0, 8, [0; 4], &[]);
        let read: Vec<_> = answers(&[error, other].concat())
            .map(|answer| (answer.sequence, answer.error()))
            .collect();
        assert_eq!(read, [(7, Some(2)), (8, None)]);
    }
}
