//! The same maps three times: in the kernel, in memory, and in memory without the fast path of established flows. All three
//! get the same steps, and must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::sync::Arc;

use netpol_common::ids::{Direction, Epoch, IfIndex, Nanos};
use netpol_common::keys::{
    CounterKey, FlowKey, FlowValue, FragmentEntry, FragmentSlot, FragmentValue, Overlay, PrefixKey,
};
use netpol_common::mac::Mac;
use netpol_common::maps::{BACKENDS, COUNTERS, FLOWS, FRAGMENTS, RULE_COUNTS};
use netpol_common::packet::{ETHERNET_LEN, Frame, PacketBytes};
use netpol_common::verdict::{DEFAULT_MARK_MASK, HookContext, Outcome, Target};
use netpol_datapath::netlink::PretendDevices;
use netpol_datapath::{Config, Datapath, FlowReads, TestContext};
use netpol_policy::compile::{EndpointMapState, MapState};
use netpol_policy::dataplane::port::{Flows as _, Maps as _};
use netpol_policy::dataplane::{Counter, MapOp, MemoryMaps, diff};
use proptest::prop_assert_eq;
use proptest::test_runner::TestCaseError;
use rustix::time::{ClockId, clock_gettime};
use zerocopy::FromBytes;

use super::cluster_model::{NO_POD, PODS, Seen, Step, UPLINK, v4, v6};

/// Replaces times in comparisons.
const ANY_TIME: Nanos = Nanos(0);

/// The programs' clock, because flows may expire between two packets on a slow machine.
fn now() -> Nanos {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    let part = |part: i64| u64::try_from(part).unwrap_or_default();
    Nanos(part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec))
}

/// A frame that supports no reads in place, which the fast path requires.
struct Unpeeked<'a>(&'a [u8]);

impl PacketBytes for Unpeeked<'_> {
    fn load<'a, T: FromBytes>(&self, offset: u32, room: &'a mut MaybeUninit<T>) -> Option<&'a T> {
        self.0.load(offset, room)
    }

    fn peek<T: FromBytes + Copy>(&self, _offset: u32) -> Option<T> {
        None
    }

    fn pod_mac(&self, direction: Direction) -> Option<Mac> {
        self.0.pod_mac(direction)
    }
}

impl Frame for Unpeeked<'_> {}

/// The kernel's maps, and the host's.
pub(crate) struct Equivalence {
    memory: MemoryMaps,
    /// Takes the slow path for every packet.
    long: MemoryMaps,
    /// Counters as the kernel should have them.
    counted: BTreeMap<CounterKey, Counter>,
    kernel: Datapath,
    /// By how much the kernel's epoch is ahead.
    epochs_ahead: u32,
    _devices: PretendDevices,
}

/// The device that leads to the other nodes, and all addresses behind it.
fn overlay() -> (Overlay, BTreeSet<PrefixKey>) {
    // That of all frames, to whomever they are addressed.
    let mac = Mac::new([2, 0, 0, 0, 0, 2]);
    let networks = [(120, v4(0).into()), (64, IpAddr::from(v6(0)).into())];
    let networks = networks.map(|(prefix_len_bits, addr)| PrefixKey { prefix_len_bits, addr });
    (Overlay::new(IfIndex(UPLINK), mac, mac), networks.into())
}

/// Empty maps in memory.
fn memory(flow_seed: u64) -> MemoryMaps {
    let (overlay, networks) = overlay();
    MemoryMaps::default().with_flow_seed(flow_seed).with_overlay(overlay, networks)
}

impl Equivalence {
    pub(crate) fn new(flow_reads: FlowReads) -> Self {
        let mut devices = PretendDevices::in_new_namespace(IfIndex(PODS[0])).unwrap();
        devices.ensure(IfIndex(NO_POD)).unwrap();
        // Small maps, because the test reads them after every step.
        let capacities = BTreeMap::from([
            (FLOWS, 512),
            (BACKENDS, 256),
            (FRAGMENTS, 1024),
            (COUNTERS, 1024),
            (RULE_COUNTS, 1024),
        ]);
        let config = Config { flow_reads, capacities, ..Config::private() };
        let mut kernel = Datapath::load(&config).unwrap();
        let (overlay, networks) = overlay();
        kernel.set_overlay(&[(0, overlay), (1, overlay)].into(), &networks).unwrap();
        let memory = || memory(kernel.flow_seed());
        Self {
            memory: memory(),
            long: memory(),
            counted: BTreeMap::new(),
            kernel,
            epochs_ahead: 0,
            _devices: devices,
        }
    }

