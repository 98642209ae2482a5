//! What filters cost beside page 1 without any: exact ones are meant to be looked up, typed ones and substrings are
//! scans.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rollcall_tests::bench::goals::Figure;
use rollcall_tests::bench::table::number;
use rollcall_tests::http;
use serde_json::Value;

use super::{Bench, encoded, sample, text};
use crate::measure::{Case, Figures, Measurement};
use crate::report::Section;
use crate::subject::Subject;

/// Cases that others are compared with, or that have a goal.
const GET: &str = "get by clientid";
const EXACT: &str = "?clientid=";
const TYPED: &str = "proto_ver=5, counted only";
const MISS: &str = "_like_clientid nobody has";

pub(crate) fn measure(bench: &Bench, subject: &Subject) -> Result<Section, String> {
    let row = sample(bench, subject)?;
    let (clientid, username) = (encoded(&row, "clientid"), encoded(&row, "username"));
    let list = |label: &str, parameters: &str| {
        Case::new(label, subject, &format!("/clients?_limit=100{parameters}"))
    };
    let id: Vec<char> = text(&row, "clientid").unwrap_or_default().chars().collect();
    // The beginning of an id is shared by many, a piece from its middle by few.
    let part = |from: usize, to: usize| {
        let part: String = id.iter().skip(from).take(to - from).collect();
        http::encode(&part)
    };
    let (beginning, middle) = (part(0, 3), part(id.len() / 3, id.len() / 3 + 8));
    let mut cases = vec![
        list("page 1", ""),
        Case::new(GET, subject, &format!("/clients/{clientid}")),
        list(EXACT, &format!("&clientid={clientid}")),
        Case::new("get of nobody", subject, "/clients/nobody{n}"),
        list("username=", &format!("&username={username}")),
        list("proto_ver=5", "&proto_ver=5"),
        Case::new(TYPED, subject, "/clients?_limit=0&proto_ver=5"),
        list("conn_state=disconnected", "&conn_state=disconnected"),
        list("three typed, few match", "&conn_state=idle&proto_ver=3&clean_start=false"),
        list("_like_clientid of many", &format!("&_like_clientid={beginning}")),
        list("_like_clientid of few", &format!("&_like_clientid={middle}")),
        list(MISS, "&_like_clientid=~{n}~"),
        list("_like_username nobody has", "&_like_username=~{n}~"),
    ];
    if let Some((from, to)) = day_around(&row) {
        let range = format!("&_gte_connected_at={from}&_lte_connected_at={to}");
        cases.insert(9, list("connected_at within a day", &range));
    }
    let mut measurement = Measurement::new(cases);
    measurement.rounds(&bench.load, bench.options.rounds);

    let first = &measurement.figures[0];
    let is_ignored = |figures: &Figures| !std::ptr::eq(figures, first) && figures.brought_the_same(first);
    let ratio = |own: &Figures| if is_ignored(own) { f64::NAN } else { own.p50() / first.p50() };
    let ratios: Vec<f64> = measurement.figures.iter().map(ratio).collect();
    let cases = || measurement.cases.iter().zip(&measurement.figures);
    let ignored: Vec<&str> =
        cases().filter(|(_, figures)| is_ignored(figures)).map(|(case, _)| case.label.as_str()).collect();
    let of = |label: &str| {
        let found = cases().find(|(case, _)| case.label == label).map(|(_, figures)| figures);
        found.filter(|figures| !is_ignored(figures))
    };
    let p50 = |label: &str| of(label).map_or(f64::NAN, Figures::p50);
    let clients = bench.options.clients;
    let per_million = |label: &str| {
        let time = of(label).and_then(Figures::agent_ms);
        time.map_or(f64::NAN, |ms| ms / clients as f64 * 1e6)
    };
    let exact = p50(EXACT) / p50(GET);
    let mut section = Section::of(&measurement, "x page 1", &ratios)
        .note(format!("{EXACT} / {GET}, p50: {}", number(exact)));
    if !ignored.is_empty() {
        let ignored = ignored.join("; ");
        section.notes.push(format!("the clients of page 1 again, so the filter was ignored: {ignored}"));
    }
    section.goals = vec![
        (Figure::ExactClientid, exact),
        (Figure::TypedScan, per_million(TYPED)),
        (Figure::SubstringMiss, per_million(MISS)),
    ];
    Ok(section)
}

/// The day around a client's connect, in seconds since 1970.
fn day_around(row: &Value) -> Option<(i64, i64)> {
    let at = text(row, "connected_at")?.trim_end_matches('Z').replace('T', " ");
    let at: DateTime = at.parse().ok()?;
    let second = at.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second();
    Some((second - 43_200, second + 43_200))
}
