//! Event records of the programs.

use std::sync::Arc;
use std::time::Duration;

use netpol_common::event::{Event, EventBudget};
use netpol_common::ids::{Direction, IfIndex, PortBe, Protocol, RuleId};
use netpol_common::reason::{DropReason, Verdict};
use netpol_datapath::netlink::PretendDevices;
use netpol_datapath::{Config, Datapath, Error, Events, Program, TestContext};
use netpol_lab::packets::{Ends, Frame, Packet, Segment};
use netpol_lab::privilege::{Need, met};
use netpol_policy::dataplane::port::Maps as _;
use netpol_policy::dataplane::{EndpointMapState, MapOp};
use tokio::time::timeout;

use super::cluster_model::{v4, v6};

const POD: IfIndex = IfIndex(100);
/// Time limit for records that are in the ring buffer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time after which no further records are expected.
const SILENCE: Duration = Duration::from_millis(50);

/// All records until none arrives for a while.
async fn all(events: &mut Events) -> Vec<Event> {
    let mut all = Vec::new();
    let mut patience = PATIENCE;
    while let Ok(event) = timeout(patience, events.next()).await {
        all.push(event.unwrap());
        patience = SILENCE;
    }
    all
}

#[test]
fn a_drop_is_recorded_with_its_reason_and_a_flood_of_drops_within_its_budget() {
    if !met(&[Need::Root]) {
        return;
    }
    let mut devices = PretendDevices::in_new_namespace(POD).unwrap();
    devices.ensure(POD).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _in_runtime = runtime.enter();
    let mut datapath = Datapath::load(&Config::private()).unwrap();
    let mut events = datapath.events().unwrap();
    assert!(matches!(datapath.events(), Err(Error::Taken { .. })));
    let endpoint = EndpointMapState::blocked(&Arc::from("sandbox"));
    datapath.apply(&[MapOp::SetEndpoint(POD, endpoint)]).unwrap();
    let context = TestContext { ifindex: POD.0, ingress_ifindex: 2, mark: 0 };
    let segment = Segment::Udp { src_port: 5000, dst_port: 53 };
    let plain = Packet::plain(Ends::V4(v4(1), v4(4)), segment.clone());
    let frame = Frame::whole(plain).bytes();
    datapath.test_run(Program::PodEgress, &frame, context).unwrap();
    let recorded = runtime.block_on(all(&mut events));
    let [event] = recorded.as_slice() else { panic!("one record: {recorded:?}") };
    let Event {
        time, src, dst, ifindex, rule, len_bytes, direction, verdict, n_suppressed, ..
    } = *event;
    assert!(time.0 > 0);
    // Plain packets are parsed before the endpoint look-up.
    assert_eq!((src, dst), (v4(1).into(), v4(4).into()));
    assert_eq!((ifindex, rule, n_suppressed), (POD, RuleId::NONE, 0));
    assert_eq!(usize::try_from(len_bytes).unwrap(), frame.len() - 14);
    assert_eq!(direction, Direction::Egress.to_wire());
    assert_eq!(Verdict::try_from(verdict), Ok(Verdict::Drop(DropReason::Blocked)));

    for _ in 0..10 * EventBudget::PER_WINDOW {
        datapath.test_run(Program::PodEgress, &frame, context).unwrap();
    }
    let n_recorded = runtime.block_on(all(&mut events)).len();
    // On a busy machine the flood spans a second rate-limit window.
    assert!(n_recorded < 3 * usize::try_from(EventBudget::PER_WINDOW).unwrap(), "{n_recorded}");
}

#[test]
fn a_record_has_addresses_ports_and_protocol() {
    if !met(&[Need::Root]) {
        return;
    }
    let mut devices = PretendDevices::in_new_namespace(POD).unwrap();
    devices.ensure(POD).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _in_runtime = runtime.enter();
    let mut datapath = Datapath::load(&Config::private()).unwrap();
    let mut events = datapath.events().unwrap();
    let mut endpoint = EndpointMapState::blocked(&Arc::from("sandbox"));
    endpoint.value.state = netpol_common::keys::EndpointValue::READY;
    endpoint.value.isolated = Direction::Ingress.bit();
    datapath.apply(&[MapOp::SetEndpoint(POD, endpoint)]).unwrap();
    let packet = Packet::plain(
        Ends::V6(v6(4), v6(1)),
        Segment::Tcp { src_port: 5000, dst_port: 80, flags: 0x02 },
    );
    let context = TestContext { ifindex: POD.0, ingress_ifindex: 2, mark: 0 };
    datapath.test_run(Program::PodIngress, &Frame::whole(packet).bytes(), context).unwrap();
    let event = runtime.block_on(all(&mut events)).pop().unwrap();
    assert_eq!(event.src.to_ip(), v6(4));
    assert_eq!(event.dst.to_ip(), v6(1));
    assert_eq!((event.src_port, event.dst_port), (PortBe::new(5000), PortBe::new(80)));
    assert_eq!(event.protocol, Protocol::TCP);
    assert_eq!(event.direction, Direction::Ingress.to_wire());
    assert_eq!(Verdict::try_from(event.verdict), Ok(Verdict::Drop(DropReason::NotAllowed)));
}
