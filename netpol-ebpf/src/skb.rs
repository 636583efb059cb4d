//! The packet of a program: its bytes, and what the kernel knows of it.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM, bpf_hdr_start_off};
use aya_ebpf::helpers::{
    bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_type, bpf_skb_load_bytes,
    bpf_skb_load_bytes_relative, bpf_skb_pull_data, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use netpol_common::addr::Addr;
use netpol_common::ids::{Direction, Hook, IfIndex, Nanos, Protocol};
use netpol_common::mac::Mac;
use netpol_common::packet::{
    self, ETHERNET_LEN, Frame, Packet, PacketBytes, Parsed, hops_offset, pod_mac_offset, routed_v4,
};
use netpol_common::verdict::HookContext;
use zerocopy::FromBytes;

/// In place of the length of a link header: the device may have one or not, and the kernel knows where the network header starts.
/// Such a read costs a helper that the fast path avoids.
pub(crate) const FROM_NETWORK_HEADER: u32 = u32::MAX;

/// The frame behind a context, on a device whose link header has this many bytes.
pub(crate) struct Skb<const LINK_HEADER_LEN: u32>(pub(crate) TcContext);

impl<const LINK_HEADER_LEN: u32> Skb<LINK_HEADER_LEN> {
    #[inline(always)]
    fn raw(&self) -> *mut __sk_buff {
        self.0.skb.skb
    }

    /// The kernel's context.
    #[inline(always)]
    fn context(&self) -> &__sk_buff {
        // SAFETY: the context is valid while the program runs. The verifier checks and rewrites every access to a field.
        unsafe { &*self.raw() }
    }

    /// What the hook knows of the packet.
    #[inline(always)]
    pub(crate) fn hook_context(&self, hook: Hook, mark_mask: u32, now: Nanos) -> HookContext {
        let skb = self.context();
        HookContext {
            hook,
            ifindex: IfIndex(skb.ifindex),
            ingress_ifindex: skb.ingress_ifindex,
            // SAFETY: the field is a pointer in every context.
            has_socket: !unsafe { skb.__bindgen_anon_2.sk }.is_null(),
            is_tagged: skb.vlan_present != 0,
            mark: skb.mark,
            mark_mask,
            flow_handle: flow_handle(skb.tc_index),
            now,
        }
    }

    /// Replaces the packet's deferred flow handle.
    #[inline(always)]
    pub(crate) fn set_flow_handle(&self, flow_handle: u16) {
        // SAFETY: as for `context`. Programs of this type may write the field.
        unsafe { (*self.raw()).tc_index = u32::from(flow_handle) };
    }

    /// Moves the packet to the peer of a pod's interface, as if it had come through that pair: the pod sees nothing of
    /// what the node has written to the packet. Returns the action of the program.
    #[inline(always)]
    pub(crate) fn redirect_to_pod(&self, receiver: IfIndex) -> i32 {
        self.0.set_mark(0);
        self.set_flow_handle(0);
        // SAFETY: as for `context`. Programs of this type may write the field.
        unsafe { (*self.raw()).priority = 0 };
        // The frame is addressed to the pod, and not to the device at which it arrived, so it counts as somebody else's.
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_skb_change_type(self.raw(), PACKET_HOST) };
        // SAFETY: the helper has no pointers.
        action(unsafe { bpf_redirect_peer(receiver.0, 0) })
    }

    /// Decrements the hop limit, as a router does. The packet must have one that is larger than 1, and be one to this address. Returns
    /// false if the kernel has no memory for a header of its own.
    #[inline(always)]
    pub(crate) fn route(&self, dst: &Addr) -> bool {
        let offset = hops_offset(dst);
        if dst.is_v4() {
            // The sum of the header stays the same, and so does what the kernel knows of the packet's sum.
            self.read(offset).is_some_and(|word| self.write(offset, &routed_v4(word), 0))
        } else {
            let [hops] = self.read::<[u8; 1]>(offset).unwrap_or_default();
            self.write(offset, &[hops.wrapping_sub(1)], BPF_F_RECOMPUTE_CSUM.into())
        }
    }

    /// Addresses the frame from one device to another. Returns false as [`Skb::route`] does.
    #[inline(always)]
    pub(crate) fn readdress(&self, dst: Mac, src: Mac) -> bool {
        // The sums of the kernel begin behind the link header.
        self.write(0, &[dst.octets(), src.octets()], 0)
    }

    /// Writes bytes of the frame.
    #[inline(always)]
    fn write<T>(&self, offset: u32, bytes: &T, flags: u64) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "a header has some dozens of bytes")]
        let len = const { size_of::<T>() as u32 };
        let bytes = core::ptr::from_ref(bytes).cast();
        // SAFETY: there are `len` bytes. The helper checks the bounds of the packet, and makes its header writable.
        unsafe { bpf_skb_store_bytes(self.raw(), offset, bytes, len, flags) == 0 }
    }

    /// Length from the network header on, bytes.
    #[inline(always)]
    pub(crate) fn network_len_bytes(&self) -> u32 {
        let link_header_len =
            if LINK_HEADER_LEN == FROM_NETWORK_HEADER { 0 } else { LINK_HEADER_LEN };
        self.0.len().saturating_sub(link_header_len)
    }

    /// The ethertype, network byte order. The kernel has read it from the frame of a packet that a pod or another host sent.
    #[inline(always)]
    fn ethertype(&self) -> [u8; 2] {
        let [first, second, ..] = self.context().protocol.to_ne_bytes();
        [first, second]
    }
}

