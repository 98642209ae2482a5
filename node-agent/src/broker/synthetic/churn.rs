//! Clients that keep reconnecting: which one, as which session, and when by the rows' own clock.
//!
//! Change `n` is a pure function of seed, node name and `n`. The changes go through all rows in an order that looks
//! random, round after round, so that the last change of a row is computed from how many there were and nothing has to
//! be remembered. The clock of the changes begins where the rows' picture ends ([`MOMENT_MS`]) and moves on by the rate,
//! not by real time: the latest `connected_at` tells how many changes have arrived.

use std::time::Duration;

use rollcall_proto::v1::{Client, ConnState};

use super::LATE;
use super::rows::{MOMENT_MS, Rows, mix};

const MILLION: u64 = 1_000_000;

/// The reconnects of one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Churn {
    rows: Rows,
    /// Changes a second; 0: none at all.
    rate: u32,
    start: u64,
    /// Shares no divisor with the number of rows, so that its multiples visit each of them.
    stride: u64,
    /// Multiplied with the stride it leaves 1.
    inverse: u64,
}

impl Churn {
    pub(super) fn new(rows: Rows, rate: u32) -> Self {
        let count = u64::from(rows.count()).max(1);
        // Near the golden ratio, rows that follow one another lie far apart.
        let first = (count * 5 / 8).max(1);
        let (stride, inverse) = (first..=first + count)
            .find_map(|stride| Some((stride, inverse(stride, count)?)))
            .unwrap_or((1, 1));
        let rate = if rows.count() == 0 { 0 } else { rate };
        Self { rows, rate, start: rows.salt() % count, stride, inverse }
    }

    pub(super) fn rate(&self) -> u32 {
        self.rate
    }

    /// The row that a change is of.
    pub(super) fn row(&self, change: u64) -> u32 {
        let count = self.count();
        u32::try_from((self.start + change % count * self.stride) % count).unwrap_or_default()
    }

    /// The client after so many changes.
    pub(super) fn client(&self, row: u32, changes: u64) -> Client {
        let mut client = self.rows.client(row);
        let Some(change) = self.last(row, changes) else { return client };
        let connected_at = self.moment_ms(change);
        client.session = self.session_after(row, client.clean_start == Some(true), change);
        client.port = Some(1024 + u32::try_from(mix(change) % 64_512).unwrap_or_default());
        client.conn_state = ConnState::Connected.into();
        client.connected_at_ms = Some(connected_at);
        client.disconnected_at_ms = None;
        if client.clean_start == Some(true) {
            client.created_at_ms = Some(connected_at);
        }
        client
    }

    /// The number of a row's session after so many changes.
    pub(super) fn session(&self, row: u32, changes: u64) -> u64 {
        match self.last(row, changes) {
            Some(change) => self.session_after(row, self.rows.client(row).clean_start == Some(true), change),
            None => Rows::session(row),
        }
    }

    /// The last change of a row among the first so many.
    pub(super) fn last(&self, row: u32, changes: u64) -> Option<u64> {
        if self.rate == 0 {
            return None;
        }
        let count = self.count();
        let place = (u64::from(row) + count - self.start) % count * self.inverse % count;
        let rounds = changes.checked_sub(place + 1)? / count;
        Some(rounds * count + place)
    }

    /// A client that begins anew has another session each time, the others keep theirs.
    fn session_after(&self, row: u32, begins_anew: bool, change: u64) -> u64 {
        let round = if begins_anew { change / self.count() + 1 } else { 0 };
        round << 32 | Rows::session(row)
    }

    fn moment_ms(&self, change: u64) -> i64 {
        let passed = u128::from(change) * 1000 / u128::from(self.rate.max(1));
        MOMENT_MS + i64::try_from(passed).unwrap_or_default()
    }

    fn count(&self) -> u64 {
        u64::from(self.rows.count()).max(1)
    }
}

/// Reconnects that are due as time passes.
#[derive(Debug)]
pub(super) struct Debt {
    rate: u64,
    /// In millionths of a reconnect.
    owed: u64,
}

impl Debt {
    /// Nothing is due yet.
    pub(super) fn new(rate: u32) -> Self {
        Self { rate: rate.into(), owed: 0 }
    }

    /// How many are due after so much more time. More than those of [`LATE`], and more than one, are left out.
    pub(super) fn due(&mut self, passed: Duration) -> u64 {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let most = (self.rate * micros(LATE)).max(MILLION);
        self.owed = self.owed.saturating_add(self.rate.saturating_mul(micros(passed))).min(most);
        let due = self.owed / MILLION;
        self.owed %= MILLION;
        due
    }
}

