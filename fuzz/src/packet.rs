//! Frames, with random map contents.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use netpol_common::addr::Addr;
use netpol_common::ids::{Direction, Hook, Identity, IfIndex, Nanos, PortBe, Protocol, RuleId};
use netpol_common::keys::{
    AddressKey, AllowKey, AllowValue, EndpointValue, FlowKey, Known, NodeKey, PrefixKey,
};
use netpol_common::mac::Mac;
use netpol_common::packet::{Fragment, Frame as _, Packet, Parsed};
use netpol_common::reason::{DropReason, PassReason, Verdict};
use netpol_common::verdict::{DEFAULT_MARK_MASK, HookContext, Outcome};
use netpol_policy::compile::{AllowMap, AllowMapKey, EndpointMapState, MapState};
use netpol_policy::dataplane::{MapOp, MemoryMaps};

const PODS: [u32; 3] = [100, 101, 102];
/// A device without an endpoint.
const NO_POD: u32 = 103;
const MAX_FRAME_BYTES: u16 = 256;
/// The MAC address of the last pod. Those of the others are not known.
const MAC: Mac = Mac::new([2, 0, 0, 0, 0, 1]);
/// Why a frame of a pod that is not isolated drops: it cannot be attributed to the pod.
const UNATTRIBUTED: [DropReason; 7] = [
    DropReason::Tunnel,
    DropReason::Spoofed,
    DropReason::NotIp,
    DropReason::Truncated,
    DropReason::BadHeader,
    DropReason::ExtensionHeaders,
    DropReason::TinyFragment,
];
/// Last byte of the addresses of a node.
const NODE: u8 = 9;
/// An Ethernet header, then the addresses of IPv4 and IPv6.
const V4_ADDRESSES: usize = 14 + 12;
const V6_ADDRESSES: usize = 14 + 8;

/// Runs frames through `decide`, with changes of the maps in between.
///
/// # Panics
/// If a verdict contradicts the maps or the frame.
pub fn check(bytes: &[u8]) {
    // Too few bytes for an input.
    let _incomplete = run(&mut Unstructured::new(bytes));
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let node = BTreeMap::from([(v4(NODE), Known::NODE), (v6(NODE), Known::NODE)]);
    // Any port, so that frames meet it.
    let ports = BTreeSet::from([0, 80, 8472, input.arbitrary()?]);
    let mut maps = MemoryMaps::new(map_state(input)?).with_tunnels(node, ports.clone());
    let mut now = Nanos(1 << 40);
    while !input.is_empty() {
        if input.ratio(1_u8, 8)? {
            change(input, &mut maps)?;
        }
        now.0 += 1 << input.int_in_range(0..=40)?;
        let seen = hook_context(input, now)?;
        let frame = frame(input)?;
        look_at(&frame);
        judge(&maps, &frame, &seen);
        if seen.hook == Hook::PodEgress {
            check_tunnels(&maps, &frame, &seen, &ports);
        }
    }
    Ok(())
}

/// No packet of a pod passes that goes to a tunnel of the node.
fn check_tunnels(maps: &MemoryMaps, frame: &[u8], seen: &HookContext, ports: &BTreeSet<u16>) {
    let mut packet = Packet::EMPTY;
    if frame.parse(&mut packet) != Parsed::Ip || packet.fragment == Fragment::Later {
        return;
    }
    let is_node = packet.dst == v4(NODE) || packet.dst == v6(NODE);
    let is_tunnel = match packet.protocol.0 {
        17 => packet.dst_port.get() != 0 && ports.contains(&packet.dst_port.get()),
        4 | 41 | 47 => true,
        _ => false,
    };
    let verdict = maps.judge(frame, seen).outcome.verdict;
    assert!(!(is_node && is_tunnel && verdict.is_pass()), "{verdict:?} for {frame:02x?} {seen:?}");
}

