//! The short cut changes the route of packets and nothing else: the same packets arrive, the same drop for the same reasons, and the same
//! flows remain, whether it is on or off. In memory, because a test run of a program redirects nothing.

mod events;
mod node;
mod veths;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use netpol_common::ids::{Direction, Epoch, Hook, IfIndex, Nanos};
use netpol_common::keys::{EndpointValue, FlowKey, FlowValue, Overlay};
use netpol_common::mac::Mac;
use netpol_common::reason::Verdict;
use netpol_common::verdict::{DEFAULT_MARK_MASK, HookContext, Outcome, Target};
use netpol_lab::packets::{Ends, Frame, Packet, Segment};
use netpol_lab::settings::n_cases;
use netpol_policy::compile::{EndpointMapState, MapState};
use netpol_policy::dataplane::{MapOp, MemoryMaps, diff};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use self::events::{Connection, ENDS, Event, GATEWAY, Kind, OVERLAY, Peer, Sent, events};
use self::node::far_prefixes;
use super::cluster_model::{own_addresses, v4};
use super::strategies::map_state;

/// Default number of clusters, with some twenty packets each.
const N_CASES: usize = 2_500;

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fate {
    /// The verdicts that were reported, with whose they are.
    reported: Vec<(IfIndex, Direction, Verdict)>,
    arrives: bool,
}

/// The route of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Usual,
    Short,
    /// It was dropped by its sender's policy.
    Nowhere,
}

/// A node with two pods on a bridge.
struct Node {
    maps: MemoryMaps,
    now: Nanos,
}

impl Node {
    fn new(map_state: &MapState) -> Self {
        let (device, mac) = OVERLAY;
        let overlay = Overlay::new(device, GATEWAY, mac);
        let mut maps = MemoryMaps::default().with_overlay(overlay, far_prefixes());
        for op in diff(&MapState::default(), map_state) {
            maps.apply(&op);
        }
        Self { maps, now: Nanos(1_000_000_000_000) }
    }

    fn at(
        &self,
        hook: Hook,
        ifindex: IfIndex,
        ingress_ifindex: u32,
        mark: u32,
        flow_handle: u16,
    ) -> HookContext {
        HookContext {
            hook,
            ifindex,
            ingress_ifindex,
            has_socket: false,
            is_tagged: false,
            mark,
            mark_mask: DEFAULT_MARK_MASK,
            flow_handle,
            now: self.now,
        }
    }

    fn send(&self, sent: &Sent) -> (Fate, Route) {
        match (sent.peer, sent.is_back) {
            (Peer::Near, _) => self.send_near(sent),
            (Peer::Far, false) => self.send_away(sent),
            (Peer::Far, true) => self.receive(sent),
        }
    }

    /// Judges a frame, and adds what is reported.
    fn judge(&self, frame: &[u8], context: &HookContext, fate: &mut Fate) -> Outcome {
        let outcome = self.maps.judge(frame, context).outcome;
        let mut told = outcome;
        loop {
            if told.verdict.is_reported() {
                fate.reported.push((told.ifindex, told.direction, told.verdict));
            }
            if !told.turn_to_audited_sender() {
                return outcome;
            }
        }
    }

    /// From the first pod to the far one.
    fn send_away(&self, sent: &Sent) -> (Fate, Route) {
        let [(from, _), (overlay, _)] = sent.ends();
        let frame = sent.frame_to(GATEWAY);
        let mut fate = Fate { reported: Vec::new(), arrives: false };
        let context = self.at(Hook::PodEgress, from, from.0, 0, 0);
        let first = self.judge(&frame, &context, &mut fate);
        if !first.verdict.is_pass() {
            return (fate, Route::Nowhere);
        }
        if first.redirect.0 != 0 {
            assert_eq!((first.redirect, first.target), (overlay, Target::Overlay), "{first:?}");
            assert!(!sent.is_routed, "{sent:?} ends here");
            fate.arrives = true;
            return (fate, Route::Short);
        }
        let context = self.at(Hook::UplinkEgress, overlay, from.0, first.mark, first.flow_handle);
        fate.arrives = self.judge(&frame, &context, &mut fate).verdict.is_pass();
        (fate, Route::Usual)
    }

    /// From the far pod to the first one.
    fn receive(&self, sent: &Sent) -> (Fate, Route) {
        let [(overlay, mac), (to, receiver)] = sent.ends();
        let mut fate = Fate { reported: Vec::new(), arrives: false };
        let context = self.at(Hook::UplinkIngress, overlay, overlay.0, 0, 0);
        let first = self.judge(&sent.frame_to(mac), &context, &mut fate);
        assert!(first.verdict.is_pass(), "{first:?}");
        let is_short = first.redirect.0 != 0;
        assert!(!is_short || (first.redirect == to && !sent.is_routed), "{first:?}");
        if is_short && first.target == Target::Pod {
            fate.arrives = true;
            return (fate, Route::Short);
        }
        let context = self.at(Hook::PodIngress, to, overlay.0, first.mark, first.flow_handle);
        let second = self.judge(&sent.frame_to(receiver), &context, &mut fate);
        fate.arrives = second.verdict.is_pass();
        (fate, if is_short { Route::Short } else { Route::Usual })
    }

