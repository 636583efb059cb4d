//! Names and hardware addresses of the host's ends.
//!
//! In: network, container id, interface. Out: what the host's end is called. Pure, and the same for ever.

use netpol_proto::Attachment;

/// The host's end of an attachment: its name and hardware address follow from the attachment alone, so that DEL finds
/// it with nothing else in hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEnd {
    /// 15 characters, the most that Linux has room for.
    pub name: String,
    /// Locally administered.
    pub mac: [u8; 6],
    /// Marks the link as ours, and says of which network, for GC.
    pub alias: String,
}

impl HostEnd {
    /// The key is that of the CNI specification: network, container id, interface.
    pub fn of(network: &str, attachment: &Attachment) -> Self {
        let Attachment { container_id, container_ifname } = attachment;
        // No part can hold a `/`.
        let hash = fnv1a(format!("{network}/{container_id}/{container_ifname}").as_bytes());
        let [_, _, mut mac @ ..] = hash.to_be_bytes();
        let name = mac.iter().fold(String::from("npl"), |name, byte| format!("{name}{byte:02x}"));
        // Bit 1 of the first byte: locally administered; bit 0: one station, not a group.
        let [first, ..] = &mut mac;
        *first = (*first & 0xfc) | 2;
        Self { name, mac, alias: alias(network) }
    }
}

/// Marks the host's ends of a network.
pub fn alias(network: &str) -> String {
    format!("netpol-cni {network}")
}

/// FNV-1a, 64 bits: names must stay the same over releases of this plugin and of Rust.
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
    fn the_host_end_follows_from_network_container_and_interface_and_never_changes() {
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
