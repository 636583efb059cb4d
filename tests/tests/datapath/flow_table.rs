//! The flow table: eviction, concurrent writes to one set, and additions and removals by user space.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use netpol_common::flow;
use netpol_common::ids::{Direction, Epoch, Identity, IfIndex, Nanos, PortBe, Protocol, RuleId};
use netpol_common::keys::{AddressKey, AllowKey, AllowValue, EndpointValue, FlowKey, FlowValue};
use netpol_common::mac::Mac;
use netpol_common::maps::FLOWS;
use netpol_datapath::netlink::PretendDevices;
use netpol_datapath::{Config, Datapath, Program, TestContext};
use netpol_lab::packets::{Ends, Frame, Packet, Segment};
use netpol_lab::privilege::{Need, met};
use netpol_policy::compile::{AllowMap, AllowMapKey, EndpointMapState, MapState};
use netpol_policy::dataplane::port::{Flows as _, Maps as _};
use netpol_policy::dataplane::{MapOp, diff};

use super::cluster_model::{PODS, UPLINK, v4};

/// The only allowed port; pods have no egress.
const OPEN: u16 = 53;
/// Packets of each processor in a round; each packet writes the table.
const N_PACKETS: u32 = 20_000;
const N_ROUNDS: usize = 3;
/// Number of changes during concurrent reads.
const N_LOOKS: usize = 100_000;
/// Times that the table is read meanwhile: enough to find each of the rivals in it.
const MIN_READS: usize = 100;

/// Two pods.
pub(super) const QUIET: u32 = PODS[0];
const LOUD: u32 = PODS[1];

fn map_state() -> MapState {
    let mut map_state = MapState::default();
    let entry = |protocol| {
        let key = AllowKey::lookup(Identity::ANY, protocol, PortBe::new(OPEN));
        (key, AllowValue::allow(RuleId(7)))
    };
    let allowed: Arc<AllowMap> = Arc::new([Protocol::TCP, Protocol::UDP].map(entry).into());
    for (ifindex, addr) in [(QUIET, v4(1)), (LOUD, v4(2))].map(|(i, addr)| (IfIndex(i), addr)) {
        let value = EndpointValue {
            state: EndpointValue::READY,
            isolated: Direction::Ingress.bit() | Direction::Egress.bit(),
            ..EndpointValue::blocked()
        };
        map_state.endpoints.insert(
            ifindex,
            EndpointMapState { value, container_id: Arc::from("pod"), mac: Mac::UNKNOWN },
        );
        map_state.addresses.insert(AddressKey { ifindex, addr: addr.into() });
        map_state.allow.insert(AllowMapKey::new(ifindex, Direction::Ingress), Arc::clone(&allowed));
    }
    map_state
}

pub(super) fn devices() -> PretendDevices {
    let mut devices = PretendDevices::in_new_namespace(IfIndex(QUIET)).unwrap();
    devices.ensure(IfIndex(LOUD)).unwrap();
    devices.ensure(IfIndex(UPLINK)).unwrap();
    devices
}

fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    let segment = Segment::Udp { src_port: from.1, dst_port: to.1 };
    Frame::whole(Packet::plain(Ends::V4(from.0, to.0), segment)).bytes()
}

fn tcp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), flags: u8) -> Vec<u8> {
    let segment = Segment::Tcp { src_port: from.1, dst_port: to.1, flags };
    Frame::whole(Packet::plain(Ends::V4(from.0, to.0), segment)).bytes()
}

pub(super) fn syn(from: (Ipv4Addr, u16)) -> Vec<u8> {
    tcp(from, (v4(1), OPEN), 0x02)
}

pub(super) fn passes(
    datapath: &mut Datapath,
    program: Program,
    ifindex: u32,
    frame: &[u8],
) -> bool {
    let context = TestContext { ifindex, ingress_ifindex: UPLINK, mark: 0 };
    datapath.test_run(program, frame, context).unwrap().is_pass()
}

/// A flow of another pod.
pub(super) fn other(number: u32) -> (Ipv4Addr, u16) {
    let port = 1024 + u16::try_from(number % 60_000).unwrap();
    (Ipv4Addr::from_bits(0x0b00_0000 + number), port)
}

fn of(flows: &BTreeMap<FlowKey, FlowValue>, ifindex: u32) -> BTreeSet<FlowKey> {
    flows.keys().copied().filter(|key| key.ifindex.0 == ifindex).collect()
}

