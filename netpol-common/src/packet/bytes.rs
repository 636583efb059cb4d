//! Bounds-checked access to the bytes of a frame.

use core::mem::MaybeUninit;

use zerocopy::FromBytes;

/// Bounds-checked access to a frame.
pub trait PacketBytes {
    /// Copies the bytes that start `offset` bytes into the frame to `room`; `None` beyond the frame's end.
    ///
    /// The caller provides the room, because BPF has little stack: a header that is returned by value is
    /// spread over it byte by byte.
    fn load<'a, T: FromBytes>(&self, offset: u32, room: &'a mut MaybeUninit<T>) -> Option<&'a T>;

    /// The bytes that start there, if they can be had without a copy; `None` says nothing about the frame.
    fn peek<T: FromBytes + Copy>(&self, offset: u32) -> Option<T>;
}

impl PacketBytes for [u8] {
    fn load<'a, T: FromBytes>(&self, offset: u32, room: &'a mut MaybeUninit<T>) -> Option<&'a T> {
        let bytes = self.get(usize::try_from(offset).ok()?..)?.get(..size_of::<T>())?;
        Some(room.write(T::read_from_bytes(bytes).ok()?))
    }

    fn peek<T: FromBytes + Copy>(&self, offset: u32) -> Option<T> {
        self.get(usize::try_from(offset).ok()?..)
            .and_then(|bytes| T::read_from_prefix(bytes).ok())
            .map(|(value, _)| value)
    }
}