    /// Starts again with this map state, without flows, fragments, and counters.
    pub(crate) fn start(&mut self, map_state: &MapState) {
        // Removing the endpoints and garbage collection remove the state of packets.
        let ops = diff(self.memory.map_state(), &MapState::default());
        self.kernel.apply(&ops).unwrap();
        self.kernel.collect_garbage().unwrap();
        let counted: Vec<_> = self.kernel.rule_counts().unwrap().into_keys().collect();
        self.kernel.remove_rule_counts(&counted).unwrap();
        self.memory = memory(self.kernel.flow_seed());
        self.long = memory(self.kernel.flow_seed());
        self.counted.clear();
        self.epochs_ahead = self.kernel.epoch().unwrap().0;
        self.apply(&diff(&MapState::default(), map_state));
        assert_eq!(self.kernel.map_state().unwrap(), *map_state);
    }

    pub(crate) fn apply(&mut self, ops: &[MapOp]) {
        self.kernel.apply(ops).unwrap();
        for op in ops {
            self.memory.apply(op);
            self.long.apply(op);
        }
    }

    /// The kernel's datapath, for operations that are not compared.
    pub(crate) fn kernel(&mut self) -> &mut Datapath {
        &mut self.kernel
    }

    /// Applies a step to all maps.
    ///
    /// # Errors
    /// The kernel and the host do not agree.
    pub(crate) fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::See(seen) => self.see(seen).map(drop),
            Step::SetAllow(key, map) => {
                self.apply(&[MapOp::SetAllow(*key, Arc::clone(map)), MapOp::BumpEpoch]);
                Ok(())
            }
            Step::RemoveAddress(key) => {
                self.apply(&[MapOp::RemoveAddress(*key), MapOp::BumpEpoch]);
                Ok(())
            }
            Step::SetEndpoint(ifindex, value) => {
                let Some(before) = self.memory.map_state().endpoints.get(ifindex) else {
                    return Ok(());
                };
                let endpoint = EndpointMapState { value: *value, ..before.clone() };
                self.apply(&[MapOp::SetEndpoint(*ifindex, endpoint), MapOp::BumpEpoch]);
                Ok(())
            }
        }
    }

    /// Runs a frame through all of them.
    ///
    /// # Errors
    /// They disagree on the verdict or on the resulting state.
    pub(crate) fn see(&mut self, seen: &Seen) -> Result<Option<Outcome>, TestCaseError> {
        let Seen { program, ifindex, ingress_ifindex, mark, frame } = seen;
        let frame = frame.bytes();
        let context =
            TestContext { ifindex: *ifindex, ingress_ifindex: *ingress_ifindex, mark: *mark };
        let there = match self.kernel.test_run(*program, &frame, context) {
            Ok(there) => there,
            // Newer kernels refuse test runs with less than an IP header behind an IP ethertype.
            Err(_) if frame.len() < 14 + 40 => return Ok(None),
            Err(error) => return Err(TestCaseError::fail(format!("{error:?} for {seen:?}"))),
        };
        let hook_context = HookContext {
            hook: program.hook(),
            ifindex: IfIndex(*ifindex),
            ingress_ifindex: *ingress_ifindex,
            has_socket: true,
            is_tagged: false,
            mark: *mark,
            mark_mask: DEFAULT_MARK_MASK,
            flow_handle: 0,
            now: now(),
        };
        let here = self.memory.judge(frame.as_slice(), &hook_context);
        let outcome = here.outcome;
        let mut long = self.long.judge(&Unpeeked(&frame), &hook_context).outcome;
        if outcome.redirect.0 != 0 {
            // A packet that does not support reads in place is not redirected. One that is redirected to a pod has its verdict too.
            (long.redirect, long.flow_handle) = (outcome.redirect, outcome.flow_handle);
            (long.target, long.rule) = (outcome.target, outcome.rule);
        }
        prop_assert_eq!(long, outcome, "slow path and fast path differ on {:?}", seen);
        let [of_long, of_memory] =
            [&self.long, &self.memory].map(|maps| unredirected(maps.flows()));
        prop_assert_eq!(of_long, of_memory, "flows of both paths, {:?}", seen);
        let mut told = outcome;
        if told.verdict.is_reported() {
            self.count(&told, frame.len());
        }
        if told.turn_to_audited_sender() {
            self.count(&told, frame.len());
        }
        let said = format!("the host says {here:?} to {seen:?}");
        check(&there.is_pass(), &outcome.verdict.is_pass(), &said)?;
        check(&there.is_redirected(), &(outcome.redirect.0 != 0), &said)?;
        // A packet that is redirected to a pod leaves the node's marks behind.
        let is_at_pod = outcome.redirect.0 != 0 && outcome.target == Target::Pod;
        check(&there.mark, &if is_at_pod { 0 } else { outcome.mark }, &said)?;
        // Counters first, because they contain the reason.
        check(&self.kernel_counters(), &self.counted, &said)?;
        check(&self.kernel.rule_counts().unwrap(), &self.memory.rule_counts(), &said)?;
        check(&self.long.rule_counts(), &self.memory.rule_counts(), &said)?;
        let kernel_flows = self.kernel.flows().unwrap();
        let ahead = self.epochs_ahead;
        check(&flows(kernel_flows, ahead), &flows(self.memory.flows(), 0), &said)?;
        let kernel_fragments = self.kernel.fragments().unwrap();
        check(&fragments(kernel_fragments), &fragments(self.memory.fragments()), &said)?;
        Ok(Some(outcome))
    }

    fn count(&mut self, outcome: &Outcome, len_bytes: usize) {
        if !PODS.contains(&outcome.ifindex.0) {
            return;
        }
        let key = CounterKey {
            ifindex: outcome.ifindex,
            direction: outcome.direction.to_wire(),
            verdict: outcome.verdict.to_wire(),
            pad: [0; 2],
        };
        let sum = self.counted.entry(key).or_insert(Counter { packets: 0, bytes: 0 });
        sum.packets += 1;
        sum.bytes += u64::try_from(len_bytes).unwrap() - u64::from(ETHERNET_LEN);
    }

    /// Counters of endpoints only, because those of other devices persist between cases.
    fn kernel_counters(&self) -> BTreeMap<CounterKey, Counter> {
        let mut counters = self.kernel.counters().unwrap();
        counters.retain(|key, _| PODS.contains(&key.ifindex.0));
        counters
    }
}

