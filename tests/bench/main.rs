//! A page of 100 rows out of 300,000 clients on three agents, through the gateway, beside an axum route that serves
//! the same bytes statically from a process of its own; and an agent's memory per client.
//!
//! Everything runs on one machine and shares its cores with the load generator, so only figures of one run compare:
//! the measurements take turns, round by round, and the ratios are what to quote. Run it by `tests/bench/run`.

mod load;
mod memory;
mod report;
mod still;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rollcall_tests::http;
use rollcall_tests::process::Process;
use rollcall_tests::sandbox::{Agent, BASE, Cluster, OPERATOR};

use crate::load::{Load, Target};
use crate::report::Measurement;

/// Clients of each agent.
const CLIENTS: usize = 100_000;

/// Connections at once: a lone one for latency, many for throughput.
const CONNECTIONS: [usize; 2] = [1, 32];

/// Page 1 is what the static route serves. The others show what depth, sorting and searching add.
const PAGES: [(&str, &str); 4] = [
    ("page 1", "/clients?_limit=100"),
    ("page 1500 by connected_at", "/clients?_limit=100&_page=1500&_sort=connected_at"),
    ("page 1 of a substring", "/clients?_limit=100&_like_clientid=77"),
    ("one client of nobody", "/clients/nobody"),
];

#[derive(Debug)]
struct Options {
    rounds: usize,
    seconds: f64,
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, page] = &arguments[..]
        && command == still::COMMAND
    {
        still::serve(Path::new(page));
        return ExitCode::SUCCESS;
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("not run as a benchmark; tests/bench/run does");
        return ExitCode::SUCCESS;
    }
    match options(&arguments) {
        Ok(options) => {
            bench(&options);
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{problem}\nusage: tests/bench/run [--rounds N] [--seconds S] [--json FILE]");
            ExitCode::from(2)
        }
    }
}

fn options(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options { rounds: 5, seconds: 2.0, json: None };
    let mut arguments = arguments.iter().filter(|argument| *argument != "--bench");
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} without a value"))?;
        let wrong = |expected: &str| format!("{name} {value}: expected {expected}");
        match name.as_str() {
            "--rounds" => {
                options.rounds = value.parse().ok().filter(|n| *n > 0).ok_or_else(|| wrong("1 or more"))?;
            }
            "--seconds" => {
                let seconds = value.parse().ok().filter(|s: &f64| *s > 0.0 && *s < 3600.0);
                options.seconds = seconds.ok_or_else(|| wrong("a number of seconds"))?;
            }
            "--json" => options.json = Some(value.into()),
            _ => return Err(format!("{name}: no such option")),
        }
    }
    Ok(options)
}

fn bench(options: &Options) {
    let agents = ["a@127.0.0.1", "b@127.0.0.1", "c@127.0.0.1"].iter().enumerate().map(|(index, name)| {
        let (clients, seed) = (CLIENTS.to_string(), index.to_string());
        Agent::start(name, &["--broker", "synthetic", "--clients", &clients, "--seed", &seed])
    });
    // The access log would be a part of what is measured.
    let cluster = Cluster::with(agents.collect(), &["--log-filter", "warn"]);
    let gateway = cluster.gateway.address();
    let key = http::basic(OPERATOR.0, OPERATOR.1);

    let page = cluster.gateway.get(PAGES[0].1);
    assert_eq!((page.status, page.rows().len()), (200, 100), "the page to serve statically");
    let file = tempfile::NamedTempFile::new().expect("a file for the page");
    std::fs::write(file.path(), &page.body).expect("the page can be written");
    let own = std::env::current_exe().expect("a program knows its own path");
    let path = file.path().to_str().expect("a path in UTF-8").to_owned();
    let still = Process::start_at(&own, "static route", &[still::COMMAND.to_owned(), path]);

    let mut targets = vec![Target::new("static bytes", still.address, "/", &key)];
    for (label, target) in PAGES {
        targets.push(Target::new(label, gateway, &format!("{BASE}{target}"), &key));
    }
    let load = Load::new(Duration::from_secs_f64(options.seconds));
    let mut measurements = Measurement::all(&targets, &CONNECTIONS);
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        for measurement in &mut measurements {
            let target = &targets[measurement.target];
            measurement.add(load.run(target, measurement.connections));
        }
    }
    let agent_resident = cluster.agents[0].process.resident();
    let gateway_resident = cluster.gateway.process.resident();
    drop((cluster, still));

    eprintln!("memory");
    let memory = memory::measure(CLIENTS);
    let report = report::Report { options, page_bytes: page.body.len(), measurements: &measurements, memory };
    println!("{}", report.table(&targets));
    println!(
        "resident after the load: gateway {:.1} MiB, a synthetic agent of {CLIENTS} clients {:.1} MiB",
        report::mebibytes(gateway_resident),
        report::mebibytes(agent_resident)
    );
    let json = report.json(&targets);
    println!("{json}");
    if let Some(path) = &options.json {
        std::fs::write(path, format!("{json:#}\n"))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
