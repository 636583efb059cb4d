//! The identities of single addresses, as [`netpol_common::identities`] says.

use core::cell::{Cell, UnsafeCell};

use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use aya_ebpf::bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE};
use aya_ebpf::btf_maps::ArrayOfMaps;
use aya_ebpf::macros::btf_map;
use netpol_common::addr::Addr;
use netpol_common::identities::{self, Entry, Key, LINE_WORDS, Line, N_FAMILIES, V4, V6};

use crate::look_up::find;

/// What the table of a family is like, but for its size: a definition without types, for the reason that allow maps
/// have one (`crate::maps`).
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

/// A line in the kernel's memory.
#[derive(Clone, Copy)]
struct MapLine<'a>(&'a [UnsafeCell<u64>; LINE_WORDS]);

impl Line for MapLine<'_> {
    #[inline(always)]
    fn word(self, index: usize) -> u64 {
        // SAFETY: the index is below LINE_WORDS, which the verifier checks. Volatile, because the agent writes it meanwhile.
        unsafe { core::ptr::read_volatile(self.0.get_unchecked(index).get()) }
    }
}

/// What is said of an address.
#[inline(always)]
pub(crate) fn entry(addr: &Addr) -> Entry {
    if addr.is_v4() {
        return Entry(identity_v4(V4::of(addr).0));
    }
    let V6([first, second]) = V6::of(addr);
    Entry(identity_v6(first, second))
}

/// Functions of their own, for the verifier as the parsing ones: see [`crate::skb`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn identity_v4(addr: u32) -> u32 {
    look_up(V4(addr)).0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn identity_v6(first: u64, second: u64) -> u32 {
    look_up(V6([first, second])).0
}

/// BPF has little stack: all questions to maps are asked from one place in it.
#[inline(always)]
fn look_up<K: Key>(key: K) -> Entry {
    let number = Cell::new(K::FAMILY);
    // SAFETY: a table's memory outlives the program's run (RCU).
    let Some(table) = (unsafe { find::<_, _, Lines>(&IDENTITIES, &number) }) else {
        return Entry::ABSENT;
    };
    let line = |line| {
        number.set(line);
        // SAFETY: as for the table, whose elements are lines.
        unsafe { find::<_, _, [UnsafeCell<u64>; LINE_WORDS]>(table, &number) }.map(MapLine)
    };
    identities::find(line, key)
}
