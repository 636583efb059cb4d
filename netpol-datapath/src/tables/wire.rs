//! The only `unsafe` code of the agent: bytes to and from the kernel.
//!
//! In: types of netpol-common, whose layout zerocopy has checked. Out: what aya takes for map keys and
//! values, the batch operations that aya does not offer, arrays whose memory is shared with the kernel, and ring buffers that can
//! be waited for. Must not: know what the types mean.
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

/// A type of netpol-common as aya takes it for a key or a value.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(transparent)]
pub(crate) struct Wire<T>(pub(crate) T);

// SAFETY: `IntoBytes` proves that there is no padding, `FromBytes` that every bit pattern is valid.
unsafe impl<T: IntoBytes + FromBytes + Immutable + Copy + 'static> aya::Pod for Wire<T> {}

/// Waits for a file descriptor to become readable, by a copy of it.
///
/// # Errors
/// What the kernel said.
pub(crate) fn watch(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let own = fd.try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` is one open file descriptor from its beginning to its end.
    Ok(unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) }?)
}

/// The memory of an array map, the kernel's own: what is written here programs see at once, and the other way round.
#[derive(Debug)]
pub(crate) struct Shared {
    start: NonNull<AtomicU64>,
    n_words: usize,
}

// SAFETY: it is only memory, which belongs to no thread, and is only used by atomic operations.
unsafe impl Send for Shared {}
// SAFETY: as for `Send`.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps the memory of an array map that was made with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    /// What the kernel said; also when the map is no array.
    pub(crate) fn of(map: &MapData) -> io::Result<Self> {
        let layout = map.info().map_err(io::Error::other)?;
        if !matches!(layout.map_type(), Ok(MapType::Array)) {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        // Elements lie behind each other, each at a multiple of eight bytes.
        let n_words = u64::from(layout.value_size()).div_ceil(8) * u64::from(layout.max_entries());
        let n_words = usize::try_from(n_words).map_err(io::Error::other)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the address is the kernel's choice, so that no other mapping is touched.
        let start = unsafe {
            mmap(null_mut(), n_words * 8, access, MapFlags::SHARED, map.fd().as_fd(), 0)
        }?;
        let start = NonNull::new(start).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start: start.cast(), n_words })
    }

    /// All elements, in words of eight bytes.
    pub(crate) const fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has so many bytes, begins at a page, and lives as long as `self`. Any bits are a number. Programs
        // write whole words too, or parts of words that are read here for nothing but their old or new value.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.n_words) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`, with this size, and nobody borrows it any more.
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
/// What the kernel said; entries before the one that failed are written. `ENOTSUPP` (524) if maps of this
/// type know no batches: LPM tries before kernel 5.13, maps of maps before 5.19.
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
/// What the kernel said, `ENOENT` for a key that is not there; entries before it are removed. As for
/// [`update_batch`] if maps of this type know no batches.
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

/// Removes those of the entries that are there.
///
/// # Errors
/// What the kernel said; some entries are removed. As for [`update_batch`] if maps of this type know no batches.
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
                // The kernel says how far it came: somebody else has removed the next one.
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
/// What the kernel said; also when the map is no hash map with keys and values of one CPU.
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

/// Reads all entries of a hash map, some thousands at a time. Entries that change meanwhile may be missing; those that have
/// been read may be removed.
///
/// # Errors
/// What the kernel or `each` said; also when the map is no hash map with keys and values of one CPU.
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
    // The kernel copies whole buckets: if one does not fit, there must be more room.
    let mut n_room = 4096_usize;
    let (mut keys, mut values) = (room::<K>(n_room), room::<V>(n_room));
    // Position in the table: 4 bytes for hash maps.
    let mut position: Option<u64> = None;
    loop {
        let mut next_position = 0_u64;
        let mut attr = BatchAttr {
            in_batch: position.as_ref().map_or(0, |position| address(position)),
            out_batch: address(&raw mut next_position),
            keys: address(keys.as_mut_ptr()),
            values: address(values.as_mut_ptr()),
            count: u32::try_from(n_room).map_err(io::Error::other)?,
            map_fd: fd_of(map)?,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: both vectors have room for `count` elements of the map's sizes, `next_position` for more than the
        // 4 bytes of a hash map's position; they outlive the call. Whatever is written makes a K and a V.
        let outcome = unsafe { batch(BPF_MAP_LOOKUP_BATCH, &mut attr) };
        let is_last = match outcome {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                n_room *= 2;
                (keys, values) = (room::<K>(n_room), room::<V>(n_room));
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

fn room<T: FromZeros + Clone>(n: usize) -> Vec<T> {
    vec![T::new_zeroed(); n]
}

/// The kernel reads and writes as many bytes as the map's sizes say.
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
/// All addresses in `attr` must be valid for what the command reads and writes there.
unsafe fn batch(command: libc::c_int, attr: &mut BatchAttr) -> io::Result<()> {
    // SAFETY: `attr` is valid for its size; see above for what it points to.
    let outcome = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<BatchAttr>())
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