/// What a number has to be multiplied with to leave 1, if it shares no divisor with the modulus.
fn inverse(number: u64, modulus: u64) -> Option<u64> {
    let modulus = i128::from(modulus);
    let (mut old, mut new) = ((i128::from(number), 1_i128), (modulus, 0_i128));
    while new.0 != 0 {
        let quotient = old.0 / new.0;
        (old, new) = (new, (old.0 - quotient * new.0, old.1 - quotient * new.1));
    }
    (old.0 == 1).then(|| u64::try_from(old.1.rem_euclid(modulus)).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn churn(count: u32, seed: u64) -> Churn {
        Churn::new(Rows::new(count, seed, "a@127.0.0.1"), 1_000)
    }

    #[test]
    fn every_row_reconnects_once_a_round() {
        for count in [1, 2, 3, 8, 97, 1_000] {
            let churn = churn(count, 7);
            for round in 0..3 {
                let first = round * u64::from(count);
                let rows: HashSet<u32> = (first..first + u64::from(count)).map(|n| churn.row(n)).collect();
                assert_eq!(rows.len(), count as usize, "{count} rows, round {round}");
            }
        }
    }

    #[test]
    fn changes_are_the_same_at_every_start_and_others_for_another_seed() {
        let rows = |seed| (0..50).map(|change| churn(1_000, seed).row(change)).collect::<Vec<_>>();
        assert_eq!(rows(1), rows(1));
        assert_ne!(rows(1), rows(2));
    }

    #[test]
    fn a_reconnect_changes_session_port_and_time_and_nothing_else() {
        let churn = churn(200, 3);
        for change in 0..400 {
            let row = churn.row(change);
            let (before, after) = (churn.client(row, change), churn.client(row, change + 1));
            let anew = after.clean_start == Some(true);
            assert_eq!(before.session != after.session, anew);
            assert_eq!(after.session, churn.session(row, change + 1));
            assert!(after.conn_state() == ConnState::Connected && after.disconnected_at_ms.is_none());
            assert_eq!(after.connected_at_ms, Some(MOMENT_MS + i64::try_from(change).unwrap()));
            assert_eq!(after.created_at_ms == after.connected_at_ms, anew);
            let same = |client: Client| Client {
                session: 0,
                port: None,
                conn_state: 0,
                connected_at_ms: None,
                disconnected_at_ms: None,
                created_at_ms: None,
                ..client
            };
            assert_eq!(same(before), same(after));
        }
    }

    #[test]
    fn a_calm_broker_and_an_empty_one_have_no_changes() {
        let calm = Churn::new(Rows::new(10, 1, "a"), 0);
        assert_eq!(calm.client(3, 1_000), Rows::new(10, 1, "a").client(3));
        assert_eq!(Churn::new(Rows::new(0, 1, "a"), 5).rate(), 0);
    }

    #[test]
    fn what_is_due_comes_whole_and_what_is_too_late_is_left_out() {
        let ms = Duration::from_millis;
        let mut debt = Debt::new(150);
        assert_eq!([10, 10, 10, 10].map(|time| debt.due(ms(time))), [1, 2, 1, 2]);
        assert_eq!([debt.due(ms(60_000)), debt.due(ms(10))], [15, 1]);
        let mut slow = Debt::new(1);
        let ten_seconds: u64 = (0..1_000).map(|_| slow.due(ms(10))).sum();
        assert_eq!((ten_seconds, Debt::new(0).due(ms(60_000))), (10, 0));
    }

    proptest! {
        #[test]
        fn the_last_change_of_a_row_is_the_last_one_that_happened(
            count in 1..60_u32, seed: u64, changes in 0..200_u64, row in 0..60_u32,
        ) {
            let (churn, row) = (churn(count, seed), row % count);
            let happened = (0..changes).rev().find(|&change| churn.row(change) == row);
            prop_assert_eq!(churn.last(row, changes), happened);
        }

        #[test]
        fn sessions_are_never_used_again(count in 1..30_u32, seed: u64, changes in 0..150_u64) {
            let churn = churn(count, seed);
            let mut seen: HashSet<u64> = (0..count).map(|row| churn.session(row, 0)).collect();
            for change in 0..changes {
                let row = churn.row(change);
                let (before, after) = (churn.session(row, change), churn.session(row, change + 1));
                prop_assert!(before == after || seen.insert(after));
            }
        }
    }
}
