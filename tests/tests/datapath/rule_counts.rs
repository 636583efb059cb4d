//! Connections by rule, as the programs count them.

use std::collections::BTreeMap;
use std::sync::Arc;

use netpol_common::ids::{Direction, Identity, IfIndex, PortBe, Protocol, RuleId};
use netpol_common::keys::{AllowKey, AllowValue, EndpointValue};
use netpol_common::mac::Mac;
use netpol_common::maps::RULE_COUNTS;
use netpol_datapath::netlink::PretendDevices;
use netpol_datapath::{Config, Datapath, Program, TestContext};
use netpol_lab::packets::{Ends, Frame, Packet, Segment};
use netpol_lab::privilege::{Need, met};
use netpol_policy::compile::AllowMapKey;
use netpol_policy::dataplane::port::{Flows as _, Maps as _};
use netpol_policy::dataplane::{EndpointMapState, MapState, diff};

use super::cluster_model::v4;

const POD: IfIndex = IfIndex(100);
const SYN: u8 = 2;
const ACK: u8 = 16;

/// A pod that is isolated for ingress; each rule is about one port.
fn map_state(rules: &[(u16, AllowValue)]) -> MapState {
    let value = EndpointValue {
        state: EndpointValue::READY,
        isolated: Direction::Ingress.bit(),
        egress_mark: 1,
        ..EndpointValue::blocked()
    };
    let endpoint = EndpointMapState { value, container_id: Arc::from("c"), mac: Mac::UNKNOWN };
    let entry = |(port, value): &(u16, AllowValue)| {
        (AllowKey::lookup(Identity::ANY, Protocol::TCP, PortBe::new(*port)), *value)
    };
    let map = Arc::new(rules.iter().map(entry).collect());
    MapState {
        endpoints: BTreeMap::from([(POD, endpoint)]),
        allow: BTreeMap::from([(AllowMapKey::new(POD, Direction::Ingress), map)]),
        egress_marks: BTreeMap::from([(1, POD)]),
        ..MapState::default()
    }
}

struct Node {
    datapath: Datapath,
    _devices: PretendDevices,
}

fn node(rules: &[(u16, AllowValue)], capacity: u32) -> Node {
    let mut devices = PretendDevices::in_new_namespace(POD).unwrap();
    devices.ensure(POD).unwrap();
    let capacities = BTreeMap::from([(RULE_COUNTS, capacity)]);
    let mut datapath = Datapath::load(&Config { capacities, ..Config::private() }).unwrap();
    datapath.apply(&diff(&MapState::default(), &map_state(rules))).unwrap();
    Node { datapath, _devices: devices }
}

impl Node {
    fn send(&mut self, src_port: u16, dst_port: u16, flags: u8) {
        let segment = Segment::Tcp { src_port, dst_port, flags };
        let frame = Frame::whole(Packet::plain(Ends::V4(v4(4), v4(1)), segment)).bytes();
        let context = TestContext { ifindex: POD.0, ingress_ifindex: 2, mark: 0 };
        self.datapath.test_run(Program::PodIngress, &frame, context).unwrap();
    }

    fn counts(&self) -> Vec<(u32, u64)> {
        let counts = self.datapath.rule_counts().unwrap();
        counts.into_iter().map(|(RuleId(rule), n)| (rule, n)).collect()
    }
}

#[test]
fn each_connection_counts_once_for_the_rule_that_decides_it() {
    if !met(&[Need::Root]) {
        return;
    }
    let rules = [
        (80, AllowValue::allow(RuleId(7))),
        (81, AllowValue::deny(RuleId(8))),
        (82, AllowValue::audit(RuleId(9))),
    ];
    let mut node = node(&rules, 16);
    for src_port in 5000..5003 {
        node.send(src_port, 80, SYN);
        // Packets of an established connection, and one after the policy has changed.
        node.send(src_port, 80, ACK);
        node.send(src_port, 80, ACK);
    }
    assert_eq!(node.counts(), [(7, 3)]);
    node.send(5000, 81, SYN);
    node.send(5000, 81, SYN);
    node.send(5000, 82, SYN);
    node.send(5000, 82, ACK);
    // No rule has this port.
    node.send(5000, 83, SYN);
    assert_eq!(node.counts(), [(7, 3), (8, 2), (9, 1)]);
    node.datapath.remove_rule_counts(&[RuleId(8), RuleId(99)]).unwrap();
    assert_eq!(node.counts(), [(7, 3), (9, 1)]);
}

#[test]
fn a_rule_for_which_the_map_has_no_capacity_decides_all_the_same_and_is_not_counted() {
    if !met(&[Need::Root]) {
        return;
    }
    let rules: Vec<_> =
        (0..4).map(|n| (80 + n, AllowValue::allow(RuleId(u32::from(n) + 1)))).collect();
    let mut node = node(&rules, 2);
    for port in 80..84 {
        node.send(5000, port, SYN);
        node.send(5001, port, SYN);
    }
    let counts = node.counts();
    assert_eq!(counts.iter().map(|(_, n)| n).collect::<Vec<_>>(), [&2, &2], "{counts:?}");
    assert_eq!(node.datapath.flows().unwrap().len(), 8);
}
