//! Programs that need one feature of the kernel each. User space loads them to ask the kernel for the feature; they are attached
//! nowhere.
//!
//! For the host this is an empty program, so that the usual tools check the crate.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![expect(
    unsafe_code,
    reason = "the kernel's context and the arguments of global functions are raw pointers"
)]

use core::ptr;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

/// Needs global functions that take the context. The kernel finds out with its own BTF that an argument is the context.
#[classifier]
fn context_argument(ctx: TcContext) -> i32 {
    let TcContext { skb } = ctx;
    i32::from(takes_context(skb.skb) == 0)
}

/// Needs global functions that take pointers to memory (Linux 5.12).
#[classifier]
fn memory_argument(ctx: TcContext) -> i32 {
    let TcContext { skb } = ctx;
    let mut len = skb.len();
    i32::from(takes_memory(&raw mut len) == 0)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn takes_context(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the context is valid while the program runs.
    unsafe { ptr::read_volatile(&raw const (*skb).len) }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn takes_memory(word: *mut u32) -> u32 {
    if word.is_null() {
        return 0;
    }
    // SAFETY: the caller's own.
    unsafe { ptr::read_volatile(word) }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// The verifier refuses a program that can reach this.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// As that of the programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
