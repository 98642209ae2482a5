//! Processes that stand still, crash and come back at any moment, while somebody asks for everything.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rollcall_tests::asker::{Asked, Kind};
use rollcall_tests::http;
use rollcall_tests::rows;
use rollcall_tests::sandbox::{Agent, Cluster, Gateway};
use rollcall_tests::truth::Truth;
use rollcall_tests::wait::{eventually, pause, within};
use serde_json::Value;
use tempfile::NamedTempFile;

/// How long a gateway of these tests lets a request take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

/// The gateway's arguments for that.
pub(crate) const ARGUMENTS: [&str; 6] = [
    "--request-timeout",
    "2s",
    "--export-node-timeout",
    "2s",
    "--log-filter",
    "info,rollcall_gateway::access=off",
];

/// A cluster of three nodes with the clients of one table, and what is true of it.
pub(crate) struct Bed {
    pub(crate) cluster: Cluster,
    pub(crate) asked: Asked,
    pub(crate) random: StdRng,
    _table: NamedTempFile,
}

/// The table, and what is true of it; agents and gateway are the caller's.
pub(crate) fn table(
    random: &mut StdRng,
    names: &[String],
    count: usize,
    spares: usize,
) -> (NamedTempFile, Asked) {
    let rows = rows::clients(random, names, count);
    let spare_rows = Asked::spare_rows(names, spares);
    let all: Vec<Value> = rows.iter().chain(&spare_rows).cloned().collect();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let mut spares: Vec<_> =
        spare_rows.iter().map(|row| (text(row, "clientid"), text(row, "node"))).collect();
    // Of every node in turn.
    spares.sort();
    let truth = Truth { rows, nodes: names.to_vec(), addresses: Vec::new() };
    (rows::table(&all), Asked::new(truth, spares, TIMEOUT))
}

pub(crate) fn names() -> Vec<String> {
    ["a@127.0.0.1", "b@127.0.0.1", "c@127.0.0.1"].map(str::to_owned).to_vec()
}

impl Bed {
    fn new(arguments: &[&str]) -> Self {
        let (mut random, _) = rows::generator();
        let (table, mut asked) = table(&mut random, &names(), 400, 2000);
        let agents: Vec<Agent> = names().iter().map(|name| Agent::file(name, table.path())).collect();
        asked.truth.addresses = agents.iter().map(|agent| agent.process.address.to_string()).collect();
        let arguments: Vec<&str> = ARGUMENTS.iter().chain(arguments).copied().collect();
        Self { cluster: Cluster::with(agents, &arguments), asked, random, _table: table }
    }
}

/// Asks from several threads while `disturb` runs.
pub(crate) fn ask_during(
    asked: &Asked,
    gateway: std::net::SocketAddr,
    random: &mut StdRng,
    may_break: bool,
    disturb: impl FnOnce(),
) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let mut asker = asked.asker(gateway, StdRng::seed_from_u64(random.random()), may_break);
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    asker.ask_any();
                }
            });
        }
        let outcome = catch_unwind(AssertUnwindSafe(disturb));
        over.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

/// A pause of a random length up to this.
fn wait(random: &mut StdRng, most: Duration) {
    pause(most.mul_f64(random.random_range(0.0..1.0)));
}

#[test]
fn whatever_happens_to_agents_every_answer_is_right_or_names_what_it_lacks() {
    let mut bed = Bed::new(&[]);
    let Bed { cluster, asked, random, .. } = &mut bed;
    let mut faults = StdRng::seed_from_u64(random.random());
    let (gateway, agents) = (cluster.gateway.address(), &mut cluster.agents);
    ask_during(asked, gateway, random, false, || {
        let begun = Instant::now();
        let mut rounds = 0;
        // A handful of faults, and every kind of request among them.
        while begun.elapsed() < Duration::from_secs(25) || rounds < 8 {
            rounds += 1;
            let at = faults.random_range(0..agents.len());
            match faults.random_range(0..4) {
                // Short enough to be sat out, or too long for that.
                0 | 1 => {
                    agents[at].process.freeze();
                    wait(&mut faults, TIMEOUT * 2);
                    agents[at].process.thaw();
                }
                2 => {
                    asked.note_restart(at);
                    agents[at].process.kill();
                    wait(&mut faults, Duration::from_secs(2));
                    agents[at].restart();
                }
                // Crashed while it stood still: its connections stay open until then.
                _ => {
                    asked.note_restart(at);
                    agents[at].process.freeze();
                    wait(&mut faults, TIMEOUT);
                    agents[at].restart();
                }
            }
            wait(&mut faults, Duration::from_secs(1));
        }
    });
    asked.assert_right();
    let sum = |of: fn(&rollcall_tests::asker::Tally) -> &std::sync::atomic::AtomicU64| {
        Kind::ALL.iter().map(|kind| of(asked.tally(*kind)).load(Ordering::Relaxed)).sum::<u64>()
    };
    let (whole, lacking) =
        (sum(|tally| &tally.whole), sum(|tally| &tally.partial) + sum(|tally| &tally.refused));
    assert!(whole > 50 && lacking > 5, "{whole} whole and {lacking} lacking answers tell little");
    bed.cluster.await_all_answering();
}

