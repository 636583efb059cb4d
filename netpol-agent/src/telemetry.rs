//! Metrics in the `OpenMetrics` text format, read off the state at each scrape.
//!
//! In: numbers with labels. Out: text. Must not: hold state; what is counted is counted where it happens.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// What the text is, for HTTP.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Numbers of one name.
#[derive(Debug)]
pub struct Metric {
    /// Without the prefix `netpol_`, the unit and `_total`.
    pub name: &'static str,
    /// One sentence without a full stop.
    pub help: &'static str,
    /// Whether it can go down.
    pub kind: Kind,
    /// What is counted, where the name does not say it.
    pub unit: Option<Unit>,
    /// The numbers.
    pub samples: Vec<Sample>,
}

/// Whether a number can go down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It can.
    Gauge,
    /// Only when the agent or the endpoint that it is about goes.
    Counter,
}

/// One number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What it is about.
    pub labels: Vec<(&'static str, String)>,
    /// The number.
    pub value: u64,
}

impl Sample {
    /// A number without labels.
    pub fn plain(value: u64) -> Vec<Self> {
        vec![Self { labels: Vec::new(), value }]
    }
}

#[derive(Debug)]
struct Scrape(Vec<Metric>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for Metric { name, help, kind, unit, samples } in &self.0 {
            let metric_type = match kind {
                Kind::Gauge => MetricType::Gauge,
                Kind::Counter => MetricType::Counter,
            };
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), metric_type)?;
            // A family writes braces even around no label.
            if let [Sample { labels, value }] = samples.as_slice()
                && labels.is_empty()
            {
                write(*kind, *value, family)?;
                continue;
            }
            for Sample { labels, value } in samples {
                write(*kind, *value, family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

fn write(kind: Kind, value: u64, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
    match kind {
        Kind::Gauge => ConstGauge::new(value).encode(encoder),
        Kind::Counter => ConstCounter::new(value).encode(encoder),
    }
}

/// The metrics as text.
///
/// # Errors
/// Only if formatting fails, which a `String` does not do.
pub fn render(metrics: Vec<Metric>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("netpol");
    registry.register_collector(Box::new(Scrape(metrics)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
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
            kind: Kind::Counter,
            unit: None,
            samples: vec![Sample { labels: vec![("reason", "spoofed".to_owned())], value: 3 }],
        };
        let epoch = Metric {
            name: "drop",
            help: "Bytes dropped",
            kind: Kind::Counter,
            unit: Some(Unit::Bytes),
            samples: Sample::plain(7),
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
        .assert_eq(&render(vec![drops, epoch]).unwrap());
    }
}
