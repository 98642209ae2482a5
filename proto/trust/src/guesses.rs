//! Slows down whoever guesses keys or tokens.
//!
//! An address may show so many wrong ones at once and one more a second (the generic cell rate algorithm, ITU-T I.371:
//! one time an address is all it keeps). Beyond that its credentials are not even looked at, right or wrong, until
//! the second is over: a guess that is checked is a guess that may hit. Whoever shows a right one spends nothing. An IPv6
//! address counts with its /64, which one host has to itself ([`counts_as`]). At most [`MOST_ADDRESSES`] are remembered.
//!
//! Behind a proxy all are one address, so that one who guesses locks out the others: there the proxy has to slow them
//! down, and the limit can be switched off.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long it takes to be allowed one more wrong one.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many addresses are remembered, some 4 MiB. With more, those that can guess again soonest are forgotten.
const MOST_ADDRESSES: usize = 1 << 16;

/// The wrong keys or tokens shown lately.
#[derive(Debug)]
pub struct Guesses {
    /// Wrong ones an address may show at once; 0: any number.
    burst: u32,
    /// When an address may again show as many at once, by what it counts as.
    paid_off: Mutex<HashMap<IpAddr, Instant>>,
}

impl Guesses {
    /// So many wrong ones may be shown at once; 0: any number.
    #[must_use]
    pub fn new(burst: u32) -> Self {
        Self { burst, paid_off: Mutex::default() }
    }

    /// How long an address has to wait before its credentials are looked at, if it has to.
    #[must_use]
    pub fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let paid_off = self.paid_off.lock().unwrap_or_else(PoisonError::into_inner);
        let debt = paid_off.get(&counts_as(address))?.saturating_duration_since(now);
        // Half a unit, so that who is asked to wait and does need not wait again for a moment's difference.
        (debt > INTERVAL * self.burst - INTERVAL / 2).then(|| debt - INTERVAL * (self.burst - 1))
    }

    /// Notes a wrong one; says whether the address has to wait from now on.
    pub fn wrong(&self, address: IpAddr, now: Instant) -> bool {
        if self.burst == 0 {
            return false;
        }
        let mut paid_off = self.paid_off.lock().unwrap_or_else(PoisonError::into_inner);
        let address = counts_as(address);
        if paid_off.len() >= MOST_ADDRESSES && !paid_off.contains_key(&address) {
            paid_off.retain(|_, until| *until > now);
            if paid_off.len() >= MOST_ADDRESSES
                && let Some(soonest) =
                    paid_off.iter().min_by_key(|(_, until)| **until).map(|(address, _)| *address)
            {
                paid_off.remove(&soonest);
            }
        }
        let until = paid_off.entry(address).or_insert(now);
        *until = (*until).max(now) + INTERVAL;
        *until - now > INTERVAL * self.burst - INTERVAL / 2
    }
}

/// What an address counts as: an IPv4 address itself, also in its IPv6 form, an IPv6 address its /64.
#[must_use]
pub fn counts_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
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
