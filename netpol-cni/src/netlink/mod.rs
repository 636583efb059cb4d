//! The kernel's links, addresses, routes and neighbours, over one blocking rtnetlink socket.
//!
//! In: plain values. Out: plain values, or what the kernel refused. Each request waits for its answer, so
//! there is no state between calls. The socket belongs to the namespace of the thread that opened it.

mod request;

use std::io;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::nsid::NsidAttribute;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

pub use request::{Route, VethPair};

/// Room for one datagram of the kernel, in bytes: dumps come in pieces of at most 32 KiB.
const DATAGRAM_BYTES: usize = 64 * 1024;

/// An rtnetlink socket.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name in its namespace.
    pub name: String,
    /// Hardware address; empty if it has none.
    pub mac: Vec<u8>,
    /// In bytes.
    pub mtu: u32,
    /// Is it one end of a veth pair?
    pub kind: LinkKind,
    /// Administratively up?
    pub state: AdminState,
    /// Of a veth: the index of its peer, in the peer's namespace.
    pub peer_index: Option<u32>,
    /// Of a veth: this namespace's number for the peer's. None if the peer is in the same one.
    pub peer_namespace_id: Option<i32>,
    /// What whoever made it has noted; empty if nothing.
    pub alias: String,
}

/// The only distinction of kinds that matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// One end of a veth pair.
    Veth,
    /// Anything else, with the kernel's word for it.
    Other(String),
}

/// What the administrator wants of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminState {
    /// Passes packets.
    Up,
    /// Does not.
    Down,
}

impl Link {
    /// The hardware address as text.
    pub fn mac_text(&self) -> String {
        self.mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
    }

    fn from_message(message: LinkMessage) -> Self {
        let up = message.header.flags.contains(LinkFlags::Up);
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: Vec::new(),
            mtu: 0,
            kind: LinkKind::Other("physical".into()),
            state: if up { AdminState::Up } else { AdminState::Down },
            peer_index: None,
            peer_namespace_id: None,
            alias: String::new(),
        };
        for attribute in message.attributes {
            #[expect(clippy::wildcard_enum_match_arm, reason = "links have dozens of attributes")]
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::IfAlias(alias) => link.alias = alias,
                LinkAttribute::Link(index) => link.peer_index = Some(index),
                LinkAttribute::LinkNetNsId(id) => link.peer_namespace_id = Some(id),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        if let LinkInfo::Kind(kind) = info {
                            link.kind = match kind {
                                InfoKind::Veth => LinkKind::Veth,
                                other => LinkKind::Other(other.to_string()),
                            };
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }
}

impl Netlink {
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

    /// Finds a link by name.
    ///
    /// # Errors
    /// What the kernel says, but for a missing link.
    pub fn link_by_name(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        self.link(message)
    }

    /// Finds a link by index.
    ///
    /// # Errors
    /// What the kernel says, but for a missing link.
    pub fn link_by_index(&mut self, index: u32) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.link(message)
    }

    fn link(&mut self, message: LinkMessage) -> io::Result<Option<Link>> {
        match self.request(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(answers) => Ok(links(answers).next()),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links of the namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        Ok(links(self.request(message, NLM_F_DUMP)?).collect())
    }

    /// Makes a veth pair, with the peer in the container's namespace from the first moment. Both ends are down.
    ///
    /// # Errors
    /// `AlreadyExists` if either name is taken; else what the kernel says.
    pub fn add_veth(&mut self, pair: &VethPair<'_>) -> io::Result<()> {
        self.create(pair.to_message())
    }

    /// Removes a link, with its peer if it is a veth. A link that is gone is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn delete_link(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.request(RouteNetlinkMessage::DelLink(message), NLM_F_ACK) {
            Err(error) if is_missing(&error) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Notes something at a link. Not possible while it is made: Linux ignores `IFLA_IFALIAS` there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_alias(&mut self, index: u32, alias: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::IfAlias(alias.into()));
        self.request(RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(drop)
    }

    /// Sets a link administratively up.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(drop)
    }

