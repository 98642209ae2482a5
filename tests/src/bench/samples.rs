//! What many measurements of one thing come to.

use std::time::Duration;

/// The latencies of one case and its rate in each round.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    latencies: Vec<Duration>,
    rates: Vec<f64>,
}

impl Samples {
    /// Adds a round: how long it took and how long each request took.
    pub fn add(&mut self, elapsed: Duration, latencies: &[Duration]) {
        self.rates.push(latencies.len() as f64 / elapsed.as_secs_f64());
        self.latencies.extend_from_slice(latencies);
        self.latencies.sort_unstable();
    }

    /// Requests in all rounds.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.latencies.len()
    }

    /// The median round's requests a second; NaN without a round.
    #[must_use]
    pub fn rate(&self) -> f64 {
        median(&self.rates)
    }

    /// A quantile of all latencies, milliseconds; NaN without one.
    #[must_use]
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let at = (last as f64 * quantile).round() as usize;
        self.latencies.get(at).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1000.0)
    }
}

/// The upper of the two in the middle if there are two; NaN of nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_over_all_rounds_and_the_rate_is_the_median_rounds() {
        let mut samples = Samples::default();
        let ms = |range: std::ops::RangeInclusive<u64>| range.map(Duration::from_millis).collect::<Vec<_>>();
        samples.add(Duration::from_secs(1), &ms(51..=100));
        samples.add(Duration::from_secs(1), &ms(1..=51));
        samples.add(Duration::from_secs(10), &[]);
        assert_eq!(samples.requests(), 101);
        assert_eq!(samples.rate(), 50.0);
        for (quantile, expected) in [(0.0, 1.0), (0.5, 51.0), (0.99, 99.0), (1.0, 100.0)] {
            assert_eq!(samples.quantile_ms(quantile), expected, "{quantile}");
        }
    }

    #[test]
    fn of_nothing_there_is_no_figure() {
        assert!(Samples::default().quantile_ms(0.5).is_nan() && Samples::default().rate().is_nan());
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    }
}
