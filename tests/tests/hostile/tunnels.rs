//! Tunnels between nodes: no pod reaches their ends, whether or not it is isolated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netpol_lab::node::netns::Netns;
use netpol_lab::node::second_node::{ADDRESSES, POD, SecondNode};
use netpol_lab::node::topology::{NODE, OFFICE, Wiring};
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Host, Lab, Masquerade, PodSpec, Service, Shape, labels};
use netpol_lab::packets::{Ends, Packet, Segment};
use serde_json::json;

use crate::fixture::{
    Variant, addresses, apply_policy, can_run, ethernet, mac, pod, pod_mac, record_at, send,
    send_last_to, unrouted, with_checksum,
};

const VXLAN: u16 = 8472;
const GRE: u8 = 47;
const IPIP: u8 = 4;
const IPV6: u8 = 41;

#[test]
pub(super) fn no_pod_reaches_a_tunnel_of_a_node_isolated_or_not() {
    if !can_run() {
        return;
    }
    let variant = Variant::current();
    let mut lab = Lab::create(&variant.name("hostile-tunnel"), Wiring::Bridge).unwrap();
    lab.set_options(variant.options());
    lab.apply_namespace("default", &labels(&[])).unwrap();
    lab.set_bridge(variant.bridge()).ok();
    let far = lab.add_second_node("default/far", &labels(&[("app", "far")])).unwrap();
    // As Flannel makes a second device for IPv6.
    let ([_, own], [_, other]) = (NODE, ADDRESSES);
    for (netns, local, remote) in
        [(lab.netns(&Host::Node).unwrap(), own, other), (&far.netns, other, own)]
    {
        netns.configure(&format!(
            "link add flannel-v6.1 type vxlan id 1 dev eth0 local {local} remote {remote} dstport {VXLAN} nolearning\n\
             link set flannel-v6.1 up\n"
        )).unwrap();
    }
    lab.start_agent().unwrap();
    for name in ["evil", "target"] {
        lab.add_pod(PodSpec::new(&format!("default/{name}"), &[("app", name)], &[80])).unwrap();
    }
    // A Service without selector leads to the other node's tunnel.
    let backends = ADDRESSES.map(|address| SocketAddr::new(address, VXLAN)).into();
    let service = Service::new("tunnel", 9, backends);
    lab.apply_services(Shape::Nftables, Masquerade::All, &[service]).unwrap();
    until("the Service", LIMIT, || {
        let status = lab.agent_config().ask(&["status"])?;
        let is_known = status.contains("Service: 1, synced");
        Ok(if is_known { Look::Done(()) } else { Look::NotYet(status) })
    })
    .unwrap();
    check(&lab, &far);
    let outside = json!({
        "podSelector": { "matchLabels": { "app": "evil" } },
        "policyTypes": ["Ingress", "Egress"],
        "egress": [{ "to": [
            { "ipBlock": { "cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"] } },
            { "ipBlock": { "cidr": "::/0", "except": ["fd00::/8"] } },
        ] }],
    });
    apply_policy(&lab, "outside", &outside).unwrap();
    check(&lab, &far);
    let drops = lab.agent_config().ask(&["drops", "--output", "json"]).unwrap();
    assert!(drops.contains("\"reason\":\"tunnel\""), "{drops}");
}

/// A tunnelled frame, and the name of where it goes.
struct Tunnelled {
    to: &'static str,
    outer: Vec<u8>,
    inner: Vec<u8>,
}

fn check(lab: &Lab, far: &SecondNode) {
    let node = lab.netns(&Host::Node).unwrap();
    let target = lab.netns(&pod("target")).unwrap();
    let to_target = addresses(lab, "target").0;
    let cases = own_node(lab, Ends::V4(v4(POD[0]), to_target));
    let mut open = arrived(lab, target, &cases, || send_last_to(node, to_target.into()));
    let cases = other_node(lab, far, Ends::V4(addresses(lab, "evil").0, v4(POD[0])));
    open.extend(arrived(lab, &far.pod, &cases, || send_last_to(&far.netns, POD[0])));
    assert_eq!(open, Vec::<&str>::new(), "tunnels that are open");
    protocols(lab, far);
}

