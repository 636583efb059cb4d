//! The program that user space runs to add a flow.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::bpf_skb_load_bytes;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use netpol_common::keys::{FlowKey, FlowValue};
use netpol_common::maps::Local;
use netpol_common::packet::ETHERNET_LEN;

use super::table::{read, write};

/// A flow behind an empty Ethernet header.
#[repr(C)]
struct NewFlow {
    key: FlowKey,
    pad: u32,
    flow: FlowValue,
}

/// Adds a flow unless it is there already. A revoked one replaces a flow that began in the other direction. It is attached nowhere: user space runs it, because user space cannot take the locks.
#[classifier]
#[inline(always)]
fn add_flow(ctx: TcContext) -> i32 {
    let TcContext { skb } = ctx;
    let mut new = MaybeUninit::<NewFlow>::uninit();
    #[expect(clippy::cast_possible_truncation, reason = "some dozens of bytes")]
    let len = const { size_of::<NewFlow>() as u32 };
    // SAFETY: `new` has `len` bytes. The helper checks the bounds of the packet, and fills all of `new` or fails.
    let failure =
        unsafe { bpf_skb_load_bytes(skb.skb.cast(), ETHERNET_LEN, new.as_mut_ptr().cast(), len) };
    if failure != 0 {
        return 1;
    }
    // SAFETY: the helper has filled it, and any bytes are valid.
    let new = unsafe { new.assume_init_ref() };
    let mut flow = FlowValue::UNKNOWN;
    let is_there = read(&new.key, &new.key.remote, &mut flow).is_some();
    let is_correction = new.flow.marks & FlowValue::REVOKED != 0 && new.flow.origin != flow.origin;
    if !is_there || is_correction {
        write(&new.key, &new.flow, Local::Unknown);
    }
    0
}