/// Checks properties of the verdict that follow from the endpoint's state, whatever the frame is.
fn judge(maps: &MemoryMaps, frame: &[u8], seen: &HookContext) {
    let before = maps.flows();
    let Outcome { verdict, mark, ifindex, direction, .. } = maps.judge(frame, seen).outcome;
    let said = || format!("{verdict:?} for {frame:02x?} {seen:?}");
    let after = maps.flows();
    let endpoints = &maps.map_state().endpoints;
    let at_hook = endpoints.get(&seen.ifindex).map(|endpoint| endpoint.value);
    // Other bits of the mark are not ours, and an egress mark is the pod's own or none.
    assert_eq!((mark ^ seen.mark) & !seen.mark_mask, 0, "{}", said());
    let egress_mark = (mark & seen.mark_mask) >> seen.mark_mask.trailing_zeros();
    if seen.hook == Hook::UplinkIngress {
        assert_eq!(mark, seen.mark, "{}", said());
    } else if egress_mark != 0 {
        assert_eq!(seen.hook, Hook::PodEgress, "{}", said());
        assert_eq!(Some(egress_mark), at_hook.map(|own| u32::from(own.egress_mark)), "{}", said());
        assert_eq!(verdict, Verdict::Pass(PassReason::Deferred), "{}", said());
    }
    // Only passing packets create state of the deciding endpoint. If the receiver drops a packet that the sender's policy allows,
    // the sender's state may stay.
    for key in after.keys().filter(|key| !before.contains_key(*key)) {
        assert!(endpoints.contains_key(&key.ifindex), "{}", said());
        let is_senders = key.ifindex != ifindex && key.stage == FlowKey::AFTER_NAT;
        assert!(verdict.is_pass() || is_senders, "{}", said());
    }
    match seen.hook {
        Hook::UplinkEgress => return,
        Hook::UplinkIngress => {
            let is_foreign = has_foreign_address(maps.map_state(), frame, seen.ifindex);
            assert_eq!(verdict.is_pass(), !is_foreign, "{}", said());
            return;
        }
        Hook::PodEgress | Hook::PodIngress => {}
    }
    match at_hook {
        None => assert_eq!(verdict, Verdict::Drop(DropReason::UnknownEndpoint), "{}", said()),
        Some(own) if own.state != EndpointValue::READY => {
            assert_eq!(verdict, Verdict::Drop(DropReason::Blocked), "{}", said());
        }
        // The pod is not isolated and no deferred verdict is pending: only frames drop that cannot be attributed to it, or are for
        // another device.
        Some(own) if own.isolated == 0 && seen.mark & seen.mark_mask == 0 => {
            let may: &[DropReason] = match seen.hook {
                Hook::PodEgress => &UNATTRIBUTED,
                Hook::PodIngress | Hook::UplinkEgress | Hook::UplinkIngress => {
                    &[DropReason::OtherMac]
                }
            };
            let is_expected = matches!(verdict, Verdict::Drop(reason) if may.contains(&reason));
            assert!(verdict.is_pass() || is_expected, "{}", said());
        }
        Some(_) => {}
    }
    let forwards = at_hook.is_some_and(|own| own.forwards());
    if seen.hook == Hook::PodEgress && verdict.is_pass() && !forwards {
        assert!(is_attributed(maps.map_state(), frame, seen), "{}", said());
    }
    if verdict == Verdict::Pass(PassReason::Allowed) {
        let map = maps.map_state().allow.get(&AllowMapKey::new(ifindex, direction));
        let allows = |map: &Arc<AllowMap>| map.values().any(|v| v.verdict == AllowValue::ALLOW);
        assert!(map.is_some_and(allows), "{}", said());
    }
}

/// Whether the sources of a frame are the pod's, in every header that another device believes.
fn is_attributed(map_state: &MapState, frame: &[u8], seen: &HookContext) -> bool {
    let ifindex = seen.ifindex;
    let mac = map_state.endpoints.get(&ifindex).map_or(Mac::UNKNOWN, |endpoint| endpoint.mac);
    if mac != Mac::UNKNOWN && frame.get(6..12) != Some(&mac.octets()[..]) {
        return false;
    }
    let mut packet = Packet::EMPTY;
    let parsed = frame.parse(&mut packet);
    let is_own = map_state.addresses.contains(&AddressKey { ifindex, addr: packet.src });
    let is_unknown = mac == Mac::UNKNOWN && packet.src.is_v6_link_local();
    let is_none = packet.src.is_unspecified();
    match parsed {
        Parsed::Arp => !seen.is_tagged && (is_own || is_none),
        Parsed::Ip => {
            let is_probe = is_none && packet.has_link_message_type();
            let is_router = packet.is_router_message();
            !seen.is_tagged && !is_router && (is_own || is_unknown || is_probe)
        }
        Parsed::NotIp | Parsed::Malformed(_) => false,
    }
}

/// Whether a frame from outside claims an address of a pod, read by offsets: the source of an IP packet or an ARP message, and the
/// target of a neighbour advertisement or of a probe for duplicates.
fn has_foreign_address(map_state: &MapState, frame: &[u8], ifindex: IfIndex) -> bool {
    let v4 = |at: usize| Some(Addr::from_v4(*frame.get(at..)?.first_chunk()?));
    let v6 = |at: usize| Some(Addr(*frame.get(at..)?.first_chunk()?));
    let claimed: [Option<Addr>; 2] = match frame.get(12..14) {
        // All of the headers must be there.
        Some([8, 0]) if frame.len() >= 34 => [v4(26), None],
        Some([8, 6]) if frame.len() >= 34 && frame.get(18..20) == Some(&[6, 4]) => [v4(28), None],
        Some([0x86, 0xdd]) if frame.len() >= 54 => {
            let is_probe = v6(22) == Some(Addr::UNSPECIFIED);
            let claims = match (frame.get(20), frame.get(54)) {
                (Some(58), Some(136)) => true,
                (Some(58), Some(135)) => is_probe,
                _ => false,
            };
            [v6(22), if claims { v6(62) } else { None }]
        }
        _ => [None, None],
    };
    let of_others = |addr: &Addr| {
        let owners = map_state.addresses.iter().filter(|key| key.addr == *addr);
        let mut owners = owners.map(|key| key.ifindex).peekable();
        !addr.is_v6_link_local() && owners.peek().is_some() && owners.all(|of| of != ifindex)
    };
    claimed.iter().flatten().any(of_others)
}

