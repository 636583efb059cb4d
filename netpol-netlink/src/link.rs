//! Links: decoding them, and the messages that create and change them.

use std::os::fd::RawFd;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netpol_common::ids::IfIndex;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: IfIndex,
    /// Its name in its namespace.
    pub name: String,
    /// Hardware address; empty if it has none.
    pub mac: Vec<u8>,
    /// In bytes.
    pub mtu: u32,
    /// Whether it is one end of a veth pair.
    pub kind: LinkKind,
    /// Whether it is administratively up.
    pub state: AdminState,
    /// For a veth: the index of its peer, in the peer's namespace.
    pub peer_index: Option<IfIndex>,
    /// For a veth: this namespace's id for the peer's namespace. `None` if both ends are in the same namespace.
    pub peer_namespace_id: Option<i32>,
    /// The alias (`ip link set alias`); empty if there is none.
    pub alias: String,
    /// The bridge, or other device, of which it is a port.
    pub bridge: Option<IfIndex>,
}

/// The kind of a link. Only veth matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// One end of a veth pair.
    Veth,
    /// Any other kind, by the kernel's name; `physical` if it has none.
    Other(String),
}

/// The administrative state of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminState {
    /// It passes packets.
    Up,
    /// It does not.
    Down,
}

impl Link {
    /// The hardware address as text.
    pub fn mac_text(&self) -> String {
        self.mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
    }

    /// The link in an answer; `None` for other messages.
    pub(crate) fn from_answer(answer: RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewLink(message) = answer else { return None };
        let up = message.header.flags.contains(LinkFlags::Up);
        let mut link = Self {
            index: IfIndex(message.header.index),
            name: String::new(),
            mac: Vec::new(),
            mtu: 0,
            kind: LinkKind::Other("physical".into()),
            state: if up { AdminState::Up } else { AdminState::Down },
            peer_index: None,
            peer_namespace_id: None,
            alias: String::new(),
            bridge: None,
        };
        for attribute in message.attributes {
            #[expect(clippy::wildcard_enum_match_arm, reason = "links have dozens of attributes")]
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::IfAlias(alias) => link.alias = alias,
                LinkAttribute::Controller(index) => link.bridge = Some(IfIndex(index)),
                LinkAttribute::Link(index) => link.peer_index = Some(IfIndex(index)),
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
        Some(link)
    }
}

/// A veth pair to be created.
#[derive(Clone, Copy, Debug)]
pub struct VethPair<'a> {
    /// Name of the end in this namespace.
    pub host_name: &'a str,
    /// Hardware address of that end. It is set explicitly, because udev replaces random ones.
    pub host_mac: [u8; 6],
    /// Name of the end in the container.
    pub container_name: &'a str,
    /// The container's namespace.
    pub container_netns: RawFd,
    /// MTU of both ends in bytes. `None`: the kernel's default.
    pub mtu: Option<u32>,
}

impl VethPair<'_> {
    /// The message that creates the pair.
    pub(crate) fn to_message(self) -> RouteNetlinkMessage {
        let Self { host_name, host_mac, container_name, container_netns, mtu } = self;
        let mut peer = LinkMessage::default();
        peer.attributes.push(LinkAttribute::IfName(container_name.into()));
        peer.attributes.push(LinkAttribute::NetNsFd(container_netns));
        peer.attributes.extend(mtu.map(LinkAttribute::Mtu));
        let mut host = LinkMessage::default();
        host.attributes.push(LinkAttribute::IfName(host_name.into()));
        host.attributes.push(LinkAttribute::Address(host_mac.into()));
        host.attributes.extend(mtu.map(LinkAttribute::Mtu));
        host.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        RouteNetlinkMessage::NewLink(host)
    }
}

/// The link with this index, for a request about it.
pub(crate) fn by_index(index: IfIndex) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index.0;
    message
}
