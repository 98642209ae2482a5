//! Runs seeds, each in a process of its own: whatever a run draws from the system, such as random numbers or the time, is
//! made from its seed, and a process that has run another seed before is no longer the same.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::seed::{self, Outcome};

const USAGE: &str = "usage: tests/sim/run [--seeds N] [--from SEED] | --seed SEED [--quiet]";

/// A seed that takes longer hangs; one takes some seconds.
const PATIENCE: Duration = Duration::from_secs(300);

/// What went wrong often is shown so many times.
const MOST_SHOWN: usize = 10;

/// Seeds that are run twice, to see that a seed is the same every time: one in so many.
const TWICE: u64 = 50;

#[derive(Debug)]
struct Options {
    from: u64,
    seeds: u64,
    /// Only this one, here, with its log.
    seed: Option<u64>,
    quiet: bool,
}

pub(crate) fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match options.seed {
        Some(seed) => one(seed, options.quiet),
        None => many(&options),
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { from: 1, seeds: 100, seed: None, quiet: false };
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let value = arguments.next().unwrap_or_default();
            value.parse::<u64>().map_err(|_| format!("{argument} {value:?}: expected a number"))
        };
        match argument.as_str() {
            "--seeds" => options.seeds = number()?,
            "--from" => options.from = number()?,
            "--seed" => options.seed = Some(number()?),
            "--quiet" => options.quiet = true,
            // What cargo hands to every test.
            "--nocapture" | "--show-output" => {}
            _ => return Err(format!("there is no option {argument:?}")),
        }
    }
    Ok(options)
}

static PANICKED: AtomicBool = AtomicBool::new(false);

/// Runs a seed in this process.
fn one(seed: u64, quiet: bool) -> ExitCode {
    let panic_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // Panics of tasks and requests are caught where they happen; none of them is right.
        PANICKED.store(true, Ordering::Relaxed);
        panic_hook(panic);
    }));
    std::thread::spawn(move || {
        #[expect(clippy::disallowed_methods, reason = "a thread that does nothing else")]
        std::thread::sleep(PATIENCE);
        println!("seed {seed}: it does not come to an end");
        std::process::abort();
    });
    mad_turmoil::rand::set_rng(StdRng::seed_from_u64(seed));
    let clocks = mad_turmoil::time::SimClocksGuard::init();
    let run = std::thread::Builder::new().name(format!("seed {seed}")).spawn(move || seed::run(seed, !quiet));
    let outcome = run.map(std::thread::JoinHandle::join);
    drop(clocks);
    let Ok(Ok(Outcome { hash, events, answers, violations })) = outcome else {
        println!("seed {seed}: the simulation itself failed");
        return ExitCode::FAILURE;
    };
    for violation in violations.iter().take(MOST_SHOWN) {
        println!("seed {seed}: {violation}");
    }
    if violations.len() > MOST_SHOWN {
        println!("seed {seed}: and {} more", violations.len() - MOST_SHOWN);
    }
    if PANICKED.load(Ordering::Relaxed) {
        println!("seed {seed}: something panicked");
    }
    println!("seed {seed}: {answers} answers, {events} events, log {hash:016x}");
    if violations.is_empty() && !PANICKED.load(Ordering::Relaxed) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What a process said at its end.
struct Ended {
    seed: u64,
    succeeded: bool,
    text: String,
}

/// Runs a seed in a process of its own.
fn child(seed: u64) -> Ended {
    let program = std::env::current_exe();
    let output = program
        .and_then(|program| Command::new(program).args(["--seed", &seed.to_string(), "--quiet"]).output());
    match output {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            Ended { seed, succeeded: output.status.success(), text }
        }
        Err(error) => {
            Ended { seed, succeeded: false, text: format!("seed {seed}: cannot be started: {error}\n") }
        }
    }
}

fn many(options: &Options) -> ExitCode {
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    let all = options.from..options.from.saturating_add(options.seeds);
    // Each seed, and some of them once more.
    let queue = all.flat_map(|seed| std::iter::repeat_n(seed, if seed % TWICE == 1 { 2 } else { 1 }));
    let (queue, (ended, all_ended)) = (Mutex::new(queue), mpsc::channel());
    let mut said = BTreeMap::<u64, String>::new();
    let (mut passed, mut failed, mut answers) = (0_u64, 0_u64, 0_u64);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            let (queue, ended) = (&queue, ended.clone());
            scope.spawn(move || {
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                // Whoever listens does so until the last of these threads is gone.
                while next().is_some_and(|seed| ended.send(child(seed)).is_ok()) {}
            });
        }
        drop(ended);
        for Ended { seed, succeeded, text } in all_ended {
            let before = said.insert(seed, text.clone());
            let is_same = before.as_ref().is_none_or(|before| *before == text);
            if succeeded && is_same {
                passed += u64::from(before.is_none());
                answers += answers_of(&text);
                continue;
            }
            failed += 1;
            if !is_same {
                println!("seed {seed} is not the same every time:\n{}", before.unwrap_or_default());
            }
            println!("{text}replay it with: tests/sim/run --seed {seed}");
        }
    });
    println!("{answers} answers were held against the truth");
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn answers_of(text: &str) -> u64 {
    let line = text.lines().last().unwrap_or_default();
    let count = line.split_once(": ").and_then(|(_, rest)| rest.split_once(' '));
    count.and_then(|(count, _)| count.parse().ok()).unwrap_or(0)
}
