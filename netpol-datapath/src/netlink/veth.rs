//! veth pairs across network namespaces: which device of the node is the host's end of a pod's veth pair.
//!
//! Blocking, for a thread that moves from namespace to namespace.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netpol_common::ids::IfIndex;
use netpol_netlink::{Link, LinkKind, Netlink};

use super::Error;

/// A netlink socket of the namespace in which its thread was when it was opened.
pub struct VethReader {
    netlink: Netlink,
}

/// One end of a veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethEnd {
    /// Its index in its namespace.
    pub ifindex: IfIndex,
    /// Its name there.
    pub name: String,
    /// The index of its peer, in the peer's namespace.
    pub peer: IfIndex,
    /// This namespace's id for the peer's namespace; `None` if both ends are in the same one.
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
        Ok(Self { netlink: Netlink::open().map_err(Error::Connect)? })
    }

    /// The ends of veth pairs in this namespace, by index.
    ///
    /// # Errors
    /// [`Error::ListVeths`].
    pub fn ends(&mut self) -> Result<Vec<VethEnd>, Error> {
        let links = self.netlink.links().map_err(Error::ListVeths)?.into_iter();
        let mut by_ifindex: BTreeMap<_, _> =
            links.filter_map(end).map(|end| (end.ifindex, end)).collect();
        for (ifindex, address) in self.netlink.addresses().map_err(Error::ListVeths)? {
            if let Some(end) = by_ifindex.get_mut(&ifindex) {
                end.addresses.push(address);
            }
        }
        Ok(by_ifindex.into_values().collect())
    }

    /// This namespace's id for another, as in [`VethEnd::peer_namespace`]; `None` if it has none. Namespaces of veth
    /// pairs have one once [`VethReader::ends`] has listed the pairs.
    pub fn number_of(&mut self, namespace: BorrowedFd<'_>) -> Option<i32> {
        let fd = u32::try_from(namespace.as_raw_fd()).ok()?;
        self.netlink.namespace_id(fd).ok()?
    }
}

fn end(link: Link) -> Option<VethEnd> {
    (link.kind == LinkKind::Veth).then_some(VethEnd {
        ifindex: link.index,
        name: link.name,
        peer: link.peer_index?,
        peer_namespace: link.peer_namespace_id,
        addresses: Vec::new(),
    })
}
