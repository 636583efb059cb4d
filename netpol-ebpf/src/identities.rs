//! Look-ups in the tables of [`netpol_common::identities`].

use core::cell::{Cell, UnsafeCell};

use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use aya_ebpf::bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE};
use aya_ebpf::btf_maps::ArrayOfMaps;
use aya_ebpf::macros::btf_map;
use netpol_common::addr::Addr;
use netpol_common::identities::{self, Entry, Key, LINE_WORDS, Line, N_FAMILIES, V4, V6};

use crate::look_up::find;

/// The template of a family's table, whose size differs. It has no types for the same reason as
/// [`AllowMap`](crate::maps::AllowMap).
#[repr(C)]
struct Lines {
    r#type: *const [i32; BPF_MAP_TYPE_ARRAY as usize],
    key_size: *const [i32; size_of::<u32>()],
    value_size: *const [i32; size_of::<[u64; LINE_WORDS]>()],
    max_entries: *const [i32; 2],
    map_flags: *const [i32; (BPF_F_MMAPABLE | BPF_F_INNER_MAP) as usize],
}
#[btf_map]
static IDENTITIES: ArrayOfMaps<Lines, { N_FAMILIES as usize }> = ArrayOfMaps::new();

/// A line in the memory of a table.
#[derive(Clone, Copy)]
struct MapLine<'a>(&'a [UnsafeCell<u64>; LINE_WORDS]);

impl Line for MapLine<'_> {
    #[inline(always)]
    fn word(self, index: usize) -> u64 {
        let word = self.0.as_ptr().wrapping_add(index);
        // SAFETY: the index is below LINE_WORDS, which the verifier checks too. Volatile, because the agent writes words at the
        // same time.
        unsafe { core::ptr::read_volatile(word.cast()) }
    }
}

/// The entry of an address.
#[inline(always)]
pub(crate) fn entry(addr: &Addr) -> Entry {
    if addr.is_v4() {
        return Entry(identity_v4(V4::of(addr).0));
    }
    let V6([first, second]) = V6::of(addr);
    Entry(identity_v6(first, second))
}

/// A global function, because the verifier walks a global function only once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn identity_v4(addr: u32) -> u32 {
    look_up(V4(addr)).0
}

/// As [`identity_v4`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn identity_v6(first: u64, second: u64) -> u32 {
    look_up(V6([first, second])).0
}

/// All look-ups have their key in one place on the stack, because BPF has little of it.
#[inline(always)]
fn look_up<K: Key>(key: K) -> Entry {
    let number = Cell::new(K::FAMILY);
    // SAFETY: the kernel frees a table after a grace period.
    let Some(table) = (unsafe { find::<_, _, Lines>(&IDENTITIES, &number) }) else {
        return Entry::ABSENT;
    };
    let line = |line| {
        number.set(line);
        // SAFETY: the elements of a table are lines, and they are cells.
        unsafe { find::<_, _, [UnsafeCell<u64>; LINE_WORDS]>(table, &number) }.map(MapLine)
    };
    identities::find(line, key)
}
