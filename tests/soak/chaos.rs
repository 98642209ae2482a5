//! Faults at random times.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;
use rollcall_tests::bench::table::Table;
use rollcall_tests::proxy::{Rules, Way};
use rollcall_tests::wait::pause;

use crate::bed::{BROKERS, Bed, NODES, SETTLE, SPARED, TIMEOUT};
use crate::live::Live;

/// How often which fault happened.
#[derive(Debug, Default)]
pub(crate) struct Told(BTreeMap<&'static str, u64>);

impl Told {
    fn add(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new(&["faults", "times"]);
        for (what, times) in &self.0 {
            table.add([(*what).to_owned(), times.to_string()]);
        }
        table
    }
}

/// One fault from its beginning to its end, and some peace behind it.
pub(crate) fn disturb(bed: &Bed, live: &Live, random: &mut StdRng, told: &mut Told) {
    let node = random.random_range(0..NODES.len());
    let length = TIMEOUT.mul_f64(random.random_range(0.05..1.5));
    match random.random_range(0..8) {
        0 | 1 => {
            told.add("a node stood still");
            let agent = bed.agents[node].lock().unwrap();
            bed.doubt(node, Instant::now() + length + SETTLE * 10);
            agent.process.freeze();
            pause(length);
            agent.process.thaw();
        }
        2 | 3 if !SPARED.contains(&node) => {
            told.add("a node crashed and came back");
            let mut agent = bed.agents[node].lock().unwrap();
            bed.doubt(node, Instant::now() + length + SETTLE * 20);
            bed.asked.note_restart(node);
            bed.crashes(node);
            agent.process.kill();
            if let Some(part) = BROKERS.iter().position(|at| *at == node) {
                live.forget(part);
            }
            pause(length);
            agent.restart();
        }
        4 => {
            told.add("a link was cut");
            let cut_after = Some(random.random_range(0..100_000));
            let way = Way { cut_after, ..Way::default() };
            bed.proxies[node].set(Rules { down: way, ..Rules::default() });
            bed.proxies[node].cut();
            pause(length);
        }
        5 => {
            told.add("a link stalled");
            let stalled = |random: &mut StdRng| Way { stalled: random.random_bool(0.6), ..Way::default() };
            let (up, down) = (stalled(random), stalled(random));
            bed.proxies[node].set(Rules { up, down, ..Rules::default() });
            pause(length);
        }
        6 => {
            told.add("a link was slow");
            let way = Way { delay: Duration::from_millis(random.random_range(1..150)), ..Way::default() };
            let piece = Some(random.random_range(1..2000));
            bed.proxies[node].set(Rules {
                up: way,
                down: Way { piece, ..Way::default() },
                ..Rules::default()
            });
            pause(length);
        }
        7 => {
            told.add("the gateway stood still");
            // Short: what it does not answer in time meanwhile is not its fault.
            bed.gateway.process.freeze();
            pause(Duration::from_millis(random.random_range(10..800)));
            bed.gateway.process.thaw();
        }
        _ => {
            told.add("a link refused");
            bed.proxies[node].set(Rules { refuse: true, ..Rules::default() });
            bed.proxies[node].cut();
            pause(length);
        }
    }
    bed.proxies[node].set(Rules::default());
    bed.settle(node);
    pause(Duration::from_millis(random.random_range(0..3000)));
}
