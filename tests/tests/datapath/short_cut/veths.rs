//! The same law over real devices: a node with the short cut and one without get the same frames, of which the same arrive, byte by byte.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use netpol_common::keys::{CounterKey, FlowKey, FlowValue};
use netpol_lab::privilege::{Need, met};
use netpol_lab::settings::n_cases;
use netpol_policy::compile::MapState;
use netpol_policy::dataplane::port::{Flows as _, Maps as _};
use netpol_policy::dataplane::{Counter, MapOp, diff};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::events::{Event, GATEWAY, Kind, OVERLAY, Peer, Sent, events};
use super::node::{Marks, Node};
use super::{KEPT, comparable, keeping, with_traits};
use crate::cluster_model::{v4, v6};
use crate::strategies::map_state;

/// Default number of clusters, with some twenty packets each.
const N_CASES: usize = 2_500;

/// A node with its map state.
struct Side {
    node: Node,
    map_state: MapState,
    kept: u8,
}

impl Side {
    fn new(name: &str, kept: u8) -> Self {
        Self { node: Node::new(name), map_state: MapState::default(), kept }
    }

    fn start(&mut self, map_state: &MapState, are_open: [bool; 2]) {
        let wanted = with_traits(map_state, are_open, self.kept);
        self.node.datapath.apply(&diff(&self.map_state, &wanted)).unwrap();
        self.map_state = wanted;
        self.node.datapath.forget_flows().unwrap();
    }

    /// Performs an operation other than sending.
    fn change(&mut self, event: &Event) {
        let op = match event {
            Event::SetAllow(key, map) => {
                if !self.map_state.allow.contains_key(key) {
                    return;
                }
                self.map_state.allow.insert(*key, Arc::clone(map));
                MapOp::SetAllow(*key, Arc::clone(map))
            }
            Event::SetEndpoint(ifindex, value) => {
                let Some(endpoint) = self.map_state.endpoints.get_mut(ifindex) else { return };
                endpoint.value = keeping(*value, self.kept);
                MapOp::SetEndpoint(*ifindex, endpoint.clone())
            }
            Event::Forget => return self.node.datapath.forget_flows().unwrap(),
            Event::Send(_) | Event::Wait(_) => return,
        };
        self.node.datapath.apply(&[op, MapOp::BumpEpoch]).unwrap();
    }

    fn send(&self, sent: &Sent, marks: &Marks) -> [Vec<Vec<u8>>; 3] {
        let [(from, _), (_, receiver)] = sent.ends();
        let to = match (sent.peer, sent.is_back) {
            (Peer::Near, _) if sent.is_routed => GATEWAY,
            (Peer::Near, _) => receiver,
            (Peer::Far, false) => GATEWAY,
            (Peer::Far, true) => OVERLAY.1,
        };
        let frame = sent.frame_to(to);
        self.node
            .send(from, &frame, marks)
            .map(|frames| frames.into_iter().filter(|frame| is_of_the_test(frame)).collect())
    }

    /// Number of packets and bytes by what was counted.
    fn counted_since(
        &self,
        before: &BTreeMap<CounterKey, Counter>,
    ) -> BTreeMap<CounterKey, (u64, u64)> {
        let since = |(key, now): (CounterKey, Counter)| {
            let before = before.get(&key).copied().unwrap_or_default();
            (key, (now.packets - before.packets, now.bytes - before.bytes))
        };
        self.node.counters().into_iter().map(since).filter(|(_, (n, _))| *n > 0).collect()
    }

    fn flows(&self) -> BTreeMap<FlowKey, FlowValue> {
        self.node.datapath.flows().unwrap().into_iter().map(comparable).collect()
    }
}

/// Whether a frame comes from one of the pods, and not from the node, which reports errors.
fn is_of_the_test(frame: &[u8]) -> bool {
    let source = match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(26..30),
        Some([0x86, 0xdd]) => frame.get(22..38),
        Some(_) | None => None,
    };
    let is_from =
        |last: u8, source: &[u8]| source == v4(last).octets() || source == v6(last.into()).octets();
    source.is_some_and(|source| (1..=4).any(|last| is_from(last, source)))
}

