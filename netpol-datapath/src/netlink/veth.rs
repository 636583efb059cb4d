//! veth pairs across network namespaces: which device of the node is the other end of a pod's.
//!
//! Blocking, for a thread that goes from namespace to namespace.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use futures::{StreamExt as _, TryStreamExt as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netpol_common::ids::IfIndex;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::{Handle, new_connection};
use tokio::runtime::{Builder, Runtime};

use super::{Error, address_of};

/// A netlink socket. It belongs to the namespace in which its thread was when it was opened.
pub struct VethReader {
    runtime: Runtime,
    handle: Handle,
}

/// One end of a veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethEnd {
    /// Its index in its namespace.
    pub ifindex: IfIndex,
    /// Its name there.
    pub name: String,
    /// The index of the other end, in that one's namespace.
    pub peer: IfIndex,
    /// This namespace's number for the other end's; `None` if it is the same.
    pub peer_namespace: Option<i32>,
    /// The addresses of this end.
    pub addresses: Vec<IpAddr>,
}

impl VethReader {
    /// Opens a socket in the namespace of this thread.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub fn open() -> Result<Self, Error> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Error::Connect)?;
        let (connection, handle, _news) = {
            let _in_runtime = runtime.enter();
            new_connection().map_err(Error::Connect)?
        };
        // It ends with the runtime.
        drop(runtime.spawn(connection));
        Ok(Self { runtime, handle })
    }

    /// The ends of veth pairs in this namespace.
    ///
    /// # Errors
    /// [`Error::List`].
    pub fn ends(&self) -> Result<Vec<VethEnd>, Error> {
        self.runtime.block_on(async {
            let mut by_ifindex = BTreeMap::new();
            let mut links = self.handle.link().get().execute();
            let failed = |source| Error::List { what: "devices", source };
            while let Some(link) = links.try_next().await.map_err(failed)? {
                by_ifindex.extend(end(&link).map(|end| (end.ifindex, end)));
            }
            let mut addresses = self.handle.address().get().execute();
            let failed = |source| Error::List { what: "addresses", source };
            while let Some(message) = addresses.try_next().await.map_err(failed)? {
                if let Some(end) = by_ifindex.get_mut(&IfIndex(message.header.index)) {
                    end.addresses.extend(address_of(&message));
                }
            }
            Ok(by_ifindex.into_values().collect())
        })
    }

    /// This namespace's number for another, as in [`VethEnd::peer_namespace`]; `None` if it has none. Those of veth
    /// pairs have one once [`VethReader::ends`] has listed them.
    pub fn number_of(&mut self, namespace: BorrowedFd<'_>) -> Option<i32> {
        let mut question = NsidMessage::default();
        question.attributes.push(NsidAttribute::Fd(u32::try_from(namespace.as_raw_fd()).ok()?));
        let mut question = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(question));
        question.header.flags = NLM_F_REQUEST;
        let mut answers = self.handle.request(question).ok()?;
        let answer = self.runtime.block_on(answers.next())?;
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(answer)) = answer.payload
        else {
            return None;
        };
        answer.attributes.iter().find_map(|attribute| {
            // The kernel's word for "no number" is -1.
            if let NsidAttribute::Id(id @ 0..) = attribute { Some(*id) } else { None }
        })
    }
}

fn end(link: &LinkMessage) -> Option<VethEnd> {
    if link.header.link_layer_type != LinkLayerType::Ether {
        return None;
    }
    let (mut name, mut peer, mut peer_namespace, mut is_veth) = (None, None, None, false);
    for attribute in &link.attributes {
        if let LinkAttribute::IfName(found) = attribute {
            name = Some(found.clone());
        } else if let LinkAttribute::Link(found) = attribute {
            peer = Some(IfIndex(*found));
        } else if let LinkAttribute::LinkNetNsId(found) = attribute {
            peer_namespace = Some(*found);
        } else if let LinkAttribute::LinkInfo(facts) = attribute {
            is_veth |= facts.iter().any(|fact| matches!(fact, LinkInfo::Kind(InfoKind::Veth)));
        }
    }
    let ifindex = IfIndex(link.header.index);
    is_veth.then_some(VethEnd {
        ifindex,
        name: name?,
        peer: peer?,
        peer_namespace,
        addresses: Vec::new(),
    })
}