/// Flows without times and redirection, because ending a redirection writes the flow.
fn unredirected(flows: BTreeMap<FlowKey, FlowValue>) -> BTreeMap<FlowKey, FlowValue> {
    let comparable = |(key, flow): (FlowKey, FlowValue)| {
        (key, FlowValue { last_seen: ANY_TIME, redirect: IfIndex(0), ..flow })
    };
    flows.into_iter().map(comparable).collect()
}

/// Flows without times, and with the same epoch base.
fn flows(flows: BTreeMap<FlowKey, FlowValue>, epochs_ahead: u32) -> BTreeMap<FlowKey, FlowValue> {
    let comparable = |(key, flow): (FlowKey, FlowValue)| {
        let epoch = Epoch(flow.epoch.0.wrapping_sub(epochs_ahead));
        (key, FlowValue { epoch, last_seen: ANY_TIME, ..flow })
    };
    flows.into_iter().map(comparable).collect()
}

fn fragments(
    fragments: BTreeMap<FragmentSlot, FragmentEntry>,
) -> BTreeMap<FragmentSlot, FragmentValue> {
    let comparable = |(slot, entry): (FragmentSlot, FragmentEntry)| {
        (slot, FragmentValue { first_seen: ANY_TIME, ..entry.value })
    };
    fragments.into_iter().map(comparable).collect()
}

fn check<T: PartialEq + std::fmt::Debug>(
    there: &T,
    here: &T,
    said: &str,
) -> Result<(), TestCaseError> {
    if there == here {
        return Ok(());
    }
    Err(TestCaseError::fail(format!("kernel: {there:?}\nhost: {here:?}\n{said}")))
}
