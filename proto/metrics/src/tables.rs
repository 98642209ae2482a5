//! Counters and histograms whose labels come up as they are needed.

use std::fmt;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;

use crate::{Families, Metric};

/// Names and values of labels. Values are of the program, so there are few of them.
type Labels<const N: usize> = [(&'static str, &'static str); N];

fn named<const N: usize>(metric: &'static Metric, values: [&'static str; N]) -> Labels<N> {
    debug_assert_eq!(metric.labels.len(), N, "labels of {}", metric.name);
    let mut labels = values.map(|value| ("", value));
    for ((name, _), label) in labels.iter_mut().zip(metric.labels) {
        *name = label;
    }
    labels
}

/// A counter for each combination of labels that has come up.
#[derive(Debug)]
pub struct Counters<const N: usize> {
    metric: &'static Metric,
    family: Family<Labels<N>, Counter>,
}

impl<const N: usize> Counters<N> {
    /// Counters of this family, none as yet.
    #[must_use]
    pub fn new(metric: &'static Metric) -> Self {
        Self { metric, family: Family::default() }
    }

    /// As [`Counters::new`], with counters that begin at 0 rather than come up with their first increment, which a rate
    /// would not see.
    #[must_use]
    pub fn from_zero(metric: &'static Metric, values: impl IntoIterator<Item = [&'static str; N]>) -> Self {
        let counters = Self::new(metric);
        for values in values {
            drop(counters.family.get_or_create(&named(metric, values)));
        }
        counters
    }

    /// Counts one more, under values in the order of the family's labels.
    pub fn count(&self, values: [&'static str; N]) {
        self.family.get_or_create(&named(self.metric, values)).inc();
    }

    /// Counts so many more.
    pub fn count_many(&self, values: [&'static str; N], more: u64) {
        self.family.get_or_create(&named(self.metric, values)).inc_by(more);
    }

    /// Writes them.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, families: &mut Families<'_>) -> fmt::Result {
        families.begin(self.metric)?.add_all(&self.family)
    }
}

/// A histogram for each combination of labels that has come up.
#[derive(Debug)]
pub struct Histograms<const N: usize> {
    metric: &'static Metric,
    family: Family<Labels<N>, Histogram, Bounds>,
}

/// Upper bounds of a histogram's buckets.
#[derive(Clone, Copy, Debug)]
struct Bounds(&'static [f64]);

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

impl<const N: usize> Histograms<N> {
    /// Histograms of this family, none as yet, with these upper bounds.
    #[must_use]
    pub fn new(metric: &'static Metric, bounds: &'static [f64]) -> Self {
        Self { metric, family: Family::new_with_constructor(Bounds(bounds)) }
    }

    /// Takes a value in, under values in the order of the family's labels.
    pub fn observe(&self, values: [&'static str; N], value: f64) {
        self.family.get_or_create(&named(self.metric, values)).observe(value);
    }

    /// Writes them.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, families: &mut Families<'_>) -> fmt::Result {
        families.begin(self.metric)?.add_all(&self.family)
    }
}
