//! Tunnels between nodes: a pod that speaks to their ends would lead packets around the policies, its own and those of others.

use crate::addr::Addr;
use crate::ids::{PortBe, Protocol};
use crate::keys::Known;
use crate::maps::TunnelMaps;

/// Whether packets to this port of a host are those of a tunnel between nodes. Protocols without ports have [`PortBe::ZERO`]; so do
/// later fragments, which reach no tunnel without the first one.
///
/// A node also receives what is sent to groups and broadcast addresses.
#[inline(always)]
pub fn is_tunnel<M: TunnelMaps>(maps: &M, remote: &Addr, protocol: Protocol, port: PortBe) -> bool {
    let has_ports = matches!(protocol, Protocol::UDP);
    let can_be =
        matches!(protocol, Protocol::UDP | Protocol::IPIP | Protocol::IPV6 | Protocol::GRE);
    can_be
        && has_ports == (port != PortBe::ZERO)
        && maps.is_tunnel_port(port)
        && (remote.is_for_many() || maps.known(remote) == Known::NODE)
}
