//! What a page costs beside the same bytes served statically by an axum route of its own process: 100 rows at 1 and 32
//! connections, 10,000 at 1.

use rollcall_tests::bench::goals::Figure;
use rollcall_tests::bench::table::number;

use super::{Bench, last_page};
use crate::measure::{Case, Measurement};
use crate::report::Section;
use crate::still::Still;
use crate::subject::Subject;

const HUNDRED: &str = "/clients?_limit=100";
const TEN_THOUSAND: &str = "/clients?_limit=10000";

/// Connections at once: a lone one for latency, many for throughput.
const MANY: usize = 32;

pub(crate) fn measure(bench: &Bench, subject: &Subject) -> Result<Section, String> {
    let hundred = bench.load.get(&subject.target(HUNDRED))?;
    let still = Still::start(&hundred);
    let mut notes = format!("100 rows are {} bytes", hundred.len());
    // Cases, and which of them each is compared with.
    let mut cases = Vec::new();
    let mut against = Vec::new();
    let middle = subject.count(&bench.load, "").map_or(2, |rows| last_page(rows) / 2 + 1);
    for connections in [1, MANY] {
        let first = cases.len();
        cases.push(Case::new("100 rows, static", &still.subject, "/").at(connections));
        cases.push(Case::new("100 rows, page 1", subject, HUNDRED).at(connections));
        let deep = format!("{HUNDRED}&_page={middle}");
        cases.push(Case::new(format!("100 rows, page {middle}"), subject, &deep).at(connections));
        let sorted = format!("{deep}&_sort=connected_at");
        let label = format!("100 rows, page {middle} by connected_at");
        cases.push(Case::new(label, subject, &sorted).at(connections));
        cases.push(Case::new("one client of nobody", subject, "/clients/nobody{n}").at(connections));
        against.resize(cases.len(), first);
    }
    let page_at_many = against[cases.len() - 1] + 1;
    let large = match bench.load.get(&subject.target(TEN_THOUSAND)) {
        Ok(body) => {
            notes += &format!(", 10,000 rows {}", body.len());
            Some(Still::start(&body))
        }
        Err(problem) => {
            notes += &format!("; 10,000 rows: {problem}");
            None
        }
    };
    if let Some(large) = &large {
        against.resize(cases.len() + 2, cases.len());
        cases.push(Case::new("10,000 rows, static", &large.subject, "/"));
        cases.push(Case::new("10,000 rows, page 1", subject, TEN_THOUSAND));
    }
    let mut measurement = Measurement::new(cases);
    measurement.rounds(&bench.load, bench.options.rounds);

    let figures = &measurement.figures;
    let ratios: Vec<f64> = figures
        .iter()
        .zip(&against)
        .map(|(own, against)| figures[*against].samples.rate() / own.samples.rate())
        .collect();
    let mut goals = vec![(Figure::PageRate, ratios[page_at_many])];
    if large.is_some() {
        let (still, own) = (figures[figures.len() - 2].p50(), figures[figures.len() - 1].p50());
        notes += &format!("; 10,000 rows, p50 of page 1 / static: {}", number(own / still));
        goals.push((Figure::TenThousandRows, own / still));
    }
    let mut section = Section::of(&measurement, "static/this", &ratios).note(notes);
    section.goals = goals;
    Ok(section)
}