#[test]
fn a_flood_evicts_its_own_connections() {
    if !met(&[Need::Root]) {
        return;
    }
    let _devices = devices();
    let capacities = BTreeMap::from([(FLOWS, 64)]);
    let mut datapath = Datapath::load(&Config { capacities, ..Config::private() }).unwrap();
    datapath.apply(&diff(&MapState::default(), &map_state())).unwrap();
    // Few enough flows of one pod that they rarely share a set.
    for number in 0..8 {
        let frame = udp(other(number), (v4(1), OPEN));
        assert!(passes(&mut datapath, Program::PodIngress, QUIET, &frame));
    }
    let before = of(&datapath.flows().unwrap(), QUIET);
    assert_eq!((before.len(), datapath.n_evicted_flows().unwrap()), (8, 0));
    for number in 0..5000 {
        let frame = udp(other(number), (v4(2), OPEN));
        assert!(passes(&mut datapath, Program::PodIngress, LOUD, &frame));
    }
    let flows = datapath.flows().unwrap();
    assert_eq!(of(&flows, QUIET), before);
    assert!(of(&flows, LOUD).len() > 400, "too few flows of the flood are kept: {}", flows.len());
    assert_eq!(datapath.n_evicted_flows().unwrap(), 5000 - u64::try_from(flows.len() - 8).unwrap());
    for number in 0..8 {
        let answer = udp((v4(1), OPEN), other(number));
        assert!(passes(&mut datapath, Program::PodEgress, QUIET, &answer), "{number}");
    }
}

/// As many attackers as a bucket has slots, a multiple of it, and all other pods of a full node.
const N_ATTACKERS: [u32; 3] = [8, 64, 110];
/// Idle connections of the pod that is not to lose any.
const N_IDLE: u32 = 100;
/// Connections of all attackers together: more than fit.
const N_FLOOD: u32 = 150_000;

#[test]
fn many_pods_together_evict_no_connection_of_another_pod() {
    if !met(&[Need::Root]) {
        return;
    }
    let mut devices = devices();
    for n_attackers in N_ATTACKERS {
        let attacker = |n: u32| (LOUD + 1 + n, v4(100 + u8::try_from(n).unwrap()));
        let attackers: Vec<_> = (0..n_attackers).map(attacker).collect();
        devices.ensure(IfIndex(LOUD + n_attackers)).unwrap();
        // Half of the usual size: 131,072 connections, of which 111 endpoints can have 1,180 each.
        let capacities = BTreeMap::from([(FLOWS, 1 << 14)]);
        let mut datapath = Datapath::load(&Config { capacities, ..Config::private() }).unwrap();
        let mut state = map_state();
        let open = state.endpoints[&IfIndex(QUIET)].clone();
        let allowed =
            Arc::clone(&state.allow[&AllowMapKey::new(IfIndex(QUIET), Direction::Ingress)]);
        for (ifindex, addr) in &attackers {
            let ifindex = IfIndex(*ifindex);
            state.endpoints.insert(ifindex, open.clone());
            state.addresses.insert(AddressKey { ifindex, addr: (*addr).into() });
            state.allow.insert(AllowMapKey::new(ifindex, Direction::Ingress), Arc::clone(&allowed));
        }
        datapath.apply(&diff(&MapState::default(), &state)).unwrap();
        // UDP, so that the connections of the attackers end no earlier.
        for number in 0..N_IDLE {
            let frame = udp(other(number), (v4(1), OPEN));
            assert!(passes(&mut datapath, Program::PodIngress, QUIET, &frame));
        }
        let before = of(&datapath.flows().unwrap(), QUIET);
        assert_eq!(u32::try_from(before.len()), Ok(N_IDLE));
        for number in 0..N_FLOOD {
            let (ifindex, addr) = attackers[usize::try_from(number % n_attackers).unwrap()];
            let frame = udp(other(1_000_000 + number), (addr, OPEN));
            assert!(passes(&mut datapath, Program::PodIngress, ifindex, &frame));
        }
        let flows = datapath.flows().unwrap();
        let n_lost = before.difference(&of(&flows, QUIET)).count();
        assert_eq!(n_lost, 0, "{n_attackers} attackers");
        assert!(datapath.n_evicted_flows().unwrap() > 10_000, "the table is not full");
        for ifindex in attackers.iter().map(|(ifindex, _)| *ifindex).chain([QUIET]) {
            let counted = datapath.n_counted_flows(IfIndex(ifindex)).unwrap();
            assert_eq!(counted, u64::try_from(of(&flows, ifindex).len()).unwrap(), "{ifindex}");
        }
    }
}

/// A pin folder, removed on drop.
pub(super) struct Pins(pub(super) PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// A table of one bucket, its pins, and the configuration to load it again.
pub(super) fn one_bucket(test: &str) -> (Pins, Config, Datapath) {
    let pins = Pins(format!("/sys/fs/bpf/npdp-{}-{test}", std::process::id()).into());
    let capacities = BTreeMap::from([(FLOWS, 1)]);
    let config = Config { pin_root: Some(pins.0.clone()), capacities, ..Config::default() };
    let mut datapath = Datapath::load(&config).unwrap();
    datapath.apply(&diff(&MapState::default(), &map_state())).unwrap();
    (pins, config, datapath)
}

#[test]
fn two_processors_write_one_connection_one_after_the_other() {
    if !met(&[Need::Root]) {
        return;
    }
    let (_pins, config, datapath) = one_bucket("writers");
    let start = Barrier::new(2);
    // A lost lock would leave the slot marked as being written.
    for _ in 0..N_ROUNDS {
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| open_again_and_again(&config, other(100), &start));
            }
        });
        let flows = datapath.flows().unwrap();
        assert_eq!(flows.keys().map(|key| key.remote).collect::<Vec<_>>(), [other(100).0.into()]);
    }
}

