//! What is told about a packet: counters, events, and log messages when tracing is on.

use aya_ebpf::programs::TcContext;
use aya_log_ebpf::info;
use netpol_common::event::{Event, EventBudget};
use netpol_common::ids::Nanos;
use netpol_common::keys::{CounterKey, CounterValue};
use netpol_common::packet::Packet;
use netpol_common::verdict::Outcome;

use crate::maps::{COUNTERS, EVENTS};

/// Counts and records a packet. A function of its own, so that its stack is not part of every packet's.
#[inline(never)]
pub(crate) fn tell(outcome: &Outcome, packet: &Packet, len_bytes: u32, now: Nanos) {
    if let Some(n_suppressed) = count(outcome, len_bytes, now) {
        record(outcome, packet, len_bytes, now, n_suppressed);
    }
}

/// Adds the packet to the counters of its endpoint. `Some(n)` if it may be recorded too, with the number of those like it
/// that were left out before.
#[inline(always)]
fn count(outcome: &Outcome, len_bytes: u32, now: Nanos) -> Option<u32> {
    let key = CounterKey::new(outcome.ifindex, outcome.direction, outcome.verdict.to_wire());
    if let Some(value) = COUNTERS.get_ptr_mut(key) {
        // SAFETY: a value of this CPU, on which no other program of this kind runs now.
        unsafe {
            (*value).packets += 1;
            (*value).bytes += u64::from(len_bytes);
            return (*value).budget.take(now);
        }
    }
    let mut budget = EventBudget::new(now);
    let n_suppressed = budget.take(now);
    let first = CounterValue { packets: 1, bytes: u64::from(len_bytes), budget };
    // Full: this combination is neither counted nor recorded, all others are.
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

/// Logs the verdict, whatever it is. A function of its own, because the message needs stack; without tracing the
/// verifier never walks into it.
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
