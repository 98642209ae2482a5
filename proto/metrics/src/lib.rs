//! Figures as Prometheus and other scrapers read them, the same way on both sides.
//!
//! A program states what it has as constants ([`Metric`]), counts ([`Counters`], [`Histograms`] and prometheus-client's own), writes their samples when it is asked ([`Figures`]), and
//! [`render`] makes the text of it, in the [`Format`] that the scraper asks for. [`process`] has what is told of every
//! process, [`reference()`] makes the table of the documentation out of the same constants.
//!
//! prometheus-client writes OpenMetrics, and has counters and histograms. The older text format, which it does not know, is
//! made of the newer one (`older`), so both say the same. Decided against: a recorder that is the whole process's
//! (metrics-rs), as tests run many gateways in one; the crate prometheus, which knows the older format only.

mod format;
mod older;
pub mod process;
mod tables;
mod write;

pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;

pub use self::format::Format;
pub use self::tables::{Counters, Histograms};
pub use self::write::{Families, Figures, Samples, render};

/// What a family of samples is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, from 0 at the start of the process.
    Counter,
    /// It is what it is now.
    Gauge,
    /// How many were up to so large; `_bucket`, `_sum` and `_count`.
    Histogram,
    /// 1, with what there is to know in labels.
    Info,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// A family of samples: its name, what it means and what tells its samples apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// As Prometheus stores it: counters end in `_total`, infos in `_info`, and what has a unit in that.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Names of labels. A label whose value is empty is left out.
    pub labels: &'static [&'static str],
    /// What it means, for people; one line without backslashes and quotes.
    pub help: &'static str,
}

/// States a program's families, each as `CONSTANT = Kind "name" ["label", ...] "help";`: a static of that name each, and all of
/// them in this order, with those of every process behind, as the function `metrics`.
#[macro_export]
macro_rules! catalog {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(crate) static $constant: $crate::Metric = $crate::Metric {
            name: $name,
            kind: $crate::Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*

        /// All families, in the order in which they are written.
        pub fn metrics() -> impl Iterator<Item = &'static $crate::Metric> {
            [$(&$constant),*].into_iter().chain($crate::process::METRICS)
        }
    };
}

/// The rows of a table in Markdown, of all these families.
#[must_use]
pub fn reference<'a>(metrics: impl IntoIterator<Item = &'a Metric>) -> String {
    let row = |metric: &Metric| {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        format!(
            "| `{}` | {} | {} | {} |\n",
            metric.name,
            metric.kind.as_str(),
            labels.join(", "),
            metric.help
        )
    };
    let head = "| name | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    head + &metrics.into_iter().map(row).collect::<String>()
}
