//! Slows down whoever guesses keys.
//!
//! An address may show so many wrong keys at once and one more a second (the generic cell rate algorithm, ITU-T I.371:
//! one time an address is all it keeps). Beyond that its credentials are not even looked at, right or wrong, until
//! the second is over: a guess that is checked is a guess that may hit. Whoever shows a right key spends nothing. An IPv6
//! address counts with its /64, which one host has to itself. At most [`MOST_ADDRESSES`] are remembered.
//!
//! Behind a proxy all clients are one address, so that one who guesses locks out the others: there the proxy has to
//! slow them down, and the limit here can be switched off.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long it takes to be allowed one more wrong key.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many addresses are remembered, some 4 MiB. With more, those that can guess again soonest are forgotten.
const MOST_ADDRESSES: usize = 1 << 16;

/// The wrong keys shown lately.
#[derive(Debug)]
pub(super) struct Guesses {
    /// Wrong keys an address may show at once; 0: any number.
    burst: u32,
    /// When an address may again show as many at once, by its [`block`].
    paid_off: Mutex<HashMap<u128, Instant>>,
}

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

impl Guesses {
    pub(super) fn new(burst: u32) -> Self {
        Self { burst, paid_off: Mutex::default() }
    }

    /// How long an address has to wait before its credentials are looked at, if it has to.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let paid_off = self.paid_off.lock().unwrap_or_else(PoisonError::into_inner);
        let debt = paid_off.get(&block(address))?.saturating_duration_since(now);
        // Half a unit, so that who is asked to wait and does need not wait again for a moment's difference.
        (debt > INTERVAL * self.burst - INTERVAL / 2).then(|| debt - INTERVAL * (self.burst - 1))
    }

    /// Notes a wrong key; says whether the address has to wait from now on.
    pub(super) fn wrong(&self, address: IpAddr, now: Instant) -> bool {
        if self.burst == 0 {
            return false;
        }
        let mut paid_off = self.paid_off.lock().unwrap_or_else(PoisonError::into_inner);
        let block = block(address);
        if paid_off.len() >= MOST_ADDRESSES && !paid_off.contains_key(&block) {
            paid_off.retain(|_, until| *until > now);
            if paid_off.len() >= MOST_ADDRESSES
                && let Some(soonest) =
                    paid_off.iter().min_by_key(|(_, until)| **until).map(|(block, _)| *block)
            {
                paid_off.remove(&soonest);
            }
        }
        let until = paid_off.entry(block).or_insert(now);
        *until = (*until).max(now) + INTERVAL;
        *until - now > INTERVAL * self.burst - INTERVAL / 2
    }
}

/// What an address counts as: an IPv4 address itself, also in its IPv6 form, an IPv6 address its /64.
fn block(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn after_a_burst_one_a_second_and_only_for_that_address() {
        let guesses = Guesses::new(3);
        let (bad, good) = (address("10.0.0.1"), address("10.0.0.2"));
        let start = Instant::now();
        for last in [false, false, true] {
            assert_eq!(guesses.wait(bad, start), None);
            assert_eq!(guesses.wrong(bad, start), last);
        }
        assert_eq!(guesses.wait(bad, start), Some(INTERVAL));
        assert_eq!(
            (guesses.wait(good, start), guesses.wait(address("::ffff:10.0.0.1"), start)),
            (None, Some(INTERVAL))
        );
        for second in 1..20 {
            let now = start + INTERVAL * second;
            assert_eq!(guesses.wait(bad, now), None, "second {second}");
            assert!(guesses.wrong(bad, now));
            assert!(guesses.wait(bad, now).is_some());
        }
        assert_eq!(guesses.wait(bad, start + INTERVAL * 60), None);
        assert!(!guesses.wrong(bad, start + INTERVAL * 60));
    }

    #[test]
    fn one_ipv6_host_has_many_addresses() {
        let guesses = Guesses::new(1);
        let now = Instant::now();
        assert!(guesses.wrong(address("2001:db8::1"), now));
        assert!(guesses.wait(address("2001:db8::ffff:1"), now).is_some());
        assert_eq!(guesses.wait(address("2001:db8:0:1::1"), now), None);
    }

    #[test]
    fn no_limit_is_no_limit_and_memory_has_one() {
        let guesses = Guesses::new(0);
        let now = Instant::now();
        assert!((0..1_000).all(|_| !guesses.wrong(address("10.0.0.1"), now)));
        assert_eq!(guesses.wait(address("10.0.0.1"), now), None);
        let guesses = Guesses::new(2);
        let many = MOST_ADDRESSES as u32 + 100;
        guesses.wrong(address("255.0.0.1"), now);
        guesses.wrong(address("255.0.0.1"), now);
        for number in 0..many {
            guesses.wrong(IpAddr::V4(number.into()), now);
        }
        assert!(guesses.wait(address("255.0.0.1"), now).is_some(), "who owes most is remembered");
        assert_eq!(guesses.paid_off.lock().unwrap().len(), MOST_ADDRESSES);
        guesses.wrong(address("254.0.0.1"), now + INTERVAL * 10);
        assert_eq!(guesses.paid_off.lock().unwrap().len(), 1);
    }
}