/// Checks our parser against another one, which also validates all lengths: where it finds ports, ours finds the same.
fn look_at(frame: &[u8]) {
    let mut packet = Packet::EMPTY;
    let parsed = frame.parse(&mut packet);
    let Ok(headers) = PacketHeaders::from_ethernet_slice(frame) else { return };
    if !headers.link_exts.is_empty() {
        assert_eq!(parsed, Parsed::NotIp, "{frame:02x?}");
        return;
    }
    let (src, dst): (IpAddr, IpAddr) = match &headers.net {
        Some(NetHeaders::Ipv4(ip, _)) => {
            (Ipv4Addr::from(ip.source).into(), Ipv4Addr::from(ip.destination).into())
        }
        Some(NetHeaders::Ipv6(ip, _)) => {
            (Ipv6Addr::from(ip.source).into(), Ipv6Addr::from(ip.destination).into())
        }
        _ => return,
    };
    let (protocol, src_port, dst_port) = match headers.transport {
        Some(TransportHeader::Tcp(tcp)) => (Protocol::TCP, tcp.source_port, tcp.destination_port),
        Some(TransportHeader::Udp(udp)) => (Protocol::UDP, udp.source_port, udp.destination_port),
        _ => return,
    };
    // Our parser reads a bounded number of extension headers.
    if parsed == Parsed::Malformed(DropReason::ExtensionHeaders) {
        return;
    }
    assert_eq!(parsed, Parsed::Ip, "{frame:02x?}");
    assert_eq!((packet.src.to_ip(), packet.dst.to_ip()), (src, dst), "{frame:02x?}");
    assert_eq!(packet.protocol, protocol, "{frame:02x?}");
    let ports = (PortBe::new(src_port), PortBe::new(dst_port));
    assert_eq!((packet.src_port, packet.dst_port), ports, "{frame:02x?}");
}

fn map_state(input: &mut Unstructured<'_>) -> Result<MapState> {
    let mut endpoints = BTreeMap::new();
    for ifindex in PODS {
        let mac = if ifindex == 102 { MAC } else { Mac::UNKNOWN };
        endpoints.insert(IfIndex(ifindex), EndpointMapState { mac, ..endpoint(input)? });
    }
    let mut addresses = BTreeSet::new();
    let mut identities = BTreeMap::new();
    for (ifindex, last) in PODS.into_iter().zip(1_u8..) {
        for addr in [v4(last), v6(last)] {
            addresses.insert(AddressKey { ifindex: IfIndex(ifindex), addr });
            if input.arbitrary()? {
                identities.insert(addr, identity(input)?);
            }
        }
    }
    let mut prefixes = BTreeMap::new();
    if input.arbitrary()? {
        let key = PrefixKey { prefix_len_bits: input.int_in_range(0..=128)?, addr: v4(0) };
        prefixes.insert(key, identity(input)?);
    }
    let mut allow = BTreeMap::new();
    for ifindex in PODS {
        for direction in Direction::ALL {
            allow.insert(AllowMapKey::new(IfIndex(ifindex), direction), allow_map(input)?);
        }
    }
    let defer = if input.arbitrary()? { [v4(9), v6(9)].into() } else { BTreeSet::new() };
    let egress_marks =
        (1..).zip(PODS.map(IfIndex)).take(input.int_in_range(0..=PODS.len())?).collect();
    let own_node = if input.arbitrary()? {
        let ports = [NodeKey::port(Protocol::TCP, PortBe::new(80))];
        [v4(9), v6(9)].into_iter().map(NodeKey::address).chain(ports).collect()
    } else {
        BTreeSet::new()
    };
    Ok(MapState {
        endpoints,
        addresses,
        identities,
        prefixes,
        allow,
        defer,
        own_node,
        node_backends: BTreeMap::new(),
        egress_marks,
    })
}

