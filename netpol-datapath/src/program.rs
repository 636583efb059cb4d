//! The programs that are attached to devices.

use netpol_common::ids::Hook;

/// One of the programs in the object file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// See [`Hook::PodIngress`].
    PodIngress,
    /// See [`Hook::PodEgress`].
    PodEgress,
    /// See [`Hook::UplinkEgress`].
    UplinkEgress,
    /// [`Hook::UplinkEgress`] for devices whose frames start with the IP header (tunnels).
    UplinkEgressL3,
    /// See [`Hook::UplinkIngress`].
    UplinkIngress,
    /// [`Hook::UplinkIngress`] for devices whose frames start with the IP header.
    UplinkIngressL3,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::PodIngress,
        Self::PodEgress,
        Self::UplinkEgress,
        Self::UplinkEgressL3,
        Self::UplinkIngress,
        Self::UplinkIngressL3,
    ];

    /// The name in the object file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PodIngress => "pod_ingress",
            Self::PodEgress => "pod_egress",
            Self::UplinkEgress => "uplink_egress",
            Self::UplinkEgressL3 => "uplink_egress_l3",
            Self::UplinkIngress => "uplink_ingress",
            Self::UplinkIngressL3 => "uplink_ingress_l3",
        }
    }

    /// The name of the variant that ends the program chain of its hook; `None` for uplinks, which are never migrated.
    pub(crate) const fn last_name(self) -> Option<&'static str> {
        match self {
            Self::PodIngress => Some("pod_ingress_last"),
            Self::PodEgress => Some("pod_egress_last"),
            Self::UplinkEgress
            | Self::UplinkEgressL3
            | Self::UplinkIngress
            | Self::UplinkIngressL3 => None,
        }
    }

    /// The hook that the program is attached to.
    pub const fn hook(self) -> Hook {
        match self {
            Self::PodIngress => Hook::PodIngress,
            Self::PodEgress => Hook::PodEgress,
            Self::UplinkEgress | Self::UplinkEgressL3 => Hook::UplinkEgress,
            Self::UplinkIngress | Self::UplinkIngressL3 => Hook::UplinkIngress,
        }
    }
}
