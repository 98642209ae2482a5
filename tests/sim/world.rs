//! What all hosts of one simulation share: the truth, the log, and what went wrong.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use tokio::sync::watch;

use crate::kicks::Kicks;
use crate::truth::Truth;

/// Shared by all hosts. They run on one thread, so nobody ever waits for the lock.
pub(crate) type Shared = Arc<World>;

pub(crate) struct World {
    state: Mutex<State>,
    /// By slot: who is to run there, `None` for nobody.
    pub(crate) assigned: Vec<watch::Sender<Option<Assignment>>>,
}

/// The agent that is to stand behind an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) broker: usize,
    pub(crate) name: String,
}

pub(crate) struct State {
    pub(crate) truth: Truth,
    /// What brokers leave to chance.
    pub(crate) rng: StdRng,
    pub(crate) kicks: Kicks,
    /// What goes wrong in this seed.
    pub(crate) excuses: Excuses,
    /// How long each broker takes for what it is asked, milliseconds.
    pub(crate) slow: Vec<u64>,
    /// Clients that come back after a kick: when, where, who.
    pub(crate) returning: Vec<(u64, usize, crate::truth::NewClient)>,
    pub(crate) gateways: Vec<GatewayState>,
    pub(crate) answers: u64,
    log: Vec<String>,
    keep_log: bool,
    hash: DefaultHasher,
    pub(crate) violations: Vec<String>,
}

/// What is known of a gateway.
#[derive(Clone, Debug, Default)]
pub(crate) struct GatewayState {
    /// The fewest tasks it has had since this was last set: probes come and go.
    pub(crate) fewest_tasks: usize,
    /// When it last came back; `None` while it is down.
    pub(crate) up_since: Option<u64>,
}

impl GatewayState {
    /// Whether it has been down at some moment since then.
    pub(crate) fn was_down(&self, since: u64) -> bool {
        self.up_since.is_none_or(|up| up > since)
    }
}

/// What a node may be named for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Excuses {
    /// Some fault is planned.
    pub(crate) any: bool,
    /// Addresses change hands, or two have one name, so that an honest node may look like none.
    pub(crate) names: bool,
}

impl World {
    pub(crate) fn new(truth: Truth, rng: StdRng, gateways: usize, keep_log: bool) -> Self {
        let assigned = truth.occupants.iter().map(|_| watch::Sender::new(None)).collect();
        let slow = vec![0; truth.present.len()];
        let state = State {
            truth,
            rng,
            kicks: Kicks::default(),
            excuses: Excuses::default(),
            slow,
            returning: Vec::new(),
            gateways: vec![GatewayState::default(); gateways],
            answers: 0,
            log: Vec::new(),
            keep_log,
            hash: DefaultHasher::new(),
            violations: Vec::new(),
        };
        Self { state: Mutex::new(state), assigned }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn log(&self, line: String) {
        self.lock().log(now(), line);
    }

    pub(crate) fn wrong(&self, what: String) {
        let mut state = self.lock();
        state.log(now(), format!("WRONG {what}"));
        state.violations.push(format!("at {} ms: {what}", now()));
    }
}

impl State {
    /// The log is what makes one run of a seed the same as another.
    pub(crate) fn log(&mut self, now: u64, line: String) {
        (now, &line).hash(&mut self.hash);
        if self.keep_log {
            eprintln!("{now:>6} {line}");
        }
        self.log.push(line);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash.finish()
    }

    pub(crate) fn events(&self) -> usize {
        self.log.len()
    }
}

/// Milliseconds since the simulation began; only on a simulated host.
pub(crate) fn now() -> u64 {
    turmoil::sim_elapsed().map_or(0, |elapsed| elapsed.as_millis() as u64)
}
