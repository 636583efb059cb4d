//! The look-up in a map whose definition has no types.

use aya_ebpf::helpers::bpf_map_lookup_elem;

/// Looks a key up. aya's own look-up in a trie takes a packed key, which would be copied byte by byte.
///
/// # Safety
/// K and V must have the layout of the map's keys and values; the reference must not outlive the run of the
/// program nor the entry.
#[inline(always)]
pub(crate) unsafe fn find<'a, M, K, V>(map: &'a M, key: &K) -> Option<&'a V> {
    let map = core::ptr::from_ref(map).cast_mut().cast();
    // SAFETY: the address of a map's definition is that of the map, by relocation; see above for the types.
    unsafe { bpf_map_lookup_elem(map, core::ptr::from_ref(key).cast()).cast::<V>().as_ref() }
}