    fn send_near(&self, sent: &Sent) -> (Fate, Route) {
        let [(from, _), (to, receiver)] = sent.ends();
        let frame = sent.frame_to(if sent.is_routed { GATEWAY } else { receiver });
        let mut fate = Fate { reported: Vec::new(), arrives: false };
        let context = self.at(Hook::PodEgress, from, from.0, 0, 0);
        let first = self.judge(&frame, &context, &mut fate);
        if !first.verdict.is_pass() {
            return (fate, Route::Nowhere);
        }
        let is_short = first.redirect.0 != 0;
        assert!(!is_short || first.redirect == to, "{first:?}");
        if is_short && first.target == Target::Pod {
            fate.arrives = true;
            return (fate, Route::Short);
        }
        let context = self.at(Hook::PodIngress, to, from.0, first.mark, first.flow_handle);
        // The gateway addresses what it routes to the pod.
        let frame = if is_short { frame } else { sent.frame_to(receiver) };
        let second = self.judge(&frame, &context, &mut fate);
        fate.arrives = second.verdict.is_pass();
        (fate, if is_short { Route::Short } else { Route::Usual })
    }

    fn apply(&mut self, ops: &[MapOp]) {
        for op in ops {
            self.maps.apply(op);
        }
    }

    /// Flows as both leave them. Ending a redirection writes a flow, so the time may differ by the second of [`flow::REFRESH_NS`].
    fn flows(&self) -> BTreeMap<FlowKey, FlowValue> {
        self.maps.flows().into_iter().map(comparable).collect()
    }
}

/// A flow without its time and its redirection.
fn comparable((key, flow): (FlowKey, FlowValue)) -> (FlowKey, FlowValue) {
    let FlowValue { epoch, rule, origin, state, marks, .. } = flow;
    (key, FlowValue::new(Nanos(0), Epoch(epoch.0), rule, [origin, state, marks]))
}

/// The traits that an endpoint keeps, if the short cut is on and if it is off.
const KEPT: [u8; 2] = [u8::MAX, !EndpointValue::SHORT_CUT];

/// The map state in which both pods take the short cut, if these traits are kept. Open pods are not isolated.
fn with_traits(map_state: &MapState, are_open: [bool; 2], kept: u8) -> MapState {
    let mut map_state = map_state.clone();
    for ((ifindex, mac), is_open) in ENDS.into_iter().zip(are_open) {
        let Some(endpoint) = map_state.endpoints.get_mut(&ifindex) else { continue };
        endpoint.mac = mac;
        endpoint.value.traits |= EndpointValue::SHORT_CUT;
        if is_open {
            endpoint.value.isolated = 0;
        }
        endpoint.value = keeping(endpoint.value, kept);
    }
    map_state
}

fn keeping(mut value: EndpointValue, kept: u8) -> EndpointValue {
    value.traits &= kept;
    value
}

/// The routes of a connection: from the first packet on, or never.
#[derive(Debug, Default)]
struct Routes(BTreeMap<Connection, Vec<Route>>);

impl Routes {
    /// Records the route of a packet that reached the receiver's hook.
    fn record(&mut self, sent: &Sent, route: Route) -> Result<(), TestCaseError> {
        let Some(connection) = sent.connection() else { return Ok(()) };
        let routes = self.0.entry(connection).or_default();
        if route == Route::Nowhere {
            return Ok(());
        }
        let Kind::Tcp { flags, .. } = sent.kind else { return Ok(()) };
        let (opens, ends) = (flags & 0x12 == 0x02, flags & 0x05 != 0);
        // What ends a connection goes where the sender's flow says: conntrack takes over no connection with it.
        if ends {
            return Ok(());
        }
        if routes.last() == Some(&Route::Usual) && route == Route::Short && !opens {
            return Err(TestCaseError::fail(format!(
                "{sent:?} returns to the short cut: {routes:?}"
            )));
        }
        routes.push(route);
        Ok(())
    }
}

