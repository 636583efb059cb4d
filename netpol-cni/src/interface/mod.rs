//! The pod's interface when netpol-cni is the main plugin: a routed veth pair without a bridge.
//!
//! In: the container's namespace and the result of the IPAM plugin. Out: a veth pair, the pod's addresses and routes
//! in the container, one route per address on the host.
//!
//! Both families are set up alike:
//! * The pod has its addresses as /32 and /128, so every packet leaves through the host and through netpol's hooks.
//! * Its default route has the next hop 169.254.1.1 or `fe80::1`. No device has these addresses: the pod has a
//!   permanent neighbour entry with the hardware address of the host's end, and the host has one for each address of the
//!   pod. So neither side sends ARP or NDP requests. This needs no proxy ARP (which requires a
//!   default route on the host and does not exist for IPv6) and no address of the host on every veth
//!   (which would appear as hundreds of node addresses), and works from the first packet.
//! * The host's end has a fixed hardware address, because udev replaces random ones, which would invalidate the
//!   neighbour entry.
//! * A `gw` in IPAM's routes is ignored, because the host is the only next hop.
//!
//! The host's end stays down until [`connect_host`], so no packet reaches the pod before its policy is in force.

mod host_end;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use netpol_netlink::{AdminState, IfIndex, Link, Netlink, Route, VethPair};
use netpol_proto::{Attachment, ErrorCode};
use serde_json::{Map, Value};

use crate::netns::{self, Netns};
use crate::result::{CniResult, Interface};
use crate::veth::{self, Ends};

pub use host_end::{HostEnd, alias};

/// The pod's IPv4 next hop: link-local (RFC 3927), so that it conflicts with no network.
const NEXT_HOP_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));

/// The pod's IPv6 next hop.
const NEXT_HOP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// Why the interface could not be created, configured or checked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The container already has the interface that the runtime asks for.
    #[error("container already has an interface {ifname}")]
    Exists {
        /// The name.
        ifname: String,
    },
    /// The result of the IPAM plugin has no address.
    #[error("the IPAM plugin returned no address")]
    NoAddress,
    /// A step that the kernel refused.
    #[error("cannot {action} {object}")]
    Kernel {
        /// The attempted action.
        action: &'static str,
        /// Its object.
        object: String,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// A sysctl that cannot be written.
    #[error("cannot write {path}")]
    Sysctl {
        /// The file below `/proc/sys`.
        path: PathBuf,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// CHECK: a part that ADD created is missing.
    #[error("{what} is missing on interface {ifname}")]
    Gone {
        /// The part.
        what: String,
        /// The interface.
        ifname: String,
    },
    /// The container's namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] netns::Error),
    /// The two ends are not a pair.
    #[error(transparent)]
    Veth(#[from] veth::Error),
}

impl Error {
    /// The CNI error code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Exists { .. } | Self::Kernel { .. } | Self::Sysctl { .. } => ErrorCode::KERNEL,
            Self::NoAddress => ErrorCode::PLUGIN,
            Self::Gone { .. } => ErrorCode::CHECK_FAILED,
            Self::Netns(error) => error.code(),
            Self::Veth(error) => error.code(),
        }
    }
}

fn kernel(action: &'static str, object: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let object = object.into();
    move |source| Error::Kernel { action, object, source }
}

/// Both ends of a created pair, with a socket in the container's namespace.
pub struct Pair {
    /// The host's end.
    pub host: Link,
    /// The container's end.
    pub container: Link,
    inside: Netlink,
}

/// Refuses a container that already has the interface. Returns a socket in its namespace.
///
/// # Errors
/// [`Error::Exists`], [`Error::Kernel`], [`Error::Netns`].
pub fn refuse_existing(netns: &Netns, ifname: &str) -> Result<Netlink, Error> {
    let mut inside = open_inside(netns)?;
    match inside.link_by_name(ifname).map_err(kernel("look up interface", ifname))? {
        Some(_) => Err(Error::Exists { ifname: ifname.into() }),
        None => Ok(inside),
    }
}

fn open_inside(netns: &Netns) -> Result<Netlink, Error> {
    netns
        .run(Netlink::open)?
        .map_err(kernel("open a socket in", netns.path().display().to_string()))
}

/// Creates the pair. The container's end is up, the host's end is down.
///
/// # Errors
/// [`Error::Kernel`], [`Error::Netns`], [`Error::Veth`].
pub fn create(
    host: &mut Netlink,
    mut inside: Netlink,
    netns: &Netns,
    end: &HostEnd,
    (ifname, mtu): (&str, Option<u32>),
) -> Result<Pair, Error> {
    let pair = VethPair {
        host_name: &end.name,
        host_mac: end.mac,
        container_name: ifname,
        container_netns: netns.as_raw_fd(),
        mtu,
    };
    host.add_veth(&pair)
        .map_err(kernel("create veth pair", format!("{} and {ifname}", end.name)))?;
    let Ends { host: outside, container } = veth::ends(host, &mut inside, netns, ifname)?;
    host.set_alias(outside.index, &end.alias).map_err(kernel("set alias of", &end.name))?;
    inside.set_up(container.index).map_err(kernel("set up interface", ifname))?;
    Ok(Pair { host: outside, container, inside })
}

