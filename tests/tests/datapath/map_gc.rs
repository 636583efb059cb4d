//! Garbage collection of a deleted pod's flows: they let nothing pass, they are removed by the worker, and a new owner of the
//! interface index gets none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netpol_common::ids::{Epoch, IfIndex, Nanos, PortBe, Protocol, RuleId};
use netpol_common::keys::{EndpointValue, FlowKey, FlowValue};
use netpol_common::mac::Mac;
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

/// The kernel's maps, with all pods and without policies.
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

    /// Sends a datagram of a pod's only connection; returns whether it passes.
    fn sends(&mut self, pod: IfIndex) -> bool {
        let last = u8::try_from(pod.0 - PODS[0] + 1).unwrap();
        let segment = Segment::Udp { src_port: 5000, dst_port: 6000 };
        let packet = Packet::plain(Ends::V4(v4(last), v4(200)), segment);
        let context = TestContext { ifindex: pod.0, ingress_ifindex: UPLINK, mark: 0 };
        let frame = Frame::whole(packet).bytes();
        self.datapath.test_run(Program::PodEgress, &frame, context).unwrap().is_pass()
    }

    /// Sends until the connection's packets take the fast path.
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
    MapOp::SetEndpoint(
        ifindex,
        EndpointMapState { value, container_id: Arc::from(container), mac: Mac::UNKNOWN },
    )
}

/// `n` flows of an interface.
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
            pad: 0,
            redirect: IfIndex(0),
        };
        (key, value)
    };
    (0..n).map(flow).collect()
}

#[test]
fn flows_of_a_deleted_pod_let_nothing_pass_and_are_collected_by_the_worker() {
    let Some(mut node) = Node::new() else { return };
    node.knows(GONE);
    node.knows(OTHER);
    node.datapath.apply(&[MapOp::RemoveEndpoint(GONE)]).unwrap();
    assert_eq!(node.datapath.n_awaiting_gc(), 1);
    assert!(node.with_flows().contains(&GONE), "the flows are gone before garbage collection");
    assert!(!node.sends(GONE), "a flow of a deleted pod passes");
    assert!(node.with_counters().contains(&GONE));
    assert!(node.sends(OTHER));

    let map_gc = node.datapath.begin_gc().unwrap().unwrap();
    assert!(node.datapath.begin_gc().unwrap().is_none(), "a second garbage collection runs");
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
    assert!(node.datapath.begin_gc().unwrap().is_none(), "flows are left");
}

#[test]
fn a_new_owner_of_an_interface_index_gets_no_flows_of_the_old_one() {
    let Some(mut node) = Node::new() else { return };
    for is_under_way in [false, true] {
        node.knows(GONE);
        node.datapath.apply(&[MapOp::RemoveEndpoint(GONE)]).unwrap();
        let map_gc = if is_under_way { node.datapath.begin_gc().unwrap() } else { None };
        node.datapath.apply(&[set_endpoint(GONE, "after"), MapOp::BumpEpoch]).unwrap();
        assert!(!node.with_flows().contains(&GONE), "under way: {is_under_way}");
        assert_eq!(node.datapath.n_awaiting_gc(), 0);
        // The new pod's own flows stay.
        node.knows(GONE);
        if let Some(map_gc) = map_gc {
            assert_eq!(node.datapath.end_gc(map_gc.run()).unwrap(), 0);
            assert!(node.with_flows().contains(&GONE));
        }
    }
}

#[test]
fn flows_added_for_an_interface_index_survive_the_collection_for_its_old_owner() {
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
fn the_next_agent_collects_what_the_last_one_left() {
    let Some(mut node) = Node::new() else { return };
    node.knows(OTHER);
    let stranger = IfIndex(4711);
    // More than one batch of the kernel, so that entries are removed while the map is read.
    node.datapath.add_flows(&connections(stranger, 20_000)).unwrap();
    let n_known = node.datapath.flows().unwrap().len();
    assert!(n_known > 10_000, "{n_known}");
    assert!(node.datapath.collect_unknown().unwrap() >= n_known - 1);
    assert_eq!(node.with_flows(), BTreeSet::from([OTHER]));
    assert!(node.sends(OTHER));
}
