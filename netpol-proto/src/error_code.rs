//! CNI error codes.

use serde::{Deserialize, Serialize};

/// A number from the table of CNI error codes.
///
/// Not an enum, because plugins that netpol-cni delegates to have codes of their own.
///
/// Source: CNI specification 1.1.0, "Error"; 1 to 99 are the specification's, 100 and above the plugin's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// The plugin does not support the CNI version of the configuration.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// A field of the network configuration is not supported.
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    /// The container or its network namespace does not exist; the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: Self = Self(3);
    /// A `CNI_*` environment variable is missing or invalid.
    pub const INVALID_ENVIRONMENT: Self = Self(4);
    /// Reading or writing failed.
    pub const IO: Self = Self(5);
    /// The input is not the expected JSON.
    pub const DECODE: Self = Self(6);
    /// The network configuration is invalid.
    pub const INVALID_CONFIG: Self = Self(7);
    /// `CNI_NETNS` is the plugin's own network namespace (as the reference library uses the number).
    pub const INVALID_NETNS: Self = Self(8);
    /// A transient condition: the runtime should retry. The agent is not running yet.
    pub const TRY_AGAIN_LATER: Self = Self(11);
    /// STATUS: the plugin cannot serve ADD.
    pub const NOT_AVAILABLE: Self = Self(50);
    /// STATUS: the plugin cannot serve ADD, and running containers may have lost connectivity.
    pub const LIMITED_CONNECTIVITY: Self = Self(51);
    /// netpol's own: the kernel refused to create or change an interface, an address or a route.
    pub const KERNEL: Self = Self(100);
    /// netpol's own: another plugin (IPAM or delegate) could not be found or run.
    pub const PLUGIN: Self = Self(101);
    /// netpol's own: CHECK found that the interface, its addresses or its enforcement differ from the result of ADD.
    pub const CHECK_FAILED: Self = Self(102);
    /// netpol's own: the agent could not enforce the pod's policies.
    pub const ENFORCEMENT: Self = Self(103);
    /// netpol's own: several independent steps of a teardown failed; the message names each of them.
    pub const TEARDOWN: Self = Self(104);
}
