//! Identities of single addresses: written to shared memory that the programs read, without system calls and locks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use netpol_common::addr::Addr;
use netpol_common::ids::{Direction, Identity, IfIndex, PortBe, Protocol, RuleId};
use netpol_common::keys::{AllowKey, AllowValue, EndpointValue};
use netpol_common::mac::Mac;
use netpol_common::maps::IDENTITIES;
use netpol_datapath::{Attaching, Config, Datapath, Program, TestContext};
use netpol_lab::packets::{Ends, Frame, Packet, Segment};
use netpol_lab::privilege::{Need, met};
use netpol_policy::compile::{AllowMap, AllowMapKey, EndpointMapState, MapState};
use netpol_policy::dataplane::port::Maps as _;
use netpol_policy::dataplane::{MapOp, diff};

use super::wire::Wire;

/// The loopback device, which exists in every namespace.
const POD: IfIndex = IfIndex(1);
const ALLOWED: Identity = Identity(2);
const OTHER: Identity = Identity(3);

/// Packets from an address per system call.
const N_RUNS: u32 = 500;
/// How often the writer adds and removes everything while packets are processed.
const N_ROUNDS: u32 = 30;

fn v4(number: u32) -> Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

/// Neighbours in the first half, or in the second.
fn v6(number: u32) -> Addr {
    let number = u128::from(number);
    let bits = if number.is_multiple_of(2) { number << 64 | 1 } else { number };
    Addr(Ipv6Addr::from_bits(0xfd << 120 | bits).octets())
}

/// A pod that allows the allowed identity on port 80.
fn map_state(identities: BTreeMap<Addr, Identity>) -> MapState {
    let value = EndpointValue {
        state: EndpointValue::READY,
        isolated: Direction::Ingress.bit(),
        ..EndpointValue::blocked()
    };
    let key = AllowKey::lookup(ALLOWED, Protocol::TCP, PortBe::new(80));
    let allowed: AllowMap = [(key, AllowValue::allow(RuleId(1)))].into();
    MapState {
        endpoints: [(
            POD,
            EndpointMapState { value, container_id: Arc::from("pod"), mac: Mac::UNKNOWN },
        )]
        .into(),
        allow: [(AllowMapKey::new(POD, Direction::Ingress), Arc::new(allowed))].into(),
        identities,
        ..MapState::default()
    }
}

/// The first packet of a connection from an address.
fn frame(from: Addr) -> Vec<u8> {
    let ends = match from.to_ip() {
        IpAddr::V4(from) => Ends::V4(from, Ipv4Addr::new(10, 255, 0, 1)),
        IpAddr::V6(from) => Ends::V6(from, Ipv6Addr::new(0xfd00, 0xffff, 0, 0, 0, 0, 0, 1)),
    };
    let segment = Segment::Tcp { src_port: 40_000, dst_port: 80, flags: 2 };
    Frame::whole(Packet::plain(ends, segment)).bytes()
}

fn context() -> TestContext {
    TestContext { ifindex: POD.0, ingress_ifindex: 2, mark: 0 }
}

/// Checks the kernel's verdicts for these addresses against the map state.
#[track_caller]
fn check(datapath: &mut Datapath, map_state: &MapState, addresses: impl Iterator<Item = Addr>) {
    assert_eq!(datapath.map_state().unwrap(), *map_state);
    for addr in addresses {
        let outcome = datapath.test_run(Program::PodIngress, &frame(addr), context()).unwrap();
        let expected = map_state.identities.get(&addr) == Some(&ALLOWED);
        assert_eq!(outcome.is_pass(), expected, "{addr}");
    }
}

#[test]
fn programs_find_what_the_agent_wrote_however_many_and_after_a_restart() {
    if !met(&[Need::Root]) {
        return;
    }
    let wire = Wire::new("ident");
    let config = wire.config(Attaching::of_this_kernel());
    let mut datapath = Datapath::load(&config).unwrap();
    // More than the tables' initial capacity, and a few addresses without an entry.
    let numbers = (0..20_000).step_by(37).chain(20_000..20_010);
    let sample = || numbers.clone().flat_map(|number| [v4(number), v6(number)]);
    let identity = |number: u32| if number.is_multiple_of(3) { ALLOWED } else { OTHER };
    let all = (0..20_000)
        .flat_map(|number| [(v4(number), identity(number)), (v6(number), identity(number))]);
    let full = map_state(all.collect());
    let mut now = MapState::default();
    let mut go_to = |datapath: &mut Datapath, next: &MapState| {
        datapath.apply(&diff(&now, next)).unwrap();
        now = next.clone();
    };

    go_to(&mut datapath, &full);
    check(&mut datapath, &full, sample());
    drop(datapath);
    let mut datapath = Datapath::load(&config).unwrap();
    check(&mut datapath, &full, sample());

    let few = map_state(
        full.identities.clone().into_iter().filter(|(addr, _)| addr.0[15] == 7).collect(),
    );
    go_to(&mut datapath, &few);
    check(&mut datapath, &few, sample());
    let len_bytes = datapath.map_len_bytes().unwrap()[IDENTITIES];
    datapath.prepare().unwrap();
    assert!(datapath.map_len_bytes().unwrap()[IDENTITIES] < len_bytes / 2);
    check(&mut datapath, &few, sample());

    let nobody = map_state([(v4(1), Identity::NONE), (v6(1), Identity::NONE)].into());
    go_to(&mut datapath, &nobody);
    drop(datapath);
    check(&mut Datapath::load(&config).unwrap(), &nobody, sample());
}

