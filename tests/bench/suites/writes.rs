//! Reads while one of three agents absorbs a storm of reconnects, beside the same reads while nothing changes.
//!
//! Two gateways share two agents; the third agent of one is calm, that of the other has the storm. It is stopped
//! (SIGSTOP) while the calm is measured, so that the two take turns on one machine.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rollcall_tests::bench::usage;
use rollcall_tests::sandbox::{Agent, Gateway};
use rollcall_tests::wait::within;
use serde_json::{Value, json};

use super::{Bench, encoded, last_page, sample};
use crate::bed::{self, NODES};
use crate::load::Load;
use crate::measure::{Case, Figures, Measurement};
use crate::report::{Section, rounded};
use crate::subject::{Subject, rows};

/// Reconnects a second.
const STORM: u32 = 20_000;

/// How long the storm is watched without reads, each round.
const WATCH: Duration = Duration::from_secs(2);

/// The second at which a synthetic broker's reconnects begin by their own clock: 2026-01-01 UTC.
const MOMENT: i64 = 1_767_225_600;

/// What has been absorbed, and in which time.
#[derive(Clone, Copy, Debug, Default)]
struct Absorbed {
    changes: f64,
    seconds: f64,
    processor: Duration,
}

pub(crate) fn measure(bench: &Bench) -> Result<Section, String> {
    let clients = bench.options.clients;
    let shared: Vec<Agent> = NODES[1..].iter().map(|name| bed::synthetic(name, clients, 0)).collect();
    let calm = bed::synthetic(NODES[0], clients, 0);
    let (_calm_gateway, quiet) = cluster(&calm, &shared, clients);
    let stormy = bed::synthetic(NODES[0], clients, STORM);
    let (storm_gateway, storm) = cluster(&stormy, &shared, clients);

    let id = encoded(&sample(bench, &quiet)?, "clientid");
    let deep = last_page(3 * clients as u64) / 2 + 1;
    let paths = [
        ("page 1".to_owned(), "/clients?_limit=100".to_owned()),
        (format!("page {deep}"), format!("/clients?_limit=100&_page={deep}")),
        (
            format!("page {deep} by connected_at"),
            format!("/clients?_limit=100&_page={deep}&_sort=connected_at"),
        ),
        ("substring nobody has".to_owned(), "/clients?_limit=100&_like_clientid=~{n}~".to_owned()),
        ("typed predicate".to_owned(), "/clients?_limit=100&proto_ver=5".to_owned()),
        ("get".to_owned(), format!("/clients/{id}")),
    ];
    let cases = [("quiet", &quiet), ("storm", &storm)].into_iter().flat_map(|(weather, subject)| {
        paths.iter().map(move |(label, path)| Case::new(format!("{weather}, {label}"), subject, path))
    });
    let mut measurement = Measurement::new(cases.collect());
    let (mut alone, mut under_reads) = (Absorbed::default(), Absorbed::default());
    for _ in 0..bench.options.rounds {
        stormy.process.freeze();
        measurement.round(&bench.load, 0..paths.len());
        stormy.process.thaw();
        await_all(&storm_gateway);
        alone.watch(&bench.load, &storm, stormy.process.pid(), || {
            bench.load.block_on(async { tokio::time::sleep(WATCH).await });
        })?;
        under_reads.watch(&bench.load, &storm, stormy.process.pid(), || {
            measurement.round(&bench.load, paths.len()..2 * paths.len());
        })?;
    }
    let figures = &measurement.figures;
    let ratio = |(at, own): (usize, &Figures)| own.p50() / figures[at % paths.len()].p50();
    let ratios: Vec<f64> = figures.iter().enumerate().map(ratio).collect();
    let mut section = Section::of(&measurement, "x quiet", &ratios)
        .note(format!(
            "one of three agents is sent {STORM} reconnects a second; the storm's agent CPU has the storm itself in it"
        ));
    for (label, absorbed) in [("without reads", alone), ("while it was read", under_reads)] {
        let rate = absorbed.changes / absorbed.seconds;
        let share = rate / f64::from(STORM);
        let core = absorbed.processor.as_secs_f64() / absorbed.seconds;
        section.notes.push(format!(
            "{label} it absorbed {rate:.0} a second ({:.0} %) with {:.0} % of a core",
            share * 100.0,
            core * 100.0
        ));
        section.json.push(json!({
            "case": format!("storm absorbed {label}"),
            "changes_per_second": rounded(rate),
            "share": rounded(share),
            "agent_cores": rounded(core),
        }));
    }
    Ok(section)
}

fn cluster(first: &Agent, others: &[Agent], clients: usize) -> (Gateway, Subject) {
    let agents = || std::iter::once(first).chain(others);
    let addresses: Vec<SocketAddr> = agents().map(|agent| agent.process.address).collect();
    let pids = agents().map(|agent| agent.process.pid()).collect();
    bed::gateway(&addresses, 3 * clients as u64, pids)
}

/// Waits until every agent answers again.
fn await_all(gateway: &Gateway) {
    within(Duration::from_secs(60), "answer of the agent that was stopped", || {
        let response = gateway.get("/clients?_limit=0");
        let answered = response.status == 200 && response.json()["meta"]["nodes"]["answered"] == NODES.len();
        if answered { Ok(()) } else { Err(format!("status {}", response.status)) }
    });
}

impl Absorbed {
    /// Adds what is absorbed while something else happens.
    fn watch(
        &mut self,
        load: &Load,
        subject: &Subject,
        pid: u32,
        meanwhile: impl FnOnce(),
    ) -> Result<(), String> {
        let time = || usage::processor_time(pid).unwrap_or_default();
        // Each time right after the count that it belongs to.
        let before = changes(load, subject)?;
        let (start, time_before) = (Instant::now(), time());
        meanwhile();
        let after = changes(load, subject)?;
        let seconds = start.elapsed().as_secs_f64();
        self.changes += after - before;
        self.seconds += seconds;
        self.processor += time().saturating_sub(time_before);
        Ok(())
    }
}

/// How many reconnects the agent has heard of. Their clock goes by their number, so the latest second says it, and how
/// many there are in that second the rest.
fn changes(load: &Load, subject: &Subject) -> Result<f64, String> {
    let node = rollcall_tests::http::encode(NODES[0]);
    let latest = subject.json(
        load,
        &format!("/nodes/{node}/clients?_limit=1&_sort=connected_at&_order=desc&_fields=connected_at"),
    )?;
    let row = rows(&latest).first().ok_or("the agent of the storm has no clients")?;
    let second = second(row).ok_or_else(|| format!("no connected_at in {row}"))?;
    let since = subject.json(load, &format!("/nodes/{node}/clients?_limit=0&_gte_connected_at={second}"))?;
    let rest = since["meta"]["count"].as_u64().ok_or("an answer without a count")?;
    Ok((second - MOMENT) as f64 * f64::from(STORM) + rest as f64)
}

fn second(row: &Value) -> Option<i64> {
    let at: jiff::civil::DateTime = row["connected_at"].as_str()?.parse().ok()?;
    Some(at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}
