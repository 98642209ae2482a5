//! Mixed load with faults for as long as you like, every answer checked against what is true at that moment.
//!
//! Five nodes, each behind a proxy: two with a table that does not change, two with an embedded broker whose real MQTT
//! clients come and go, one with synthetic clients that keep reconnecting. Gateway and nodes speak mutual TLS. While they are asked for
//! everything there is ([`Asker`](rollcall_tests::asker::Asker), [`live`], [`churning`]) and their events are followed
//! ([`following`]), processes stand still, crash and come back, and links stall, slow down and break ([`chaos`]). In the end there must be
//! no wrong answer, no event that is missing, no descriptor more than at the start, and memory that does not grow ([`watch`]).
//!
//! Run it with `tests/soak/run`; the faults group of `tests/run` runs it for a minute.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rollcall_tests::asker::Kind;
use rollcall_tests::bench::table::Table;
use rollcall_tests::wait::pause;

mod bed;
mod chaos;
mod churning;
mod following;
mod live;
mod watch;

/// What is asked for by the words of the command line.
struct Options {
    minutes: f64,
    seed: u64,
}

fn options() -> Result<Options, String> {
    let mut options = Options { minutes: 1.0, seed: rand::random() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--minutes" => {
                let text = value()?;
                let minutes = text.parse().ok().filter(|minutes: &f64| *minutes > 0.0 && minutes.is_finite());
                options.minutes =
                    minutes.ok_or_else(|| format!("--minutes {text}, expected a number above 0"))?;
            }
            "--seed" => {
                let text = value()?;
                options.seed = text.parse().map_err(|_| format!("--seed {text}, expected an integer"))?;
            }
            // What cargo's own harness would take.
            "--nocapture" | "--quiet" | "-q" => {}
            other => return Err(format!("{other} is unknown, expected --minutes N or --seed S")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let Options { minutes, seed } = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("soak: {error}");
            return ExitCode::from(2);
        }
    };
    println!("soak: {minutes} minutes, --seed {seed} brings about the same faults");
    let mut random = StdRng::seed_from_u64(seed);
    let length = Duration::from_secs_f64(minutes * 60.0);
    let bed = bed::Bed::new(&mut random, minutes);
    let gateway = bed.gateway.address();
    let live = live::Live::new(&bed);
    let following = following::Following::begin(&bed);
    let mut watch = watch::Watch::new();
    watch.begin(&bed);
    let over = AtomicBool::new(false);
    let mut told = chaos::Told::default();
    let followed = std::thread::scope(|scope| {
        let (bed, live, over) = (&bed, &live, &over);
        for _ in 0..3 {
            let mut asker = bed.asked.asker(gateway, StdRng::seed_from_u64(random.random()), false);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    asker.ask_any();
                    // Hours of load, not as much as there can be: others use the machine as well.
                    pause(Duration::from_millis(5));
                }
            });
        }
        for part in 0..live::PARTS {
            let mut random = StdRng::seed_from_u64(random.random());
            scope.spawn(move || live.come_and_go(part, &mut random, over));
        }
        let mut checking = StdRng::seed_from_u64(random.random());
        scope.spawn(move || live.check(bed, &mut checking, over));
        let mut reading = StdRng::seed_from_u64(random.random());
        scope.spawn(move || churning::check(bed, &mut reading, over));
        let following = scope.spawn(move || following.follow(bed, over));
        let mut faults = StdRng::seed_from_u64(random.random());
        let chaos = scope.spawn(move || {
            let mut told = chaos::Told::default();
            while !over.load(Ordering::Relaxed) {
                chaos::disturb(bed, live, &mut faults, &mut told);
            }
            told
        });
        let begun = Instant::now();
        while begun.elapsed() < length && !chaos.is_finished() {
            pause(watch::INTERVAL.min(length / 40));
            watch.sample(bed);
        }
        over.store(true, Ordering::Relaxed);
        told = chaos.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        following.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    drop(live);
    let failures = watch.end(&bed);
    drop(followed);

    let mut requests = Table::new(&["requests", "whole", "partial", "refused", "slowest ms"]);
    for kind in Kind::ALL {
        let tally = bed.asked.tally(kind);
        let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let counts = [&tally.whole, &tally.partial, &tally.refused].map(|of| count(of).to_string());
        let [whole, partial, refused] = counts;
        requests.add([
            format!("{kind:?}"),
            whole,
            partial,
            refused,
            (count(&tally.slowest) / 1000).to_string(),
        ]);
    }
    let checks = bed.checks();
    for (what, count) in &checks {
        requests.add([(*what).to_owned(), count.to_string(), String::new(), String::new(), String::new()]);
    }
    println!("\n{requests}\n{}\n{}", told.table(), watch.table());
    let wrong = bed.asked.wrong();
    for wrong in wrong.iter().take(10) {
        println!("WRONG: {wrong}");
    }
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    let idle = checks.iter().filter(|(_, count)| *count == 0).map(|(what, _)| *what).collect::<Vec<_>>();
    if !idle.is_empty() {
        println!("FAILED: nothing was checked of {idle:?}");
    }
    let passed = wrong.is_empty() && failures.is_empty() && idle.is_empty();
    println!(
        "{} wrong answers of {}",
        wrong.len(),
        bed.asked.requests() + checks.iter().map(|(_, n)| n).sum::<u64>()
    );
    println!(
        "test result: {}. {} passed; {} failed; 0 ignored; 0 measured; 0 filtered out",
        if passed { "ok" } else { "FAILED" },
        u8::from(passed),
        u8::from(!passed)
    );
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
