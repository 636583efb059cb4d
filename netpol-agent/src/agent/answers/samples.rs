//! Metrics and samples from numbers.

use prometheus_client::metrics::histogram::Histogram;

use crate::telemetry::{Content, Metric, Sample};

pub(super) fn gauge(name: &'static str, help: &'static str, samples: Vec<Sample>) -> Metric {
    Metric { name, help, unit: None, content: Content::Gauge(samples) }
}

pub(super) fn counter(name: &'static str, help: &'static str, samples: Vec<Sample>) -> Metric {
    Metric { name, help, unit: None, content: Content::Counter(samples) }
}

pub(super) fn histogram(name: &'static str, help: &'static str, histogram: Histogram) -> Metric {
    Metric { name, help, unit: None, content: Content::Histogram(histogram) }
}

pub(super) fn labelled(
    label: &'static str,
    values: impl IntoIterator<Item = (String, u64)>,
) -> Vec<Sample> {
    values.into_iter().map(|(of, value)| Sample { labels: vec![(label, of)], value }).collect()
}

pub(super) fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
