//! Does page 15,000 cost what page 1 costs? First, middle and last page of a list, with all rows and with about half of
//! them, in three orders; pages all over the list, none twice; and a page behind a cursor.

use rollcall_tests::bench::goals::Figure;
use serde_json::Value;

use super::{Bench, LIMIT, last_page};
use crate::measure::{Case, Measurement};
use crate::report::Section;
use crate::subject::Subject;

const FILTERS: [(&str, &str); 2] = [("all", ""), ("half", "&proto_ver=5")];

const ORDERS: [(&str, &str); 3] = [
    ("", ""),
    (" by connected_at", "&_sort=connected_at"),
    (" by username desc", "&_sort=username&_order=desc"),
];

/// A first page, and where the pages of its list begin among the cases.
struct List {
    first: usize,
    end: usize,
    last: usize,
    goal: Figure,
}

pub(crate) fn measure(bench: &Bench, subject: &Subject) -> Result<Section, String> {
    let mut cases = Vec::new();
    let mut lists = Vec::new();
    let mut notes = Vec::new();
    for (filter, parameters) in FILTERS {
        let count = subject.count(&bench.load, parameters);
        match count {
            Some(count) => notes.push(format!("{filter}: {count} rows")),
            None => notes
                .push(format!("{filter}: how many rows there are is not known, so there is no last page")),
        }
        for (order, sort) in ORDERS {
            let list = format!("/clients?_limit={LIMIT}{parameters}{sort}");
            let first = cases.len();
            cases.push(Case::new(format!("{filter}{order}, page 1"), subject, &list));
            if let Some(cursor) = cursor(bench, subject, &list) {
                let label = format!("{filter}{order}, page 2 by cursor");
                cases.push(Case::new(label, subject, &format!("{list}&_cursor={cursor}")));
            }
            if let Some(last) = count.map(last_page) {
                for page in [last / 2 + 1, last] {
                    let label = format!("{filter}{order}, page {page}");
                    cases.push(Case::new(label, subject, &format!("{list}&_page={page}")));
                }
                let goal = if parameters.is_empty() { Figure::LastPage } else { Figure::LastPageFiltered };
                let label = format!("{filter}{order}, pages all over");
                cases.push(Case::over_pages(label, subject, &format!("{list}&_page={{page}}"), last));
                lists.push(List { first, end: cases.len(), last: cases.len() - 2, goal });
            } else {
                lists.push(List { first, end: cases.len(), last: first, goal: Figure::LastPage });
            }
        }
    }
    let mut measurement = Measurement::new(cases);
    measurement.rounds(&bench.load, bench.options.rounds);

    let mut ignored = Vec::new();
    let mut ratios = vec![f64::NAN; measurement.cases.len()];
    let mut goals = Vec::new();
    for list in &lists {
        let first = measurement.figures[list.first].p50();
        for (at, ratio) in ratios.iter_mut().enumerate().take(list.end).skip(list.first) {
            let figures = &measurement.figures[at];
            if at > list.first && figures.brought_the_same(&measurement.figures[list.first]) {
                ignored.push(measurement.cases[at].label.as_str());
            } else {
                *ratio = figures.p50() / first;
            }
        }
        if list.last > list.first {
            goals.push((list.goal, ratios[list.last]));
        }
    }
    if !ignored.is_empty() {
        notes.push(format!("the clients of page 1 again, so the page was ignored: {}", ignored.join("; ")));
    }
    let mut section = Section::of(&measurement, "x page 1", &ratios);
    section.notes.extend(notes);
    section.goals = goals;
    Ok(section)
}

/// Where page 2 begins.
fn cursor(bench: &Bench, subject: &Subject, list: &str) -> Option<String> {
    let page: Value = subject.json(&bench.load, list).ok()?;
    page["meta"]["cursor"].as_str().filter(|cursor| !cursor.is_empty()).map(rollcall_tests::http::encode)
}
