//! The one question to the kernel about the older iptables: `getsockopt` with an argument in the buffer of its answer.
#![expect(unsafe_code, reason = "no crate has getsockopt with an argument in its buffer")]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::Family;

/// A socket of the network namespace of the calling thread.
pub(super) struct Socket {
    fd: OwnedFd,
    level: libc::c_int,
}

impl Socket {
    /// Opens it.
    ///
    /// # Errors
    /// The error of the kernel.
    pub(super) fn open(family: Family) -> io::Result<Self> {
        let (domain, level) = if family == Family::Ip6 {
            (AddressFamily::INET6, libc::IPPROTO_IPV6)
        } else {
            (AddressFamily::INET, libc::IPPROTO_IP)
        };
        let fd = socket_with(domain, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Self { fd, level })
    }

    /// Gives the buffer to the kernel, which writes its answer into it.
    ///
    /// # Errors
    /// The error of the kernel.
    pub(super) fn ask(&self, option: libc::c_int, buffer: &mut [u8]) -> io::Result<()> {
        let mut len = libc::socklen_t::try_from(buffer.len())
            .map_err(|_too_long| io::Error::from(io::ErrorKind::InvalidInput))?;
        let fd = self.fd.as_fd().as_raw_fd();
        // SAFETY: the kernel reads and writes at most `len` bytes, which is the length of the buffer, and any byte is a valid u8.
        let code = unsafe {
            libc::getsockopt(fd, self.level, option, buffer.as_mut_ptr().cast(), &raw mut len)
        };
        if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