#[test]
fn an_address_is_never_judged_by_the_identity_of_one_that_comes_or_goes() {
    if !met(&[Need::Root]) {
        return;
    }
    let wire = Wire::new("churn");
    let config = wire.config(Attaching::of_this_kernel());
    // Some addresses are permanent and allowed. The others are transient and never allowed.
    let staying = [v4(1), v6(1), v6(2)];
    let going = [v4(3), v6(3), v6(4)];
    let strangers: Vec<Addr> = (1000..5000).flat_map(|number| [v4(number), v6(number)]).collect();
    let mut writer = Datapath::load(&config).unwrap();
    let staying_identities = staying.map(|addr| (addr, ALLOWED)).into();
    writer.apply(&diff(&MapState::default(), &map_state(staying_identities))).unwrap();
    let mut judge = Datapath::load(&config).unwrap();
    let is_over = AtomicBool::new(false);
    let mut n_denied = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..N_ROUNDS {
                let set = |addresses: &[Addr], identity| -> Vec<MapOp> {
                    addresses.iter().map(|addr| MapOp::SetIdentity(*addr, identity)).collect()
                };
                let remove = |addresses: &[Addr]| -> Vec<MapOp> {
                    addresses.iter().map(|addr| MapOp::RemoveIdentity(*addr)).collect()
                };
                writer.apply(&set(&going, OTHER)).unwrap();
                writer.apply(&remove(&going)).unwrap();
                writer.apply(&set(&strangers, ALLOWED)).unwrap();
                writer.apply(&set(&strangers, OTHER)).unwrap();
                writer.apply(&remove(&strangers)).unwrap();
                // A new table at times.
                if round.is_multiple_of(8) {
                    writer.prepare().unwrap();
                }
            }
            is_over.store(true, Relaxed);
        });
        while !is_over.load(Relaxed) {
            for addr in staying.into_iter().chain(going) {
                let frame = frame(addr);
                let (outcome, _) =
                    judge.time_runs(Program::PodIngress, &frame, context(), N_RUNS).unwrap();
                let is_staying = staying.contains(&addr);
                assert_eq!(outcome.is_pass(), is_staying, "{addr}");
                n_denied += if is_staying { 0 } else { u64::from(N_RUNS) };
            }
        }
    });
    // Every dropped packet is counted.
    let dropped: u64 = judge.counters().unwrap().values().map(|counter| counter.packets).sum();
    assert_eq!(dropped, n_denied);
    assert!(n_denied > 0);
}

#[test]
fn more_identities_than_the_capacity_are_refused_over_both_families() {
    if !met(&[Need::Root]) {
        return;
    }
    let capacities = BTreeMap::from([(IDENTITIES, 3)]);
    let mut datapath = Datapath::load(&Config { capacities, ..Config::private() }).unwrap();
    let set = |addresses: &[Addr]| -> Vec<MapOp> {
        addresses.iter().map(|addr| MapOp::SetIdentity(*addr, ALLOWED)).collect()
    };
    let addresses = [v4(1), v6(1), v4(1), v4(2), v6(2), v4(3)];
    let refused = datapath.apply(&set(&addresses)).unwrap_err();
    assert_eq!(refused.to_string(), "map IDENTITIES is full: it holds 3 entries");
    let written = datapath.map_state().unwrap().identities;
    assert_eq!(written.into_keys().collect::<Vec<_>>(), [v4(1), v4(2), v6(1)]);
    datapath.apply(&set(&[v4(2), v6(1)])).unwrap();
    datapath.apply(&[MapOp::RemoveIdentity(v4(2))]).unwrap();
    datapath.apply(&set(&[v6(2)])).unwrap();
    assert!(datapath.apply(&set(&[v4(2)])).is_err());
}
