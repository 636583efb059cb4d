//! The event loop against a kernel that only remembers.

use std::sync::Arc;
use std::time::Duration;

use netpol_common::proto::{Add, Attachment, ErrorCode, PodRef, Request};
use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::cni_server::Call;
use crate::model::{Labels, Object, ObjectName, Pod, PodPhase};

/// Remembers what it was told, and refuses what a test forbids.
#[derive(Debug, Default)]
struct FakeKernel {
    log: Vec<MapOp>,
    maps: Image,
    attached: Vec<IfIndex>,
    refuses: Option<fn(&MapOp) -> bool>,
}

#[derive(Debug, thiserror::Error)]
#[error("map is full")]
struct Full;

impl Kernel for FakeKernel {
    type Error = Full;

    fn apply(&mut self, ops: &[MapOp]) -> Result<(), Full> {
        for op in ops {
            if self.refuses.is_some_and(|refuses| refuses(op)) {
                return Err(Full);
            }
            apply(op, &mut self.maps);
            self.log.push(op.clone());
        }
        Ok(())
    }

    fn image(&self) -> Result<Image, Full> {
        Ok(self.maps.clone())
    }

    fn flows(&self) -> Result<BTreeMap<FlowKey, FlowValue>, Full> {
        Ok(BTreeMap::new())
    }

    fn counters(&self) -> Result<BTreeMap<CounterKey, CounterValue>, Full> {
        let key = CounterKey { ifindex: IfIndex(7), direction: 0, verdict: 128, pad: [0; 2] };
        Ok(BTreeMap::from([(key, CounterValue { packets: 3, bytes: 180 })]))
    }

    fn attach(&mut self, ifindex: IfIndex) -> Result<(), Full> {
        self.attached.push(ifindex);
        Ok(())
    }

    fn set_uplinks(&mut self, _: &BTreeMap<IfIndex, Framing>) -> Result<(), Full> {
        Ok(())
    }
}

struct Fixture {
    agent: Agent<FakeKernel>,
    now: Instant,
    _dir: tempfile::TempDir,
}

#[expect(clippy::disallowed_methods, reason = "any moment will do")]
fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(&dir.path().join("endpoints.json"), |_| None).unwrap();
    Fixture {
        agent: Agent::new(FakeKernel::default(), Image::default(), registry),
        now: Instant::now(),
        _dir: dir,
    }
}

fn full_lists() -> SourceUpdate {
    let deltas = Kind::ALL
        .into_iter()
        .map(|kind| Delta::Replace { kind, objects: Vec::new(), unreadable: Vec::new() })
        .collect();
    SourceUpdate { deltas, ..SourceUpdate::default() }
}

fn pod(name: &str) -> Delta {
    Delta::Upsert(Object::Pod(Pod {
        name: ObjectName::new("x", name),
        uid: Arc::from("1"),
        static_uid: Arc::from(""),
        created_s: 1,
        labels: Labels::new(),
        node: Arc::from(""),
        reported_addresses: vec!["10.0.0.1".parse().unwrap()],
        host_network: false,
        phase: PodPhase::Pending,
        terminating: false,
        ports: Vec::new(),
        allows_forwarding: false,
    }))
}

fn update(delta: Delta) -> SourceUpdate {
    SourceUpdate { deltas: vec![delta], ..SourceUpdate::default() }
}

fn attachment() -> Attachment {
    Attachment { container_id: "c1".to_owned(), container_ifname: "eth0".to_owned() }
}

impl Fixture {
    fn call(&mut self, request: Request) -> oneshot::Receiver<Response> {
        let (reply, answer) = oneshot::channel();
        self.agent.call(Call { request, reply }, self.now);
        self.agent.sync();
        answer
    }

    fn add(&mut self) -> oneshot::Receiver<Response> {
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
    let addresses = std::collections::BTreeSet::from(["10.0.0.254".parse().unwrap()]);
    fixture.agent.set_devices(&Devices { addresses, ..Devices::default() }, |_| true);
    fixture.agent.sync();
    assert!(fixture.agent.kernel.log.is_empty());
    drop(fixture.agent.update(full_lists()));
    fixture.agent.sync();
    assert!(!fixture.agent.kernel.log.is_empty());
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
fn an_add_without_a_pod_is_refused_in_the_end() {
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
fn del_closes_the_interface_at_once_and_works_twice() {
    let mut fixture = fixture();
    drop(fixture.agent.update(full_lists()));
    drop(fixture.agent.update(update(pod("a"))));
    drop(fixture.add());
    for _ in 0..2 {
        assert_eq!(fixture.call(Request::Del(attachment())).try_recv(), Ok(Response::Ok));
        assert!(fixture.agent.image().endpoints.is_empty());
        assert!(fixture.agent.image().addresses.is_empty());
    }
    assert!(fixture.agent.kernel.log.contains(&MapOp::RemoveEndpoint(IfIndex(7))));
}

#[test]
fn what_the_kernel_refuses_leaves_the_last_good_state() {
    let mut fixture = fixture();
    drop(fixture.agent.update(full_lists()));
    fixture.agent.sync();
    let before = fixture.agent.image().clone();
    fixture.agent.kernel.refuses = Some(
        |op| matches!(op, MapOp::SetEndpoint(_, value) if value.value.state == EndpointValue::READY),
    );
    drop(fixture.agent.update(update(pod("a"))));
    let mut answer = fixture.add();
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
    let mut expected = before;
    expected.endpoints =
        BTreeMap::from([(IfIndex(7), crate::dataplane::EndpointImage::blocked(&Arc::from("c1")))]);
    assert_eq!(*fixture.agent.image(), expected);
    fixture.agent.kernel.refuses = None;
    drop(fixture.agent.update(update(pod("b"))));
    fixture.agent.sync();
    assert_eq!(answer.try_recv(), Ok(Response::Ok), "the next change tries again");
}

#[test]
fn an_interface_that_vanishes_without_a_del_is_no_endpoint_any_more() {
    let mut fixture = fixture();
    drop(fixture.agent.update(full_lists()));
    drop(fixture.agent.update(update(pod("a"))));
    drop(fixture.add());
    fixture.agent.set_devices(&Devices::default(), |_| true);
    assert_eq!(
        fixture.agent.image().endpoints.len(),
        1,
        "the list of devices is older than the endpoint"
    );
    fixture.agent.set_devices(&Devices::default(), |_| false);
    assert!(fixture.agent.image().endpoints.is_empty());
}

#[test]
fn metrics_tell_what_is_in_force_and_what_is_dropped() {
    let mut fixture = fixture();
    drop(fixture.agent.update(full_lists()));
    drop(fixture.agent.update(update(pod("a"))));
    drop(fixture.add());
    let text = crate::telemetry::render(fixture.agent.metrics().unwrap()).unwrap();
    for line in [
        "netpol_in_force 1",
        "netpol_objects{kind=\"Pod\"} 1",
        "netpol_endpoints{protection=\"ready\"} 1",
        "netpol_drops_total{direction=\"ingress\",reason=\"not-allowed\"} 3",
        "netpol_drop_bytes_total{direction=\"ingress\",reason=\"not-allowed\"} 180",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}
