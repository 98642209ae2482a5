//! From figures to text.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::{Format, Kind, Metric, older};

static SECONDS: Unit = Unit::Seconds;
static BYTES: Unit = Unit::Bytes;

/// What has figures to show.
pub trait Figures: fmt::Debug + Send + Sync + 'static {
    /// Writes them, family by family, each of them once.
    ///
    /// # Errors
    /// Those of the writer.
    fn write(&self, families: &mut Families<'_>) -> fmt::Result;
}

/// The text of some figures.
///
/// # Errors
/// A family that cannot be written, which no figure brings about.
pub fn render(format: Format, figures: impl Figures) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Collected(figures)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(match format {
        Format::OpenMetrics => text,
        Format::Prometheus => older::of(&text),
    })
}

#[derive(Debug)]
struct Collected<T>(T);

impl<T: Figures> Collector for Collected<T> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.write(&mut Families(encoder))
    }
}

/// Where families are written to.
#[derive(Debug)]
pub struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    /// Begins a family, which may have no samples.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn begin(&mut self, metric: &'static Metric) -> Result<Samples<'_>, fmt::Error> {
        let (suffix, kind) = match metric.kind {
            Kind::Counter => ("_total", MetricType::Counter),
            Kind::Gauge => ("", MetricType::Gauge),
            Kind::Histogram => ("", MetricType::Histogram),
            Kind::Info => ("_info", MetricType::Info),
        };
        let stem = metric.name.strip_suffix(suffix).unwrap_or(metric.name);
        let (stem, unit) = match stem.strip_suffix("_seconds") {
            Some(stem) => (stem, Some(&SECONDS)),
            None => match stem.strip_suffix("_bytes") {
                Some(stem) => (stem, Some(&BYTES)),
                None => (stem, None),
            },
        };
        let encoder = self.0.encode_descriptor(stem, metric.help, unit, kind)?;
        Ok(Samples { metric, encoder })
    }

    /// A family of one sample without labels.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn one(&mut self, metric: &'static Metric, value: f64) -> fmt::Result {
        self.begin(metric)?.add(&[], value)
    }
}

/// Where the samples of a family are written to. The values of labels stand in the order of [`Metric::labels`]; no two samples
/// have all of them in common.
#[derive(Debug)]
pub struct Samples<'a> {
    metric: &'static Metric,
    encoder: MetricEncoder<'a>,
}