fn check(
    map_state: &MapState,
    are_open: [bool; 2],
    events: &[Event],
) -> Result<usize, TestCaseError> {
    let [mut on, mut off] = KEPT.map(|kept| Node::new(&with_traits(map_state, are_open, kept)));
    let mut routes = Routes::default();
    let mut n_short = 0;
    for event in events {
        match event {
            Event::Send(sent) => {
                let (fate, route) = on.send(sent);
                let (expected, usual) = off.send(sent);
                prop_assert_ne!(usual, Route::Short);
                prop_assert_eq!(&fate, &expected, "{:?}", sent);
                prop_assert_eq!(on.flows(), off.flows(), "after {:?}", sent);
                // What does not arrive belongs to no connection.
                if fate.arrives {
                    routes.record(sent, route)?;
                }
                n_short += usize::from(route == Route::Short);
            }
            Event::SetAllow(key, map) => {
                for node in [&mut on, &mut off] {
                    node.apply(&[MapOp::SetAllow(*key, Arc::clone(map)), MapOp::BumpEpoch]);
                }
            }
            Event::SetEndpoint(ifindex, value) => {
                for (node, kept) in [&mut on, &mut off].into_iter().zip(KEPT) {
                    let Some(before) = node.maps.map_state().endpoints.get(ifindex) else {
                        continue;
                    };
                    let mut endpoint = before.clone();
                    endpoint.value = keeping(*value, kept);
                    node.apply(&[MapOp::SetEndpoint(*ifindex, endpoint), MapOp::BumpEpoch]);
                }
            }
            Event::Forget => {
                on.maps.clear_flows();
                off.maps.clear_flows();
                routes = Routes::default();
            }
            Event::Wait(seconds) => {
                for node in [&mut on, &mut off] {
                    node.now.0 += seconds * 1_000_000_000;
                }
                if *seconds > 120 {
                    // Conntrack has forgotten datagrams by then, and connections that end.
                    routes = Routes::default();
                }
            }
        }
    }
    Ok(n_short)
}

#[test]
fn the_same_packets_arrive_with_the_short_cut_and_without() {
    let cases = u32::try_from(n_cases(N_CASES)).unwrap();
    let n_short = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(Config { cases, ..Config::default() });
    let outcome = runner.run(
        &(map_state(), any::<[bool; 2]>(), events()),
        |(map_state, are_open, events)| {
            n_short.set(n_short.get() + check(&map_state, are_open, &events)?);
            Ok(())
        },
    );
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(n_short.get() > usize::try_from(cases).unwrap(), "only {} took it", n_short.get());
}

/// Conntrack may have seen the packets after the flow had expired.
#[test]
fn what_ends_an_expired_connection_does_not_bring_it_back_to_the_short_cut() {
    let sent = |is_back, flags| Sent {
        is_back,
        peer: Peer::Far,
        is_routed: false,
        is_v6: false,
        option_words: 0,
        fragment: None,
        kind: Kind::Tcp { port: 40_000, flags },
    };
    let mut node = Node::new(&short_cut_pods());
    assert_eq!(node.send(&sent(false, 0x02)).1, Route::Short);
    assert_eq!(node.send(&sent(true, 0x12)).1, Route::Short);
    assert_eq!(node.send(&sent(true, 0x11)).1, Route::Short);
    // Longer than a connection that ends.
    node.now.0 += 3_600_000_000_000;
    assert_eq!(node.send(&sent(false, 0x10)).1, Route::Usual);
    assert_eq!(node.send(&sent(true, 0x11)).1, Route::Usual);
}

/// Both pods, which are not isolated and take the short cut.
fn short_cut_pods() -> MapState {
    let mut state = MapState { addresses: own_addresses(), ..MapState::default() };
    for (ifindex, mac) in ENDS {
        let value = EndpointValue {
            state: EndpointValue::READY,
            traits: EndpointValue::SHORT_CUT,
            ..EndpointValue::blocked()
        };
        let endpoint = EndpointMapState { value, container_id: Arc::from("x"), mac };
        state.endpoints.insert(ifindex, endpoint);
    }
    state
}

/// A pod that may forward sends from an address outside; the answer goes to the node, which routes it.
#[test]
fn an_answer_to_an_address_outside_is_not_redirected_to_the_pod_that_forwarded() {
    let [(forwarder, its_mac), (server, server_mac)] = ENDS;
    let mut state = short_cut_pods();
    state.endpoints.get_mut(&forwarder).unwrap().value.traits |= EndpointValue::FORWARDS;
    let node = Node::new(&state);
    let frame = |ends, (src_port, dst_port), flags, to: Mac, from: Mac| {
        let packet = Packet {
            ends,
            option_words: 0,
            extensions: Vec::new(),
            fragment: None,
            segment: Segment::Tcp { src_port, dst_port, flags },
        };
        let bytes = Frame::Ip(packet, usize::MAX).bytes();
        [to.octets().as_slice(), from.octets().as_slice(), &bytes[12..]].concat()
    };
    let outside = Ipv4Addr::new(203, 0, 113, 9);
    let syn = frame(Ends::V4(outside, v4(2)), (40_000, 80), 0x02, server_mac, its_mac);
    let at =
        |hook, ifindex, from: IfIndex, flow_handle| node.at(hook, ifindex, from.0, 0, flow_handle);
    let judge = |frame: &[u8], context| node.maps.judge(frame, &context).outcome;
    let first = judge(&syn, at(Hook::PodEgress, forwarder, forwarder, 0));
    assert!(first.verdict.is_pass() && first.redirect == IfIndex(0), "{first:?}");
    let second = judge(&syn, at(Hook::PodIngress, server, forwarder, first.flow_handle));
    assert!(second.verdict.is_pass(), "{second:?}");
    let answer = frame(Ends::V4(v4(2), outside), (80, 40_000), 0x12, GATEWAY, server_mac);
    let third = judge(&answer, at(Hook::PodEgress, server, server, 0));
    assert!(third.verdict.is_pass() && third.redirect == IfIndex(0), "{third:?}");
}
