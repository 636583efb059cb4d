//! Keys and values of the maps, exactly as the kernel stores them.
//!
//! They consist of integers, byte arrays and explicit padding; `zerocopy` proves that there is no other padding. A change of any
//! layout bumps [`ABI_VERSION`](crate::maps::ABI_VERSION).

macro_rules! wire {
    ($(#[$meta:meta])* pub struct $name:ident { $($body:tt)* }) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, zerocopy::FromBytes,
            zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        #[repr(C)]
        pub struct $name { $($body)* }
    };
}

#[macro_use]
mod check;
mod counter;
mod endpoint;
mod flow;
mod fragment;
mod overlay;
mod policy;

pub use counter::{CounterKey, CounterValue};
pub use endpoint::{
    AddressKey, AllowSlots, Endpoint, EndpointEntry, EndpointSlot, EndpointValue, Known, NodeKey,
};
pub use flow::{BackendEntry, BackendValue, FlowEntry, FlowKey, FlowValue, NodeBackendEntry};
pub use fragment::{FragmentEntry, FragmentKey, FragmentSlot, FragmentValue};
pub use overlay::Overlay;
pub use policy::{AllowKey, AllowValue, PrefixKey};
