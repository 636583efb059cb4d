//! Classic filters: programs on the `clsact` queueing discipline of a device.
//!
//! In: a device, a side, a program. Out: what the kernel says. Blocking, each request waits for its answer. The socket
//! belongs to the network namespace of the thread that opened it.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage,
    TcOption,
};
use netpol_common::ids::IfIndex;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// What the kernel calls the queueing discipline that has both sides.
pub const CLSACT: &str = "clsact";

/// Room for one datagram of the kernel, in bytes: dumps come in pieces of at most 32 KiB.
const DATAGRAM_BYTES: usize = 64 * 1024;
/// `ETH_P_ALL`: filters see every frame.
const ALL_PROTOCOLS: u16 = 3;

/// The side of a device, as the node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What comes in.
    Ingress,
    /// What goes out.
    Egress,
}

/// Where a filter is among others of its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The lowest is asked first.
    pub priority: u16,
    /// Its number within the priority.
    pub handle: u32,
}

/// A filter that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Where.
    pub position: Position,
    /// The kernel's number of its program; `None` for a filter of another kind.
    pub program_id: Option<u32>,
}

/// An rtnetlink socket for filters.
pub struct TrafficControl {
    socket: Socket,
    sequence: u32,
}

impl TrafficControl {
    /// Opens a socket in the namespace of the calling thread.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Gives a device the `clsact` queueing discipline. A device that is up loses packets meanwhile.
    ///
    /// # Errors
    /// `AlreadyExists` if it has that or `ingress`, which excludes it; else what the kernel says.
    pub fn add_clsact(&mut self, ifindex: IfIndex) -> io::Result<()> {
        let mut message = message(ifindex, TcHandle::CLSACT)?;
        message.header.handle = TcHandle { major: u16::MAX, minor: 0 };
        message.attributes.push(TcAttribute::Kind(CLSACT.to_owned()));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.request(RouteNetlinkMessage::NewQueueDiscipline(message), flags).map(drop)
    }

    /// The kind of the queueing discipline in whose place `clsact` would be.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ingress_kind(&mut self, ifindex: IfIndex) -> io::Result<Option<String>> {
        let question = RouteNetlinkMessage::GetQueueDiscipline(message(ifindex, TcHandle::UNSPEC)?);
        let answers = self.request(question, NLM_F_DUMP)?;
        Ok(answers.into_iter().find_map(|answer| {
            let RouteNetlinkMessage::NewQueueDiscipline(found) = answer else { return None };
            let is_it = u32::try_from(found.header.index) == Ok(ifindex.0)
                && found.header.parent == TcHandle::CLSACT;
            let kind = found.attributes.into_iter().find_map(|attribute| {
                if let TcAttribute::Kind(kind) = attribute { Some(kind) } else { None }
            });
            if is_it { kind } else { None }
        }))
    }

    /// Makes a filter that does what the program says, or gives the one that is there this program, in one step.
    ///
    /// # Errors
    /// What the kernel says, for example that there is no queueing discipline for it.
    pub fn set_filter(
        &mut self,
        ifindex: IfIndex,
        side: Side,
        position: Position,
        (program, name): (BorrowedFd<'_>, &str),
    ) -> io::Result<()> {
        let fd = u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?;
        let mut message = filter_message(ifindex, side, position)?;
        message.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(fd)),
            TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]));
        let request = RouteNetlinkMessage::NewTrafficFilter(message);
        self.request(request, NLM_F_ACK | NLM_F_CREATE).map(drop)
    }

    /// Removes a filter.
    ///
    /// # Errors
    /// What the kernel says, also if there is none.
    pub fn remove_filter(
        &mut self,
        ifindex: IfIndex,
        side: Side,
        position: Position,
    ) -> io::Result<()> {
        let message = filter_message(ifindex, side, position)?;
        self.request(RouteNetlinkMessage::DelTrafficFilter(message), NLM_F_ACK).map(drop)
    }

    /// The filters of one side of a device; none if it has no queueing discipline for them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn filters(&mut self, ifindex: IfIndex, side: Side) -> io::Result<Vec<Filter>> {
        let question = RouteNetlinkMessage::GetTrafficFilter(message(ifindex, parent(side))?);
        let answers = self.request(question, NLM_F_DUMP)?;
        let filter = |answer| {
            let RouteNetlinkMessage::NewTrafficFilter(found) = answer else { return None };
            let [high, low, _, _] = found.header.info.to_be_bytes();
            let priority = u16::from_be_bytes([high, low]);
            let position = Position { priority, handle: found.header.handle.into() };
            // A priority is told once more by itself, without a filter.
            let options = found.attributes.iter().find_map(|attribute| {
                if let TcAttribute::Options(options) = attribute { Some(options) } else { None }
            })?;
            let program_id = options.iter().find_map(|option| {
                if let TcOption::Bpf(TcFilterBpfOption::ProgId(id)) = option {
                    Some(*id)
                } else {
                    None
                }
            });
            Some(Filter { position, program_id })
        };
        Ok(answers.into_iter().filter_map(filter).collect())
    }

    /// Sends one request and collects its answers.
    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
            self.socket.recv(&mut datagram, 0)?;
            if self.read_datagram(&datagram, &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Takes the answers out of one datagram. True once the request is answered in full.
    fn read_datagram(
        &self,
        mut datagram: &[u8],
        answers: &mut Vec<RouteNetlinkMessage>,
    ) -> io::Result<bool> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        while !datagram.is_empty() {
            let message: NetlinkMessage<RouteNetlinkMessage> =
                NetlinkMessage::deserialize(datagram).map_err(invalid)?;
            let len_bytes = usize::try_from(message.header.length).unwrap_or(usize::MAX);
            // Messages start at multiples of four bytes.
            datagram = datagram.get(len_bytes.next_multiple_of(4)..).unwrap_or_default();
            if message.header.sequence_number != self.sequence {
                continue;
            }
            #[expect(
                clippy::wildcard_enum_match_arm,
                reason = "the enum is open, and the rest says nothing"
            )]
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                _ => {}
            }
        }
        Ok(false)
    }
}

fn message(ifindex: IfIndex, parent: TcHandle) -> io::Result<TcMessage> {
    let index = i32::try_from(ifindex.0).map_err(io::Error::other)?;
    let header = TcHeader { index, parent, ..TcHeader::default() };
    Ok(TcMessage::from_parts(header, Vec::new()))
}

fn filter_message(ifindex: IfIndex, side: Side, position: Position) -> io::Result<TcMessage> {
    let mut message = message(ifindex, parent(side))?;
    message.header.handle = TcHandle::from(position.handle);
    // The kernel wants the protocol in network byte order, beside a number in the host's.
    message.header.info = u32::from(position.priority) << 16 | u32::from(ALL_PROTOCOLS.to_be());
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    Ok(message)
}

fn parent(side: Side) -> TcHandle {
    let minor = match side {
        Side::Ingress => TcHandle::MIN_INGRESS,
        Side::Egress => TcHandle::MIN_EGRESS,
    };
    TcHandle { major: u16::MAX, minor }
}