/// A packet for this host (`include/uapi/linux/if_packet.h`).
const PACKET_HOST: u32 = 0;

/// Sends the packet of the program to the hook of another pod's interface. Returns the action of the program.
#[inline(always)]
pub(crate) fn redirect_to_hook(receiver: IfIndex) -> i32 {
    // SAFETY: the helper has no pointers.
    action(unsafe { bpf_redirect(receiver.0, 0) })
}

/// Sends the packet of the program through the device that leads to pods of other nodes: the kernel asks its routes of that device for
/// the next hop, and its neighbours for the MAC address. Returns the action of the program.
#[inline(always)]
pub(crate) fn redirect_to_overlay(device: IfIndex) -> i32 {
    // SAFETY: no pointer but null, with which the kernel looks the route up.
    action(unsafe { bpf_redirect_neigh(device.0, core::ptr::null_mut(), 0, 0) })
}

/// The action of traffic control that a helper returns.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the kernel's actions are numbers of 32 bits")]
const fn action(returned: i64) -> i32 {
    returned as i32
}

/// The handle in `__sk_buff.tc_index`, of which the kernel keeps 16 bits.
#[inline(always)]
const fn flow_handle(tc_index: u32) -> u16 {
    let [.., hi, lo] = tc_index.to_be_bytes();
    u16::from_be_bytes([hi, lo])
}

/// Offsets count from the beginning of an Ethernet header. On a device without one only its ethertype can be read.
impl<const LINK_HEADER_LEN: u32> PacketBytes for Skb<LINK_HEADER_LEN> {
    #[inline(always)]
    fn load<'a, T: FromBytes>(&self, offset: u32, buffer: &'a mut MaybeUninit<T>) -> Option<&'a T> {
        if offset < ETHERNET_LEN {
            let ethertype = T::read_from_bytes(&self.ethertype()).ok()?;
            return Some(buffer.write(ethertype));
        }
        #[expect(clippy::cast_possible_truncation, reason = "a header has some dozens of bytes")]
        let len = const { size_of::<T>() as u32 };
        if LINK_HEADER_LEN == FROM_NETWORK_HEADER {
            return self.load_relative(offset - ETHERNET_LEN, len, buffer);
        }
        // SAFETY: the buffer has `len` bytes. The helper checks the bounds of the packet, and fills all of the buffer or fails.
        let failure = unsafe {
            bpf_skb_load_bytes(
                self.raw().cast(),
                offset + LINK_HEADER_LEN - ETHERNET_LEN,
                buffer.as_mut_ptr().cast(),
                len,
            )
        };
        // SAFETY: the helper has filled the buffer, and any bytes are a valid T.
        (failure == 0).then(|| unsafe { buffer.assume_init_ref() })
    }

    #[inline(always)]
    fn peek<T: FromBytes + Copy>(&self, offset: u32) -> Option<T> {
        if offset < ETHERNET_LEN {
            return T::read_from_bytes(&self.ethertype()).ok();
        }
        if LINK_HEADER_LEN == FROM_NETWORK_HEADER {
            return None;
        }
        self.read(offset + LINK_HEADER_LEN - ETHERNET_LEN)
    }

    #[inline(always)]
    fn pod_mac(&self, direction: Direction) -> Option<Mac> {
        match LINK_HEADER_LEN {
            // Two bytes more than the address has, which every Ethernet header has behind it.
            ETHERNET_LEN => self.read(pod_mac_offset(direction)).map(Mac::from_word),
            _ => None,
        }
    }
}

