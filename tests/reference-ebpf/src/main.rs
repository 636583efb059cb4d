//! Programs of the benchmarks: a reference to compare netpol with, and packet counters. Not part of netpol.
//!
//! `reference` has the map layout of a known agent: per pod a trie of peer addresses, each with an array of ports; two hashes
//! of pod state; one large flow table; one read of the precise clock per packet. It supports only IPv4, TCP, and UDP, which
//! can only make it faster.
//!
//! On the host it compiles to an empty program, so that the usual tools can check it.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![expect(
    clippy::inline_always,
    clippy::needless_pass_by_value,
    reason = "aya calls programs with their context; the BPF target allows 5 arguments and 512 bytes of stack over all calls: what is inlined costs neither"
)]
#![expect(unsafe_code, reason = "the kernel's context and map values are raw pointers")]

use aya_ebpf::btf_maps::{HashMap, LpmTrie, LruHashMap, PerCpuArray};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_map_lookup_elem};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;

/// `TCX_NEXT`, equal to `TC_ACT_UNSPEC`: the device's next program runs.
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
const DROP: i32 = 2;

/// Ethertype of IPv4, network byte order.
const IPV4: u16 = 0x0800_u16.to_be();
const UDP: u8 = 17;
const TCP: u8 = 6;
/// Wildcard protocol of a port rule.
const ANY_PROTOCOL: u32 = 254;
/// Number of port rules per peer.
const N_PORTS: usize = 24;
/// State of a pod whose policies are enforced.
const POLICIES_APPLIED: u8 = 0;

/// A port or a range of ports.
#[derive(Clone, Copy)]
#[repr(C)]
struct PortRule {
    protocol: u32,
    first: u32,
    last: u32,
}

/// A peer's address in the trie.
#[repr(C)]
struct PeerKey {
    prefix_len_bits: u32,
    addr: u32,
}

/// A connection, in the direction of its first packet, and the pod's address. Network byte order.
#[derive(Clone, Copy)]
#[repr(C)]
struct FlowKey {
    src: u32,
    dst: u32,
    src_port: u16,
    dst_port: u16,
    protocol: u8,
    pad: [u8; 3],
    pod: u32,
}

#[btf_map]
static PEERS: LpmTrie<[u8; 4], [PortRule; N_PORTS], { 1 << 16 }> = LpmTrie::new();
#[btf_map]
static POD_STATE: HashMap<u32, u8, 2> = HashMap::new();
#[btf_map]
static CLUSTER_STATE: HashMap<u32, u8, 2> = HashMap::new();
#[btf_map]
static REFERENCE_FLOWS: LruHashMap<FlowKey, [u8; 4], { 1 << 19 }> = LruHashMap::new();
/// Packets that `sink` has dropped.
#[btf_map]
static ARRIVED: PerCpuArray<u64, 1> = PerCpuArray::new();
/// Passes every packet, to measure the cost of an attached program by itself.
#[classifier]
#[inline(always)]
fn nop(_: TcContext) -> i32 {
    NEXT
}

/// Counts and drops UDP, so that the rest of the path costs little and is constant.
#[classifier]
#[inline(always)]
fn sink(ctx: TcContext) -> i32 {
    count(&ctx)
}

/// The verdict on a packet to a pod.
#[classifier]
#[inline(always)]
fn reference(ctx: TcContext) -> i32 {
    judge(&ctx)
}

#[inline(always)]
fn count(ctx: &TcContext) -> i32 {
    if !has(ctx, 34) {
        return NEXT;
    }
    // SAFETY: the frame is that long.
    let protocol = unsafe {
        if field::<u16>(ctx, 12) == IPV4 { field::<u8>(ctx, 23) } else { field::<u8>(ctx, 20) }
    };
    if protocol != UDP {
        return NEXT;
    }
    if let Some(n) = ARRIVED.get_ptr_mut(0) {
        // SAFETY: a value of this CPU, on which no other program of this kind runs now.
        unsafe { *n += 1 };
    }
    DROP
}

