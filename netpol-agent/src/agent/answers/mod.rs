//! Answers to questions about the running agent: status, live connections, drops, explanations, metrics and health.
//!
//! In: requests on the control socket and on the health address. Out: JSON, text and metrics. Must not: change the state.

mod device_metrics;
pub(super) mod drops;
mod explain;
pub(super) mod foreign;
pub(super) mod handle;
pub(super) mod metrics;
mod not_shown;
pub(super) mod policy;
pub(super) mod report;
pub(super) mod routes;
pub(super) mod rules;
mod samples;
pub(super) mod status;