/// What the two nodes did in a case.
struct Sides<'a> {
    on: Side,
    off: Side,
    marks: &'a Marks,
}

impl Sides<'_> {
    /// Number of flows that took the short cut.
    fn check(
        &mut self,
        (map_state, are_open): (&MapState, [bool; 2]),
        events: &[Event],
        n: u32,
    ) -> Result<usize, TestCaseError> {
        let Self { on, off, marks } = self;
        for side in [&mut *on, &mut *off] {
            side.start(map_state, are_open);
        }
        let before = [&*on, &*off].map(|side| side.node.counters());
        let mut n_short = 0;
        let mut fragments = Fragments::default();
        for event in events {
            match event {
                Event::Send(sent) => {
                    let sent = fragments.of_case(sent, n);
                    let arrived = on.send(&sent, marks);
                    prop_assert_eq!(&arrived, &off.send(&sent, marks), "{:?}", sent);
                }
                Event::Forget | Event::SetAllow(..) | Event::SetEndpoint(..) | Event::Wait(_) => {
                    n_short += n_redirected(on);
                    prop_assert_eq!(on.flows(), off.flows(), "before {:?}", event);
                    on.change(event);
                    off.change(event);
                }
            }
        }
        n_short += n_redirected(on);
        prop_assert_eq!(on.flows(), off.flows());
        let [on_before, off_before] = before;
        prop_assert_eq!(on.counted_since(&on_before), off.counted_since(&off_before));
        Ok(n_short)
    }
}

fn n_redirected(side: &Side) -> usize {
    let flows = side.node.datapath.flows().unwrap();
    flows.into_values().filter(|flow| flow.redirect.0 != 0).count()
}

/// The datagrams of which a case has fragments: the first one. Two of them may share a slot of one node and not of the other, where the
/// later one makes the earlier one unknown.
#[derive(Default)]
struct Fragments(Option<(bool, Peer, bool, u8)>);

impl Fragments {
    /// The packet with a fragment that no other case has, because nobody forgets those, or whole.
    fn of_case(&mut self, sent: &Sent, n: u32) -> Sent {
        let mut sent = sent.clone();
        let protocol = match sent.kind {
            Kind::Tcp { .. } => 6,
            Kind::Udp { .. } => 17,
            Kind::Echo | Kind::Unreachable { .. } => 1,
        };
        if let Some(mut fragment) = sent.fragment.take() {
            let datagram = (sent.is_back, sent.peer, sent.is_v6, protocol);
            if *self.0.get_or_insert(datagram) == datagram {
                fragment.id = n % 0xffff;
                sent.fragment = Some(fragment);
            }
        }
        sent
    }
}

#[test]
fn the_same_packets_arrive_over_real_devices_with_the_short_cut_and_without() {
    if !met(&[Need::Root, Need::Program("ip"), Need::Program("bridge")]) {
        return;
    }
    // All frames are to pass one queue.
    let mut first = CpuSet::new();
    first.set(0);
    sched_setaffinity(None, &first).unwrap();
    let marks = Marks::new();
    let [kept_on, kept_off] = KEPT;
    let sides =
        Sides { on: Side::new("on", kept_on), off: Side::new("off", kept_off), marks: &marks };
    let sides = RefCell::new(sides);
    let (n, n_short) = (Cell::new(0), Cell::new(0));
    let cases = u32::try_from(n_cases(N_CASES)).unwrap();
    let mut runner = TestRunner::new(Config { cases, ..Config::default() });
    let outcome = runner.run(
        &(map_state(), any::<[bool; 2]>(), events()),
        |(map_state, are_open, events)| {
            n.set(n.get() + 1);
            let found = sides.borrow_mut().check((&map_state, are_open), &events, n.get())?;
            n_short.set(n_short.get() + found);
            Ok(())
        },
    );
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(n_short.get() > usize::try_from(cases).unwrap(), "only {} took it", n_short.get());
}
