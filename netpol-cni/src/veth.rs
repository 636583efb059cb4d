//! Finding the host's end of a container's interface.
//!
//! In: the container's namespace, the interface's name there, the previous result. Out: the veth in the host's
//! namespace that is its peer. The kernel decides: the container's end has the peer's index,
//! the peer has the index of the container's end, and the namespace ids match. The previous result is used only if the
//! namespace cannot be entered, and only if it names exactly one veth of the host.

use std::io;
use std::path::PathBuf;

use netpol_netlink::{Link, LinkKind, Netlink};
use netpol_proto::ErrorCode;

use crate::netns::{self, Netns};
use crate::result::CniResult;

/// Why the host's end was not found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The container has no such interface.
    #[error("container has no interface {ifname} in {netns}")]
    NoInterface {
        /// The name.
        ifname: String,
        /// The container's namespace.
        netns: PathBuf,
    },
    /// The interface is of a kind without a host's end: ipvlan, macvlan, a moved device.
    #[error(
        "interface {ifname} of the container is of kind {kind}: policies can be enforced on veth only"
    )]
    NotVeth {
        /// The name.
        ifname: String,
        /// The kernel's name of its kind.
        kind: String,
    },
    /// Its peer is in a third namespace.
    #[error("the peer of interface {ifname} in {netns} is not in the host's network namespace")]
    Elsewhere {
        /// The name.
        ifname: String,
        /// The container's namespace.
        netns: PathBuf,
    },
    /// The namespace cannot be entered, and the previous result does not name exactly one veth of the host.
    #[error("prevResult names {n_candidates} veth interfaces of the host instead of one")]
    Ambiguous {
        /// Number of veth interfaces.
        n_candidates: usize,
        /// Why the namespace could not be entered.
        #[source]
        source: netns::Error,
    },
    /// The namespace is gone.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The kernel refused to list interfaces.
    #[error("cannot list interfaces")]
    Netlink(#[source] io::Error),
}

impl Error {
    /// The CNI error code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NoInterface { .. } | Self::NotVeth { .. } | Self::Elsewhere { .. } => {
                ErrorCode::ENFORCEMENT
            }
            Self::Ambiguous { .. } => ErrorCode::ENFORCEMENT,
            Self::Netns(error) => error.code(),
            Self::Netlink(_) => ErrorCode::KERNEL,
        }
    }
}

/// Finds the host's end of the container's interface `ifname`.
///
/// # Errors
/// All variants of [`Error`].
pub fn host_side(
    host: &mut Netlink,
    netns: &Netns,
    ifname: &str,
    previous: &CniResult,
) -> Result<Link, Error> {
    match netns.run(Netlink::open) {
        Ok(container) => {
            let mut container = container.map_err(Error::Netlink)?;
            Ok(ends(host, &mut container, netns, ifname)?.host)
        }
        Err(source) => named(host, previous, source),
    }
}

/// Both ends of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The host's.
    pub host: Link,
    /// The container's.
    pub container: Link,
}

/// Asks the kernel for the container's interface and its peer.
///
/// # Errors
/// All variants of [`Error`] but `Ambiguous`.
pub fn ends(
    host: &mut Netlink,
    container: &mut Netlink,
    netns: &Netns,
    ifname: &str,
) -> Result<Ends, Error> {
    let inside = container.link_by_name(ifname).map_err(Error::Netlink)?;
    let inside = inside
        .ok_or_else(|| Error::NoInterface { ifname: ifname.into(), netns: netns.path().into() })?;
    if let LinkKind::Other(kind) = &inside.kind {
        return Err(Error::NotVeth { ifname: ifname.into(), kind: kind.clone() });
    }
    let elsewhere = || Error::Elsewhere { ifname: ifname.into(), netns: netns.path().into() };
    let fd = u32::try_from(netns.as_raw_fd()).map_err(|_negative| elsewhere())?;
    let peer_index = inside.peer_index.ok_or_else(elsewhere)?;
    let outside = host.link_by_index(peer_index).map_err(Error::Netlink)?.ok_or_else(elsewhere)?;
    let id = host.namespace_id(fd).map_err(Error::Netlink)?;
    // Every namespace has the same small indexes, so the peer must point back and the namespace ids must match.
    let is_peer = outside.kind == LinkKind::Veth
        && outside.peer_index == Some(inside.index)
        && id.is_some()
        && outside.peer_namespace_id == id;
    if is_peer { Ok(Ends { host: outside, container: inside }) } else { Err(elsewhere()) }
}

/// The one veth of the host that the previous result names.
fn named(host: &mut Netlink, previous: &CniResult, source: netns::Error) -> Result<Link, Error> {
    let mut candidates = Vec::new();
    for interface in previous.interfaces.iter().filter(|interface| !interface.is_in_container()) {
        let link = host.link_by_name(&interface.name).map_err(Error::Netlink)?;
        candidates.extend(link.filter(|link| link.kind == LinkKind::Veth));
    }
    let n_candidates = candidates.len();
    match candidates.pop() {
        Some(link) if n_candidates == 1 => Ok(link),
        _ => Err(Error::Ambiguous { n_candidates, source }),
    }
}
