//! What is reported of a packet: counters, event records, and log messages if tracing is on.

use aya_ebpf::programs::TcContext;
use aya_log_ebpf::info;
use netpol_common::event::{Event, EventBudget};
use netpol_common::ids::{Nanos, RuleId};
use netpol_common::keys::{CounterKey, CounterValue};
use netpol_common::packet::Packet;
use netpol_common::verdict::Outcome;

use crate::maps::{COUNTERS, EVENTS};

/// What is reported of an outcome. In two words, because a pointer to an outcome would need its stack in each program.
#[derive(Clone, Copy)]
struct Report {
    /// Interface, direction and verdict.
    counted: u64,
    /// Rule and length.
    recorded: u64,
}

impl Report {
    #[inline(always)]
    fn of(outcome: &Outcome, len_bytes: u32) -> Self {
        let key = CounterKey::new(outcome.ifindex, outcome.direction, outcome.verdict.to_wire());
        let recorded = [outcome.rule.0, len_bytes];
        Self { counted: zerocopy::transmute!(key), recorded: zerocopy::transmute!(recorded) }
    }

    #[inline(always)]
    fn key(self) -> CounterKey {
        zerocopy::transmute!(self.counted)
    }

    #[inline(always)]
    fn rule_and_len_bytes(self) -> (RuleId, u32) {
        let [rule, len_bytes]: [u32; 2] = zerocopy::transmute!(self.recorded);
        (RuleId(rule), len_bytes)
    }
}

/// Counts and records a packet.
#[inline(always)]
pub(crate) fn report(outcome: &Outcome, packet: &Packet, len_bytes: u32, now: Nanos) {
    let Report { counted, recorded } = Report::of(outcome, len_bytes);
    count_and_record(counted, recorded, packet, now);
}

/// A function of its own, so that only reported packets need its stack.
#[inline(never)]
fn count_and_record(counted: u64, recorded: u64, packet: &Packet, now: Nanos) {
    let report = Report { counted, recorded };
    if let Some(n_suppressed) = count(report, now) {
        record(report, packet, now, n_suppressed);
    }
}

/// Adds the packet to the counters of its endpoint. Returns `Some(n)` if the packet may be recorded, where `n` records of its
/// kind were left out before.
#[inline(always)]
fn count(report: Report, now: Nanos) -> Option<u32> {
    let key = report.key();
    let (_, len_bytes) = report.rule_and_len_bytes();
    if let Some(value) = COUNTERS.get_ptr_mut(key) {
        // SAFETY: the value is this CPU's own, and the kernel runs one TC program at a time on a CPU. If the agent removes the
        // entry at the same time, the kernel may give the memory to another counter, which then counts this packet.
        let value = unsafe { &mut *value };
        value.packets += 1;
        value.bytes += u64::from(len_bytes);
        return value.budget.take(now);
    }
    let mut budget = EventBudget::new(now);
    let n_suppressed = budget.take(now);
    let first = CounterValue { packets: 1, bytes: u64::from(len_bytes), budget };
    // If the map is full, packets of this combination are neither counted nor recorded; those of all others are.
    COUNTERS.insert(key, first, 0).ok()?;
    n_suppressed
}

/// Writes a record unless the ring is full.
#[inline(always)]
fn record(report: Report, packet: &Packet, now: Nanos, n_suppressed: u32) {
    let Some(mut record) = EVENTS.reserve(0) else { return };
    let CounterKey { ifindex, direction, verdict, .. } = report.key();
    let (rule, len_bytes) = report.rule_and_len_bytes();
    record.write(Event {
        time: now,
        src: packet.src,
        dst: packet.dst,
        ifindex,
        rule,
        len_bytes,
        src_port: packet.src_port,
        dst_port: packet.dst_port,
        protocol: packet.protocol,
        direction,
        verdict,
        pad: 0,
        n_suppressed,
    });
    record.submit(0);
}

/// Logs the verdict.
#[inline(always)]
pub(crate) fn trace(ctx: &TcContext, outcome: &Outcome, packet: &Packet) {
    let Report { counted, recorded } = Report::of(outcome, 0);
    log(ctx, counted, recorded, packet);
}

/// A function of its own, because the message needs stack. Without tracing the verifier never walks into it.
#[inline(never)]
fn log(ctx: &TcContext, counted: u64, recorded: u64, packet: &Packet) {
    let report = Report { counted, recorded };
    let CounterKey { ifindex, direction, verdict, .. } = report.key();
    let (rule, _) = report.rule_and_len_bytes();
    info!(
        ctx,
        "ifindex {} direction {}: {:i} port {} -> {:i} port {} protocol {}: verdict {} rule {}",
        ifindex.0,
        direction,
        packet.src.0,
        packet.src_port.get(),
        packet.dst.0,
        packet.dst_port.get(),
        packet.protocol.0,
        verdict,
        rule.0,
    );
}
