//! clsact filters: programs on the `clsact` queueing discipline of a device.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage,
    TcOption,
};
use netpol_common::ids::IfIndex;
use rustix::io::Errno;

use crate::connection::Connection;

/// The kernel's name of the queueing discipline that has filters for both sides.
pub const CLSACT: &str = "clsact";

/// `ETH_P_ALL`: the filter runs for every frame.
const ALL_PROTOCOLS: u16 = 3;

/// The side of a device, from the node's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Packets that the device receives.
    Ingress,
    /// Packets that the device sends.
    Egress,
}

/// The position of a filter among others of its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The filter with the lowest number runs first.
    pub priority: u16,
    /// Number within the priority.
    pub handle: u32,
}

/// An attached filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Its position.
    pub position: Position,
    /// The kernel's id of its program; `None` for a filter without one.
    pub program_id: Option<u32>,
    /// The name that was given to its program with the filter.
    pub name: Option<String>,
}

/// An rtnetlink socket for filters.
pub struct TrafficControl {
    connection: Connection,
}

impl TrafficControl {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn open() -> io::Result<Self> {
        Ok(Self { connection: Connection::open()? })
    }

    /// Adds the `clsact` queueing discipline to a device. A device that is up can lose packets meanwhile.
    ///
    /// # Errors
    /// `AlreadyExists` if the device has it, or `ingress`, which excludes it; else the error of the kernel.
    pub fn add_clsact(&mut self, ifindex: IfIndex) -> io::Result<()> {
        let mut message = message(ifindex, TcHandle::CLSACT)?;
        message.header.handle = TcHandle { major: u16::MAX, minor: 0 };
        message.attributes.push(TcAttribute::Kind(CLSACT.to_owned()));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.connection.request(RouteNetlinkMessage::NewQueueDiscipline(message), flags).map(drop)
    }

    /// Removes the queueing discipline `clsact` with all its filters. A device that is up can lose packets meanwhile.
    ///
    /// # Errors
    /// The error of the kernel, also if there is none.
    pub fn remove_clsact(&mut self, ifindex: IfIndex) -> io::Result<()> {
        let mut message = message(ifindex, TcHandle::CLSACT)?;
        message.header.handle = TcHandle { major: u16::MAX, minor: 0 };
        message.attributes.push(TcAttribute::Kind(CLSACT.to_owned()));
        let request = RouteNetlinkMessage::DelQueueDiscipline(message);
        self.connection.request(request, NLM_F_ACK).map(drop)
    }

    /// The kind of the queueing discipline at the device's ingress: `clsact` or `ingress`. `None` if there is none.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn ingress_kind(&mut self, ifindex: IfIndex) -> io::Result<Option<String>> {
        let question = RouteNetlinkMessage::GetQueueDiscipline(message(ifindex, TcHandle::UNSPEC)?);
        let answers = self.connection.request(question, NLM_F_DUMP)?;
        Ok(answers.into_iter().find_map(|answer| {
            let RouteNetlinkMessage::NewQueueDiscipline(found) = answer else { return None };
            let is_match = u32::try_from(found.header.index) == Ok(ifindex.0)
                && found.header.parent == TcHandle::CLSACT;
            let kind = found.attributes.into_iter().find_map(|attribute| {
                if let TcAttribute::Kind(kind) = attribute { Some(kind) } else { None }
            });
            if is_match { kind } else { None }
        }))
    }

    /// Creates a filter that acts on the program's return value (`direct-action`), or replaces the program of the filter at that
    /// position, in one step.
    ///
    /// # Errors
    /// The error of the kernel, for example if the device has no `clsact`.
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
        self.connection.request(request, NLM_F_ACK | NLM_F_CREATE).map(drop)
    }

    /// Removes a filter.
    ///
    /// # Errors
    /// The error of the kernel, also if there is no such filter.
    pub fn remove_filter(
        &mut self,
        ifindex: IfIndex,
        side: Side,
        position: Position,
    ) -> io::Result<()> {
        let message = filter_message(ifindex, side, position)?;
        self.connection.request(RouteNetlinkMessage::DelTrafficFilter(message), NLM_F_ACK).map(drop)
    }

    /// The filters of one side of a device; empty if the device has no `clsact`.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn filters(&mut self, ifindex: IfIndex, side: Side) -> io::Result<Vec<Filter>> {
        let question = RouteNetlinkMessage::GetTrafficFilter(message(ifindex, parent(side))?);
        let answers = self.connection.request(question, NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(filter).collect())
    }

    /// The filter at this position; `None` if there is none, or no such device. Costs less than [`TrafficControl::filters`].
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn filter(
        &mut self,
        ifindex: IfIndex,
        side: Side,
        position: Position,
    ) -> io::Result<Option<Filter>> {
        let question =
            RouteNetlinkMessage::GetTrafficFilter(filter_message(ifindex, side, position)?);
        // The error for a missing filter differs between kernels and cases.
        let is_absent = |error: &io::Error| {
            let absent = [Errno::NOENT, Errno::INVAL, Errno::NODEV, Errno::OPNOTSUPP];
            absent.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
        };
        match self.connection.request(question, 0) {
            Ok(answers) => Ok(answers.into_iter().find_map(filter)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The filter in an answer. A dump also has one message for each priority, without a filter.
fn filter(answer: RouteNetlinkMessage) -> Option<Filter> {
    let RouteNetlinkMessage::NewTrafficFilter(found) = answer else { return None };
    let [high, low, _, _] = found.header.info.to_be_bytes();
    let priority = u16::from_be_bytes([high, low]);
    let position = Position { priority, handle: found.header.handle.into() };
    let options = found.attributes.iter().find_map(|attribute| {
        if let TcAttribute::Options(options) = attribute { Some(options) } else { None }
    })?;
    let program_id = options.iter().find_map(|option| {
        if let TcOption::Bpf(TcFilterBpfOption::ProgId(id)) = option { Some(*id) } else { None }
    });
    let name = options.iter().find_map(|option| {
        if let TcOption::Bpf(TcFilterBpfOption::ProgName(name)) = option {
            Some(name)
        } else {
            None
        }
    });
    Some(Filter { position, program_id, name: name.cloned() })
}

fn message(ifindex: IfIndex, parent: TcHandle) -> io::Result<TcMessage> {
    let index = i32::try_from(ifindex.0).map_err(io::Error::other)?;
    let header = TcHeader { index, parent, ..TcHeader::default() };
    Ok(TcMessage::from_parts(header, Vec::new()))
}

fn filter_message(ifindex: IfIndex, side: Side, position: Position) -> io::Result<TcMessage> {
    let mut message = message(ifindex, parent(side))?;
    message.header.handle = TcHandle::from(position.handle);
    // The priority is in host byte order, the protocol in network byte order.
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
