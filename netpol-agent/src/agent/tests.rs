//! The agent's state with a fake kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netpol_common::addr::Addr;
use netpol_common::ids::IfIndex;
use netpol_common::keys::{EndpointValue, Known};
use netpol_datapath::netlink::Devices;
use netpol_policy::compile::MapState;
use netpol_policy::dataplane::MapOp;
use netpol_policy::model::{Kind, Labels, Namespace, Object, ObjectName, ObjectRef, Pod, PodPhase};
use netpol_policy::source::SourceUpdate;
use netpol_policy::store::{Delta, List, PodEnd};
use netpol_proto::{Add, Attachment, Check, ErrorCode, Gc, PodRef, Request, Response};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::answers::routes::{self, Detail};
use super::answers::status::{Protection, TunnelStatus};
pub(super) use super::fake_kernel::{FakeKernel, MAC_OF_NODE};
use super::state::Agent;
use super::state::registry::Registry;
use crate::cni_server::Call;
use crate::discovery::{Connection, Found, Sockets};

pub(super) struct Fixture {
    pub(super) agent: Agent<FakeKernel>,
    pub(super) now: Instant,
    pub(super) dir: tempfile::TempDir,
}

#[expect(clippy::disallowed_methods, reason = "any moment will do")]
pub(super) fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(&dir.path().join("endpoints.json"), |_| None).unwrap();
    Fixture {
        agent: Agent::new(FakeKernel::default(), MapState::default(), registry),
        now: Instant::now(),
        dir,
    }
}

pub(super) fn full_lists() -> SourceUpdate {
    let deltas = Kind::BUILT_IN
        .into_iter()
        .map(|kind| Delta::Replace(List::new(kind, Vec::new(), Vec::new())))
        .collect();
    SourceUpdate { deltas, ..SourceUpdate::default() }
}

pub(super) fn pod(name: &str) -> Delta {
    Delta::Upsert(Object::Pod(Pod {
        name: ObjectName::new("x", name),
        uid: Arc::from("1"),
        static_uid: Arc::from(""),
        created_s: 1,
        labels: Labels::new(),
        node: Arc::from("n"),
        reported_addresses: ["10.0.0.1".parse().unwrap()].into_iter().collect(),
        host_network: false,
        phase: PodPhase::Pending,
        terminating: false,
        ports: Arc::default(),
        allows_forwarding: false,
        declines_short_cut: false,
    }))
}

pub(super) fn update(delta: Delta) -> SourceUpdate {
    SourceUpdate { deltas: vec![delta], ..SourceUpdate::default() }
}

pub(super) fn attachment() -> Attachment {
    Attachment { container_id: "c1".to_owned(), container_ifname: "eth0".to_owned() }
}

impl Fixture {
    pub(super) fn call(&mut self, request: Request) -> oneshot::Receiver<Response> {
        let (reply, answer) = oneshot::channel();
        self.agent.call(Call { request, reply }, self.now);
        self.agent.sync();
        answer
    }

    pub(super) fn add(&mut self) -> oneshot::Receiver<Response> {
        self.call(Request::Add(Add {
            attachment: attachment(),
            network: "net".to_owned(),
            netns: "/run/netns/x".to_owned(),
            host_ifname: "veth7".to_owned(),
            host_ifindex: 7,
            pod: PodRef {
                namespace: "x".to_owned(),
                name: "a".to_owned(),
                uid: Some("1".to_owned()),
            },
            addresses: Vec::new(),
            is_unshaped: true,
        }))
    }

    fn endpoint_states(&self) -> Vec<u8> {
        let states = self.agent.kernel.log.iter().filter_map(|op| {
            if let MapOp::SetEndpoint(_, endpoint) = op { Some(endpoint.value.state) } else { None }
        });
        states.collect()
    }
}

#[test]
fn no_map_changes_before_every_kind_is_listed() {
    let mut fixture = fixture();
    drop(fixture.agent.update(update(pod("a"))));
    let addresses = BTreeSet::from(["10.0.0.254".parse().unwrap()]);
    fixture.agent.set_devices(Devices { addresses, ..Devices::default() }, |_| true, fixture.now);
    fixture.agent.sync();
    assert!(fixture.agent.kernel.log.is_empty());
    drop(fixture.agent.update(full_lists()));
    fixture.agent.sync();
    assert!(!fixture.agent.kernel.log.is_empty());
}

