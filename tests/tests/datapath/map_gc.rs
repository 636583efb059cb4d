//! What packets of a pod have left when it is gone: it lets nothing pass, it ends beside everything else, and whoever gets
//! the interface's number next finds nothing of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netpol_common::ids::{Epoch, IfIndex, Nanos, PortBe, Protocol, RuleId};
use netpol_common::keys::{EndpointValue, FlowKey, FlowValue};
use netpol_datapath::netlink::PretendDevices;
use netpol_datapath::{Config, Datapath, Program, TestContext};
use netpol_lab::packets::{Ends, Frame, Packet, Segment};
use netpol_lab::privilege::{Need, met};
use netpol_policy::compile::EndpointMapState;
use netpol_policy::dataplane::MapOp;
use netpol_policy::dataplane::port::{Flows as _, Maps as _};

use super::cluster_model::{PODS, UPLINK, own_addresses, v4};

const GONE: IfIndex = IfIndex(PODS[0]);
const OTHER: IfIndex = IfIndex(PODS[1]);

/// The kernel's maps, with all pods and no policy.
struct Node {
    datapath: Datapath,
    _devices: PretendDevices,
}

impl Node {
    fn new() -> Option<Self> {
        if !met(&[Need::Root]) {
            return None;
        }
        let mut devices = PretendDevices::in_new_namespace(IfIndex(PODS[0])).unwrap();
        devices.ensure(IfIndex(PODS[2])).unwrap();
        let mut datapath = Datapath::load(&Config::private()).unwrap();
        let pods = PODS.into_iter().map(IfIndex);
        let endpoints = pods.map(|pod| set_endpoint(pod, "before"));
        let addresses = own_addresses().into_iter().map(MapOp::AddAddress);
        let ops: Vec<_> = endpoints.chain(addresses).chain([MapOp::BumpEpoch]).collect();
        datapath.apply(&ops).unwrap();
        Some(Self { datapath, _devices: devices })
    }

    /// Lets a pod send a datagram of its only connection. Returns whether it goes on.
    fn sends(&mut self, pod: IfIndex) -> bool {
        let last = u8::try_from(pod.0 - PODS[0] + 1).unwrap();
        let segment = Segment::Udp { src_port: 5000, dst_port: 6000 };
        let packet = Packet::plain(Ends::V4(v4(last), v4(200)), segment);
        let context = TestContext { ifindex: pod.0, ingress_ifindex: UPLINK, mark: 0 };
        let frame = Frame::whole(packet).bytes();
        self.datapath.test_run(Program::PodEgress, &frame, context).unwrap().is_pass()
    }

    /// Sends until the connection's packets take the short way.
    fn knows(&mut self, pod: IfIndex) {
        for _ in 0..3 {
            assert!(self.sends(pod));
        }
        assert!(self.with_flows().contains(&pod));
    }

    fn with_flows(&self) -> BTreeSet<IfIndex> {
        self.datapath.flows().unwrap().into_keys().map(|key| key.ifindex).collect()
    }

    fn with_counters(&self) -> BTreeSet<IfIndex> {
        self.datapath.counters().unwrap().into_keys().map(|key| key.ifindex).collect()
    }
}

fn set_endpoint(ifindex: IfIndex, container: &str) -> MapOp {
    let value = EndpointValue { state: EndpointValue::READY, ..EndpointValue::blocked() };
    MapOp::SetEndpoint(ifindex, EndpointMapState { value, container_id: Arc::from(container) })
}

/// Connections of an interface, as many as are asked for.
fn connections(ifindex: IfIndex, n: u32) -> Vec<(FlowKey, FlowValue)> {
    let flow = |number: u32| {
        let [_, third, second, port] = number.to_be_bytes();
        let key = FlowKey {
            ifindex,
            remote: std::net::IpAddr::from([10, 1, third, second]).into(),
            local_port: PortBe::new(80),
            remote_port: PortBe::new(u16::from(port)),
            protocol: Protocol::TCP,
            stage: FlowKey::AT_POD,
            pad: [0; 2],
        };
        let value = FlowValue {
            last_seen: Nanos(1),
            epoch: Epoch(0),
            rule: RuleId::NONE,
            origin: 0,
            state: netpol_common::flow::OPEN,
            marks: 0,
            pad: [0; 5],
        };
        (key, value)
    };
    (0..n).map(flow).collect()
}