fn open_again_and_again(config: &Config, from: (Ipv4Addr, u16), start: &Barrier) {
    let _devices = devices();
    let mut datapath = Datapath::load(config).unwrap();
    let context = TestContext { ifindex: QUIET, ingress_ifindex: UPLINK, mark: 0 };
    start.wait();
    let (outcome, _) =
        datapath.time_runs(Program::PodIngress, &syn(from), context, N_PACKETS).unwrap();
    assert!(outcome.is_pass());
}

#[test]
fn what_is_read_while_it_is_written_is_of_one_connection() {
    if !met(&[Need::Root]) {
        return;
    }
    let _devices = devices();
    let (_pins, config, mut datapath) = one_bucket("reader");
    let rivals = [other(100), other(200)];
    for rival in rivals {
        assert!(passes(&mut datapath, Program::PodIngress, QUIET, &syn(rival)));
    }
    let flows = datapath.flows().unwrap();
    let like = *flows.keys().next().unwrap();
    // Long-lived flows of other pods, so that the rivals evict each other.
    let lasting: Vec<_> = (0..7).map(|number| lasting(like, number)).collect();
    datapath.add_flows(&lasting).unwrap();
    let known: BTreeSet<_> = lasting.iter().map(|(key, _)| *key).chain(flows.into_keys()).collect();
    assert_eq!(known.len(), 9);
    let is_done = AtomicBool::new(false);
    let n_reads = AtomicUsize::new(0);
    let read = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let datapath = Datapath::load(&config).unwrap();
            let mut read = BTreeSet::new();
            while !is_done.load(Ordering::Relaxed) {
                read.extend(datapath.flows().unwrap().into_keys());
                n_reads.fetch_add(1, Ordering::Relaxed);
            }
            read
        });
        // On a busy machine the reader loads for longer than the writer needs for its packets.
        for (n_written, packet) in rivals.iter().cycle().enumerate() {
            if n_written >= N_LOOKS && n_reads.load(Ordering::Relaxed) >= MIN_READS {
                break;
            }
            assert!(passes(&mut datapath, Program::PodIngress, QUIET, &syn(*packet)));
        }
        is_done.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert_eq!(read, known);
}

/// An established flow of the same pod with another peer.
fn lasting(like: FlowKey, number: u32) -> (FlowKey, FlowValue) {
    let (addr, _) = other(number);
    let facts = [Direction::Ingress.to_wire(), flow::OPEN, 0];
    let now = Nanos(1 << 60);
    (FlowKey { remote: addr.into(), ..like }, FlowValue::new(now, Epoch(0), RuleId::NONE, facts))
}

#[test]
fn user_space_makes_connections_known_and_forgets_those_of_one_interface() {
    if !met(&[Need::Root]) {
        return;
    }
    let _devices = devices();
    let mut datapath = Datapath::load(&Config::private()).unwrap();
    datapath.apply(&diff(&MapState::default(), &map_state())).unwrap();
    let known = udp(other(0), (v4(1), OPEN));
    assert!(passes(&mut datapath, Program::PodIngress, QUIET, &known));
    let (known_key, known_value) = datapath.flows().unwrap().pop_first().unwrap();
    let told = |ifindex: u32, number: u32| {
        let (addr, port) = other(number);
        let ports = u32::from_ne_bytes(
            [OPEN.to_be_bytes(), port.to_be_bytes()].concat().try_into().unwrap(),
        );
        let key =
            FlowKey::new(IfIndex(ifindex), addr.into(), ports, Protocol::UDP, FlowKey::AT_POD);
        let facts = [Direction::Ingress.to_wire(), flow::OPEN, 0];
        let last_seen = Nanos(known_value.last_seen.0 + 1);
        (key, FlowValue::new(last_seen, Epoch(0), RuleId::NONE, facts))
    };
    let flows = [told(QUIET, 0), told(QUIET, 1), told(LOUD, 2)];
    assert_eq!(flows[0].0, known_key);
    datapath.add_flows(&flows).unwrap();
    let mut expected = BTreeMap::from(flows);
    expected.insert(known_key, known_value);
    assert_eq!(datapath.flows().unwrap(), expected, "existing flows changed");
    let answer = udp((v4(1), OPEN), other(1));
    assert!(passes(&mut datapath, Program::PodEgress, QUIET, &answer));
    datapath.apply(&[MapOp::RemoveEndpoint(IfIndex(QUIET))]).unwrap();
    assert!(!passes(&mut datapath, Program::PodEgress, QUIET, &answer));
    datapath.collect_garbage().unwrap();
    assert_eq!(of(&datapath.flows().unwrap(), LOUD), [flows[2].0].into());
    assert_eq!(datapath.flows().unwrap().len(), 1);
}
