//! Clients that come, go, lose their connections, and move from broker to broker.

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use crate::truth::{NewClient, Truth, ZONES};
use crate::world::State;

/// Different client ids; a cluster holds some of them at a time.
fn clientid(number: u64) -> String {
    match number % 7 {
        0 => format!("gauge/{number}"),
        1 => format!("ü {number}"),
        _ => format!("c{number}"),
    }
}

pub(crate) struct Churn {
    rng: StdRng,
    /// Client ids are of numbers below this.
    names: u64,
    /// Sessions that end because their client has moved: when and which.
    leaving: Vec<(u64, u32)>,
    /// Changes in a second of the simulation.
    rate: f64,
}

impl Churn {
    pub(crate) fn new(rng: StdRng, names: u64, rate: f64) -> Self {
        Self { rng, names, leaving: Vec::new(), rate }
    }

    fn new_client(&mut self, number: u64) -> NewClient {
        let rng = &mut self.rng;
        NewClient {
            clientid: clientid(number),
            username: rng.random_bool(0.8).then(|| format!("user{}", rng.random_range(0..12))),
            zone: ZONES.choose(rng).copied().unwrap_or(ZONES[0]),
            created_before: rng.random_range(0..5_000_000),
        }
    }

    /// The clients of the beginning. Most have one session, on one broker.
    pub(crate) fn populate(&mut self, truth: &mut Truth, clients: u64) {
        let brokers = truth.present.len();
        // Some seeds have one broker with nearly all clients.
        let heavy = self.rng.random_bool(0.2).then(|| self.rng.random_range(0..brokers));
        for number in 0..clients {
            let client = self.new_client(number);
            let broker = match heavy {
                Some(heavy) if self.rng.random_bool(0.9) => heavy,
                _ => self.rng.random_range(0..brokers),
            };
            truth.connect(broker, client, 0);
            if let Some(&uid) =
                truth.present[broker].get(&clientid(number)).filter(|_| self.rng.random_bool(0.1))
            {
                truth.change(uid, false, 0);
            }
        }
    }

    /// What happens in one tick of so many milliseconds.
    pub(crate) fn tick(&mut self, state: &mut State, now: u64, tick: u64) {
        let due = |at: u64| at <= now;
        let leaving = std::mem::take(&mut self.leaving);
        for (at, uid) in leaving {
            if due(at) {
                state.truth.end(uid, false, now);
            } else {
                self.leaving.push((at, uid));
            }
        }
        for (at, broker, client) in std::mem::take(&mut state.returning) {
            if due(at) {
                state.log(now, format!("{} is back on {broker}", client.clientid));
                state.truth.connect(broker, client, now);
            } else {
                state.returning.push((at, broker, client));
            }
        }
        if self.rng.random_bool((self.rate * tick as f64 / 1000.0).min(1.0)) {
            self.change(&mut state.truth, now);
        }
    }

    fn change(&mut self, truth: &mut Truth, now: u64) {
        let brokers = truth.present.len();
        let broker = self.rng.random_range(0..brokers);
        let present: Vec<u32> = truth.present[broker].values().copied().collect();
        let someone = present.choose(&mut self.rng).copied();
        match (self.rng.random_range(0..10), someone) {
            (0..3, _) | (_, None) => {
                let number = self.rng.random_range(0..self.names);
                let client = self.new_client(number);
                truth.connect(broker, client, now);
            }
            (3 | 4, Some(uid)) => drop(truth.end(uid, false, now)),
            (5, Some(uid)) => truth.change(uid, false, now),
            (6, Some(uid)) => truth.change(uid, true, now),
            // To another broker; the session it had ends a little later, or had ended a little before.
            (_, Some(uid)) => {
                let Some(session) = truth.session(uid).cloned() else { return };
                let to = (broker + 1 + self.rng.random_range(0..brokers - 1)) % brokers;
                let client = NewClient {
                    clientid: session.clientid,
                    username: session.username,
                    zone: session.zone,
                    created_before: 0,
                };
                if self.rng.random() {
                    truth.end(uid, false, now);
                } else {
                    self.leaving.push((now + self.rng.random_range(0..200), uid));
                }
                truth.connect(to, client, now);
            }
        }
    }
}