impl<const LINK_HEADER_LEN: u32> Skb<LINK_HEADER_LEN> {
    /// Copies bytes after the network header. The helper reads the linear part of the packet only, into which the kernel pulls the
    /// headers if a driver has left them elsewhere.
    #[inline(always)]
    fn load_relative<'a, T: FromBytes>(
        &self,
        offset: u32,
        len: u32,
        buffer: &'a mut MaybeUninit<T>,
    ) -> Option<&'a T> {
        let skb = self.raw().cast();
        let mut load = || {
            // SAFETY: the buffer has `len` bytes. The helper checks the bounds of the packet, and fills all of the buffer or fails.
            unsafe {
                bpf_skb_load_bytes_relative(
                    skb,
                    offset,
                    buffer.as_mut_ptr().cast(),
                    len,
                    bpf_hdr_start_off::BPF_HDR_START_NET,
                )
            }
        };
        let mut failure = load();
        if failure != 0 {
            // SAFETY: the helper invalidates pointers into the packet, and there are none here.
            unsafe { bpf_skb_pull_data(self.raw(), self.0.len()) };
            failure = load();
        }
        // SAFETY: the helper has filled the buffer, and any bytes are a valid T.
        (failure == 0).then(|| unsafe { buffer.assume_init_ref() })
    }

    /// Reads from the linear part of the packet, which always has the whole link header.
    #[inline(always)]
    fn read<T: FromBytes + Copy>(&self, offset: u32) -> Option<T> {
        let skb = self.context();
        // Volatile loads, so that the pointers are loaded where they are used. To the compiler they are numbers of 32 bits; if it
        // moved such a number, the verifier would not accept it as a packet pointer any more.
        // SAFETY: a field of the context.
        let data = unsafe { core::ptr::read_volatile(&raw const skb.data) } as usize;
        // SAFETY: a field of the context.
        let end = unsafe { core::ptr::read_volatile(&raw const skb.data_end) } as usize;
        let start = data + offset as usize;
        if start + size_of::<T>() > end {
            return None;
        }
        // SAFETY: the bytes are in the linear part of the packet, which the verifier checks too. A header may be less aligned than
        // T, but the load is one instruction for BPF, and the verifier refuses it on processors that need the alignment.
        Some(unsafe { core::ptr::read(start as *const T) })
    }
}

impl<const LINK_HEADER_LEN: u32> Frame for Skb<LINK_HEADER_LEN> {
    #[inline(always)]
    fn parse(&self, packet: &mut Packet) -> Parsed {
        Parsed::from_wire(match LINK_HEADER_LEN {
            ETHERNET_LEN => parse_ethernet(self.raw(), packet),
            // One call in a small program.
            FROM_NETWORK_HEADER => return packet::parse(self, packet),
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

    #[inline(always)]
    fn is_link_message(&self, direction: Direction, packet: &Packet) -> bool {
        match LINK_HEADER_LEN {
            ETHERNET_LEN => {
                is_link_message(self.raw(), u32::from(direction.to_wire()), packet) != 0
            }
            // Links without Ethernet header lead to no pod.
            _ => false,
        }
    }
}

/// [`packet::is_link_message`] as a global function, as those of `parse_functions`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_link_message(skb: *mut __sk_buff, direction: u32, packet: *const Packet) -> u32 {
    let skb = Skb::<ETHERNET_LEN>(TcContext::new(skb));
    let direction = match direction {
        0 => Direction::Ingress,
        _ => Direction::Egress,
    };
    // SAFETY: the caller's own packet, or null.
    match unsafe { packet.as_ref() } {
        Some(packet) => u32::from(packet::is_link_message(&skb, direction, packet)),
        None => 0,
    }
}

/// Parsing as global functions. The verifier walks a global function once, and assumes any result in its callers. If parsing were
/// inlined, the verifier would walk the rest of the program once for each path through the headers, which exceeds its limit of a
/// million instructions.
///
/// No caller passes a null pointer, but the verifier requires the check.
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
