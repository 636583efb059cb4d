//! One request and its answers over a blocking rtnetlink socket.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Size of the receive buffer in bytes. The kernel splits a dump into datagrams of at most 32 KiB.
const DATAGRAM_LEN_BYTES: usize = 64 * 1024;

/// Messages start at multiples of this many bytes (`NLMSG_ALIGNTO`).
const ALIGNMENT_BYTES: usize = 4;

/// An rtnetlink socket.
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
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Lets the kernel refuse what it does not understand in a dump request, instead of ignoring it: only then it reads the
    /// addresses of another namespace (Linux 4.20).
    ///
    /// # Errors
    /// The error of the kernel.
    pub(crate) fn make_strict(&mut self) -> io::Result<()> {
        self.socket.set_netlink_get_strict_chk(true)
    }

    /// Sends one request and collects its answers. `flags` are added to `NLM_F_REQUEST`.
    ///
    /// # Errors
    /// The error of the kernel; `InvalidData` if an answer cannot be decoded.
    pub(crate) fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let mut datagram = Vec::with_capacity(DATAGRAM_LEN_BYTES);
            self.socket.recv(&mut datagram, 0)?;
            if self.read_datagram(&datagram, flags, &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Decodes the answers in one datagram. True once the request is answered in full.
    fn read_datagram(
        &self,
        mut datagram: &[u8],
        flags: u16,
        answers: &mut Vec<RouteNetlinkMessage>,
    ) -> io::Result<bool> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        while !datagram.is_empty() {
            let message: NetlinkMessage<RouteNetlinkMessage> =
                NetlinkMessage::deserialize(datagram).map_err(invalid)?;
            let len_bytes = usize::try_from(message.header.length).unwrap_or(usize::MAX);
            let next = len_bytes.checked_next_multiple_of(ALIGNMENT_BYTES).unwrap_or(usize::MAX);
            datagram = datagram.get(next..).unwrap_or_default();
            // An answer to an earlier request that failed halfway.
            if message.header.sequence_number != self.sequence {
                continue;
            }
            #[expect(
                clippy::wildcard_enum_match_arm,
                reason = "the enum is non-exhaustive, and other payloads carry no answer"
            )]
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                _ => {}
            }
            // A request with neither flag has exactly one answer.
            if flags & (NLM_F_ACK | NLM_F_DUMP) == 0 && !answers.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
