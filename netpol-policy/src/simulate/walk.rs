//! The way of a frame: which hooks see it, and as what.

use netpol_common::addr::Addr;
use netpol_common::ids::{Hook, IfIndex, Nanos};
use netpol_common::verdict::{DEFAULT_MARK_MASK, HookContext};

use super::engine::{Datapath, DatapathError, Judged};
use super::frame::opening;
use super::interfaces::{Interfaces, UPLINK};
use super::locate::Route;
use super::probe::Problem;
use crate::compile::MapState;
use crate::model::Pod;
use crate::resolve::is_own_node;
use crate::store::ClusterState;

/// Sends the first frame of a connection past the hooks that it meets on its way. All pods are attached here, whatever
/// node they run on: the hooks of a connection between nodes are the same.
///
/// * A pod's egress sees the frame with the address that was asked for, which can be a Service's, unless it is for the pod itself, which never leaves the pod that way.
/// * A frame for an address of the pod's own node ends there; one for another node meets the uplink.
/// * A pod's ingress sees the frame come from the source's interface, from the node itself, or from the uplink.
pub(super) fn send(
    datapath: &mut dyn Datapath,
    state: &ClusterState,
    map_state: &MapState,
    interfaces: &Interfaces,
    route: &Route,
) -> Result<Result<bool, Problem>, DatapathError> {
    datapath.forget_flows()?;
    let from = state.owner(route.source);
    let to = state.owner(route.destination);
    let attached = |pod: Option<&Pod>| {
        pod.and_then(|pod| interfaces.of(pod)).map_or(UPLINK, |endpoint| endpoint.ifindex)
    };
    let (source, destination) = (attached(from), attached(to));
    let (asked, asked_port) = route.asked;
    let frame = opening(route.source, route.destination, route.transport, route.port);
    let (mut mark, mut flow_handle) = (0, 0);

    let is_translated = route.asked != (route.destination, route.port);
    let is_for_itself = from.is_some() && source == destination && !is_translated;
    if let (Some(pod), false) = (from, is_for_itself) {
        let is_deferred = map_state.defer.contains(&Addr::from(asked));
        if is_deferred && interfaces.of(pod).is_none_or(|endpoint| endpoint.egress_mark == 0) {
            return Ok(Err(Problem::NoEgressMark));
        }
        let sent = opening(route.source, asked, route.transport, asked_port);
        let judged = datapath.judge(&sent, &hook_context(Hook::PodEgress, source, source.0))?;
        if !judged.passes {
            return Ok(Ok(false));
        }
        (mark, flow_handle) = (judged.mark, judged.flow_handle);
        if to.is_none() {
            if is_own_node(state, pod, route.destination) {
                return Ok(Ok(true));
            }
            let seen = HookContext {
                mark,
                flow_handle,
                ..hook_context(Hook::UplinkEgress, UPLINK, source.0)
            };
            return datapath.judge(&frame, &seen).map(|Judged { passes, .. }| Ok(passes));
        }
    }
    let Some(pod) = to else { return Ok(Ok(true)) };
    let is_from_node = from.is_none() && is_own_node(state, pod, route.source);
    let ingress_ifindex = if is_from_node { 0 } else { source.0 };
    let seen = hook_context(Hook::PodIngress, destination, ingress_ifindex);
    let seen = HookContext { mark, flow_handle, ..seen };
    datapath.judge(&frame, &seen).map(|Judged { passes, .. }| Ok(passes))
}

/// A frame as it is before any hook has seen it.
fn hook_context(hook: Hook, ifindex: IfIndex, ingress_ifindex: u32) -> HookContext {
    HookContext {
        hook,
        ifindex,
        ingress_ifindex,
        has_socket: ingress_ifindex == 0,
        is_tagged: false,
        mark: 0,
        mark_mask: DEFAULT_MARK_MASK,
        flow_handle: 0,
        now: Nanos(1_000_000_000),
    }
}
