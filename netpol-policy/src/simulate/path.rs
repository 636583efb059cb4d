//! The path of a frame: the hooks that it passes, with the context at each.
//!
//! In: a route, and the datapath. Out: whether every hook passes the frame. Must not: decide; that is the datapath's part.

use netpol_common::addr::Addr;
use netpol_common::ids::{Hook, IfIndex, Nanos};
use netpol_common::verdict::{DEFAULT_MARK_MASK, HookContext};

use super::engine::{Datapath, DatapathError, Judged};
use super::frame::opening;
use super::interfaces::{Interfaces, UPLINK};
use super::probe::Problem;
use super::routes::{Route, Translation};
use crate::compile::MapState;
use crate::model::Pod;
use crate::resolve::is_own_node;
use crate::store::ClusterState;

/// Sends the first frame of a connection through the hooks on its path. All pods are attached to one simulated node,
/// whichever node they run on, because a connection between two nodes passes the same hooks.
///
/// * At the source pod's egress hook the frame has its original destination, which can be a Service address. A frame from a
///   pod to itself does not reach the hook, unless a Service translates it.
/// * A frame to an address of the pod's own node ends at the node; one to another node passes the uplink's egress hook, with
///   its original destination if that node translates it, and comes back from the uplink.
/// * At the destination pod's ingress hook the frame arrives from the source pod's interface, from the node, or from the
///   uplink.
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
    let (original, original_port) = route.original;
    let frame = opening(route.arriving_source, route.destination, route.transport, route.port);
    let (mut mark, mut flow_handle) = (0, 0);

    let is_for_itself = from.is_some() && source == destination && !route.is_translated();
    if let (Some(pod), false) = (from, is_for_itself) {
        let defers_all =
            map_state.endpoints.get(&source).is_some_and(|endpoint| endpoint.value.defers_all());
        let is_deferred = defers_all || map_state.defer.contains(&Addr::from(original));
        if is_deferred && interfaces.of(pod).is_none_or(|endpoint| endpoint.egress_mark == 0) {
            return Ok(Err(Problem::NoEgressMark));
        }
        let sent = opening(route.source, original, route.transport, original_port);
        let judged = datapath.judge(&sent, &hook_context(Hook::PodEgress, source, source.0))?;
        if !judged.passes {
            return Ok(Ok(false));
        }
        (mark, flow_handle) = (judged.mark, judged.flow_handle);
        let is_elsewhere = route.translation == Translation::Elsewhere;
        if to.is_none() || is_elsewhere {
            if is_own_node(state, pod, route.destination) {
                return Ok(Ok(true));
            }
            let context = HookContext {
                mark,
                flow_handle,
                ..hook_context(Hook::UplinkEgress, UPLINK, source.0)
            };
            let frame = if is_elsewhere { &sent } else { &frame };
            let Judged { passes, .. } = datapath.judge(frame, &context)?;
            if !passes || to.is_none() {
                return Ok(Ok(passes));
            }
            (mark, flow_handle) = (0, 0);
        }
    }
    let Some(pod) = to else { return Ok(Ok(true)) };
    let is_from_node = from.is_none()
        && route.arriving_source == route.source
        && is_own_node(state, pod, route.source);
    let ingress_ifindex = match (is_from_node, route.translation) {
        (true, _) => 0,
        (false, Translation::AtSource) => source.0,
        (false, Translation::Elsewhere) => UPLINK.0,
    };
    let context = hook_context(Hook::PodIngress, destination, ingress_ifindex);
    let context = HookContext { mark, flow_handle, ..context };
    datapath.judge(&frame, &context).map(|Judged { passes, .. }| Ok(passes))
}

/// The context of a frame that has passed no hook yet.
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
