//! The benchmark: latency by depth, filter, sort and number of nodes, throughput beside static bytes, exports, memory,
//! and reads during writes. docs/benchmarks.md says what each suite measures and how to read it.
//!
//! Everything runs on one machine and shares its cores with the load generator, so only figures of one run compare: what
//! is compared takes turns, round by round, and the ratios are what to quote. Run it by `tests/bench/run`.

mod bed;
mod client;
mod load;
mod measure;
mod passing;
mod report;
mod still;
mod subject;
mod suites;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rollcall_tests::bench::options::{self, Options, Suite};

use crate::bed::Bed;
use crate::load::Load;
use crate::report::{Report, Section};
use crate::subject::Subject;
use crate::suites::Bench;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [still::COMMAND, page] => {
            still::serve(Path::new(page));
            return ExitCode::SUCCESS;
        }
        [suites::nodes::COMMAND, count, clients, file] => {
            suites::nodes::serve(count, clients, Path::new(file));
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    if !words.iter().any(|word| word == "--bench") {
        println!("not run as a benchmark; tests/bench/run does");
        return ExitCode::SUCCESS;
    }
    let words: Vec<String> = words.into_iter().filter(|word| word != "--bench").collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        println!("{}", options::USAGE);
        return ExitCode::SUCCESS;
    }
    match options::parse(&words) {
        Ok(options) => bench(options),
        Err(problem) => {
            eprintln!("{problem}\n\n{}", options::USAGE);
            ExitCode::from(2)
        }
    }
}

fn bench(options: Options) -> ExitCode {
    let load = Load::new(Duration::from_secs_f64(options.seconds));
    let bench = Bench { options, load };
    let mut report = Report::begin(&bench.options);
    let (on_a_bed, with_own_agents): (Vec<Suite>, Vec<Suite>) =
        bench.options.suites.iter().partition(|suite| suite.is_remote());
    if !on_a_bed.is_empty() {
        // Stopped before the others start their own.
        let bed = bench.options.remote.is_none().then(|| Bed::start(bench.options.clients));
        let remote = bench.options.remote.as_ref().map(Subject::remote);
        if let Some(subject) = bed.as_ref().map(|bed| &bed.subject).or(remote.as_ref()) {
            for suite in on_a_bed {
                run(suite, &mut report, |suite| over_http(suite, &bench, subject));
            }
        }
    }
    for suite in with_own_agents {
        run(suite, &mut report, |suite| with_agents(suite, &bench));
    }
    let json = report.end(&bench.options);
    match &bench.options.json {
        Some(path) => match std::fs::write(path, format!("{json:#}\n")) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("cannot write {}: {error}", path.display());
                ExitCode::FAILURE
            }
        },
        None => ExitCode::SUCCESS,
    }
}

fn run(suite: Suite, report: &mut Report, measure: impl FnOnce(Suite) -> Result<Section, String>) {
    eprintln!("measuring {}", suite.name());
    match measure(suite) {
        Ok(section) => report.add(suite, section),
        Err(problem) => report.fail(suite, &problem),
    }
}

/// The suites that need a server and no more.
fn over_http(suite: Suite, bench: &Bench, subject: &Subject) -> Result<Section, String> {
    match suite {
        Suite::Depth => suites::depth::measure(bench, subject),
        Suite::Filter => suites::filter::measure(bench, subject),
        Suite::Sort => Ok(suites::sort::measure(bench, subject)),
        Suite::Page => suites::page::measure(bench, subject),
        Suite::Export => Ok(suites::export::measure(bench, subject)),
        Suite::Nodes | Suite::Memory | Suite::Writes | Suite::Mosquitto | Suite::Front => {
            with_agents(suite, bench)
        }
    }
}

/// The suites that start agents of their own.
fn with_agents(suite: Suite, bench: &Bench) -> Result<Section, String> {
    match suite {
        Suite::Nodes => suites::nodes::measure(bench),
        Suite::Memory => Ok(suites::memory::measure(bench)),
        Suite::Writes => suites::writes::measure(bench),
        Suite::Mosquitto => suites::mosquitto::measure(bench),
        Suite::Front => suites::front::measure(bench),
        other => Err(format!("{} needs a server", other.name())),
    }
}
