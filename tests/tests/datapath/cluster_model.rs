//! The small cluster of these tests: three pods, a Service, an uplink.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use netpol_common::ids::IfIndex;
use netpol_common::keys::{AddressKey, EndpointValue};
use netpol_datapath::Program;
use netpol_lab::packets::Frame;
use netpol_policy::compile::{AllowMap, AllowMapKey};

/// The pods' interfaces.
pub(crate) const PODS: [u32; 3] = [100, 101, 102];
/// A device with programs and no endpoint.
pub(crate) const NO_POD: u32 = 103;
/// The uplink.
pub(crate) const UPLINK: u32 = 2;

/// A step of a test.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A frame arrives at a hook.
    See(Seen),
    /// An allow map is swapped, and the epoch bumped.
    SetAllow(AllowMapKey, Arc<AllowMap>),
    /// An endpoint is treated differently, and the epoch bumped.
    SetEndpoint(IfIndex, EndpointValue),
    /// A pod loses an address, and the epoch is bumped.
    RemoveAddress(AddressKey),
}

/// A frame at a hook.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) program: Program,
    pub(crate) ifindex: u32,
    pub(crate) ingress_ifindex: u32,
    pub(crate) mark: u32,
    pub(crate) frame: Frame,
}

/// The pods' addresses end in 1, 2, and 3, the Service's in 9.
pub(crate) fn v4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

/// As [`v4`].
pub(crate) fn v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)
}

/// The addresses that each pod may send from.
pub(crate) fn own_addresses() -> BTreeSet<AddressKey> {
    let of_pod = |(ifindex, last): (u32, u8)| {
        [IpAddr::from(v4(last)), v6(u16::from(last)).into()]
            .map(|addr| AddressKey { ifindex: IfIndex(ifindex), addr: addr.into() })
    };
    PODS.into_iter().zip(1..).flat_map(of_pod).collect()
}
