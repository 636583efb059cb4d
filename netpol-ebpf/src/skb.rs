//! A packet as the kernel hands it over: its bytes, and where it was seen.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use netpol_common::ids::{Hook, IfIndex, Nanos, Protocol};
use netpol_common::packet::{self, ETHERNET_LEN, Frame, Packet, PacketBytes, Parsed};
use netpol_common::verdict::HookContext;
use zerocopy::FromBytes;

/// The frame behind a context, on a device whose link header has this many bytes.
pub(crate) struct Skb<const LINK_HEADER_LEN: u32>(pub(crate) TcContext);

impl<const LINK_HEADER_LEN: u32> Skb<LINK_HEADER_LEN> {
    #[inline(always)]
    fn raw(&self) -> *mut __sk_buff {
        self.0.skb.skb
    }

    /// Where the packet is seen, at this time.
    #[inline(always)]
    pub(crate) fn hook_context(&self, hook: Hook, mark_mask: u32, now: Nanos) -> HookContext {
        let skb = self.raw();
        // SAFETY: the kernel's context pointer is valid while the program runs; the verifier checks every
        // field access and rewrites it.
        unsafe {
            HookContext {
                hook,
                ifindex: IfIndex((*skb).ifindex),
                ingress_ifindex: (*skb).ingress_ifindex,
                has_socket: !(*skb).__bindgen_anon_2.sk.is_null(),
                is_tagged: (*skb).vlan_present != 0,
                mark: (*skb).mark,
                mark_mask,
                flow_handle: flow_handle((*skb).tc_index),
                now,
            }
        }
    }

    /// Replaces the packet's deferred flow handle.
    #[inline(always)]
    pub(crate) fn set_flow_handle(&self, flow_handle: u16) {
        // SAFETY: as for `hook_context`; programs of this type may write the field.
        unsafe { (*self.raw()).tc_index = u32::from(flow_handle) };
    }

    /// Length from the network header on, bytes.
    #[inline(always)]
    pub(crate) fn network_len_bytes(&self) -> u32 {
        self.0.len().saturating_sub(LINK_HEADER_LEN)
    }

    /// The ethertype, network byte order. Of what comes from a pod or from outside the kernel has read it in the frame.
    #[inline(always)]
    fn ethertype(&self) -> [u8; 2] {
        // SAFETY: as for `hook_context`.
        let protocol = unsafe { (*self.raw()).protocol };
        let [first, second, ..] = protocol.to_ne_bytes();
        [first, second]
    }
}

/// The field has 16 bits.
#[inline(always)]
const fn flow_handle(tc_index: u32) -> u16 {
    let [.., hi, lo] = tc_index.to_be_bytes();
    u16::from_be_bytes([hi, lo])
}

/// Offsets count from an Ethernet header. It is not there on some devices, and only its ethertype is asked for.
impl<const LINK_HEADER_LEN: u32> PacketBytes for Skb<LINK_HEADER_LEN> {
    #[inline(always)]
    fn load<'a, T: FromBytes>(&self, offset: u32, room: &'a mut MaybeUninit<T>) -> Option<&'a T> {
        if offset < ETHERNET_LEN {
            let ethertype = T::read_from_bytes(&self.ethertype()).ok()?;
            return Some(room.write(ethertype));
        }
        #[expect(clippy::cast_possible_truncation, reason = "a header has some bytes")]
        let len = const { size_of::<T>() as u32 };
        // SAFETY: there is room for a T; the helper checks the packet's bounds, and fills all of it or fails.
        let failure = unsafe {
            bpf_skb_load_bytes(
                self.raw().cast(),
                offset + LINK_HEADER_LEN - ETHERNET_LEN,
                room.as_mut_ptr().cast(),
                len,
            )
        };
        // SAFETY: filled by the helper, and any bytes make a T.
        (failure == 0).then(|| unsafe { room.assume_init_ref() })
    }

    #[inline(always)]
    fn peek<T: FromBytes + Copy>(&self, offset: u32) -> Option<T> {
        if offset < ETHERNET_LEN {
            return T::read_from_bytes(&self.ethertype()).ok();
        }
        let skb = self.raw();
        // Volatile, so that they are read where they are used: the verifier does not know them any more after they have been
        // carried around as numbers of 32 bits, which they are to the compiler.
        // SAFETY: as for `hook_context`.
        let (first, end) = unsafe {
            (
                core::ptr::read_volatile(&raw const (*skb).data) as usize,
                core::ptr::read_volatile(&raw const (*skb).data_end) as usize,
            )
        };
        let start = first + (offset + LINK_HEADER_LEN - ETHERNET_LEN) as usize;
        if start + size_of::<T>() > end {
            return None;
        }
        // SAFETY: within the part of the packet that can be read directly, which the verifier checks too. The processors
        // on which it lets programs read so do not need more alignment than headers have.
        Some(unsafe { core::ptr::read(start as *const T) })
    }
}

impl<const LINK_HEADER_LEN: u32> Frame for Skb<LINK_HEADER_LEN> {
    #[inline(always)]
    fn parse(&self, packet: &mut Packet) -> Parsed {
        Parsed::from_wire(match LINK_HEADER_LEN {
            ETHERNET_LEN => parse_ethernet(self.raw(), packet),
            _ => parse_l3(self.raw(), packet),
        })
    }

    #[inline(always)]
    fn parse_quoted(&self, protocol: Protocol, start: u32, quoted: &mut Packet) -> Parsed {
        let protocol = u32::from(protocol.0);
        Parsed::from_wire(match LINK_HEADER_LEN {
            ETHERNET_LEN => parse_quoted_ethernet(self.raw(), protocol, start, quoted),
            _ => parse_quoted_l3(self.raw(), protocol, start, quoted),
        })
    }
}

/// Parsing as global functions: the verifier walks each once by itself, and in its callers takes any outcome for
/// possible. Inlined, each way through the headers would lead through all the rest again, past the limit of a
/// million instructions.
///
/// A null pointer is none of ours, but the verifier asks.
macro_rules! parse_functions {
    ($(($parse:ident, $parse_quoted:ident, $link_header_len:expr);)*) => { $(
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $parse(skb: *mut __sk_buff, packet: *mut Packet) -> u32 {
            let skb = Skb::<{ $link_header_len }>(TcContext::new(skb));
            // SAFETY: the caller's own packet, or null.
            let parsed = match unsafe { packet.as_mut() } {
                Some(packet) => packet::parse(&skb, packet),
                None => Parsed::NotIp,
            };
            parsed.to_wire()
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $parse_quoted(
            skb: *mut __sk_buff,
            protocol: u32,
            start: u32,
            quoted: *mut Packet,
        ) -> u32 {
            let skb = Skb::<{ $link_header_len }>(TcContext::new(skb));
            let [.., protocol] = protocol.to_be_bytes();
            // SAFETY: the caller's own packet, or null.
            let parsed = match unsafe { quoted.as_mut() } {
                Some(quoted) => {
                    packet::parse_quoted(&skb, Protocol(protocol), start, quoted)
                }
                None => Parsed::NotIp,
            };
            parsed.to_wire()
        }
    )* };
}

parse_functions! {
    (parse_ethernet, parse_quoted_ethernet, ETHERNET_LEN);
    (parse_l3, parse_quoted_l3, 0);
}