#[test]
fn the_programs_know_the_addresses_of_nodes_and_their_tunnels_once_every_kind_is_listed() {
    let mut fixture = fixture();
    fixture.agent.tunnels.further_ports = vec![51_900];
    let agent = &mut fixture.agent;
    let addr = |text: &str| Addr::from(text.parse::<std::net::IpAddr>().unwrap());
    let tunnels = netpol_datapath::netlink::Tunnels {
        ports: [8472].into(),
        ends: ["10.1.2.0".parse().unwrap()].into(),
        devices: [3].into(),
    };
    let addresses = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
    agent.kernel.known = [(addr("192.0.2.9"), Known::NODE)].into();
    assert_eq!(agent.describe().tunnels, TunnelStatus::Unknown);
    agent.set_devices(Devices { addresses, tunnels, ..Devices::default() }, |_| true, fixture.now);
    agent.sync();
    assert_eq!(agent.kernel.known.len(), 1, "those of an earlier run");
    drop(agent.update(full_lists()));
    drop(agent.update(update(pod("a"))));
    let mut proxy = pod("proxy");
    if let Delta::Upsert(Object::Pod(proxy)) = &mut proxy {
        proxy.host_network = true;
        proxy.reported_addresses = ["192.0.2.2".parse().unwrap()].into_iter().collect();
    }
    drop(agent.update(update(proxy)));
    agent.sync();
    let nodes = ["192.0.2.1", "192.0.2.2", "10.1.2.0"].map(|node| (addr(node), Known::NODE));
    assert_eq!(agent.kernel.known, nodes.into());
    assert_eq!(agent.kernel.tunnel_ports, [0, 8472, 51_900].into());
    assert_eq!(agent.describe().tunnels, TunnelStatus::Closed { ports: vec![8472, 51_900] });
    assert_eq!(agent.kernel.log.last(), Some(&MapOp::BumpEpoch));
    let n_ops = agent.kernel.log.len();
    agent.sync();
    assert_eq!(agent.kernel.log.len(), n_ops);
    let object = ObjectRef { kind: Kind::Pod, name: ObjectName::new("x", "proxy") };
    agent.apply_delta(Delta::Remove { object, uid: None });
    agent.sync();
    assert_eq!(agent.kernel.known.len(), 2);
}

#[test]
fn an_add_is_answered_when_the_policy_is_in_force_and_not_before() {
    let mut fixture = fixture();
    let mut answer = fixture.add();
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(fixture.endpoint_states(), [EndpointValue::BLOCKED]);
    assert_eq!(fixture.agent.kernel.attached, [IfIndex(7)]);
    drop(fixture.agent.update(full_lists()));
    fixture.agent.sync();
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty), "the pod is not known");
    drop(fixture.agent.update(update(pod("a"))));
    fixture.agent.sync();
    assert_eq!(answer.try_recv(), Ok(Response::Ok));
    assert_eq!(fixture.endpoint_states(), [EndpointValue::BLOCKED, EndpointValue::READY]);
}

#[test]
fn endpoints_migrate_one_by_one_while_no_pod_is_added_or_removed() {
    let mut fixture = fixture();
    drop(fixture.agent.update(full_lists()));
    drop(fixture.agent.update(update(pod("a"))));
    assert_eq!(fixture.add().try_recv(), Ok(Response::Ok));
    assert_eq!(fixture.agent.describe().n_awaiting_migration, Some(1));
    let calm = fixture.now + Duration::from_secs(5);
    assert_eq!(fixture.agent.begin_migration(fixture.now), None, "another pod may be added");
    assert_eq!(fixture.agent.begin_migration(calm), Some(IfIndex(7)));
    assert_eq!(fixture.agent.begin_migration(calm), None, "one is under way");
    fixture.agent.end_migration(IfIndex(7), IfIndex(7), calm);
    assert_eq!(fixture.agent.describe().n_awaiting_migration, Some(0));
    assert_eq!(fixture.agent.begin_migration(calm), None);
    drop(fixture.add());
    drop(fixture.call(Request::Del(attachment())));
    let calm = calm + Duration::from_secs(5);
    assert_eq!(fixture.agent.begin_migration(calm), None, "the pod is gone");
}

