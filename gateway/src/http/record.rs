//! A kick on its way into the record: a line before it is carried out, and one when it has ended.

use std::io::{self, ErrorKind};
use std::time::Duration;

use http::request::Parts;
use tokio::time::{Instant, timeout};

use super::observe::{RemoteAddress, RequestId};
use crate::audit::{Audit, Outcome, Place, Record, Totals};
use crate::http::Json;
use crate::keys::Key;

/// A kick that may have no last line yet. Dropped, it gets one that says so.
#[derive(Debug)]
pub(super) struct Pending {
    audit: Audit,
    record: Record,
    /// Room for the last line, taken together with that for the first.
    last: Option<Place>,
    begun: bool,
    /// The first line is on its way, so that nothing is done yet.
    beginning: bool,
    /// Nothing has been ended yet, and nothing is about to be.
    pub(super) harmless: bool,
}

/// What a last line says.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub(super) outcome: Outcome,
    /// The HTTP status, of what has one.
    pub(super) status: Option<u16>,
    pub(super) kicked_on: Vec<String>,
    pub(super) message: Option<String>,
    pub(super) totals: Option<Totals>,
}

impl Ending {
    /// One that says no more than this.
    pub(super) fn new(outcome: Outcome) -> Self {
        Self { outcome, status: None, kicked_on: Vec::new(), message: None, totals: None }
    }
}

impl Pending {
    /// Of a request; nothing is on record yet.
    pub(super) fn of(audit: &Audit, parts: &Parts, key: Option<&Key>, action: &'static str) -> Self {
        let record = Record {
            time: String::new(),
            request: parts.extensions.get::<RequestId>().map(|id| id.shown().to_owned()),
            remote: parts.extensions.get::<RemoteAddress>().map(|remote| remote.0),
            key: key.map(|key| key.id.to_string()),
            action,
            clientid: None,
            node: None,
            outcome: Outcome::Asked,
            body: None,
            totals: None,
            status: None,
            kicked_on: Vec::new(),
            message: None,
        };
        Self { audit: audit.clone(), record, last: None, begun: false, beginning: false, harmless: false }
    }

    /// Of one client, as far as it is known.
    pub(super) fn about(mut self, clientid: Option<String>, node: Option<String>) -> Self {
        self.record.clientid = clientid;
        self.record.node = node;
        self
    }

    /// One kick of those that this request asks for.
    pub(super) fn one(&self, clientid: &str, node: Option<&str>) -> Self {
        let record = Record { action: KICK, ..self.record.clone() };
        let audit = self.audit.clone();
        let one = Self { audit, record, last: None, begun: false, beginning: false, harmless: false };
        one.about(Some(clientid.to_owned()), node.map(str::to_owned))
    }

    /// The request's id.
    pub(super) fn request(&self) -> Option<&str> {
        self.record.request.as_deref()
    }

    /// Writes the first line, with the body of a request that has one, and takes room for the last. If that takes too long,
    /// or whoever asked goes away meanwhile, it may be written yet, and gets a last line too.
    pub(super) async fn begin(&mut self, body: Option<Json>) -> io::Result<()> {
        let first = self.audit.reserve()?;
        self.last = Some(self.audit.reserve()?);
        self.record.time = now();
        let record = Record { body, ..self.record.clone() };
        (self.begun, self.beginning) = (true, true);
        let outcome = first.put(&record).await;
        match &outcome {
            Ok(()) => self.beginning = false,
            Err(error) if error.kind() == ErrorKind::TimedOut => {}
            Err(_) => self.begun = false,
        }
        outcome
    }

    /// As [`Self::begin`] for an answer with a deadline, of which a tenth is left to say that the disk took too long.
    pub(super) async fn begin_by(&mut self, deadline: Instant, body: Option<Json>) -> io::Result<()> {
        let late = |_| io::Error::new(ErrorKind::TimedOut, "the disk takes longer than the request may");
        timeout(most_of(deadline), self.begin(body)).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
    }

    /// As [`Self::end`] for an answer with a deadline, which does not wait for the disk beyond it. The line is written all the same.
    pub(super) async fn end_by(self, deadline: Instant, ending: Ending) {
        let _ = timeout(most_of(deadline), self.end(ending)).await;
    }

    /// Writes the last line.
    pub(super) async fn end(mut self, ending: Ending) {
        self.begun = false;
        let Ending { outcome, status, kicked_on, message, totals } = ending;
        let record =
            Record { time: now(), outcome, status, kicked_on, message, totals, ..self.record.clone() };
        self.count(outcome);
        // What has only this line has no room yet.
        let place = self.last.take().map_or_else(|| self.audit.reserve(), Ok);
        write_last(place, &record).await;
    }
}

impl Pending {
    /// Has the metrics know how it ended.
    fn count(&self, outcome: Outcome) {
        if self.record.action == KICK {
            self.audit.figures().kick(outcome);
        } else {
            self.audit.figures().bulk_kick(outcome);
        }
    }
}

/// What a kick of one client is called.
pub(super) const KICK: &str = "kick";

impl Drop for Pending {
    fn drop(&mut self) {
        if self.begun {
            let message = if self.beginning {
                "not carried out, as it was not on record in time"
            } else {
                "the deadline passed, or the client went away before the kick had ended"
            };
            let is_harmless = self.harmless || self.beginning;
            let outcome = if is_harmless { Outcome::Failed } else { Outcome::Unknown };
            self.count(outcome);
            let message = Some(message.to_owned());
            let record = Record { time: now(), outcome, message, ..self.record.clone() };
            let place = self.last.take().map_or_else(|| self.audit.reserve(), Ok);
            tokio::spawn(async move { write_last(place, &record).await });
        }
    }
}

/// Nine tenths of what is left until then.
fn most_of(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()) * 9 / 10
}

async fn write_last(place: io::Result<Place>, record: &Record) {
    let put = async { place?.put(record).await };
    if let Err(error) = put.await {
        tracing::error!(%error, ?record, "the outcome of a kick cannot be put on record");
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kick_has_room_for_both_of_its_lines_or_is_not_carried_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let audit = Audit::to_file(&path).unwrap();
        let (parts, ()) = http::Request::new(()).into_parts();
        let outcomes = || {
            let text = std::fs::read_to_string(&path).unwrap();
            let line =
                |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["outcome"].clone();
            text.lines().map(line).collect::<Vec<_>>()
        };
        // As if so many waited for the disk.
        let mut taken: Vec<Place> = std::iter::from_fn(|| audit.reserve().ok()).collect();
        taken.pop();
        let mut refused = Pending::of(&audit, &parts, None, KICK);
        let error = refused.begin(None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
        drop(refused);
        audit.flush().await;
        assert!(outcomes().is_empty(), "{:?}", outcomes());

        taken.pop();
        let mut kick = Pending::of(&audit, &parts, None, KICK);
        kick.begin(None).await.unwrap();
        // Meanwhile others take what there is.
        taken.extend(std::iter::from_fn(|| audit.reserve().ok()));
        kick.end(Ending::new(Outcome::Kicked)).await;
        assert_eq!(outcomes(), ["asked", "kicked"]);
    }
}