#[test]
fn connections_of_a_pod_that_is_gone_let_nothing_pass_and_end_beside_all_else() {
    let Some(mut node) = Node::new() else { return };
    node.knows(GONE);
    node.knows(OTHER);
    node.datapath.apply(&[MapOp::RemoveEndpoint(GONE)]).unwrap();
    assert_eq!(node.datapath.n_awaiting_gc(), 1);
    assert!(node.with_flows().contains(&GONE), "the maps are not read on the way");
    assert!(!node.sends(GONE), "the connection is known, and the pod is gone");
    assert!(node.with_counters().contains(&GONE));
    assert!(node.sends(OTHER));

    let map_gc = node.datapath.begin_gc().unwrap().unwrap();
    assert!(node.datapath.begin_gc().unwrap().is_none(), "one is under way");
    let map_gc = std::thread::scope(|scope| {
        let work = scope.spawn(|| map_gc.run());
        node.datapath.apply(&[set_endpoint(IfIndex(7), "meanwhile"), MapOp::BumpEpoch]).unwrap();
        assert!(node.sends(OTHER));
        work.join().unwrap()
    });
    assert!(node.datapath.end_gc(map_gc).unwrap() > 0);
    assert_eq!(node.datapath.n_awaiting_gc(), 0);
    assert_eq!(node.with_flows(), BTreeSet::from([OTHER]));
    assert!(!node.with_counters().contains(&GONE));
    assert!(node.datapath.begin_gc().unwrap().is_none(), "nothing is left");
}

#[test]
fn who_gets_the_number_of_an_interface_finds_nothing_of_who_had_it_before() {
    let Some(mut node) = Node::new() else { return };
    for is_under_way in [false, true] {
        node.knows(GONE);
        node.datapath.apply(&[MapOp::RemoveEndpoint(GONE)]).unwrap();
        let map_gc = if is_under_way { node.datapath.begin_gc().unwrap() } else { None };
        node.datapath.apply(&[set_endpoint(GONE, "after"), MapOp::BumpEpoch]).unwrap();
        assert!(!node.with_flows().contains(&GONE), "under way: {is_under_way}");
        assert_eq!(node.datapath.n_awaiting_gc(), 0);
        // What is the new pod's own stays.
        node.knows(GONE);
        if let Some(map_gc) = map_gc {
            assert_eq!(node.datapath.end_gc(map_gc.run()).unwrap(), 0);
            assert!(node.with_flows().contains(&GONE));
        }
    }
}

#[test]
fn connections_that_are_made_known_for_a_number_outlive_the_collection_of_who_had_it_before() {
    let Some(mut node) = Node::new() else { return };
    node.knows(GONE);
    node.datapath.apply(&[MapOp::RemoveEndpoint(GONE)]).unwrap();
    let map_gc = node.datapath.begin_gc().unwrap().unwrap();
    let known = connections(GONE, 3);
    node.datapath.add_flows(&known).unwrap();
    assert_eq!(node.datapath.end_gc(map_gc.run()).unwrap(), 0);
    let expected: BTreeMap<FlowKey, FlowValue> = known.into_iter().collect();
    assert_eq!(node.datapath.flows().unwrap(), expected);
}

#[test]
fn the_next_agent_collections_up_what_was_left_to_it() {
    let Some(mut node) = Node::new() else { return };
    node.knows(OTHER);
    let stranger = IfIndex(4711);
    // More than the kernel gives at once, so that it is removed while it is read.
    node.datapath.add_flows(&connections(stranger, 20_000)).unwrap();
    let n_known = node.datapath.flows().unwrap().len();
    assert!(n_known > 10_000, "{n_known}");
    assert!(node.datapath.collect_unknown().unwrap() >= n_known - 1);
    assert_eq!(node.with_flows(), BTreeSet::from([OTHER]));
    assert!(node.sends(OTHER));
}
