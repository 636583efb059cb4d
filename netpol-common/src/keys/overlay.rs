//! The device through which packets reach the pods of other nodes.

use crate::ids::IfIndex;
use crate::mac::Mac;

wire! {
    /// An element of OVERLAY: the device that leads to the pods of other nodes, for one family.
    pub struct Overlay {
        /// The MAC address of the pods' bridge, to which pods address packets for other nodes; two zero bytes behind it.
        pub gateway: [u8; 8],
        /// The MAC address of the device, to which other nodes address packets; two zero bytes behind it.
        pub device: [u8; 8],
        /// The device, 0 for none. Native byte order.
        pub ifindex: IfIndex,
        /// Zero.
        pub pad: [u8; 4],
    }
}

impl Overlay {
    /// No device.
    pub const NONE: Self = zerocopy::transmute!([0_u64; 3]);

    /// A device.
    pub const fn new(ifindex: IfIndex, gateway: Mac, device: Mac) -> Self {
        let (gateway, device) = (gateway.word().to_ne_bytes(), device.word().to_ne_bytes());
        Self { gateway, device, ifindex, pad: [0; 4] }
    }

    /// The MAC address of the pods' bridge.
    #[inline(always)]
    pub const fn gateway(&self) -> Mac {
        Mac::from_word(u64::from_ne_bytes(self.gateway))
    }

    /// The MAC address of the device.
    #[inline(always)]
    pub const fn device(&self) -> Mac {
        Mac::from_word(u64::from_ne_bytes(self.device))
    }
}
