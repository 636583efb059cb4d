//! What is reported of a packet: counters, event records, and log messages if tracing is on.

use aya_ebpf::programs::TcContext;
use aya_log_ebpf::info;
use netpol_common::event::{Event, EventBudget};
use netpol_common::ids::Nanos;
use netpol_common::keys::{CounterKey, CounterValue};
use netpol_common::packet::Packet;
use netpol_common::verdict::Outcome;

use crate::maps::{COUNTERS, EVENTS};

/// Counts and records a packet. A function of its own, so that only reported packets need its stack.
#[inline(never)]
pub(crate) fn report(outcome: &Outcome, packet: &Packet, len_bytes: u32, now: Nanos) {
    if let Some(n_suppressed) = count(outcome, len_bytes, now) {
        record(outcome, packet, len_bytes, now, n_suppressed);
    }
}

/// Adds the packet to the counters of its endpoint. Returns `Some(n)` if the packet may be recorded, where `n` records of its
/// kind were left out before.
#[inline(always)]
fn count(outcome: &Outcome, len_bytes: u32, now: Nanos) -> Option<u32> {
    let key = CounterKey::new(outcome.ifindex, outcome.direction, outcome.verdict.to_wire());
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
fn record(outcome: &Outcome, packet: &Packet, len_bytes: u32, now: Nanos, n_suppressed: u32) {
    let Some(mut record) = EVENTS.reserve(0) else { return };
    record.write(Event {
        time: now,
        src: packet.src,
        dst: packet.dst,
        ifindex: outcome.ifindex,
        rule: outcome.rule,
        len_bytes,
        src_port: packet.src_port,
        dst_port: packet.dst_port,
        protocol: packet.protocol,
        direction: outcome.direction.to_wire(),
        verdict: outcome.verdict.to_wire(),
        pad: 0,
        n_suppressed,
    });
    record.submit(0);
}

/// Logs the verdict. A function of its own, because the message needs stack. Without tracing the verifier never walks into it.
#[inline(never)]
pub(crate) fn trace(ctx: &TcContext, outcome: &Outcome, packet: &Packet) {
    info!(
        ctx,
        "ifindex {} direction {}: {:i} port {} -> {:i} port {} protocol {}: verdict {} rule {}",
        outcome.ifindex.0,
        outcome.direction.to_wire(),
        packet.src.0,
        packet.src_port.get(),
        packet.dst.0,
        packet.dst_port.get(),
        packet.protocol.0,
        outcome.verdict.to_wire(),
        outcome.rule.0,
    );
}
