//! Access to map elements that aya does not offer.

use core::ptr;

use aya_ebpf::helpers::bpf_map_lookup_elem;

/// Looks a key up in a map whose definition has other types than the map, or none. aya's own look-up in a trie takes a packed
/// key, which would be copied byte by byte.
///
/// # Safety
/// The map must have keys with the layout of `K` and values with that of `V`. Until the program ends its elements must not be
/// given to other keys, and not be changed unless `V` consists of cells.
#[inline(always)]
pub(crate) unsafe fn find<'a, M, K, V>(map: &'a M, key: &K) -> Option<&'a V> {
    let map = ptr::from_ref(map).cast_mut().cast();
    // SAFETY: by relocation, the address of a map's definition becomes that of the map, whose keys are as long as `key`.
    let element = unsafe { bpf_map_lookup_elem(map, ptr::from_ref(key).cast()) };
    // SAFETY: null or an element of the map, which the caller vouches for.
    unsafe { element.cast::<V>().as_ref() }
}

/// Copies a map value, which others may write at the same time.
///
/// # Safety
/// `element` must be an element of a map.
#[inline(always)]
pub(crate) unsafe fn copy<T: Copy>(element: *const T) -> T {
    // SAFETY: the kernel does not free the memory of elements before the program ends. The load is volatile, so the copy is made
    // once and does not change afterwards.
    unsafe { ptr::read_volatile(element) }
}
