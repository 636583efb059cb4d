//! Metrics of interfaces: those of the pods, and those that lead off the node.

use std::collections::BTreeMap;

use super::samples::{gauge, labelled};
use super::status::{Attached, EndpointStatus, Protection, Status, UplinkStatus};
use crate::agent::state::overlays::{OverlayShortCut, OverlayState};
use crate::agent::state::short_cuts::ShortCutStatus;
use crate::telemetry::{Metric, Sample};

/// The endpoints by state.
pub(super) fn endpoint_metrics(status: &Status) -> [Metric; 3] {
    [
        gauge(
            "endpoints",
            "Endpoints of this node, by the state of their policy and by how their programs are attached",
            endpoint_samples(&status.endpoints),
        ),
        gauge(
            "short_cut_endpoints",
            "Endpoints of this node, by whether their connections to each other take the short cut, and by the reason why not",
            short_cut_samples(&status.endpoints),
        ),
        gauge(
            "overlay_short_cuts",
            "Devices that lead to the pods of other nodes, by whether connections through them take the short cut, and by the reason why not",
            overlay_samples(&status.overlay_short_cuts),
        ),
    ]
}

/// Number of endpoints for each combination of the labels. Unprotected and disconnected ones have `attach="none"`.
fn endpoint_samples(endpoints: &[EndpointStatus]) -> Vec<Sample> {
    let mut totals: BTreeMap<(&str, &str), u64> = BTreeMap::from([
        (("ready", "tcx"), 0),
        (("ready", "clsact"), 0),
        (("blocked", "tcx"), 0),
        (("blocked", "clsact"), 0),
        (("unprotected", "none"), 0),
        (("disconnected", "none"), 0),
    ]);
    for EndpointStatus { protection, attached, .. } in endpoints {
        let attach = match (protection, attached) {
            (Protection::Unprotected | Protection::Disconnected, _) => "none",
            (Protection::Ready | Protection::Blocked, Some(attached)) => attached.as_str(),
            (Protection::Ready | Protection::Blocked, None) => "unknown",
        };
        *totals.entry((protection.as_str(), attach)).or_default() += 1;
    }
    let labels = |(protection, attach): (&str, &str)| {
        vec![("protection", protection.to_owned()), ("attach", attach.to_owned())]
    };
    totals.into_iter().map(|(key, value)| Sample { labels: labels(key), value }).collect()
}

/// Number of endpoints by the state of their short cut.
fn short_cut_samples(endpoints: &[EndpointStatus]) -> Vec<Sample> {
    let states = endpoints.iter().map(|endpoint| endpoint.short_cut.as_str());
    labelled("state", totals(ShortCutStatus::ALL.map(ShortCutStatus::as_str), states))
}

/// Number of devices that lead to the pods of other nodes, by family, by the state of their short cut.
fn overlay_samples(overlays: &[OverlayShortCut]) -> Vec<Sample> {
    let states = overlays.iter().map(|overlay| overlay.state.as_str());
    labelled("state", totals(OverlayState::ALL.map(OverlayState::as_str), states))
}

/// Number of uplinks for each way in which a program is attached.
pub(super) fn uplink_samples(uplinks: &[UplinkStatus]) -> Vec<Sample> {
    let attached = uplinks.iter().map(|uplink| uplink.attached.map_or("none", Attached::as_str));
    labelled("attach", totals(["tcx", "clsact", "none"], attached))
}

/// How often each value was found, those of `always` 0 times at least.
fn totals<const N: usize>(
    always: [&'static str; N],
    found: impl Iterator<Item = &'static str>,
) -> BTreeMap<String, u64> {
    let mut totals: BTreeMap<String, u64> =
        always.into_iter().map(|value| (value.to_owned(), 0)).collect();
    for value in found {
        *totals.entry(value.to_owned()).or_default() += 1;
    }
    totals
}
