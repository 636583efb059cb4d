//! Names and hardware addresses of the host's ends.
//!
//! In: network, container id, interface. Out: name, hardware address and alias of the host's end. A pure function that must
//! never change, because DEL must find interfaces that an older release of the plugin created.

use netpol_proto::Attachment;

/// The host's end of an attachment. Its name and hardware address are derived from the attachment alone, so that DEL finds
/// it without any state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEnd {
    /// 15 characters, the maximum of Linux.
    pub name: String,
    /// Locally administered.
    pub mac: [u8; 6],
    /// Marks the link as created by this plugin for this network, for GC.
    pub alias: String,
}

impl HostEnd {
    /// The host's end of an attachment. The key is that of the CNI specification: network, container id, interface.
    pub fn of(network: &str, attachment: &Attachment) -> Self {
        let Attachment { container_id, container_ifname } = attachment;
        // No part contains a `/`.
        let hash = fnv1a(format!("{network}/{container_id}/{container_ifname}").as_bytes());
        let [_, _, mut mac @ ..] = hash.to_be_bytes();
        let name = mac.iter().fold(String::from("npl"), |name, byte| format!("{name}{byte:02x}"));
        // Bit 1 of the first byte: locally administered; bit 0: one station, not a group.
        let [first, ..] = &mut mac;
        *first = (*first & 0xfc) | 2;
        Self { name, mac, alias: alias(network) }
    }
}

/// The alias of all host's ends of a network.
pub fn alias(network: &str) -> String {
    format!("netpol-cni {network}")
}

/// FNV-1a, 64 bits, because the result must not change between releases of this plugin or of Rust.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(id: &str) -> Attachment {
        Attachment { container_id: id.into(), container_ifname: "eth0".into() }
    }

    #[test]
    fn the_host_end_is_derived_from_network_container_and_interface() {
        let end = HostEnd::of("cbr0", &attachment("c1"));
        assert_eq!(end.name, "npl70a14c78f129");
        assert_eq!(end.name.len(), 15);
        assert_eq!(end.mac[0] & 3, 2);
        assert_ne!(end, HostEnd::of("cbr1", &attachment("c1")));
        assert_ne!(end, HostEnd::of("cbr0", &attachment("c2")));
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
