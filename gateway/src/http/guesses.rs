//! What those leave behind who show no right key: lines in the record of kicks, and not too many of them.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use rollcall_trust::guesses::Guesses;
use tokio::time::Instant;

/// Refused kicks of those who show no right key: each on record would let anybody fill the disk, and then no kick is
/// carried out.
#[derive(Debug)]
pub(super) struct Reports {
    /// Who may have as many lines as guesses.
    addresses: Guesses,
    /// How many were left out since the last line.
    left_out: AtomicU64,
}

/// Lines an address may have at once, beyond one a second.
const LINES: u32 = 20;

impl Default for Reports {
    fn default() -> Self {
        Self { addresses: Guesses::new(LINES), left_out: AtomicU64::new(0) }
    }
}

impl Reports {
    /// Whether one is to be put on record; if so, how many were left out before it.
    pub(super) fn next(&self, address: IpAddr, now: Instant) -> Option<u64> {
        if self.addresses.wait(address, now).is_some() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.addresses.wrong(address, now);
        Some(self.left_out.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_flood_of_refused_kicks_is_a_line_a_second() {
        let (reports, start) = (Reports::default(), Instant::now());
        let flood =
            (0..10_000).map(|at| reports.next(address("10.0.0.1"), start + Duration::from_millis(at)));
        let told: Vec<u64> = flood.flatten().collect();
        let (burst, later) = told.split_at(LINES as usize);
        assert!(burst.iter().all(|&left_out| left_out == 0), "{told:?}");
        assert!((8..=11).contains(&later.len()), "{told:?}");
        assert!(later.iter().all(|left_out| (400..=1_600).contains(left_out)), "{told:?}");
        // Who floods hides nobody else's.
        assert!(reports.next(address("10.0.0.2"), start + Duration::from_secs(10)).is_some());
    }
}
