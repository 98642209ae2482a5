//! Does page 15,000 cost what page 1 costs? First and last page of a list, and pages all over it, none twice; in orders of
//! every kind, with all rows and under filters. In some orders also the middle page, and a page behind a cursor. And how
//! many rows the nodes send for pages anywhere.

use rollcall_tests::bench::goals::Figure;
use rollcall_tests::bench::table::number;
use serde_json::Value;

use super::{Bench, LIMIT, last_page};
use crate::measure::{Case, Measurement};
use crate::report::Section;
use crate::subject::Subject;

/// What it is called, its parameters, and in how many of the orders it is measured.
const FILTERS: [(&str, &str, usize); 4] = [
    ("all", "", ORDERS.len()),
    ("half", "&proto_ver=5", ORDERS.len()),
    ("offline", "&conn_state=disconnected", EVERY_WAY),
    ("a 7 in the id", "&_like_clientid=7", EVERY_WAY),
];

/// In so many orders, the first ones, pages are measured every way there is.
const EVERY_WAY: usize = 3;

const ORDERS: [(&str, &str); 10] = [
    ("", ""),
    (" by connected_at", "&_sort=connected_at"),
    (" by username desc", "&_sort=username&_order=desc"),
    // Each node has a range of its own.
    (" by node", "&_sort=node"),
    (" by node desc", "&_sort=node&_order=desc"),
    // Few values, so that most rows are equal.
    (" by zone", "&_sort=zone"),
    (" by keepalive desc", "&_sort=keepalive&_order=desc"),
    // Which most rows lack.
    (" by disconnected_at", "&_sort=disconnected_at"),
    (" by ip_address desc", "&_sort=ip_address&_order=desc"),
    (" by port", "&_sort=port"),
];

/// Rows of a large page, to see what the nodes send for one.
const LARGE: u64 = 5_000;

/// A first page, and where the pages of its list begin among the cases.
struct List {
    label: String,
    path: String,
    rows: u64,
    first: usize,
    end: usize,
    /// The last page, if there is one; the one behind it is of pages all over.
    last: Option<usize>,
    /// What the last page is a figure of.
    goal: Figure,
}

pub(crate) fn measure(bench: &Bench, subject: &Subject) -> Result<Section, String> {
    let mut cases = Vec::new();
    let mut lists = Vec::new();
    let mut notes = Vec::new();
    for (filter, parameters, orders) in FILTERS {
        let count = subject.count(&bench.load, parameters);
        match count {
            Some(count) => notes.push(format!("{filter}: {count} rows")),
            None => notes
                .push(format!("{filter}: how many rows there are is not known, so there is no last page")),
        }
        for (at, (order, sort)) in ORDERS[..orders].iter().enumerate() {
            let goal = match filter {
                "all" => Figure::LastPage,
                "half" => Figure::LastPageFiltered,
                _ => Figure::AnyPage,
            };
            let path = format!("/clients?_limit={LIMIT}{parameters}{sort}");
            let label = format!("{filter}{order}");
            let list = List { label, path, rows: count.unwrap_or(0), first: 0, end: 0, last: None, goal };
            lists.push(add_cases(bench, subject, list, at < EVERY_WAY, &mut cases));
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
        if let Some(last) = list.last {
            goals.extend([(list.goal, ratios[last]), (Figure::AnyPage, ratios[last + 1])]);
        }
    }
    if !ignored.is_empty() {
        notes.push(format!("the clients of page 1 again, so the page was ignored: {}", ignored.join("; ")));
    }
    if let Some((worst, of)) = most_shipped(bench, subject, &lists) {
        notes.push(format!("most rows sent for a page, of the bound: {} ({of})", number(worst)));
        goals.push((Figure::RowsShipped, worst));
    }
    let mut section = Section::of(&measurement, "x page 1", &ratios);
    section.notes.extend(notes);
    section.goals = goals;
    Ok(section)
}

/// Adds the pages of a list that are measured.
fn add_cases<'a>(
    bench: &Bench,
    subject: &'a Subject,
    list: List,
    every_way: bool,
    cases: &mut Vec<Case<'a>>,
) -> List {
    let List { label, path, rows, .. } = &list;
    let first = cases.len();
    cases.push(Case::new(format!("{label}, page 1"), subject, path));
    if every_way && let Some(cursor) = cursor(bench, subject, path) {
        cases.push(Case::new(
            format!("{label}, page 2 by cursor"),
            subject,
            &format!("{path}&_cursor={cursor}"),
        ));
    }
    let mut last = None;
    if *rows > 0 {
        let pages = last_page(*rows);
        let mut page = |page: u64| {
            cases.push(Case::new(format!("{label}, page {page}"), subject, &format!("{path}&_page={page}")));
        };
        if every_way {
            page(pages / 2 + 1);
        }
        page(pages);
        last = Some(cases.len() - 1);
        let all_over = format!("{path}&_page={{page}}");
        cases.push(Case::over_pages(format!("{label}, pages all over"), subject, &all_over, pages));
    }
    List { first, end: cases.len(), last, ..list }
}

/// The most rows that nodes have sent for one page, as a part of what they may, and of which page that was.
fn most_shipped(bench: &Bench, subject: &Subject, lists: &[List]) -> Option<(f64, String)> {
    let nodes = subject.agents.len() as u64;
    let shipped = |path: &str| {
        let before = subject.rows_shipped(&bench.load)?;
        bench.load.get(&subject.target(path)).ok()?;
        Some(subject.rows_shipped(&bench.load)? - before)
    };
    let mut worst: Option<(f64, String)> = None;
    for list in lists {
        for limit in [LIMIT, LARGE] {
            let pages = list.rows.div_ceil(limit);
            let path = list.path.replacen(&format!("_limit={LIMIT}"), &format!("_limit={limit}"), 1);
            // Not those that were measured, of which it is known where they are.
            for page in [2, 12, pages / 7, pages / 3, pages * 5 / 8, pages.saturating_sub(2)] {
                if !(1..=pages).contains(&page) {
                    continue;
                }
                let rows = shipped(&format!("{path}&_page={page}"))?;
                let part = rows as f64 / (100 * nodes + 3 * limit) as f64;
                if worst.as_ref().is_none_or(|(worst, _)| part > *worst) {
                    worst = Some((part, format!("{rows} for page {page} of {limit}, {}", list.label)));
                }
            }
        }
    }
    worst
}

/// Where page 2 begins.
fn cursor(bench: &Bench, subject: &Subject, list: &str) -> Option<String> {
    let page: Value = subject.json(&bench.load, list).ok()?;
    page["meta"]["cursor"].as_str().filter(|cursor| !cursor.is_empty()).map(rollcall_tests::http::encode)
}
