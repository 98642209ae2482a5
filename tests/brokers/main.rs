//! What every adapter must do, against its real broker with real MQTT clients: one suite, in `suite.rs`, for all.
//!
//!   cargo test -p rollcall-tests --test brokers [FILTER ...] [-- --skip FILTER]
//!
//! A broker is started once and its steps follow one another, because some brokers take many seconds to start. The
//! brokers run side by side. A broker that is not installed is skipped, with a line that says so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mosquitto;
mod suite;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use rollcall_tests::brokers::Kind;

use crate::suite::Step;
use crate::world::World;

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
    std::thread::scope(|scope| {
        for kind in Kind::ALL {
            let (selection, outcome) = (&selection, &outcome);
            scope.spawn(move || run(kind, selection, outcome));
        }
    });
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
    let own: &[_] = if kind == Kind::Mosquitto { &mosquitto::STEPS } else { &[] };
    own.iter().chain(&suite::STEPS).copied().collect()
}

/// Runs the steps that are wanted. After a failure the others still run: each has clients of its own.
fn run(kind: Kind, selection: &Selection, outcome: &Mutex<Outcome>) {
    let name = |step: &str| format!("{}::{step}", kind.name());
    let steps = steps(kind);
    let (wanted, other): (Vec<_>, Vec<_>) = steps.iter().partition(|(step, _)| selection.wants(&name(step)));
    outcome.lock().unwrap().filtered += other.len();
    if wanted.is_empty() {
        return;
    }
    if let Some(reason) = kind.missing() {
        println!("SKIPPED: {}: {reason}", kind.name());
        outcome.lock().unwrap().ignored += wanted.len();
        return;
    }
    let begun = Instant::now();
    let started = catch_unwind(|| World::start(kind));
    let Ok(mut world) = started else {
        println!("test {} ... FAILED", name("start"));
        outcome.lock().unwrap().failed.extend(wanted.iter().map(|(step, _)| name(step)));
        return;
    };
    println!("{} started ({} ms)", kind.name(), begun.elapsed().as_millis());
    for (step, run) in wanted {
        let (step, begun) = (name(step), Instant::now());
        let is_passed = catch_unwind(AssertUnwindSafe(|| run(&mut world))).is_ok();
        let word = if is_passed { "ok" } else { "FAILED" };
        println!("test {step} ... {word} ({} ms)", begun.elapsed().as_millis());
        if is_passed {
            outcome.lock().unwrap().passed += 1;
        } else {
            world.show_logs();
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
                        steps(kind).iter().for_each(|(step, _)| println!("{}::{step}: test", kind.name()));
                    }
                    return None;
                }
                "--skip" => selection.skipped.extend(arguments.next()),
                option if option.starts_with("--") => {}
                filter => selection.filters.push(filter.to_owned()),
            }
        }
        Some(selection)
    }

    fn wants(&self, name: &str) -> bool {
        let is_in = |words: &[String]| words.iter().any(|word| name.contains(word));
        (self.filters.is_empty() || is_in(&self.filters)) && !is_in(&self.skipped)
    }
}