/// The pod's addresses.
///
/// # Errors
/// [`Error::NoAddress`].
pub fn addresses(ipam: &CniResult) -> Result<Vec<IpAddr>, Error> {
    let addresses: Vec<_> = ipam.ips.iter().map(|ip| ip.address.ip()).collect();
    if addresses.is_empty() { Err(Error::NoAddress) } else { Ok(addresses) }
}

/// Configures the pod's addresses and routes, and adds both ends to IPAM's result.
///
/// # Errors
/// [`Error::Kernel`], [`Error::Sysctl`], [`Error::Netns`].
pub fn configure_container(
    pair: &mut Pair,
    netns: &Netns,
    ipam: CniResult,
) -> Result<CniResult, Error> {
    let Pair { host, container, inside } = pair;
    let ifname = container.name.as_str();
    if ipam.ips.iter().any(|ip| ip.address.is_ipv6()) {
        let path = format!("/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6");
        netns.run(|| set_sysctl(Path::new(&path), "0"))??;
    }
    for ip in &ipam.ips {
        let address = single(ip.address.ip());
        let failed = kernel("add address to", format!("{ifname}: {address}"));
        inside.add_address(container.index, address).map_err(failed)?;
    }
    for next_hop in next_hops(&ipam) {
        let failed = kernel("set neighbour of", format!("{ifname}: {next_hop}"));
        inside.set_neighbour(container.index, next_hop, &host.mac).map_err(failed)?;
    }
    for route in routes(&ipam, container.index) {
        let failed = kernel("add route to", format!("{ifname}: {}", route.destination));
        inside.add_route(&route).map_err(failed)?;
    }
    Ok(complete(ipam, host, container, netns))
}

/// Connects the host: sets its end up and adds one route per address. The last step of an ADD.
///
/// # Errors
/// [`Error::Kernel`], [`Error::Sysctl`].
pub fn connect_host(host: &mut Netlink, pair: &Pair, addresses: &[IpAddr]) -> Result<(), Error> {
    let Pair { host: Link { index, name, .. }, container, .. } = pair;
    if addresses.iter().any(IpAddr::is_ipv4) {
        set_sysctl(Path::new("/proc/sys/net/ipv4/ip_forward"), "1")?;
    }
    if addresses.iter().any(IpAddr::is_ipv6) {
        set_sysctl(Path::new("/proc/sys/net/ipv6/conf/all/forwarding"), "1")?;
        // So that a pod cannot configure the host by router advertisements.
        set_sysctl(Path::new(&format!("/proc/sys/net/ipv6/conf/{name}/accept_ra")), "0")?;
    }
    host.set_up(*index).map_err(kernel("set up interface", name))?;
    for address in addresses {
        let failed = kernel("set neighbour of", format!("{name}: {address}"));
        host.set_neighbour(*index, *address, &container.mac).map_err(failed)?;
        let route = Route::new(single(*address), *index, None);
        host.add_route(&route).map_err(kernel("add route to", format!("{name}: {address}")))?;
    }
    Ok(())
}

/// Removes the pair by the host's end. A missing pair is no error.
///
/// # Errors
/// [`Error::Kernel`].
pub fn remove(host: &mut Netlink, end: &HostEnd) -> Result<(), Error> {
    let link = host.link_by_name(&end.name).map_err(kernel("look up interface", &end.name))?;
    match link {
        Some(link) => host.delete_link(link.index).map_err(kernel("remove interface", &end.name)),
        None => Ok(()),
    }
}