#[test]
fn an_add_whose_programs_are_refused_fails_at_once_and_leaves_no_endpoint() {
    let mut fixture = fixture();
    drop(fixture.agent.update(full_lists()));
    drop(fixture.agent.update(update(pod("a"))));
    fixture.agent.kernel.refuses_attach = true;
    let mut answer = fixture.add();
    let Ok(Response::Error { code, message, .. }) = answer.try_recv() else { panic!("an answer") };
    assert_eq!(code, ErrorCode::ENFORCEMENT);
    assert!(message.starts_with("cannot attach to interface 7 of pod x/a: "), "{message}");
    assert!(fixture.agent.map_state().endpoints.is_empty());
    assert!(fixture.agent.state().endpoints().next().is_none());
    fixture.agent.kernel.refuses_attach = false;
    assert_eq!(fixture.add().try_recv(), Ok(Response::Ok), "the runtime tries again");
}

#[test]
fn an_add_whose_pod_is_never_reported_is_refused_at_its_deadline() {
    let mut fixture = fixture();
    drop(fixture.agent.update(full_lists()));
    let mut answer = fixture.add();
    fixture.agent.expire(fixture.now + Duration::from_secs(1));
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
    fixture.agent.expire(fixture.now + Duration::from_mins(1));
    let Ok(Response::Error { code, message, .. }) = answer.try_recv() else { panic!("an answer") };
    assert_eq!(code, ErrorCode::TRY_AGAIN_LATER);
    assert_eq!(message, "pod x/a is not known yet");
}

#[test]
fn del_removes_the_endpoint_at_once_and_can_be_repeated() {
    let mut fixture = fixture();
    drop(fixture.agent.update(full_lists()));
    drop(fixture.agent.update(update(pod("a"))));
    drop(fixture.add());
    for _ in 0..2 {
        assert_eq!(fixture.call(Request::Del(attachment())).try_recv(), Ok(Response::Ok));
        assert!(fixture.agent.map_state().endpoints.is_empty());
        assert!(fixture.agent.map_state().addresses.is_empty());
    }
    assert!(fixture.agent.kernel.log.contains(&MapOp::RemoveEndpoint(IfIndex(7))));
}

#[test]
fn a_refused_update_leaves_the_last_good_state() {
    let mut fixture = fixture();
    drop(fixture.agent.update(full_lists()));
    fixture.agent.sync();
    let before = fixture.agent.map_state().clone();
    fixture.agent.kernel.refuses = Some(
        |op| matches!(op, MapOp::SetEndpoint(_, value) if value.value.state == EndpointValue::READY),
    );
    drop(fixture.agent.update(update(pod("a"))));
    let mut answer = fixture.add();
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
    let mut expected = before;
    expected.endpoints = BTreeMap::from([(
        IfIndex(7),
        netpol_policy::dataplane::EndpointMapState::blocked(&Arc::from("c1")),
    )]);
    assert_eq!(*fixture.agent.map_state(), expected);
    fixture.agent.kernel.refuses = None;
    drop(fixture.agent.update(update(pod("b"))));
    fixture.agent.sync();
    assert_eq!(answer.try_recv(), Ok(Response::Ok), "the next update is tried");
}

#[test]
fn an_endpoint_is_removed_when_its_interface_is_gone_without_a_del() {
    let mut fixture = fixture();
    drop(fixture.agent.update(full_lists()));
    drop(fixture.agent.update(update(pod("a"))));
    drop(fixture.add());
    fixture.agent.set_devices(Devices::default(), |_| true, fixture.now);
    assert_eq!(
        fixture.agent.map_state().endpoints.len(),
        1,
        "the list of devices is older than the endpoint"
    );
    fixture.agent.set_devices(Devices::default(), |_| false, fixture.now);
    assert!(fixture.agent.map_state().endpoints.is_empty());
}

