//! Bounds-checked access to the bytes of a frame.

use core::mem::MaybeUninit;

use zerocopy::FromBytes;

use crate::ids::Direction;
use crate::mac::Mac;

/// Bounds-checked access to a frame.
pub trait PacketBytes {
    /// Copies bytes of the frame, from `offset` on, to `buffer`. Returns `None` if the frame ends before.
    ///
    /// The caller has the buffer, because BPF has little stack and a returned header would be copied there byte by byte.
    fn load<'a, T: FromBytes>(&self, offset: u32, buffer: &'a mut MaybeUninit<T>) -> Option<&'a T>;

    /// The bytes from `offset` on, if they can be read without a copy. `None` does not mean that the frame ends before.
    fn peek<T: FromBytes + Copy>(&self, offset: u32) -> Option<T>;

    /// The MAC address of the pod's end of the link: the source of a frame from the pod, the destination of a frame to the pod.
    /// `None` if the frame has no Ethernet header.
    fn pod_mac(&self, direction: Direction) -> Option<Mac>;
}

/// The offset of [`PacketBytes::pod_mac`] in an Ethernet header.
#[inline(always)]
pub const fn pod_mac_offset(direction: Direction) -> u32 {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 6,
    }
}

impl PacketBytes for [u8] {
    fn load<'a, T: FromBytes>(&self, offset: u32, buffer: &'a mut MaybeUninit<T>) -> Option<&'a T> {
        let bytes = self.get(usize::try_from(offset).ok()?..)?.get(..size_of::<T>())?;
        Some(buffer.write(T::read_from_bytes(bytes).ok()?))
    }

    fn peek<T: FromBytes + Copy>(&self, offset: u32) -> Option<T> {
        self.get(usize::try_from(offset).ok()?..)
            .and_then(|bytes| T::read_from_prefix(bytes).ok())
            .map(|(value, _)| value)
    }

    fn pod_mac(&self, direction: Direction) -> Option<Mac> {
        self.peek(pod_mac_offset(direction)).map(Mac::new)
    }
}