/// Removes the host's ends of a network that belong to no valid attachment.
///
/// # Errors
/// One for each end that could not be removed.
pub fn remove_others(
    host: &mut Netlink,
    network: &str,
    valid: &[Attachment],
) -> Result<(), Vec<Error>> {
    let keep: Vec<String> =
        valid.iter().map(|attachment| HostEnd::of(network, attachment).name).collect();
    let links = host.links().map_err(|source| vec![kernel("list", "interfaces")(source)])?;
    let alias = alias(network);
    let mut errors = Vec::new();
    for link in links.iter().filter(|link| link.alias == alias && !keep.contains(&link.name)) {
        if let Err(error) =
            host.delete_link(link.index).map_err(kernel("remove interface", &link.name))
        {
            errors.push(error);
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Checks that everything that ADD created still exists, except the routes in the container, because later plugins may
/// change them. Returns the host's end.
///
/// # Errors
/// [`Error::Gone`], [`Error::Veth`], [`Error::Netns`], [`Error::Kernel`].
pub fn check(
    host: &mut Netlink,
    netns: &Netns,
    end: &HostEnd,
    ifname: &str,
    previous: &CniResult,
) -> Result<Link, Error> {
    let mut inside = open_inside(netns)?;
    let Ends { host: outside, container } = veth::ends(host, &mut inside, netns, ifname)?;
    let gone = |what: String, ifname: &str| Error::Gone { what, ifname: ifname.into() };
    if outside.name != end.name {
        return Err(gone(format!("the peer {}", end.name), ifname));
    }
    if outside.state == AdminState::Down {
        return Err(gone("the state up".into(), &end.name));
    }
    let present = inside.addresses().map_err(kernel("list addresses of", ifname))?;
    for address in previous.addresses_of(ifname) {
        if !present.contains(&(container.index, address)) {
            return Err(gone(format!("address {address}"), ifname));
        }
        let route = host.route_to(single(address)).map_err(kernel("list routes of", &end.name))?;
        if route != Some(outside.index) {
            return Err(gone(format!("the route to {address}"), &end.name));
        }
    }
    Ok(outside)
}

/// The next hops of the families of the pod's addresses.
fn next_hops(ipam: &CniResult) -> impl Iterator<Item = IpAddr> {
    let has_v4 = ipam.ips.iter().any(|ip| ip.address.is_ipv4());
    let has_v6 = ipam.ips.iter().any(|ip| ip.address.is_ipv6());
    [(has_v4, NEXT_HOP_V4), (has_v6, NEXT_HOP_V6)]
        .into_iter()
        .filter_map(|(has_family, next_hop)| has_family.then_some(next_hop))
}

/// IPAM's routes of the families of the pod's addresses, and a default route for each family without one.
fn routes(ipam: &CniResult, link: IfIndex) -> Vec<Route> {
    let mut routes = Vec::new();
    for next_hop in next_hops(ipam) {
        let mut has_default = false;
        for route in ipam.routes.iter().filter(|route| route.dst.is_ipv4() == next_hop.is_ipv4()) {
            has_default |= route.dst.prefix() == 0 && route.table.is_none();
            let mtu = route.mtu;
            let (advmss, priority, table) = (route.advmss, route.priority, route.table);
            let destination = route.dst;
            let gateway = Some(next_hop);
            routes.push(Route { destination, link, gateway, mtu, advmss, priority, table });
        }
        if !has_default {
            let unspecified: IpAddr = match next_hop {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            // A prefix of 0 is valid for both families.
            routes.extend(
                IpNetwork::new(unspecified, 0)
                    .map(|destination| Route::new(destination, link, Some(next_hop))),
            );
        }
    }
    routes
}

/// The network that contains only this address.
fn single(address: IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}

/// IPAM's result with both interfaces. All its addresses belong to the container's end.
fn complete(mut ipam: CniResult, host: &Link, container: &Link, netns: &Netns) -> CniResult {
    let interface = |link: &Link, sandbox| Interface {
        name: link.name.clone(),
        mac: Some(link.mac_text()),
        sandbox,
        other: Map::from_iter([(String::from("mtu"), Value::from(link.mtu))]),
    };
    let sandbox = netns.path().display().to_string();
    ipam.interfaces = vec![interface(host, None), interface(container, Some(sandbox))];
    for ip in &mut ipam.ips {
        ip.interface = Some(1);
    }
    ipam
}

/// Writes a sysctl of the calling thread's namespace, unless it has the value already.
fn set_sysctl(path: &Path, value: &str) -> Result<(), Error> {
    let failed = |source| Error::Sysctl { path: path.into(), source };
    let current = std::fs::read_to_string(path).map_err(failed)?;
    if current.trim() == value {
        return Ok(());
    }
    std::fs::write(path, value).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check_routes(ipam: &Value, expected: &[(&str, &str)]) {
        let ipam = CniResult::from_value("test", ipam).unwrap();
        let found: Vec<_> = routes(&ipam, IfIndex(7))
            .iter()
            .map(|route| (route.destination.to_string(), route.gateway.unwrap().to_string()))
            .collect();
        let found: Vec<_> = found.iter().map(|(to, via)| (to.as_str(), via.as_str())).collect();
        assert_eq!(found, expected, "{ipam:?}");
    }

    #[test]
    fn each_family_of_the_pods_addresses_gets_a_default_route() {
        let v4 = json!({ "address": "10.0.0.2/24" });
        let v6 = json!({ "address": "fd00::2/64" });
        let via4 = ("0.0.0.0/0", "169.254.1.1");
        let via6 = ("::/0", "fe80::1");
        check_routes(&json!({ "ips": [v4] }), &[via4]);
        check_routes(&json!({ "ips": [v6] }), &[via6]);
        check_routes(&json!({ "ips": [v6, v4] }), &[via4, via6]);
        check_routes(&json!({ "ips": [v4], "routes": [{ "dst": "::/0" }] }), &[via4]);
    }

    #[test]
    fn routes_of_ipam_are_kept_with_the_host_as_next_hop() {
        let ipam = json!({
            "ips": [{ "address": "10.0.0.2/24" }],
            "routes": [{ "dst": "10.1.0.0/16", "gw": "10.0.0.1" }, { "dst": "0.0.0.0/0" }],
        });
        check_routes(&ipam, &[("10.1.0.0/16", "169.254.1.1"), ("0.0.0.0/0", "169.254.1.1")]);
    }
}
