//! What every adapter must do, against its real broker with real MQTT clients: one suite, in `suite.rs`, for all; in
//! the end a cluster of all of them.
//!
//!   cargo test -p rollcall-tests --test brokers [FILTER ...] [-- --skip FILTER]
//!
//! A broker is started once and its steps follow one another, because some brokers take many seconds to start. The
//! brokers run side by side. A broker that is not installed is skipped, with a line that says so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod documented;
mod mixed;
mod mosquitto;
mod mqtt_5;
mod nats;
mod rabbitmq;
mod secure_front;
mod suite;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use rollcall_tests::brokers::Kind;

use crate::mixed::Mixed;
use crate::suite::Step;
use crate::world::{MQTT_5, World, levels};

/// The cluster of all brokers, where brokers' names stand.
const MIXED: &str = "mixed";

/// The embedded broker behind the counting front.
const COUNTED: &str = "counted";

#[derive(Default)]
struct Outcome {
    passed: usize,
    failed: Vec<String>,
    ignored: usize,
    filtered: usize,
}

fn main() -> ExitCode {
    let Some(selection) = Selection::read() else { return ExitCode::SUCCESS };
    let outcome = Mutex::new(Outcome::default());
    let worlds = std::thread::scope(|scope| {
        let start = |kind| {
            let (selection, outcome) = (&selection, &outcome);
            scope.spawn(move || run_broker(kind, selection, outcome))
        };
        let (selected, done) = (&selection, &outcome);
        scope.spawn(move || run_counted(selected, done));
        let running: Vec<_> = Kind::ALL.into_iter().map(start).collect();
        running.into_iter().filter_map(|broker| broker.join().unwrap()).collect()
    });
    run_mixed(worlds, &selection, &outcome);
    let Outcome { passed, failed, ignored, filtered } = outcome.into_inner().unwrap();
    if !failed.is_empty() {
        println!("\nfailures:\n    {}", failed.join("\n    "));
    }
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {} failed; {ignored} ignored; 0 measured; {filtered} filtered out",
        failed.len()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The steps of a broker: those of all, and its own.
fn steps(kind: Kind) -> Vec<(&'static str, Step)> {
    let own: [&[_]; 2] = match kind {
        Kind::Mosquitto => [&mosquitto::STEPS, &[]],
        Kind::Rabbitmq => [&rabbitmq::STEPS, &secure_front::STEPS],
        Kind::Nats | Kind::NatsNewer => [&nats::STEPS, &[]],
        Kind::Embedded => [&documented::STEPS, &[]],
    };
    let by_mqtt_5: &[_] = if levels(kind).contains(&MQTT_5) { &mqtt_5::STEPS } else { &[] };
    own.into_iter().flatten().chain(by_mqtt_5).chain(&suite::STEPS).copied().collect()
}

/// Runs a broker's steps, and gives it back for the cluster of all.
fn run_broker(kind: Kind, selection: &Selection, outcome: &Mutex<Outcome>) -> Option<World> {
    let steps = steps(kind);
    let wanted = wanted(kind.label(), &steps, selection, outcome);
    if wanted.is_empty() && !selection.wants_mixed() {
        return None;
    }
    if let Some(reason) = kind.missing() {
        println!("SKIPPED: {}: {reason}", kind.label());
        outcome.lock().unwrap().ignored += wanted.len();
        return None;
    }
    let mut world = start(kind.label(), &wanted, outcome, || World::start(kind))?;
    run(kind.label(), &wanted, &mut world, World::show_logs, outcome);
    Some(world)
}

/// Runs the steps of all brokers on the embedded one behind its front, where nothing may be other than without.
fn run_counted(selection: &Selection, outcome: &Mutex<Outcome>) {
    let wanted = wanted(COUNTED, &suite::STEPS, selection, outcome);
    if wanted.is_empty() {
        return;
    }
    if let Some(mut world) = start(COUNTED, &wanted, outcome, World::start_counted) {
        run(COUNTED, &wanted, &mut world, World::show_logs, outcome);
    }
}

/// Runs the steps of the cluster of all brokers.
fn run_mixed(worlds: Vec<World>, selection: &Selection, outcome: &Mutex<Outcome>) {
    let wanted = wanted(MIXED, &mixed::STEPS, selection, outcome);
    if wanted.is_empty() {
        return;
    }
    if worlds.len() < 2 {
        println!("SKIPPED: {MIXED}: there are not two brokers here");
        outcome.lock().unwrap().ignored += wanted.len();
        return;
    }
    if let Some(mut cluster) = start(MIXED, &wanted, outcome, || Mixed::start(worlds)) {
        run(MIXED, &wanted, &mut cluster, |_| (), outcome);
    }
}

/// The steps that are wanted; the others are counted.
fn wanted<S: Copy>(
    subject: &str,
    steps: &[(&'static str, S)],
    selection: &Selection,
    outcome: &Mutex<Outcome>,
) -> Vec<(&'static str, S)> {
    let is_wanted = |(step, _): &&(&str, S)| selection.wants(&format!("{subject}::{step}"));
    let wanted: Vec<_> = steps.iter().filter(is_wanted).copied().collect();
    outcome.lock().unwrap().filtered += steps.len() - wanted.len();
    wanted
}

fn start<W, S>(
    subject: &str,
    wanted: &[(&'static str, S)],
    outcome: &Mutex<Outcome>,
    start: impl FnOnce() -> W,
) -> Option<W> {
    let begun = Instant::now();
    let Ok(world) = catch_unwind(AssertUnwindSafe(start)) else {
        println!("test {subject}::start ... FAILED");
        let failed = wanted.iter().map(|(step, _)| format!("{subject}::{step}"));
        outcome.lock().unwrap().failed.extend(failed);
        return None;
    };
    println!("{subject} started ({} ms)", begun.elapsed().as_millis());
    Some(world)
}

/// A step on something and its name.
type Named<W> = (&'static str, fn(&mut W));

/// Runs the steps that are wanted. After a failure the others still run: each has clients of its own.
fn run<W>(
    subject: &str,
    wanted: &[Named<W>],
    world: &mut W,
    show_logs: impl Fn(&W),
    outcome: &Mutex<Outcome>,
) {
    for (step, run) in wanted {
        let (step, begun) = (format!("{subject}::{step}"), Instant::now());
        let is_passed = catch_unwind(AssertUnwindSafe(|| run(world))).is_ok();
        let word = if is_passed { "ok" } else { "FAILED" };
        println!("test {step} ... {word} ({} ms)", begun.elapsed().as_millis());
        if is_passed {
            outcome.lock().unwrap().passed += 1;
        } else {
            show_logs(world);
            outcome.lock().unwrap().failed.push(step);
        }
    }
}

/// Which steps to run, in the words of cargo's own tests.
#[derive(Default)]
struct Selection {
    filters: Vec<String>,
    skipped: Vec<String>,
}

impl Selection {
    /// `None` if only a list was asked for.
    fn read() -> Option<Self> {
        let mut selection = Self::default();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => {
                    for kind in Kind::ALL {
                        steps(kind).iter().for_each(|(step, _)| println!("{}::{step}: test", kind.label()));
                    }
                    suite::STEPS.iter().for_each(|(step, _)| println!("{COUNTED}::{step}: test"));
                    mixed::STEPS.iter().for_each(|(step, _)| println!("{MIXED}::{step}: test"));
                    return None;
                }
                "--skip" => selection.skipped.extend(arguments.next()),
                option if option.starts_with("--") => {}
                filter => selection.filters.push(filter.to_owned()),
            }
        }
        Some(selection)
    }

    fn wants_mixed(&self) -> bool {
        mixed::STEPS.iter().any(|(step, _)| self.wants(&format!("{MIXED}::{step}")))
    }

    fn wants(&self, name: &str) -> bool {
        let is_in = |words: &[String]| words.iter().any(|word| name.contains(word));
        (self.filters.is_empty() || is_in(&self.filters)) && !is_in(&self.skipped)
    }
}