    /// Gives a link an address that is usable at once (no duplicate address detection).
    ///
    /// # Errors
    /// `AlreadyExists` if it has it; else what the kernel says.
    pub fn add_address(&mut self, index: u32, address: IpNetwork) -> io::Result<()> {
        self.create(request::address(index, address))
    }

    /// All addresses of a link.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn addresses(&mut self, index: u32) -> io::Result<Vec<IpAddr>> {
        let answers = self.request(request::all_addresses(), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(|answer| request::address_of(answer, index)).collect())
    }

    /// Adds a route.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one of that destination and metric; else what the kernel says.
    pub fn add_route(&mut self, route: &Route) -> io::Result<()> {
        self.create(route.to_message())
    }

    /// The link that the main table's route to exactly this network leads to.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn route_to(&mut self, destination: IpNetwork) -> io::Result<Option<u32>> {
        let answers = self.request(request::all_routes(destination), NLM_F_DUMP)?;
        Ok(answers.into_iter().find_map(|answer| request::link_of_route(answer, destination)))
    }

    /// Says once and for all which hardware address a neighbour has.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_neighbour(&mut self, index: u32, address: IpAddr, mac: &[u8]) -> io::Result<()> {
        let flags =
            NLM_F_ACK | netlink_packet_core::NLM_F_CREATE | netlink_packet_core::NLM_F_REPLACE;
        self.request(request::neighbour(index, address, mac), flags).map(drop)
    }

    /// This namespace's number for another, as in [`Link::peer_namespace_id`]. None if it has none yet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn namespace_id(&mut self, fd: u32) -> io::Result<Option<i32>> {
        let answers = self.request(request::namespace_id(fd), 0)?;
        Ok(answers.into_iter().find_map(|answer| {
            let RouteNetlinkMessage::NewNsId(message) = answer else { return None };
            message.attributes.iter().find_map(|attribute| {
                // The kernel's word for "no number" is -1.
                if let NsidAttribute::Id(id @ 0..) = attribute { Some(*id) } else { None }
            })
        }))
    }

    fn create(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        let flags = NLM_F_ACK | netlink_packet_core::NLM_F_CREATE | netlink_packet_core::NLM_F_EXCL;
        self.request(message, flags).map(drop)
    }

    /// Sends one request and collects its answers.
    fn request(
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
            let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
            self.socket.recv(&mut datagram, 0)?;
            if self.read_datagram(&datagram, flags, &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Takes the answers out of one datagram. True once the request is answered in full.
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
            // Without ACK and dump there is exactly one answer.
            if flags & (NLM_F_ACK | NLM_F_DUMP) == 0 && !answers.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn links(answers: Vec<RouteNetlinkMessage>) -> impl Iterator<Item = Link> {
    answers.into_iter().filter_map(|answer| {
        let RouteNetlinkMessage::NewLink(message) = answer else { return None };
        Some(Link::from_message(message))
    })
}

/// Does the error mean that there is no such link?
fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
        || error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_by_name_and_index_and_is_no_veth() {
        let mut netlink = Netlink::open().unwrap();
        let lo = netlink.link_by_name("lo").unwrap().unwrap();
        assert_eq!(netlink.link_by_index(lo.index).unwrap().as_ref(), Some(&lo));
        assert!(netlink.links().unwrap().contains(&lo));
        assert!(matches!(lo.kind, LinkKind::Other(_)));
        assert_eq!(lo.mac_text(), "00:00:00:00:00:00");
    }

    #[test]
    fn a_link_that_is_not_there_is_none_and_can_be_deleted() {
        let mut netlink = Netlink::open().unwrap();
        assert_eq!(netlink.link_by_name("nonexistent").unwrap(), None);
        assert_eq!(netlink.link_by_index(i32::MAX.unsigned_abs()).unwrap(), None);
        netlink.delete_link(i32::MAX.unsigned_abs()).ok();
    }
}
