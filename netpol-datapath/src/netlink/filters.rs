//! Notifications about clsact filters and queueing disciplines, because others can remove ours.
//!
//! In: the kernel's notifications (`RTNLGRP_TC`). Out: the devices. Only the device is read from a message, so that messages
//! about any kind of queueing discipline are understood.

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket};
use netpol_common::ids::IfIndex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Error;

/// The multicast group of queueing disciplines, filters and chains (`RTNLGRP_TC`).
const GROUP: u32 = 4;
/// The types of messages that begin with a `tcmsg`: disciplines, classes and filters, and chains.
const TYPES: [std::ops::RangeInclusive<u16>; 2] = [36..=47, 100..=102];
/// Messages start at multiples of this many bytes (`NLMSG_ALIGNTO`).
const ALIGNMENT_BYTES: usize = 4;
/// Position of `tcm_ifindex`, behind the netlink header.
const IFINDEX_OFFSET: usize = 16 + 4;

/// A change of filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterChange {
    /// On this device.
    Of(IfIndex),
    /// Notifications have been lost, so it may be any device.
    Any,
}

/// Sends the device of every change of filters, until `cancel` is cancelled or the receiver is dropped.
///
/// # Errors
/// [`Error::Connect`], [`Error::Notifications`].
pub async fn watch_filters(
    out: mpsc::Sender<FilterChange>,
    cancel: CancellationToken,
) -> Result<(), Error> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(Error::Connect)?;
    socket.socket_mut().bind_auto().map_err(Error::Connect)?;
    socket.socket_mut().add_membership(GROUP).map_err(Error::Connect)?;
    loop {
        let received = cancel.run_until_cancelled(socket.recv_from_full()).await;
        let changes = match received {
            None => return Ok(()),
            Some(Ok((datagram, _kernel))) => devices(&datagram),
            Some(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                vec![FilterChange::Any]
            }
            Some(Err(error)) => return Err(Error::Notifications(error)),
        };
        for change in changes {
            if out.send(change).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// The devices of the messages in a datagram.
fn devices(mut datagram: &[u8]) -> Vec<FilterChange> {
    let mut changes = Vec::new();
    while let Some((len, [_, _, _, _, t0, t1])) = datagram.first_chunk().zip(datagram.first_chunk())
    {
        let len_bytes = usize::try_from(u32::from_ne_bytes(*len)).unwrap_or(usize::MAX);
        let kind = u16::from_ne_bytes([*t0, *t1]);
        if TYPES.iter().any(|types| types.contains(&kind)) {
            let ifindex = datagram.get(IFINDEX_OFFSET..).and_then(<[u8]>::first_chunk);
            let ifindex = ifindex.map(|bytes| i32::from_ne_bytes(*bytes));
            // A block that several devices share has a negative number.
            changes.push(match ifindex.and_then(|ifindex| u32::try_from(ifindex).ok()) {
                Some(ifindex) => FilterChange::Of(IfIndex(ifindex)),
                None => FilterChange::Any,
            });
        }
        let next = len_bytes.checked_next_multiple_of(ALIGNMENT_BYTES).unwrap_or(usize::MAX);
        // A length of zero would never end.
        datagram = datagram.get(next.max(ALIGNMENT_BYTES)..).unwrap_or_default();
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, ifindex: i32, len_attributes: usize) -> Vec<u8> {
        let len = u32::try_from(36 + len_attributes).unwrap();
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(IFINDEX_OFFSET, 0);
        bytes.extend(ifindex.to_ne_bytes());
        bytes.resize((36 + len_attributes).next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_device_of_every_message_about_filters_is_read() {
        let datagram =
            [message(37, 7, 5), message(16, 8, 0), message(45, 9, 0), message(45, -1, 2)].concat();
        let expected =
            [FilterChange::Of(IfIndex(7)), FilterChange::Of(IfIndex(9)), FilterChange::Any];
        assert_eq!(devices(&datagram), expected);
    }

    #[test]
    fn a_truncated_or_empty_message_ends() {
        assert_eq!(devices(&message(37, 7, 0)[..18]), [FilterChange::Any]);
        assert_eq!(devices(&[0; 64]), []);
        assert_eq!(devices(&[]), []);
    }
}
