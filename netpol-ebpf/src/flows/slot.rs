//! A slot of FLOWS in the memory of the map.

use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{Ordering, compiler_fence};

use netpol_common::addr::Addr;
use netpol_common::flow_table::{FlowBucket, FlowSlot, N_SLOTS, SlotMemory, ports};
use netpol_common::keys::{FlowKey, FlowValue};
use zerocopy::FromBytes;

/// A slot and its mark. All accesses are volatile, because other processors and user space use the memory at the same time.
#[derive(Clone, Copy)]
pub(super) struct MapSlot {
    mark: *mut u64,
    slot: *mut FlowSlot,
}

impl MapSlot {
    /// One of the slots of a bucket.
    ///
    /// # Safety
    /// The bucket must be an element of FLOWS.
    #[inline(always)]
    pub(super) unsafe fn of(bucket: *mut FlowBucket, index: usize) -> Self {
        // The verifier does not know the bound of the index any more.
        let index = index & (N_SLOTS - 1);
        let at = |offset: usize| bucket.wrapping_byte_add(offset);
        Self {
            mark: at(offset_of!(FlowBucket, marks)).cast::<u64>().wrapping_add(index),
            slot: at(offset_of!(FlowBucket, slots)).cast::<FlowSlot>().wrapping_add(index),
        }
    }

    #[inline(always)]
    fn load<T: FromBytes>(self, offset: usize) -> T {
        // SAFETY: the callers name fields of `FlowSlot` with their types; elements of an array map are never freed.
        unsafe { ptr::read_volatile(self.slot.wrapping_byte_add(offset).cast()) }
    }

    #[inline(always)]
    fn store<T: FromBytes>(self, offset: usize, value: T) {
        // SAFETY: as for `load`.
        unsafe { ptr::write_volatile(self.slot.wrapping_byte_add(offset).cast(), value) }
    }
}

impl SlotMemory for MapSlot {
    #[inline(always)]
    fn mark(self) -> u64 {
        // SAFETY: as for `load`.
        unsafe { ptr::read_volatile(self.mark) }
    }

    #[inline(always)]
    fn set_mark(self, mark: u64) {
        // SAFETY: as for `load`.
        unsafe { ptr::write_volatile(self.mark, mark) }
    }

    #[inline(always)]
    fn number(self) -> u32 {
        self.load(offset_of!(FlowSlot, number))
    }

    #[inline(always)]
    fn set_number(self, number: u32) {
        self.store(offset_of!(FlowSlot, number), number);
    }

    #[inline(always)]
    fn ports(self) -> u32 {
        self.load(offset_of!(FlowSlot, ports))
    }

    #[inline(always)]
    fn remote(self) -> Addr {
        Addr::from_words(self.load(offset_of!(FlowSlot, remote)))
    }

    #[inline(always)]
    fn set_key(self, key: &FlowKey) {
        self.store(offset_of!(FlowSlot, ports), ports(key));
        self.store(offset_of!(FlowSlot, remote), *key.remote.words());
    }

    /// Field by field, because BPF would have to take whole words apart.
    #[inline(always)]
    fn flow(self) -> FlowValue {
        FlowValue {
            last_seen: self.load(offset_of!(FlowSlot, entry.flow.last_seen)),
            epoch: self.load(offset_of!(FlowSlot, entry.flow.epoch)),
            rule: self.load(offset_of!(FlowSlot, entry.flow.rule)),
            origin: self.load(offset_of!(FlowSlot, entry.flow.origin)),
            state: self.load(offset_of!(FlowSlot, entry.flow.state)),
            marks: self.load(offset_of!(FlowSlot, entry.flow.marks)),
            pad: 0,
            redirect: self.load(offset_of!(FlowSlot, entry.flow.redirect)),
        }
    }

    /// In words, because fields would be taken apart on the stack.
    #[inline(always)]
    fn set_flow(self, flow: &FlowValue) {
        let words: &[u64; 3] = zerocopy::transmute_ref!(flow);
        let offset = const { offset_of!(FlowSlot, entry.flow) };
        let [first, second, third] = *words;
        self.store(offset, first);
        self.store(offset + 8, second);
        self.store(offset + 16, third);
    }

    #[inline(always)]
    fn local(self) -> Addr {
        Addr::from_words(self.load(offset_of!(FlowSlot, entry.local)))
    }

    #[inline(always)]
    fn set_local(self, local: &Addr) {
        self.store(offset_of!(FlowSlot, entry.local), *local.words());
    }

    #[inline(always)]
    fn fence() {
        compiler_fence(Ordering::SeqCst);
    }
}
