//! The figures as tables and as JSON.

use std::collections::BTreeMap;

use rollcall_tests::bench::goals::{self, Figure};
use rollcall_tests::bench::options::{Options, Suite};
use rollcall_tests::bench::table::{Table, number};
use serde_json::{Value, json};

use crate::measure::Measurement;

/// What one suite has to say.
#[derive(Debug)]
pub(crate) struct Section {
    /// What to know when reading it.
    pub(crate) notes: Vec<String>,
    pub(crate) table: Table,
    /// The same for machines, a list of objects.
    pub(crate) json: Vec<Value>,
    /// Those that have a goal.
    pub(crate) goals: Vec<(Figure, f64)>,
}

impl Section {
    /// Of cases and what each is compared with: `against` names the ratios' column.
    pub(crate) fn of(measurement: &Measurement<'_>, against: &str, ratios: &[f64]) -> Self {
        let headings = [
            "",
            "conns",
            "req/s",
            "p50 ms",
            "p99 ms",
            "first ms",
            against,
            "agent CPU",
            "gateway CPU",
            "rows",
        ];
        let mut table = Table::new(&headings);
        let mut json = Vec::new();
        let mut refused: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let cases = measurement.cases.iter().zip(&measurement.figures);
        for ((case, figures), ratio) in cases.zip(ratios) {
            if let Some(problem) = &figures.refused {
                refused.entry(problem.as_str()).or_default().push(case.label.as_str());
                json.push(json!({"case": case.label, "connections": case.connections, "refused": problem}));
                continue;
            }
            let samples = &figures.samples;
            let or_none = |figure: Option<f64>| number(figure.unwrap_or(f64::NAN));
            let p99 = samples.quantile_ms(0.99);
            table.add([
                case.label.clone(),
                case.connections.to_string(),
                number(samples.rate()),
                number(figures.p50()),
                number(p99),
                or_none(figures.first_ms),
                number(*ratio),
                or_none(figures.agent_ms()),
                or_none(figures.gateway_ms()),
                figures.rows.map_or("-".to_owned(), |rows| rows.to_string()),
            ]);
            json.push(json!({
                "case": case.label,
                "connections": case.connections,
                "requests": samples.requests(),
                "requests_per_second": rounded(samples.rate()),
                "p50_ms": rounded(figures.p50()),
                "p99_ms": rounded(p99),
                "first_ms": figures.first_ms.map(rounded),
                "ratio": rounded(*ratio),
                "agent_cpu_ms": figures.agent_ms().map(rounded),
                "gateway_cpu_ms": figures.gateway_ms().map(rounded),
                "rows": figures.rows,
                "count": figures.count,
            }));
        }
        let notes = refused.iter().map(|(problem, labels)| format!("{problem}: {}", labels.join("; ")));
        Self { notes: notes.collect(), table, json, goals: Vec::new() }
    }

    /// With a note.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

/// Everything, as it comes in.
#[derive(Debug)]
pub(crate) struct Report {
    suites: serde_json::Map<String, Value>,
    goals: Vec<(Figure, f64)>,
}

impl Report {
    /// Prints what was measured, of whom and how.
    pub(crate) fn begin(options: &Options) -> Self {
        let subject = match &options.remote {
            Some(remote) => format!("http://{}{}", remote.authority, remote.prefix),
            None => format!("3 agents of {} clients", options.clients),
        };
        println!(
            "{subject}, {} cores, {} rounds of {} s; everything shares the machine, so only ratios within this run count",
            cores(),
            options.rounds,
            options.seconds
        );
        Self { suites: serde_json::Map::new(), goals: Vec::new() }
    }

    /// Prints a section.
    pub(crate) fn add(&mut self, suite: Suite, section: Section) {
        println!("\n== {}\n{}", suite.name(), section.table);
        for note in &section.notes {
            println!("{note}");
        }
        self.suites.insert(suite.name().to_owned(), json!({"figures": section.json, "notes": section.notes}));
        self.goals.extend(section.goals);
    }

    /// Says of a suite that it could not be measured.
    pub(crate) fn fail(&mut self, suite: Suite, problem: &str) {
        println!("\n== {}\nnot measured: {problem}", suite.name());
        self.suites.insert(suite.name().to_owned(), json!({"refused": problem}));
    }

    /// Prints goals and what was reached, and gives everything as JSON.
    pub(crate) fn end(self, options: &Options) -> Value {
        println!("\n== goals\n{}", goals::table(&self.goals));
        let goals = Figure::ALL.into_iter().map(|figure| {
            let measured = goals::worst(&self.goals, figure);
            json!({
                "figure": figure.name(),
                "goal": figure.goal(),
                "measured": measured.map(rounded),
                "met": measured.map(|measured| measured <= figure.goal()),
            })
        });
        json!({
            "url": options.remote.as_ref().map(|remote| format!("http://{}{}", remote.authority, remote.prefix)),
            "clients_per_agent": options.remote.is_none().then_some(options.clients),
            "cores": cores(),
            "rounds": options.rounds,
            "seconds": options.seconds,
            "suites": self.suites,
            "goals": goals.collect::<Vec<_>>(),
        })
    }
}

/// To three digits behind the point; JSON's null for what is no number.
pub(crate) fn rounded(figure: f64) -> Value {
    if figure.is_finite() { json!((figure * 1000.0).round() / 1000.0) } else { Value::Null }
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