#[test]
fn readiness_names_the_kinds_that_are_not_listed_and_the_pods_that_are_not_protected() {
    let mut fixture = with_an_older_pod_but_no_lists();
    let reasons = |agent: &Agent<FakeKernel>| routes::unreadiness(&agent.describe(), Detail::Names);
    let kinds = Kind::BUILT_IN.map(|kind| format!("not listed yet: {kind}"));
    assert_eq!(reasons(&fixture.agent)[..kinds.len()], kinds);
    drop(fixture.agent.update(full_lists()));
    drop(fixture.agent.update(update(pod("a"))));
    fixture.agent.adopt(Vec::new(), fixture.now);
    fixture.agent.sync();
    assert_eq!(reasons(&fixture.agent), ["unprotected: pod x/a: its interface has not been found"]);
    fixture.agent.adopt(vec![found(7)], fixture.now);
    fixture.agent.sync();
    assert_eq!(reasons(&fixture.agent), [""; 0]);
}

fn check_of(ifindex: u32) -> Request {
    Request::Check(Check { attachment: attachment(), host_ifindex: ifindex })
}

#[test]
fn check_reports_another_interface_missing_programs_and_a_policy_that_is_not_in_force() {
    let mut fixture = fixture();
    let message = |fixture: &mut Fixture, ifindex| match fixture.call(check_of(ifindex)).try_recv()
    {
        Ok(Response::Ok) => String::new(),
        Ok(Response::Error { code: ErrorCode::CHECK_FAILED, message, .. }) => message,
        other => panic!("{other:?}"),
    };
    assert_eq!(message(&mut fixture, 7), "the agent does not know this attachment");
    drop(fixture.add());
    assert_eq!(message(&mut fixture, 7), "the pod's policy is not in force");
    drop(fixture.agent.update(full_lists()));
    drop(fixture.agent.update(update(pod("a"))));
    fixture.agent.sync();
    assert_eq!(message(&mut fixture, 7), "");
    assert_eq!(message(&mut fixture, 8), "the agent protects interface 7, not 8");
    fixture.agent.kernel.attached.clear();
    assert_eq!(message(&mut fixture, 7), "the programs on interface 7 are gone");
}

#[test]
fn gc_removes_invalid_attachments_of_its_own_network_only() {
    let mut fixture = fixture();
    drop(fixture.agent.update(full_lists()));
    drop(fixture.agent.update(update(pod("a"))));
    drop(fixture.add());
    let endpoints = |fixture: &Fixture| fixture.agent.map_state().endpoints.len();
    for (network, valid, n_left) in
        [("other", vec![], 1), ("net", vec![attachment()], 1), ("net", vec![], 0)]
    {
        let gc = Gc { network: network.to_owned(), valid_attachments: valid };
        assert_eq!(fixture.call(Request::Gc(gc)).try_recv(), Ok(Response::Ok));
        assert_eq!(endpoints(&fixture), n_left, "{network}");
    }
}

/// A runtime that had forgotten its pods called GC with an empty list, and cut all of them off.
#[test]
fn gc_with_an_incomplete_list_keeps_a_pod_that_runs_here() {
    let mut fixture = with_an_older_pod();
    fixture.agent.adopt(Vec::new(), fixture.now);
    drop(fixture.add());
    fixture.agent.kernel.pod_ends.insert(IfIndex(7), PodEnd::default());
    let gc = || Request::Gc(Gc { network: "net".to_owned(), valid_attachments: Vec::new() });
    assert_eq!(fixture.call(gc()).try_recv(), Ok(Response::Ok));
    assert_eq!(fixture.agent.map_state().endpoints.len(), 1);
    fixture.agent.kernel.pod_ends.clear();
    assert_eq!(fixture.call(gc()).try_recv(), Ok(Response::Ok));
    assert!(fixture.agent.map_state().endpoints.is_empty(), "its namespace is gone");
}

#[test]
fn gc_removes_the_older_sandbox_of_a_pod_that_runs_here() {
    let mut fixture = with_an_older_pod();
    fixture.agent.adopt(Vec::new(), fixture.now);
    drop(fixture.add());
    let newer = Attachment { container_id: "c2".to_owned(), ..attachment() };
    let Found { mut add, .. } = found(8);
    add.attachment = newer.clone();
    drop(fixture.call(Request::Add(add)));
    for ifindex in [7, 8] {
        fixture.agent.kernel.pod_ends.insert(IfIndex(ifindex), PodEnd::default());
    }
    let gc = Gc { network: "net".to_owned(), valid_attachments: vec![newer] };
    assert_eq!(fixture.call(Request::Gc(gc)).try_recv(), Ok(Response::Ok));
    let left: Vec<_> = fixture.agent.map_state().endpoints.keys().copied().collect();
    assert_eq!(left, [IfIndex(8)]);
}

