//! Metrics in the `OpenMetrics` text format, made from the state at each scrape.
//!
//! In: numbers with labels. Out: text. Must not: hold state; events are counted where they happen.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::own_process::OwnProcess;

/// The HTTP content type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The media type by which a client asks for [`CONTENT_TYPE`].
pub const OPEN_METRICS: &str = "application/openmetrics-text";

/// The HTTP content type of [`plain`].
pub const PLAIN_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric: its samples, and their name.
#[derive(Debug)]
pub struct Metric {
    /// The name without the prefix `netpol_`, the unit and `_total`.
    pub name: &'static str,
    /// One sentence without a full stop.
    pub help: &'static str,
    /// The unit, which the text appends to the name.
    pub unit: Option<Unit>,
    /// The samples.
    pub content: Content,
}

/// The samples of a metric, by its type.
#[derive(Debug)]
pub enum Content {
    /// Values that can go down.
    Gauge(Vec<Sample>),
    /// Values that only go up, until the agent restarts.
    Counter(Vec<Sample>),
    /// A distribution, such as a latency.
    Histogram(Histogram),
}

/// One value with its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Names and values of the labels.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: u64,
}

impl Sample {
    /// A value without labels, as the only sample of its metric.
    pub fn plain(value: u64) -> Vec<Self> {
        vec![Self { labels: Vec::new(), value }]
    }
}

#[derive(Debug)]
struct Scrape(Vec<Metric>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for Metric { name, help, unit, content } in &self.0 {
            let metric_type = match content {
                Content::Gauge(_) => MetricType::Gauge,
                Content::Counter(_) => MetricType::Counter,
                Content::Histogram(_) => MetricType::Histogram,
            };
            let family = encoder.encode_descriptor(name, help, unit.as_ref(), metric_type)?;
            match content {
                Content::Gauge(samples) => {
                    write(samples, family, |value, sample| ConstGauge::new(value).encode(sample))?;
                }
                Content::Counter(samples) => {
                    write(samples, family, |value, sample| {
                        ConstCounter::new(value).encode(sample)
                    })?;
                }
                Content::Histogram(histogram) => histogram.encode(family)?,
            }
        }
        Ok(())
    }
}

fn write(
    samples: &[Sample],
    mut family: MetricEncoder<'_>,
    encode: impl Fn(u64, MetricEncoder<'_>) -> Result<(), fmt::Error>,
) -> Result<(), fmt::Error> {
    // `encode_family` would write empty braces for a sample without labels.
    if let [Sample { labels, value }] = samples
        && labels.is_empty()
    {
        return encode(*value, family);
    }
    for Sample { labels, value } in samples {
        encode(*value, family.encode_family(labels)?)?;
    }
    Ok(())
}

/// The metrics as text, with those of the process.
///
/// # Errors
/// Formatting fails, which does not happen for a `String`.
pub fn render(metrics: Vec<Metric>, process: Option<OwnProcess>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.sub_registry_with_prefix("netpol").register_collector(Box::new(Scrape(metrics)));
    if let Some(process) = process {
        registry.register_collector(Box::new(process));
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// The text of [`render`] in Prometheus' own text format, for clients that do not ask for `OpenMetrics`.
///
/// There the lines about a counter have its whole name, and neither units nor the end are marked.
pub fn plain(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let of = |line: &str| line.split(' ').nth(2).map(str::to_owned);
        let is_help = line.starts_with("# HELP ");
        let type_line = if is_help { lines.peek().copied() } else { Some(line) };
        let type_line = type_line.filter(|line| line.starts_with("# TYPE "));
        match type_line.filter(|line| line.ends_with(" counter")).and_then(of) {
            Some(name) => text.push_str(&line.replacen(&name, &format!("{name}_total"), 1)),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn names_carry_prefix_unit_and_suffix() {
        let drops = Metric {
            name: "drops",
            help: "Packets dropped",
            unit: None,
            content: Content::Counter(vec![Sample {
                labels: vec![("reason", "spoofed".to_owned())],
                value: 3,
            }]),
        };
        let epoch = Metric {
            name: "drop",
            help: "Bytes dropped",
            unit: Some(Unit::Bytes),
            content: Content::Counter(Sample::plain(7)),
        };
        expect![[r#"
            # HELP netpol_drops Packets dropped
            # TYPE netpol_drops counter
            netpol_drops_total{reason="spoofed"} 3
            # HELP netpol_drop_bytes Bytes dropped
            # TYPE netpol_drop_bytes counter
            # UNIT netpol_drop_bytes bytes
            netpol_drop_bytes_total 7
            # EOF
        "#]]
        .assert_eq(&render(vec![drops, epoch], None).unwrap());
    }

    #[test]
    fn the_plain_format_has_whole_names_and_no_marks_of_openmetrics() {
        let counter = Metric {
            name: "drop",
            help: "Bytes dropped",
            unit: Some(Unit::Bytes),
            content: Content::Counter(Sample::plain(7)),
        };
        let gauge = Metric {
            name: "lag",
            help: "Age of a change",
            unit: Some(Unit::Seconds),
            content: Content::Gauge(Sample::plain(1)),
        };
        expect![[r#"
            # HELP netpol_drop_bytes_total Bytes dropped
            # TYPE netpol_drop_bytes_total counter
            netpol_drop_bytes_total 7
            # HELP netpol_lag_seconds Age of a change
            # TYPE netpol_lag_seconds gauge
            netpol_lag_seconds 1
        "#]]
        .assert_eq(&plain(&render(vec![counter, gauge], None).unwrap()));
    }
}