#[test]
fn a_gateway_that_stood_still_or_crashed_goes_on_right() {
    let folder = tempfile::tempdir().unwrap();
    let audit = folder.path().join("audit.jsonl");
    let mut bed = Bed::new(&["--audit-log", audit.to_str().unwrap()]);
    let Bed { cluster, asked, random, .. } = &mut bed;
    let mut faults = StdRng::seed_from_u64(random.random());
    let gateway = &mut cluster.gateway;
    // What stands still itself cannot answer by the deadline; so much is not the gateway's.
    let stands_still = Duration::from_secs(1);
    asked.timeout += stands_still;
    let asked = &*asked;
    ask_during(asked, gateway.address(), random, true, || {
        for round in 0..8 {
            wait(&mut faults, Duration::from_secs(2));
            if round % 2 == 0 {
                gateway.process.freeze();
                wait(&mut faults, stands_still);
                gateway.process.thaw();
            } else {
                gateway.restart();
            }
        }
    });
    asked.assert_right();
    assert!(asked.requests() > 50, "{} requests tell little", asked.requests());
    // Every kick that may have been carried out is on record, and no line is torn.
    let text = std::fs::read_to_string(&audit).unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let asked_for = |record: &&Value| record["outcome"] == "asked";
    let kicked = records.iter().filter(|record| record["outcome"] == "kicked").count();
    assert!(records.iter().filter(asked_for).count() >= kicked && kicked > 0, "{} records", records.len());
    // Who is gone was asked for.
    let there: Vec<String> = bed_clients(&cluster.gateway);
    let recorded: std::collections::HashSet<&str> =
        records.iter().filter_map(|record| record["clientid"].as_str()).collect();
    for name in names() {
        for at in 0..2000 {
            let spare = format!("spare-{at}-of-{name}");
            assert!(
                there.contains(&spare) || recorded.contains(spare.as_str()),
                "{spare} went without a record"
            );
        }
    }
}

/// Every client to be kicked that is still there.
fn bed_clients(gateway: &Gateway) -> Vec<String> {
    let response = gateway.get("/clients?_like_clientid=spare-&_limit=10000&_fields=clientid");
    response.rows().iter().map(|row| row["clientid"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_crash_of_the_gateway_never_makes_an_export_look_whole() {
    let agent = Agent::start("a@127.0.0.1", &["--broker", "synthetic", "--clients", "100000"]);
    let mut cluster = Cluster::of(vec![agent]);
    for format in ["ndjson", "csv"] {
        let address = cluster.gateway.address();
        let target = format!("/api/v4/client_export?_format={format}");
        let export = std::thread::spawn(move || {
            let authorization = http::basic("app_id", "app_secret");
            let head = format!("GET {target} HTTP/1.1\r\nhost: h\r\nauthorization: {authorization}\r\n\r\n");
            http::send(address, head.as_bytes())
        });
        eventually("an export on its way", || {
            let cpu = cluster.agents[0].process.cpu_time();
            if cluster.gateway.process.log().contains("client_export") || export.is_finished() {
                return Ok(());
            }
            Err(format!("the agent has used {cpu:?}"))
        });
        cluster.gateway.process.kill();
        let answer = export.join().unwrap();
        assert!(answer.is_err(), "{format}: {} bytes look whole", answer.unwrap().body.len());
        cluster.gateway.restart();
        // The node's place for the export is free again.
        let again = within(Duration::from_secs(20), "another export", || {
            let response = cluster.gateway.get("/client_export?_fields=clientid&_like_clientid=nobody");
            if response.status == 200 { Ok(response) } else { Err(response.message()) }
        });
        assert!(String::from_utf8_lossy(&again.body).contains("\"complete\":true"));
    }
}