fn endpoint(input: &mut Unstructured<'_>) -> Result<EndpointMapState> {
    let state = if input.ratio(1_u8, 16)? { EndpointValue::BLOCKED } else { EndpointValue::READY };
    let value = EndpointValue {
        state,
        isolated: input.int_in_range(0..=3)?,
        audited: input.int_in_range(0..=3)?,
        keeps_flows: input.int_in_range(0..=3)?,
        traits: if input.ratio(1_u8, 8)? { input.int_in_range(1..=3)? } else { 0 },
        denies: input.int_in_range(0..=3)?,
        egress_mark: input.int_in_range(0..=3)?,
    };
    Ok(EndpointMapState { value, container_id: Arc::from("fuzzed"), mac: Mac::UNKNOWN })
}

fn identity(input: &mut Unstructured<'_>) -> Result<Identity> {
    Ok(Identity(input.int_in_range(1..=3)?))
}

fn allow_map(input: &mut Unstructured<'_>) -> Result<Arc<AllowMap>> {
    let mut map = AllowMap::new();
    for _ in 0..input.int_in_range(0..=3)? {
        let who = if input.arbitrary()? { Identity::ANY } else { identity(input)? };
        let protocol = *input.choose(&[Protocol::TCP, Protocol::UDP, Protocol::ICMP])?;
        let key = AllowKey {
            prefix_len_bits: *input.choose(&[
                AllowKey::ALL_PROTOCOLS_BITS,
                AllowKey::ALL_PORTS_BITS,
                AllowKey::FULL_BITS,
            ])?,
            ..AllowKey::lookup(who, protocol, PortBe::new(input.int_in_range(79..=82)?))
        };
        let verdict = if input.ratio(3_u8, 4)? { AllowValue::ALLOW } else { AllowValue::DENY };
        map.insert(key, AllowValue { rule: RuleId(1), verdict, pad: [0; 3] });
    }
    Ok(Arc::new(map))
}

/// A change of policy on live connections.
fn change(input: &mut Unstructured<'_>, maps: &mut MemoryMaps) -> Result<()> {
    let ifindex = IfIndex(*input.choose(&PODS)?);
    let op = if input.arbitrary()? {
        MapOp::SetEndpoint(ifindex, endpoint(input)?)
    } else {
        MapOp::SetAllow(
            AllowMapKey::new(ifindex, *input.choose(&Direction::ALL)?),
            allow_map(input)?,
        )
    };
    maps.apply(&op);
    maps.apply(&MapOp::BumpEpoch);
    Ok(())
}

const HOOKS: [Hook; 4] =
    [Hook::PodIngress, Hook::PodEgress, Hook::UplinkEgress, Hook::UplinkIngress];

fn hook_context(input: &mut Unstructured<'_>, now: Nanos) -> Result<HookContext> {
    let devices = [PODS[0], PODS[1], PODS[2], NO_POD, 2, 0];
    let egress_mark = input.int_in_range(0..=4_u32)?;
    Ok(HookContext {
        hook: *input.choose(&HOOKS)?,
        ifindex: IfIndex(*input.choose(&devices)?),
        ingress_ifindex: *input.choose(&devices)?,
        has_socket: input.arbitrary()?,
        is_tagged: input.ratio(1_u8, 16)?,
        mark: (egress_mark << DEFAULT_MARK_MASK.trailing_zeros()) | input.int_in_range(0..=3)?,
        mark_mask: DEFAULT_MARK_MASK,
        flow_handle: input.int_in_range(0..=4)?,
        now,
    })
}

/// Any bytes, mostly with an IP header's first bytes and with addresses that the maps know.
fn frame(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let len_bytes = input.int_in_range(0..=MAX_FRAME_BYTES)?;
    let len_bytes = usize::from(len_bytes).min(input.len());
    let mut frame = input.bytes(len_bytes)?.to_vec();
    let (ethertype, version, start, addresses): (_, _, _, fn(u8) -> Vec<u8>) =
        match input.int_in_range(0..=7)? {
            0 => return Ok(frame),
            1..=4 => ([8, 0], 0x40, V4_ADDRESSES, |last| {
                v4(last).0.get(12..).unwrap_or_default().to_vec()
            }),
            _ => ([0x86, 0xdd], 0x60, V6_ADDRESSES, |last| v6(last).0.to_vec()),
        };
    let (src, dst) = (*input.choose(&[1, 2, 3, 9, 4])?, *input.choose(&[1, 2, 3, 9, 4])?);
    overwrite(&mut frame, 12, &ethertype);
    if let Some(first) = frame.get_mut(14) {
        *first = version | (*first & 0x0f);
    }
    overwrite(&mut frame, start, &[addresses(src), addresses(dst)].concat());
    Ok(frame)
}

fn overwrite(frame: &mut [u8], start: usize, bytes: &[u8]) {
    if let Some(room) = frame.get_mut(start..start + bytes.len()) {
        room.copy_from_slice(bytes);
    }
}

fn v4(last: u8) -> Addr {
    Addr::from_v4([10, 0, 0, last])
}

fn v6(last: u8) -> Addr {
    Addr::from(IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into())))
}
