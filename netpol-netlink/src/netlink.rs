//! Links, addresses, routes and neighbours.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netpol_common::ids::IfIndex;
use rustix::io::Errno;

use crate::address;
use crate::connection::Connection;
use crate::link::{Link, LinkKind, VethPair, by_index};
use crate::route::{self, Route};

/// An rtnetlink socket for links, addresses, routes and neighbours.
pub struct Netlink {
    connection: Connection,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn open() -> io::Result<Self> {
        Ok(Self { connection: Connection::open()? })
    }

    /// Finds a link by name.
    ///
    /// # Errors
    /// The error of the kernel, except that a missing link is `None`.
    pub fn link_by_name(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        self.link(message)
    }

    /// Finds a link by index.
    ///
    /// # Errors
    /// The error of the kernel, except that a missing link is `None`.
    pub fn link_by_index(&mut self, index: IfIndex) -> io::Result<Option<Link>> {
        self.link(by_index(index))
    }

    /// The peer of a veth, in whichever namespace it is, with its IPv6 addresses. `None` if there is no such veth.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn peer_of(&mut self, index: IfIndex) -> io::Result<Option<(Link, Vec<Ipv6Addr>)>> {
        let Some(link) = self.link_by_index(index)? else { return Ok(None) };
        let (LinkKind::Veth, Some(peer)) = (link.kind, link.peer_index) else { return Ok(None) };
        let namespace = link.peer_namespace_id;
        let mut message = by_index(peer);
        message.attributes.extend(namespace.map(LinkAttribute::IfNetnsId));
        let Some(link) = self.link(message)? else { return Ok(None) };
        let mut strict = Connection::open()?;
        strict.make_strict()?;
        let answers = strict.request(address::addresses_v6(peer, namespace), NLM_F_DUMP)?;
        let found = answers.into_iter().filter_map(address::from_answer);
        let of_peer = found.filter(|(index, _)| *index == peer).filter_map(|(_, address)| {
            if let IpAddr::V6(address) = address { Some(address) } else { None }
        });
        Ok(Some((link, of_peer.collect())))
    }

    fn link(&mut self, message: LinkMessage) -> io::Result<Option<Link>> {
        match self.connection.request(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(answers) => Ok(answers.into_iter().find_map(Link::from_answer)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists all links of the namespace.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.connection.request(message, NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(Link::from_answer).collect())
    }

    /// Creates a veth pair, with the container's end in the container's namespace from the start. Both ends are down.
    ///
    /// # Errors
    /// `AlreadyExists` if either name is taken; else the error of the kernel.
    pub fn add_veth(&mut self, pair: &VethPair<'_>) -> io::Result<()> {
        self.create(pair.to_message())
    }

    /// Removes a link, and its peer if it is a veth. A missing link is no error.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn delete_link(&mut self, index: IfIndex) -> io::Result<()> {
        let message = RouteNetlinkMessage::DelLink(by_index(index));
        match self.connection.request(message, NLM_F_ACK) {
            Err(error) if is_missing(&error) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Sets the alias of a link. A separate request, because Linux ignores `IFLA_IFALIAS` when a link is created.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn set_alias(&mut self, index: IfIndex, alias: &str) -> io::Result<()> {
        let mut message = by_index(index);
        message.attributes.push(LinkAttribute::IfAlias(alias.into()));
        self.connection.request(RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(drop)
    }

    /// Sets a link administratively up.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn set_up(&mut self, index: IfIndex) -> io::Result<()> {
        let mut message = by_index(index);
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.connection.request(RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(drop)
    }

    /// Adds an address to a link. It is usable at once, without duplicate address detection.
    ///
    /// # Errors
    /// `AlreadyExists` if the link has it; else the error of the kernel.
    pub fn add_address(&mut self, index: IfIndex, address: IpNetwork) -> io::Result<()> {
        self.create(address::address(index, address))
    }

    /// Lists the addresses of all links, each with its link.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn addresses(&mut self) -> io::Result<Vec<(IfIndex, IpAddr)>> {
        let answers = self.connection.request(address::all_addresses(), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(address::from_answer).collect())
    }

    /// Adds a route.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one with that destination and metric; else the error of the kernel.
    pub fn add_route(&mut self, route: &Route) -> io::Result<()> {
        self.create(route.to_message())
    }

    /// The outgoing link of the main table's route to exactly this network.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn route_to(&mut self, destination: IpNetwork) -> io::Result<Option<IfIndex>> {
        let answers = self.connection.request(route::all_routes(destination), NLM_F_DUMP)?;
        Ok(answers.into_iter().find_map(|answer| route::link_of_route(answer, destination)))
    }

    /// Adds or replaces a permanent neighbour.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn set_neighbour(&mut self, index: IfIndex, address: IpAddr, mac: &[u8]) -> io::Result<()> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.connection.request(address::neighbour(index, address, mac), flags).map(drop)
    }

    /// This namespace's id for the namespace that `fd` refers to, as in [`Link::peer_namespace_id`]. `None` if it has none yet:
    /// the kernel assigns one when a link whose peer is there is listed.
    ///
    /// # Errors
    /// The error of the kernel.
    pub fn namespace_id(&mut self, fd: u32) -> io::Result<Option<i32>> {
        let answers = self.connection.request(address::namespace_id(fd), 0)?;
        Ok(answers.into_iter().find_map(address::namespace_id_of))
    }

    fn create(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.connection.request(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }
}

/// Whether the error means that there is no such link.
fn is_missing(error: &io::Error) -> bool {
    [Errno::NODEV, Errno::NXIO].map(Errno::raw_os_error).map(Some).contains(&error.raw_os_error())
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
        let missing = IfIndex(i32::MAX.unsigned_abs());
        assert_eq!(netlink.link_by_name("nonexistent").unwrap(), None);
        assert_eq!(netlink.link_by_index(missing).unwrap(), None);
        netlink.delete_link(missing).ok();
    }
}
