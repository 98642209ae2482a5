//! Every row as one stream: how fast, and what the gateway's memory does meanwhile.

use std::time::{Duration, Instant};

use rollcall_tests::bench::goals::Figure;
use rollcall_tests::bench::table::{Table, number};
use rollcall_tests::bench::usage;
use serde_json::{Value, json};
use tokio::time::interval;

use super::Bench;
use crate::client::{Connection, Reply};
use crate::report::{Section, mebibytes, rounded};
use crate::subject::Subject;

/// Between two looks at the gateway's memory.
const LOOK: Duration = Duration::from_millis(50);

const FORMATS: [(&str, &str, &str); 5] = [
    ("ndjson", "/client_export", ""),
    ("ndjson, gzip", "/client_export", "accept-encoding: gzip\r\n"),
    ("ndjson, zstd", "/client_export", "accept-encoding: zstd\r\n"),
    ("csv", "/client_export?_format=csv", ""),
    ("ndjson of 3 fields", "/client_export?_fields=clientid,username,connected_at", ""),
];

/// One export.
struct Stream {
    reply: Reply,
    newlines: u64,
    /// How it ended, if it came as text.
    last_line: Option<Value>,
    seconds: f64,
    /// Resident bytes of the gateway: before and at the most.
    memory: Option<(u64, u64)>,
    gateway: Option<Duration>,
}

pub(crate) fn measure(bench: &Bench, subject: &Subject) -> Section {
    let headings =
        ["", "rows", "MB", "s", "rows/s", "MB/s", "gateway CPU us/row", "MiB before", "MiB peak", "growth"];
    let mut table = Table::new(&headings);
    let (mut json, mut goals, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    let mut rows = None;
    let mut before_all = None;
    for (label, path, headers) in FORMATS {
        let stream = match one(bench, subject, path, headers) {
            Ok(stream) => stream,
            Err(problem) => {
                notes.push(format!("{problem}: {label}"));
                json.push(json!({"case": label, "refused": problem}));
                continue;
            }
        };
        let is_compressed = !headers.is_empty();
        // What is compressed has as many as it has without. One line is no row: of CSV the first, of NDJSON the last, if
        // the server ends an export so.
        let is_whole = stream.last_line.as_ref().map(|line| &line["meta"]["complete"]);
        if is_whole.is_some_and(|whole| *whole == false) {
            notes.push(format!("incomplete: {label}"));
        }
        let other_lines = u64::from(is_whole.is_none_or(|whole| !whole.is_null()));
        let lines = if is_compressed { rows } else { Some(stream.newlines.saturating_sub(other_lines)) };
        rows = rows.or(lines);
        let rate = lines.map(|lines| lines as f64 / stream.seconds);
        let megabytes = stream.reply.bytes as f64 / 1e6;
        let per_row = stream.gateway.zip(lines).map(|(time, lines)| time.as_secs_f64() * 1e6 / lines as f64);
        let growth = stream.memory.map(|(before, peak)| {
            let least = *before_all.get_or_insert(before);
            mebibytes(peak.saturating_sub(least.min(before)))
        });
        if let Some(growth) = growth {
            goals.push((Figure::ExportGrowth, growth));
        }
        let or_none = |figure: Option<f64>| number(figure.unwrap_or(f64::NAN));
        table.add([
            label.to_owned(),
            lines.map_or("-".to_owned(), |lines| lines.to_string()),
            number(megabytes),
            number(stream.seconds),
            or_none(rate),
            number(megabytes / stream.seconds),
            or_none(per_row),
            or_none(stream.memory.map(|(before, _)| mebibytes(before))),
            or_none(stream.memory.map(|(_, peak)| mebibytes(peak))),
            or_none(growth),
        ]);
        json.push(json!({
            "case": label,
            "rows": lines,
            "bytes": stream.reply.bytes,
            "seconds": rounded(stream.seconds),
            "rows_per_second": rate.map(rounded),
            "megabytes_per_second": rounded(megabytes / stream.seconds),
            "gateway_cpu_us_per_row": per_row.map(rounded),
            "memory_before_bytes": stream.memory.map(|(before, _)| before),
            "memory_peak_bytes": stream.memory.map(|(_, peak)| peak),
            "growth_mebibytes": growth.map(rounded),
        }));
    }
    notes.push("MB as sent; growth: the gateway's peak less what it had before the first export".to_owned());
    Section { notes, table, json, goals }
}

fn one(bench: &Bench, subject: &Subject, path: &str, headers: &str) -> Result<Stream, String> {
    let target = subject.target_with(path, headers);
    let memory = || subject.gateway.and_then(usage::resident);
    let time = || subject.gateway.and_then(usage::processor_time);
    bench.load.block_on(async {
        let mut connection = Connection::open(&target.authority).await?;
        let (before, time_before) = (memory(), time());
        let mut peak = before;
        let (mut newlines, mut tail) = (0, Vec::new());
        let start = Instant::now();
        let reply = {
            let request = target.request();
            let mut count = |data: &[u8]| {
                newlines += lines_ended(data);
                keep_tail(&mut tail, data);
            };
            let ask = connection.ask(&request, &mut count);
            tokio::pin!(ask);
            let mut look = interval(LOOK);
            loop {
                tokio::select! {
                    reply = &mut ask => break reply?,
                    _ = look.tick() => peak = peak.max(memory()),
                }
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        if reply.status != 200 {
            return Err(format!("not offered ({})", reply.status));
        }
        let memory = before.zip(peak.max(memory()));
        let gateway = time().zip(time_before).map(|(after, before)| after.saturating_sub(before));
        let last_line = tail.trim_ascii_end().rsplit(|byte| *byte == b'\n').next();
        let last_line = last_line.and_then(|line| serde_json::from_slice(line).ok());
        Ok(Stream { reply, newlines, last_line, seconds, memory, gateway })
    })
}

/// How many lines end here.
fn lines_ended(data: &[u8]) -> u64 {
    data.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Keeps the end of what has come, enough for a last line.
fn keep_tail(tail: &mut Vec<u8>, data: &[u8]) {
    const MOST: usize = 8 << 10;
    tail.extend_from_slice(&data[data.len().saturating_sub(MOST)..]);
    tail.drain(..tail.len().saturating_sub(MOST));
}
