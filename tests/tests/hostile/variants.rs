//! The same attacks on the other variants of a node: programs in clsact filters, and bridged packets that netfilter sees.

use crate::fixture::Variant;

/// A test for each attack.
macro_rules! attacks {
    ($module:ident, $variant:expr, [$($topic:ident::$attack:ident),* $(,)?]) => {
        mod $module {
            use super::*;

            $(
                #[test]
                fn $attack() {
                    $variant.run(crate::$topic::$attack);
                }
            )*
        }
    };
}

macro_rules! all_attacks {
    ($($module:ident: $variant:expr;)*) => {
        $(attacks!($module, $variant, [
            attribution::frames_that_cannot_be_attributed_leave_no_pod_isolated_or_not,
            discovery::messages_of_the_link_carry_no_payload_past_the_isolation,
            discovery::a_pod_advertises_no_address_of_another_device_isolated_or_not,
            mac::a_frame_with_another_source_mac_leaves_no_pod_isolated_or_not,
            mac::a_flooded_frame_for_another_mac_reaches_no_pod,
            mac::a_pod_whose_mac_a_later_plugin_changes_has_its_network,
            mac::a_pod_that_takes_the_mac_of_another_has_no_network,
            sources::another_pods_source_address_arrives_nowhere,
            sources::a_pods_address_arrives_through_no_uplink_isolated_or_not,
            sources::a_pod_that_may_forward_sends_from_no_address_of_another_pod_or_of_a_node,
            tunnels::no_pod_reaches_a_tunnel_of_a_node_isolated_or_not,
        ]);)*
    };
}

all_attacks! {
    clsact: Variant::Clsact;
    filtered: Variant::Filtered;
    clsact_filtered: Variant::ClsactFiltered;
}
