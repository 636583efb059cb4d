//! A packet as the kernel hands it over: its bytes, and where it was seen.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_skb_load_bytes};
use aya_ebpf::programs::TcContext;
use netpol_common::ids::{Hook, IfIndex, Nanos};
use netpol_common::packet::{ETHERNET_LEN, PacketBytes};
use netpol_common::verdict::Sighting;
use zerocopy::FromBytes;

/// The frame behind a context.
pub(crate) struct Skb<'a>(pub(crate) &'a TcContext);

impl Skb<'_> {
    #[inline(always)]
    fn raw(&self) -> *mut __sk_buff {
        self.0.skb.skb
    }

    /// Where and when the packet is seen.
    #[inline(always)]
    pub(crate) fn sighting(&self, hook: Hook, ticket_mask: u32) -> Sighting {
        let skb = self.raw();
        // SAFETY: the kernel's context pointer is valid while the program runs; the verifier checks every
        // field access and rewrites it.
        unsafe {
            Sighting {
                hook,
                ifindex: IfIndex((*skb).ifindex),
                ingress_ifindex: (*skb).ingress_ifindex,
                has_socket: !(*skb).__bindgen_anon_2.sk.is_null(),
                is_tagged: (*skb).vlan_present != 0,
                mark: (*skb).mark,
                ticket_mask,
                now: Nanos(bpf_ktime_get_coarse_ns()),
            }
        }
    }

    /// Length from the network header on, bytes.
    #[inline(always)]
    pub(crate) fn network_len_bytes(&self) -> u32 {
        self.0.len().saturating_sub(ETHERNET_LEN as u32)
    }
}

impl PacketBytes for Skb<'_> {
    #[inline(always)]
    fn load<'a, T: FromBytes>(
        &self,
        offset: usize,
        room: &'a mut MaybeUninit<T>,
    ) -> Option<&'a T> {
        // SAFETY: there is room for a T; the helper checks the packet's bounds, and fills all of it or fails.
        let failure = unsafe {
            bpf_skb_load_bytes(
                self.raw().cast(),
                offset as u32,
                room.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            )
        };
        // SAFETY: filled by the helper, and any bytes make a T.
        (failure == 0).then(|| unsafe { room.assume_init_ref() })
    }
}