/// Where a tunnel let the inner frame through to this network namespace.
fn arrived(
    lab: &Lab,
    at: &Netns,
    cases: &[Tunnelled],
    last: impl FnOnce() -> anyhow::Result<()>,
) -> Vec<&'static str> {
    let frames: Vec<_> = cases.iter().map(|case| case.outer.clone()).collect();
    let recorded: Vec<_> =
        recorded(lab, at, &frames, last).iter().map(|frame| unrouted(frame)).collect();
    let open = cases.iter().filter(|case| recorded.contains(&unrouted(&case.inner)));
    open.map(|case| case.to).collect()
}

/// Protocols that tunnel IP, and datagrams to other ports, at another node and at a host that is none.
fn protocols(lab: &Lab, far: &SecondNode) {
    let office = lab.netns(&Host::Office).unwrap();
    let ([node, node_v6], [host, host_v6]) = (ADDRESSES, OFFICE);
    let outer = |to, protocol, bytes: &[u8]| outer(lab, to, protocol, bytes);
    let packet = [0x45; 40];
    let cases = [
        ("GRE", outer(node, GRE, &[0, 0, 8, 0]), false, outer(host, GRE, &[0, 0, 8, 0])),
        (
            "GRE over IPv6",
            outer(node_v6, GRE, &[0, 0, 8, 0]),
            false,
            outer(host_v6, GRE, &[0, 0, 8, 0]),
        ),
        ("IPIP", outer(node, IPIP, &packet), false, outer(host, IPIP, &packet)),
        ("6in4", outer(node, IPV6, &packet), false, outer(host, IPV6, &packet)),
        (
            "another port",
            datagram(lab, node, 8473, &[1; 30]),
            true,
            datagram(lab, host, VXLAN, &[2; 30]),
        ),
        (
            "another port over IPv6",
            datagram(lab, node_v6, 8473, &[3; 30]),
            true,
            datagram(lab, host_v6, VXLAN, &[4; 30]),
        ),
    ];
    let node_netns = lab.netns(&Host::Node).unwrap();
    let (to_node, to_host): (Vec<_>, Vec<_>) =
        cases.iter().map(|(_, frame, _, to_host)| (frame.clone(), to_host.clone())).unzip();
    let at_node = recorded(lab, &far.netns, &to_node, || send_last_to(office, node));
    let at_host = recorded(lab, office, &to_host, || send_last_to(node_netns, host));
    let mut wrong = Vec::new();
    for (name, frame, is_expected, to_host) in &cases {
        if has(&at_node, frame) != *is_expected {
            wrong.push(format!("{name} to a node"));
        }
        if !has(&at_host, to_host) {
            wrong.push(format!("{name} to a host"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

fn has(recorded: &[Vec<u8>], frame: &[u8]) -> bool {
    let sent = unrouted(frame);
    recorded.iter().any(|recorded| unrouted(recorded).starts_with(&sent))
}

/// Tunnelled frames of the pod `evil` to all addresses at which its own node receives packets.
fn own_node(lab: &Lab, ends: Ends) -> Vec<Tunnelled> {
    let node = lab.netns(&Host::Node).unwrap();
    let link_local = netpol_common::mac::Mac::new(mac(node, "cni0")).link_local().0;
    let destinations = [
        ("address of the own node", NODE[0]),
        ("bridge's address of the own node", ip("10.244.1.1")),
        ("tunnel's address of the own node", ip("10.244.1.0")),
        ("broadcast address of the own node", ip("10.244.1.255")),
        ("limited broadcast of the own node", ip("255.255.255.255")),
        ("group of the own node", ip("224.0.0.1")),
        ("IPv6 address of the own node", NODE[1]),
        ("bridge's IPv6 address of the own node", ip("fd00:10:244:1::1")),
        ("link-local address of the own node", Ipv6Addr::from(link_local).into()),
        ("IPv6 group of the own node", ip("ff02::1")),
    ];
    let destinations = destinations.map(|(to, address)| (to, address, VXLAN));
    tunnelled(lab, node, ends, &destinations)
}

/// The same to all addresses of the other node, and to a Service that leads to its tunnel.
fn other_node(lab: &Lab, far: &SecondNode, ends: Ends) -> Vec<Tunnelled> {
    let destinations = [
        ("address of the other node", ADDRESSES[0], VXLAN),
        ("tunnel's address of the other node", ip("10.244.2.0"), VXLAN),
        ("bridge's address of the other node", ip("10.244.2.1"), VXLAN),
        ("IPv6 address of the other node", ADDRESSES[1], VXLAN),
        ("Service with the other node behind it", ip("10.96.0.9"), 80),
        ("IPv6 Service with the other node behind it", ip("fd00:10:96::9"), 80),
    ];
    tunnelled(lab, &far.netns, ends, &destinations)
}

/// Frames to these addresses and ports, each of which has an inner frame of its own.
fn tunnelled(
    lab: &Lab,
    node: &Netns,
    ends: Ends,
    destinations: &[(&'static str, IpAddr, u16)],
) -> Vec<Tunnelled> {
    let [device, device_v6] = ["flannel.1", "flannel-v6.1"].map(|device| mac(node, device));
    let numbered = destinations.iter().zip(1..);
    let case = numbered.map(|(&(to, address, port), src_port)| {
        let device = if address.is_ipv4() { device } else { device_v6 };
        let inner = inner(device, ends, src_port);
        Tunnelled { to, outer: to_port(lab, address, port, &inner), inner }
    });
    case.collect()
}

/// The frames that arrive while the pod `evil` sends these.
fn recorded(
    lab: &Lab,
    at: &Netns,
    frames: &[Vec<u8>],
    last: impl FnOnce() -> anyhow::Result<()>,
) -> Vec<Vec<u8>> {
    record_at(at, "eth0", || {
        send(lab, &pod("evil"), frames)?;
        last()
    })
    .unwrap()
}

/// A datagram in a frame for a tunnel's device.
fn inner(to: [u8; 6], ends: Ends, src_port: u16) -> Vec<u8> {
    let packet = Packet::plain(ends, Segment::Udp { src_port, dst_port: 4001 });
    ethernet(to, [2, 0, 0, 0, 0, 9], 0x0800, &packet.bytes())
}

/// A VXLAN packet of the pod `evil` to this port, network 1.
fn to_port(lab: &Lab, to: IpAddr, port: u16, inner: &[u8]) -> Vec<u8> {
    datagram(lab, to, port, &[[8, 0, 0, 0, 0, 0, 1, 0].as_slice(), inner].concat())
}

/// A datagram of the pod `evil`.
fn datagram(lab: &Lab, to: IpAddr, port: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap();
    let mut bytes = [50_000_u16, port, len, 0].map(u16::to_be_bytes).concat();
    bytes.extend(payload);
    if let IpAddr::V6(to) = to {
        bytes = with_checksum((addresses(lab, "evil").1, to), 17, 6, bytes);
    }
    outer(lab, to, 17, &bytes)
}

/// An IP packet of the pod `evil`.
fn outer(lab: &Lab, to: IpAddr, protocol: u8, bytes: &[u8]) -> Vec<u8> {
    let (own_v4, own_v6) = addresses(lab, "evil");
    let bridge = mac(lab.netns(&Host::Node).unwrap(), "cni0");
    let (ends, ethertype, next) = match to {
        IpAddr::V4(to) if to.is_broadcast() || to.octets()[3] == 255 => {
            (Ends::V4(own_v4, to), 0x0800, [0xff; 6])
        }
        IpAddr::V4(to) if to.is_multicast() => {
            (Ends::V4(own_v4, to), 0x0800, [1, 0, 0x5e, 0, 0, 1])
        }
        IpAddr::V4(to) => (Ends::V4(own_v4, to), 0x0800, bridge),
        IpAddr::V6(to) if to.is_multicast() => {
            (Ends::V6(own_v6, to), 0x86dd, [0x33, 0x33, 0, 0, 0, 1])
        }
        IpAddr::V6(to) => (Ends::V6(own_v6, to), 0x86dd, bridge),
    };
    let segment = Segment::Other { protocol, bytes: bytes.to_vec() };
    ethernet(next, pod_mac(lab, "evil"), ethertype, &Packet::plain(ends, segment).bytes())
}

fn v4(address: IpAddr) -> Ipv4Addr {
    let IpAddr::V4(address) = address else { panic!("{address}") };
    address
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
