//! Bytes to and from the kernel's maps: with `netfilter::socket` the only `unsafe` code in user space.
//!
//! In: types of netpol-common, whose layout zerocopy has checked. Out: keys and values for aya's maps, the batch operations
//! that aya lacks, arrays whose memory is shared with the kernel, and ring buffers that can be awaited. Must not: depend on the
//! meaning of the types.
#![expect(
    unsafe_code,
    reason = "aya's marker trait and the bpf system call need it; everything else uses these"
)]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::AtomicU64;

use aya::maps::{MapData, MapType};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// A type of netpol-common as a key or value of aya's maps.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(transparent)]
pub(crate) struct Wire<T>(pub(crate) T);

// SAFETY: `IntoBytes` proves that there is no padding, `FromBytes` that every bit pattern is valid.
unsafe impl<T: IntoBytes + FromBytes + Immutable + Copy + 'static> aya::Pod for Wire<T> {}

/// Duplicates a file descriptor and registers the duplicate, to wait until it is readable.
///
/// # Errors
/// The error of the kernel.
pub(crate) fn watch(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let own = fd.try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` refers to the same open file for its whole life.
    Ok(unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) }?)
}

/// The memory of an array map, shared with the programs: each side reads the writes of the other at once.
#[derive(Debug)]
pub(crate) struct Shared {
    start: NonNull<AtomicU64>,
    n_words: usize,
}

// SAFETY: the mapping belongs to no thread, and it is accessed only by atomic operations.
unsafe impl Send for Shared {}
// SAFETY: as for `Send`.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps the memory of an array map that was created with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    /// The error of the kernel; `Unsupported` if the map is no array.
    pub(crate) fn of(map: &MapData) -> io::Result<Self> {
        let layout = map.info().map_err(io::Error::other)?;
        if !matches!(layout.map_type(), Ok(MapType::Array)) {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        // Elements are contiguous, each padded to a multiple of eight bytes.
        let n_words = u64::from(layout.value_size()).div_ceil(8) * u64::from(layout.max_entries());
        let n_words = usize::try_from(n_words).map_err(io::Error::other)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the address, so no other mapping is changed.
        let start = unsafe {
            mmap(null_mut(), n_words * 8, access, MapFlags::SHARED, map.fd().as_fd(), 0)
        }?;
        let start = NonNull::new(start).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start: start.cast(), n_words })
    }

    /// All elements, in words of eight bytes.
    pub(crate) const fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has `n_words` words, is page-aligned, and lives as long as `self`; every bit pattern is a valid
        // number, and concurrent writes of the programs are atomic for each word or for the part of it that is used.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.n_words) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: `of` mapped it with this size, and no borrow outlives `self`.
        unsafe { munmap(self.start.as_ptr().cast(), self.n_words * 8) }.ok();
    }
}

/// The part of `union bpf_attr` that batch commands read (kernel 5.6, `include/uapi/linux/bpf.h`).
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_MAP_DELETE_BATCH: libc::c_int = 27;

/// Writes all entries, in this order, with one system call.
///
/// # Errors
/// The error of the kernel; entries before the one that failed are written. `ENOTSUPP` (524) if the kernel has no batch
/// operations for maps of this type: LPM tries before Linux 5.13, maps of maps before 5.19.
pub(crate) fn update_batch<K, V>(map: &MapData, keys: &[K], values: &[V]) -> io::Result<()>
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable,
{
    check_sizes::<K, V>(map)?;
    if keys.len() != values.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    if keys.is_empty() {
        return Ok(());
    }
    let mut attr = BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: address(keys.as_ptr()),
        values: address(values.as_ptr()),
        count: u32::try_from(keys.len()).map_err(io::Error::other)?,
        map_fd: fd_of(map)?,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: both slices hold `count` elements of the map's sizes and outlive the call, which only reads them.
    unsafe { batch(BPF_MAP_UPDATE_BATCH, &mut attr) }
}

/// Removes entries, in this order, with one system call.
///
/// # Errors
/// The error of the kernel, `ENOENT` for a missing key; entries before it are removed. `ENOTSUPP` as for
/// [`update_batch`].
pub(crate) fn delete_batch<K: IntoBytes + Immutable, V>(
    map: &MapData,
    keys: &[K],
) -> io::Result<()> {
    check_sizes::<K, V>(map)?;
    if keys.is_empty() {
        return Ok(());
    }
    let mut attr = deletion(map, keys)?;
    // SAFETY: the slice holds `count` keys of the map's size and outlives the call, which only reads it.
    unsafe { batch(BPF_MAP_DELETE_BATCH, &mut attr) }
}

fn deletion<K>(map: &MapData, keys: &[K]) -> io::Result<BatchAttr> {
    Ok(BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: address(keys.as_ptr()),
        values: 0,
        count: u32::try_from(keys.len()).map_err(io::Error::other)?,
        map_fd: fd_of(map)?,
        elem_flags: 0,
        flags: 0,
    })
}

/// Removes the entries that exist.
///
/// # Errors
/// The error of the kernel; some entries are removed. `ENOTSUPP` as for [`update_batch`].
pub(crate) fn delete_present<K: IntoBytes + Immutable, V>(
    map: &MapData,
    keys: &[K],
) -> io::Result<()> {
    check_sizes::<K, V>(map)?;
    let mut rest = keys;
    while !rest.is_empty() {
        let mut attr = deletion(map, rest)?;
        // SAFETY: the slice holds `count` keys of the map's size and outlives the call, which only reads it.
        match unsafe { batch(BPF_MAP_DELETE_BATCH, &mut attr) } {
            Ok(()) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                // `count` is the number of removed entries; the next key was missing.
                let n_removed = usize::try_from(attr.count).map_err(io::Error::other)?;
                rest = rest.get(n_removed + 1..).unwrap_or_default();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads all entries of a hash map. Entries that change meanwhile may be missing.
///
/// # Errors
/// The error of the kernel; `Unsupported` if the map is no hash map, or is a per-CPU one.
pub(crate) fn read_all<K, V>(map: &MapData) -> io::Result<Vec<(K, V)>>
where
    K: FromBytes + IntoBytes + Immutable + Clone,
    V: FromBytes + IntoBytes + Immutable + Clone,
{
    let mut found = Vec::new();
    for_each_batch(map, |keys: &[K], values: &[V]| {
        found.extend(keys.iter().cloned().zip(values.iter().cloned()));
        Ok(())
    })?;
    Ok(found)
}

/// Reads all entries of a hash map, some thousands at a time. Entries that change meanwhile may be missing; `each` may
/// remove the entries of its batch.
///
/// # Errors
/// The kernel or `each` said; `Unsupported` if the map is no hash map, or is a per-CPU one.
pub(crate) fn for_each_batch<K, V>(
    map: &MapData,
    mut each: impl FnMut(&[K], &[V]) -> io::Result<()>,
) -> io::Result<()>
where
    K: FromBytes + IntoBytes + Immutable + Clone,
    V: FromBytes + IntoBytes + Immutable + Clone,
{
    check_sizes::<K, V>(map)?;
    let map_type = map.info().and_then(|info| info.map_type()).map_err(io::Error::other)?;
    if !matches!(map_type, MapType::Hash | MapType::LruHash) {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    // The kernel copies whole buckets. If one does not fit, the capacity is doubled.
    let mut capacity = 4096_usize;
    let (mut keys, mut values) = (zeroed::<K>(capacity), zeroed::<V>(capacity));
    // Position in the hash table, of which the kernel uses 4 bytes.
    let mut position: Option<u64> = None;
    loop {
        let mut next_position = 0_u64;
        let mut attr = BatchAttr {
            in_batch: position.as_ref().map_or(0, |position| address(position)),
            out_batch: address(&raw mut next_position),
            keys: address(keys.as_mut_ptr()),
            values: address(values.as_mut_ptr()),
            count: u32::try_from(capacity).map_err(io::Error::other)?,
            map_fd: fd_of(map)?,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: both vectors have `count` elements of the map's sizes, and `next_position` has more than the 4 bytes of a
        // hash map's position; all outlive the call. Every bit pattern is a valid K and V.
        let outcome = unsafe { batch(BPF_MAP_LOOKUP_BATCH, &mut attr) };
        let is_last = match outcome {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                capacity *= 2;
                (keys, values) = (zeroed::<K>(capacity), zeroed::<V>(capacity));
                continue;
            }
            Err(error) => return Err(error),
        };
        let n_read = usize::try_from(attr.count).map_err(io::Error::other)?;
        each(keys.get(..n_read).unwrap_or(&keys), values.get(..n_read).unwrap_or(&values))?;
        if is_last {
            return Ok(());
        }
        position = Some(next_position);
    }
}

fn zeroed<T: FromZeros + Clone>(n: usize) -> Vec<T> {
    vec![T::new_zeroed(); n]
}

/// Checks that K and V have the map's sizes, because the kernel reads and writes that many bytes.
fn check_sizes<K, V>(map: &MapData) -> io::Result<()> {
    let layout = map.info().map_err(io::Error::other)?;
    let sizes = [layout.key_size(), layout.value_size()].map(usize::try_from);
    if sizes == [Ok(size_of::<K>()), Ok(size_of::<V>())] {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::InvalidInput))
    }
}

fn fd_of(map: &MapData) -> io::Result<u32> {
    u32::try_from(map.fd().as_fd().as_raw_fd()).map_err(io::Error::other)
}

fn address<T>(pointer: *const T) -> u64 {
    pointer as u64
}

/// # Safety
/// All addresses in `attr` must be valid for the reads and writes of the command.
unsafe fn batch(command: libc::c_int, attr: &mut BatchAttr) -> io::Result<()> {
    // SAFETY: `attr` is valid for its size, and the caller guarantees the addresses in it.
    let outcome = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<BatchAttr>())
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