pub(super) fn found(ifindex: u32) -> Found {
    Found {
        add: Add {
            attachment: attachment(),
            network: "net".to_owned(),
            netns: "/run/netns/x".to_owned(),
            host_ifname: format!("veth{ifindex}"),
            host_ifindex: ifindex,
            pod: PodRef { namespace: "x".to_owned(), name: "a".to_owned(), uid: None },
            addresses: vec!["10.0.0.1".parse().unwrap()],
            is_unshaped: false,
        },
        sockets: Sockets {
            connections: vec![Connection {
                protocol: netpol_common::ids::Protocol::TCP,
                origin: netpol_common::ids::Direction::Ingress,
                local_port: 80,
                remote: "10.0.0.9:40000".parse().unwrap(),
            }],
            udp_ports: BTreeMap::new(),
        },
    }
}

fn with_an_older_pod_but_no_lists() -> Fixture {
    let mut fixture = fixture();
    fixture.agent = fixture.agent.on_node(Some(Arc::from("n")));
    fixture
}

/// An agent with complete lists, and a pod of its node that is no endpoint.
fn with_an_older_pod() -> Fixture {
    let mut fixture = with_an_older_pod_but_no_lists();
    drop(fixture.agent.update(full_lists()));
    drop(fixture.agent.update(update(pod("a"))));
    fixture
}

#[test]
fn a_running_pod_gets_its_policy_before_its_programs() {
    let mut fixture = with_an_older_pod();
    fixture.agent.sync();
    assert!(fixture.agent.kernel.log.is_empty(), "a running pod could be cut off");
    let wanted = fixture.agent.wanted();
    assert_eq!(wanted.pods.len(), 1);
    let readiness = |agent: &Agent<FakeKernel>| agent.describe().endpoints[0].protection;
    assert_eq!(readiness(&fixture.agent), Protection::Unprotected);

    fixture.agent.adopt(vec![found(7)], fixture.now);
    assert_eq!(fixture.agent.kernel.attached, []);
    assert_eq!(readiness(&fixture.agent), Protection::Unprotected);
    fixture.agent.sync();
    assert_eq!(fixture.endpoint_states(), [EndpointValue::READY], "never blocked");
    assert_eq!(fixture.agent.kernel.attached, [IfIndex(7)]);
    assert_eq!(fixture.agent.kernel.flows.len(), 1);
    assert_eq!(readiness(&fixture.agent), Protection::Ready);
    assert!(fixture.agent.wanted().is_empty());
}

#[test]
fn an_empty_search_delays_nothing_and_an_add_during_a_search_wins() {
    let mut fixture = with_an_older_pod();
    fixture.agent.adopt(Vec::new(), fixture.now);
    fixture.agent.sync();
    assert!(fixture.agent.is_primed || fixture.agent.map_state == MapState::default());
    assert_eq!(fixture.agent.wanted().pods.len(), 1, "searched for again");
    // The runtime adds the pod again while a search is under way.
    drop(fixture.add());
    fixture.agent.adopt(vec![found(8)], fixture.now);
    fixture.agent.sync();
    let endpoints: Vec<_> = fixture.agent.map_state.endpoints.keys().copied().collect();
    assert_eq!(endpoints, [IfIndex(7)]);
}

#[test]
fn after_its_del_a_pod_is_neither_searched_for_nor_unprotected() {
    let mut fixture = with_an_older_pod();
    fixture.agent.adopt(Vec::new(), fixture.now);
    drop(fixture.add());
    drop(fixture.call(Request::Del(attachment())));
    assert!(fixture.agent.wanted().is_empty());
    assert_eq!(fixture.agent.describe().endpoints, []);
    fixture.agent.adopt(vec![found(7)], fixture.now);
    fixture.agent.sync();
    assert!(fixture.agent.map_state.endpoints.is_empty());
    // A new pod of the same name is searched for.
    let Delta::Upsert(Object::Pod(mut successor)) = pod("a") else { panic!("a pod") };
    successor.uid = Arc::from("2");
    drop(fixture.agent.update(update(Delta::Upsert(Object::Pod(successor)))));
    assert_eq!(fixture.agent.wanted().pods.len(), 1);
}

