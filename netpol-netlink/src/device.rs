//! Names of devices without netlink.

use std::io;

use netpol_common::ids::IfIndex;
use rustix::net::netdevice::index_to_name;
use rustix::net::{AddressFamily, SocketType, socket};

/// The name of the device with this index in the network namespace of the calling thread (`SIOCGIFNAME`).
///
/// # Errors
/// `ENODEV` if there is no such device.
pub fn device_name(ifindex: IfIndex) -> io::Result<String> {
    let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    Ok(index_to_name(any, ifindex.0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_a_name_and_an_unused_index_has_none() {
        assert_eq!(device_name(IfIndex(1)).unwrap(), "lo");
        let missing = device_name(IfIndex(i32::MAX.unsigned_abs())).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(rustix::io::Errno::NODEV.raw_os_error()));
    }
}