#[inline(always)]
fn judge(ctx: &TcContext) -> i32 {
    // The longest headers without options.
    if !has(ctx, 38) {
        return NEXT;
    }
    // SAFETY: the frame is that long.
    let (ethertype, version_ihl, protocol) =
        unsafe { (field::<u16>(ctx, 12), field::<u8>(ctx, 14), field::<u8>(ctx, 23)) };
    if ethertype != IPV4 {
        return NEXT;
    }
    if version_ihl != 0x45 || (protocol != UDP && protocol != TCP) {
        return DROP;
    }
    // SAFETY: as above.
    let (src, dst, src_port, dst_port) = unsafe {
        (field::<u32>(ctx, 26), field::<u32>(ctx, 30), field::<u16>(ctx, 34), field::<u16>(ctx, 36))
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: values that are copied at once.
    let (pod_state, cluster_state) =
        unsafe { (POD_STATE.get(0).copied(), CLUSTER_STATE.get(0).copied()) };
    let (Some(pod_state), Some(cluster_state)) = (pod_state, cluster_state) else { return NEXT };
    let mut key = FlowKey { src, dst, src_port, dst_port, protocol, pad: [0; 3], pod: dst };
    // SAFETY: a value that is copied at once.
    if let Some(value) = unsafe { REFERENCE_FLOWS.get(key) }.copied() {
        let [state, ..] = value;
        // Never true, but the compiler does not know it.
        return if state == pod_state | cluster_state && now > 1 { NEXT } else { DROP };
    }
    (key.src, key.dst, key.src_port, key.dst_port) = (dst, src, dst_port, src_port);
    // SAFETY: as above.
    if unsafe { REFERENCE_FLOWS.get(key) }.is_some() {
        return NEXT;
    }
    (key.src, key.dst, key.src_port, key.dst_port) = (src, dst, src_port, dst_port);
    if pod_state == POLICIES_APPLIED && !is_allowed(src, protocol, u16::from_be(dst_port)) {
        return DROP;
    }
    REFERENCE_FLOWS.insert(key, [pod_state | cluster_state, 0, 0, 0], 0).ok();
    NEXT
}

#[inline(always)]
fn is_allowed(src: u32, protocol: u8, port: u16) -> bool {
    // aya's look-up takes a packed key, which would be copied byte by byte.
    let key = PeerKey { prefix_len_bits: 32, addr: src };
    let map = core::ptr::from_ref(&PEERS).cast_mut().cast();
    // SAFETY: the map's key is a length and an address, its value port rules, which outlive this run.
    let rules = unsafe {
        bpf_map_lookup_elem(map, core::ptr::from_ref(&key).cast())
            .cast::<[PortRule; N_PORTS]>()
            .as_ref()
    };
    let Some(rules) = rules else { return false };
    for rule in rules {
        let is_protocol = rule.protocol == u32::from(protocol) || rule.protocol == ANY_PROTOCOL;
        let port = u32::from(port);
        if is_protocol
            && (rule.first == 0 || rule.first == port || (port > rule.first && port <= rule.last))
        {
            return true;
        }
    }
    false
}

/// Whether the first `len_bytes` of the frame are directly readable.
#[inline(always)]
fn has(ctx: &TcContext, len_bytes: usize) -> bool {
    ctx.data() + len_bytes <= ctx.data_end()
}

/// Reads a field of the frame.
///
/// # Safety
/// The caller must have checked the field by [`has`], which the verifier checks too. The kernel aligns IP headers.
#[inline(always)]
unsafe fn field<T: Copy>(ctx: &TcContext, offset: usize) -> T {
    // SAFETY: see above.
    unsafe { core::ptr::read((ctx.data() + offset) as *const T) }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// The verifier refuses a program that can reach this.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers require a GPL-compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
