//! A stream of events that is read from the first moment to the last. Nothing may be missing in it unless that is said:
//!
//! - Numbers go up by one from event to event, unless some are told to be `lost`.
//! - The synthetic clients reconnect as often in each second of their own clock, which `connected_at` shows: each of its seconds has as
//!   many `connected` as any other, unless their node is told to be a `resync`, and none is left out.
//! - Of a node that has crashed a `resync` is told once it is back.
//! - The stream never ends, and is never silent.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::ToSpan as _;
use jiff::civil::DateTime;
use rollcall_tests::http::{self, basic};
use rollcall_tests::sandbox::{BASE, OPERATOR};
use rollcall_tests::truth::Wrong;
use serde_json::Value;

use crate::bed::{Bed, CHURN, CHURNING, Check, NODES};

/// How long after the last fault every node that has crashed may take to be followed again.
const BACK: Duration = Duration::from_secs(60);

/// What has been read so far.
#[derive(Default)]
struct Read {
    /// The number of the last event; `None`: the next may have any.
    number: Option<u64>,
    /// The second of the last reconnect, and how many it had; `None` for the number if its beginning was not seen.
    second: Option<(DateTime, Option<u32>)>,
}

/// A stream of events.
pub(crate) struct Following {
    lines: BufReader<TcpStream>,
    read: Read,
}

impl Following {
    /// Opens it, and waits until every node is followed.
    pub(crate) fn begin(bed: &Bed) -> Self {
        let mut following = Self { lines: open(bed).unwrap(), read: Read::default() };
        let ready = following.next(bed).unwrap();
        assert_eq!((&ready["event"], &ready["nodes"]["answered"]), (&"ready".into(), &NODES.len().into()));
        following
    }

    /// Reads until it is over, and then until every node that has crashed is followed again. Gives it back, so that what it takes
    /// at the gateway is there at the end as it was at the beginning.
    pub(crate) fn follow(mut self, bed: &Bed, over: &AtomicBool) -> Self {
        if let Err(wrong) = self.read(bed, over) {
            bed.asked.note_wrong(format!("events: {wrong}"));
        }
        self
    }

    fn next(&mut self, bed: &Bed) -> Result<Value, Wrong> {
        let mut line = String::new();
        let length =
            self.lines.read_line(&mut line).map_err(|error| format!("after {:?}: {error}", self.read))?;
        if length == 0 {
            return Err(format!("the stream has ended after {:?}", self.read));
        }
        let event: Value = serde_json::from_str(&line).map_err(|error| format!("{error}: {line}"))?;
        self.read.take_in(bed, &event).map_err(|wrong| format!("{wrong}: {line}"))?;
        Ok(event)
    }

    fn read(&mut self, bed: &Bed, over: &AtomicBool) -> Result<(), Wrong> {
        let mut over_since = None;
        loop {
            self.next(bed)?;
            if !over.load(Ordering::Relaxed) {
                continue;
            }
            let missed = NODES.iter().enumerate().filter(|(at, _)| bed.is_missed(*at));
            let missed: Vec<&str> = missed.map(|(_, name)| *name).collect();
            if missed.is_empty() {
                return Ok(());
            }
            if over_since.get_or_insert_with(Instant::now).elapsed() > BACK {
                return Err(format!("{missed:?} have crashed, and no resync was told"));
            }
        }
    }
}

fn open(bed: &Bed) -> io::Result<BufReader<TcpStream>> {
    let mut stream = http::connect(bed.gateway.address())?;
    let key = basic(OPERATOR.0, OPERATOR.1);
    // HTTP/1.0 has no chunks.
    let head = format!(
        "GET {BASE}/client_events?_format=ndjson HTTP/1.0\r\nhost: h\r\nauthorization: {key}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    let mut lines = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if lines.read_line(&mut head)? == 0 {
            break;
        }
    }
    if head.starts_with("HTTP/1.0 200") { Ok(lines) } else { Err(io::Error::other(head)) }
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "event {:?}, reconnects of {:?}", self.number, self.second)
    }
}

impl Read {
    fn take_in(&mut self, bed: &Bed, event: &Value) -> Result<(), Wrong> {
        let id = event["id"].as_str().and_then(|id| id.rsplit_once('-')?.1.parse::<u64>().ok());
        let number = id.ok_or("an event without a number")?;
        let name = event["event"].as_str().ok_or("an event without a name")?;
        let churning = &bed.asked.truth.nodes[CHURNING];
        match name {
            // They have the number of the last event.
            "ready" | "alive" => {
                if self.number.is_some_and(|last| last != number) {
                    return Err(format!("after {self:?}"));
                }
            }
            "lost" => *self = Self::default(),
            _ if self.number.is_some_and(|last| last + 1 != number) => return Err(format!("after {self:?}")),
            "resync" => {
                let node = &event["node"];
                if node.is_null() || node == churning.as_str() {
                    self.second = None;
                }
                if let Some(at) = bed.asked.truth.nodes.iter().position(|of| node == of.as_str()) {
                    bed.told_anew(at);
                }
            }
            "connected" if event["client"]["node"] == churning.as_str() => {
                self.reconnected(&event["client"])?;
            }
            "connected" | "disconnected" | "ended" | "kicked" | "node_up" | "node_down" => {}
            other => return Err(format!("{other} is no event")),
        }
        if name != "lost" {
            self.number = Some(number);
        }
        bed.checked(Check::Event);
        Ok(())
    }

    fn reconnected(&mut self, client: &Value) -> Result<(), Wrong> {
        let text = client["connected_at"].as_str().unwrap_or_default();
        let now =
            DateTime::strptime("%Y-%m-%d %H:%M:%S", text).map_err(|error| format!("{text}: {error}"))?;
        let told = match self.second {
            None => None,
            Some((second, told)) if second == now => told.map(|told| told + 1),
            Some((second, told)) if second.checked_add(1.second()).ok() == Some(now) => {
                if told.is_some_and(|told| told != CHURN) {
                    return Err(format!("of {CHURN} reconnects were told: {self:?}"));
                }
                Some(1)
            }
            Some(_) => return Err(format!("reconnects are left out: {self:?}")),
        };
        self.second = Some((now, told));
        Ok(())
    }
}