#[test]
fn a_pod_whose_programs_are_refused_is_searched_for_again() {
    let mut fixture = with_an_older_pod();
    fixture.agent.kernel.refuses_attach = true;
    fixture.agent.adopt(vec![found(7)], fixture.now);
    fixture.agent.sync();
    assert_eq!(fixture.agent.describe().endpoints[0].protection, Protection::Unprotected);
    fixture.agent.kernel.refuses_attach = false;
    assert_eq!(fixture.agent.wanted().pods.len(), 1);
    fixture.agent.adopt(vec![found(7)], fixture.now);
    fixture.agent.sync();
    assert_eq!(fixture.agent.describe().endpoints[0].protection, Protection::Ready);
}

#[test]
fn programs_of_another_version_stay_until_the_maps_are_complete() {
    let mut fixture = fixture();
    let kernel = FakeKernel { has_predecessor: true, ..FakeKernel::default() };
    let map_state = MapState {
        defer: BTreeSet::from(["10.0.0.254".parse::<std::net::IpAddr>().unwrap().into()]),
        ..MapState::default()
    };
    let registry = Registry::open(&fixture.dir.path().join("endpoints.json"), |_| None).unwrap();
    fixture.agent = Agent::new(kernel, map_state, registry);
    fixture.agent.set_devices(Devices::default(), |_| true, fixture.now);
    fixture.agent.sync();
    let kernel = &fixture.agent.kernel;
    assert!(kernel.has_predecessor && kernel.n_uplink_changes == 0);
    drop(fixture.agent.update(full_lists()));
    fixture.agent.sync();
    let kernel = &fixture.agent.kernel;
    assert!(!kernel.has_predecessor && kernel.n_uplink_changes == 1);
}

#[test]
fn metrics_show_endpoints_and_drops() {
    let mut fixture = fixture();
    drop(fixture.agent.update(full_lists()));
    drop(fixture.agent.update(update(pod("a"))));
    drop(fixture.add());
    let text = crate::telemetry::render(fixture.agent.metrics(fixture.now).unwrap(), None).unwrap();
    for line in [
        "netpol_in_force 1",
        "netpol_objects{kind=\"Pod\"} 1",
        "netpol_endpoints{protection=\"ready\",attach=\"clsact\"} 1",
        "netpol_drops_total{direction=\"ingress\",reason=\"not-allowed\"} 3",
        "netpol_pod_drops_total{direction=\"ingress\",reason=\"not-allowed\",namespace=\"x\",pod=\"a\"} 3",
        "netpol_drop_bytes_total{direction=\"ingress\",reason=\"not-allowed\"} 180",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}

/// The annotation of a pod alone once sufficed, so every tenant could pose as any other pod.
#[test]
fn a_pod_forwards_only_while_its_namespace_permits_it() {
    let mut fixture = fixture();
    drop(fixture.agent.update(full_lists()));
    let Delta::Upsert(Object::Pod(asking)) = pod("a") else { panic!("a pod") };
    let asking = Object::Pod(Pod { allows_forwarding: true, ..asking });
    drop(fixture.agent.update(update(Delta::Upsert(asking))));
    assert_eq!(fixture.add().try_recv(), Ok(Response::Ok));
    let forwards =
        |fixture: &Fixture| fixture.agent.map_state().endpoints[&IfIndex(7)].value.forwards();
    assert!(!forwards(&fixture));
    for allows_forwarding in [false, true, false] {
        let namespace = Namespace {
            name: Arc::from("x"),
            labels: Labels::new(),
            terminating: false,
            allows_forwarding,
        };
        drop(fixture.agent.update(update(Delta::Upsert(Object::Namespace(namespace)))));
        fixture.agent.sync();
        assert_eq!(forwards(&fixture), allows_forwarding);
    }
}
