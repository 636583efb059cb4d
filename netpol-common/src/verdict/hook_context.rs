//! The context of a packet at a hook, and the egress mark in its packet mark.

use crate::ids::{Hook, IfIndex, Nanos};

/// Bits of the packet mark that carry an egress mark unless configured otherwise; kube-proxy uses 0xc000.
pub const DEFAULT_MARK_MASK: u32 = 0xfff0_0000;

/// What a hook knows of a packet besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct HookContext {
    /// The hook.
    pub hook: Hook,
    /// The hook's device.
    pub ifindex: IfIndex,
    /// The device through which the packet came to this node, 0 if a process of the node sent it
    /// (`__sk_buff.ingress_ifindex`).
    pub ingress_ifindex: u32,
    /// A socket of this node is attached to the packet (`__sk_buff.sk`).
    pub has_socket: bool,
    /// The frame carries a VLAN tag (`__sk_buff.vlan_present`).
    pub is_tagged: bool,
    /// The packet mark.
    pub mark: u32,
    /// The bits of the packet mark that carry an egress mark: 12 adjacent ones.
    pub mark_mask: u32,
    /// The handle of the flow whose verdict is deferred, 0 for none, [`HookContext::REDIRECTED`] (`__sk_buff.tc_index`, which stays with
    /// the packet as the mark does).
    pub flow_handle: u16,
    /// Coarse monotonic time.
    pub now: Nanos,
}

impl HookContext {
    /// In place of a flow handle, at the hook of a pod: the packet was redirected there from the interface of another pod.
    pub const REDIRECTED: u16 = u16::MAX;

    /// Whether the packet was redirected to this hook from the interface of another pod.
    #[inline(always)]
    pub(super) const fn is_redirected(&self) -> bool {
        self.flow_handle == Self::REDIRECTED
    }

    /// The factor that shifts an egress mark to the bits of the mask. BPF has no instruction that counts zeros.
    #[inline(always)]
    const fn mark_unit(&self) -> u32 {
        self.mark_mask & self.mark_mask.wrapping_neg()
    }

    /// The egress mark, 0 for none.
    #[inline(always)]
    pub(super) const fn egress_mark(&self) -> u16 {
        let [.., hi, lo] = match (self.mark & self.mark_mask).checked_div(self.mark_unit()) {
            Some(egress_mark) => egress_mark.to_be_bytes(),
            None => [0; 4],
        };
        u16::from_be_bytes([hi, lo])
    }

    /// The packet mark with this egress mark.
    #[inline(always)]
    pub(super) const fn mark_with(&self, egress_mark: u16) -> u32 {
        let [hi, lo] = egress_mark.to_be_bytes();
        let bits = u32::from_be_bytes([0, 0, hi, lo]).wrapping_mul(self.mark_unit());
        (self.mark & !self.mark_mask) | (bits & self.mark_mask)
    }
}
