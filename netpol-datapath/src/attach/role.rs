//! Roles of devices, and the programs that each role needs.

use netpol_policy::dataplane::port::{DeviceRole, Framing};

use crate::program::Program;

/// The role of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The host's end of a pod's veth pair.
    Pod,
    /// A device that leads off the node, with an Ethernet header.
    Uplink,
    /// A device that leads off the node, without an Ethernet header.
    UplinkL3,
}

impl Role {
    /// The programs of a device with this role.
    pub(crate) const fn programs(self) -> &'static [Program] {
        match self {
            Self::Pod => &[Program::PodIngress, Program::PodEgress],
            Self::Uplink => &[Program::UplinkEgress, Program::UplinkIngress],
            Self::UplinkL3 => &[Program::UplinkEgressL3, Program::UplinkIngressL3],
        }
    }

    /// The role that needs this program; `None` if several do, for an older version at least.
    pub(crate) const fn of(program: Program) -> Option<Self> {
        match program {
            Program::PodIngress | Program::PodEgress => Some(Self::Pod),
            Program::UplinkEgress => Some(Self::Uplink),
            Program::UplinkEgressL3 | Program::UplinkIngressL3 => Some(Self::UplinkL3),
            Program::UplinkIngress => None,
        }
    }
}

impl From<DeviceRole> for Role {
    fn from(role: DeviceRole) -> Self {
        match role {
            DeviceRole::Pod => Self::Pod,
            DeviceRole::Uplink(Framing::Ethernet) => Self::Uplink,
            DeviceRole::Uplink(Framing::L3) => Self::UplinkL3,
        }
    }
}