impl Samples<'_> {
    /// One sample of a counter, a gauge or, whose value means nothing, an info.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn add(&mut self, labels: &[&str], value: f64) -> fmt::Result {
        match self.metric.kind {
            Kind::Counter => {
                self.labelled(labels, |encoder| encoder.encode_counter::<NoLabelSet, _, f64>(&value, None))
            }
            Kind::Gauge => self.labelled(labels, |encoder| encoder.encode_gauge(&value)),
            Kind::Info => self.encoder.encode_info(&self.labels(labels)),
            Kind::Histogram => Err(fmt::Error),
        }
    }

    /// One sample, of a number that is whole.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn add_whole(&mut self, labels: &[&str], value: u64) -> fmt::Result {
        let kind = self.metric.kind;
        self.labelled(labels, |encoder| match kind {
            Kind::Counter => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
            _ => encoder.encode_gauge(&value),
        })
    }

    /// The samples of a histogram.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn add_histogram(&mut self, labels: &[&str], histogram: &Histogram) -> fmt::Result {
        let labels = self.labels(labels);
        histogram.encode(self.encoder.encode_family(&labels)?)
    }

    /// The samples of what has its labels already.
    pub(crate) fn add_all(self, family: &impl EncodeMetric) -> fmt::Result {
        family.encode(self.encoder)
    }

    fn labelled(
        &mut self,
        values: &[&str],
        encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let labels = self.labels(values);
        if labels.is_empty() {
            return encode(&mut self.encoder);
        }
        encode(&mut self.encoder.encode_family(&labels)?)
    }

    fn labels<'v>(&self, values: &[&'v str]) -> Vec<(&'static str, &'v str)> {
        debug_assert_eq!(values.len(), self.metric.labels.len(), "labels of {}", self.metric.name);
        let labels = self.metric.labels.iter().zip(values).filter(|(_, value)| !value.is_empty());
        labels.map(|(name, value)| (*name, *value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static REQUESTS: Metric = Metric {
        name: "x_requests_total",
        kind: Kind::Counter,
        labels: &["route", "code"],
        help: "Requests.",
    };
    static TOOK: Metric =
        Metric { name: "x_took_seconds", kind: Kind::Histogram, labels: &["route"], help: "How long." };
    static SIZE: Metric = Metric { name: "x_size_bytes", kind: Kind::Gauge, labels: &[], help: "How large." };
    static BUILD: Metric =
        Metric { name: "x_build_info", kind: Kind::Info, labels: &["version"], help: "Which." };
    static NONE: Metric = Metric { name: "x_none", kind: Kind::Gauge, labels: &["node"], help: "Nothing." };

    #[derive(Debug)]
    struct Example;

    impl Figures for Example {
        fn write(&self, families: &mut Families<'_>) -> fmt::Result {
            let mut requests = families.begin(&REQUESTS)?;
            requests.add_whole(&["/a", "200"], 3)?;
            requests.add_whole(&["a\"b\\c\nd", ""], u64::MAX)?;
            let took = Histogram::new([0.5, 1.0]);
            took.observe(0.25);
            took.observe(0.75);
            took.observe(7.0);
            families.begin(&TOOK)?.add_histogram(&["/a"], &took)?;
            families.one(&SIZE, 1_048_576.0)?;
            families.begin(&BUILD)?.add(&["1.2"], 1.0)?;
            families.begin(&NONE)?;
            Ok(())
        }
    }

    const OPEN_METRICS: &str = r##"# HELP x_requests Requests.
# TYPE x_requests counter
x_requests_total{route="/a",code="200"} 3
x_requests_total{route="a\"b\\c\nd"} 18446744073709551615
# HELP x_took_seconds How long.
# TYPE x_took_seconds histogram
# UNIT x_took_seconds seconds
x_took_seconds_sum{route="/a"} 8.0
x_took_seconds_count{route="/a"} 3
x_took_seconds_bucket{le="0.5",route="/a"} 1
x_took_seconds_bucket{le="1.0",route="/a"} 2
x_took_seconds_bucket{le="+Inf",route="/a"} 3
# HELP x_size_bytes How large.
# TYPE x_size_bytes gauge
# UNIT x_size_bytes bytes
x_size_bytes 1048576.0
# HELP x_build Which.
# TYPE x_build info
x_build_info{version="1.2"} 1
# HELP x_none Nothing.
# TYPE x_none gauge
# EOF
"##;

    const PROMETHEUS: &str = r##"# HELP x_requests_total Requests.
# TYPE x_requests_total counter
x_requests_total{route="/a",code="200"} 3
x_requests_total{route="a\"b\\c\nd"} 18446744073709551615
# HELP x_took_seconds How long.
# TYPE x_took_seconds histogram
x_took_seconds_sum{route="/a"} 8.0
x_took_seconds_count{route="/a"} 3
x_took_seconds_bucket{le="0.5",route="/a"} 1
x_took_seconds_bucket{le="1.0",route="/a"} 2
x_took_seconds_bucket{le="+Inf",route="/a"} 3
# HELP x_size_bytes How large.
# TYPE x_size_bytes gauge
x_size_bytes 1048576.0
# HELP x_build_info Which.
# TYPE x_build_info gauge
x_build_info{version="1.2"} 1
# HELP x_none Nothing.
# TYPE x_none gauge
"##;

    #[test]
    fn both_formats_say_the_same() {
        assert_eq!(render(Format::OpenMetrics, Example).unwrap(), OPEN_METRICS);
        assert_eq!(render(Format::Prometheus, Example).unwrap(), PROMETHEUS);
    }

    #[test]
    fn the_reference_has_a_row_for_each() {
        let table = crate::reference([&REQUESTS, &SIZE]);
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| `x_requests_total` | counter | `route`, `code` | Requests. |",
                "| `x_size_bytes` | gauge |  | How large. |"
            ]
        );
    }
}
