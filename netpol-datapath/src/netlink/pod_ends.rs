//! Changes of the pods' ends of veth pairs, which are in other network namespaces.

use futures::StreamExt as _;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;
use netpol_common::ids::IfIndex;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::sys::AsyncSocket as _;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Error;

/// Sends the index of a device of the node whenever its veth peer in another namespace has changed, until `cancel` is cancelled or
/// the receiver is dropped. The message of the kernel is not trusted, because a pod can make devices with any index for a peer: the
/// receiver reads the peer again, from the node's side.
///
/// # Errors
/// [`Error::Connect`].
pub async fn watch_pod_ends(
    out: mpsc::Sender<IfIndex>,
    cancel: CancellationToken,
) -> Result<(), Error> {
    let (mut connection, _handle, mut news) =
        new_multicast_connection(&[MulticastGroup::Link]).map_err(Error::Connect)?;
    // The kernel reports the namespaces that have an id here: those with peers of the node's devices.
    let socket = connection.socket_mut().socket_mut();
    socket.set_listen_all_namespaces(true).map_err(Error::Connect)?;
    let connection = tokio::spawn(connection);
    while let Some(Some((message, _))) = cancel.run_until_cancelled(news.next()).await {
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = message.payload
        else {
            continue;
        };
        let peer = link.attributes.iter().find_map(|attribute| {
            if let LinkAttribute::Link(peer) = attribute { Some(IfIndex(*peer)) } else { None }
        });
        if let Some(peer) = peer
            && out.send(peer).await.is_err()
        {
            break;
        }
    }
    connection.abort();
    Ok(())
}
