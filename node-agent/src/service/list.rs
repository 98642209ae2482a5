//! A list's stream of chunks, and the live figures of rows.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use rollcall_proto::v1::{Client, Statistics};
use rollcall_proto::wire::{ListHead, write_list};
use rollcall_proto::{CHUNK_BYTES, CHUNK_ROWS, ClientRef, SortField};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout_at;
use tonic::Status;
use tracing::warn;

use super::Agent;
use crate::broker::{Broker, SessionRef};
use crate::calls::{Deadline, exceeded};
use crate::listing::Listing;
use crate::query::List;

/// How long the broker may take for the live figures of one chunk.
const STATISTICS_BUDGET: Duration = Duration::from_secs(2);

/// Chunks of an export that go without live figures after the broker has not told them in time: so many at first, and twice
/// as many after each further time, up to the longest pause. A broker that was slow once costs two thousand rows their
/// figures, one that is gone a million rows less than half a minute.
const FIRST_PAUSE: u32 = 4;
const LONGEST_PAUSE: u32 = 256;

/// When the broker is asked for live figures.
struct Asking {
    /// So many chunks go without before it is asked again; `None`: all.
    without: Option<u32>,
    /// So many do after the next time that it does not tell them; `None`: all.
    pause: Option<u32>,
}

impl Asking {
    fn of(list: &List) -> Self {
        let without = (!list.without_statistics).then_some(0);
        // A page has to be there soon: a broker that failed once is not waited for again and again.
        Self { without, pause: list.is_export.then_some(FIRST_PAUSE) }
    }

    fn is_due(&self) -> bool {
        self.without == Some(0)
    }

    /// A chunk is sent for which it was not asked.
    fn went_without(&mut self) {
        self.without = self.without.map(|chunks| chunks.saturating_sub(1));
    }

    fn was_told(&mut self, in_time: bool) {
        if in_time {
            self.pause = self.pause.map(|_| FIRST_PAUSE);
        } else {
            self.without = self.pause;
            self.pause = self.pause.map(|pause| (2 * pause).min(LONGEST_PAUSE));
        }
    }
}

struct Chunks {
    agent: Arc<Agent>,
    listing: Listing,
    /// The rank of the first client to look at.
    first: u64,
    next: u64,
    end: u64,
    is_first: bool,
    asking: Asking,
    /// The live figure that the rows are sorted by.
    ranked_by: Option<SortField>,
    deadline: Deadline,
    /// The call counts until its last chunk is taken.
    _call: OwnedSemaphorePermit,
}

/// The chunks of a list, each the bytes of a `ListResponse`; the first says whose rows these are and how many match, even if none is sent.
pub(super) fn chunks(
    agent: Arc<Agent>,
    listing: Listing,
    list: &List,
    deadline: Deadline,
    call: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Vec<u8>, Status>> + Send + use<> {
    let first = list.selection.first(&listing);
    let ranks = list.ranks(first, listing.count());
    let chunks = Chunks {
        agent,
        first,
        next: ranks.start,
        end: ranks.end,
        listing,
        is_first: true,
        asking: Asking::of(list),
        ranked_by: list.selection.live_field(),
        deadline,
        _call: call,
    };
    stream::try_unfold(chunks, async |mut chunks| {
        if chunks.is_at_end() {
            return Ok(None);
        }
        if chunks.deadline.has_passed() {
            return Err(exceeded());
        }
        let (agent, deadline) = (Arc::clone(&chunks.agent), chunks.deadline);
        let chunk = agent.calls.bound(deadline, async { Ok(chunks.next().await) }).await?;
        Ok(Some((chunk, chunks)))
    })
}

impl Chunks {
    fn is_at_end(&self) -> bool {
        self.next >= self.end && !self.is_first
    }

    /// The bytes of the next `ListResponse`. The rows are read twice where they stand, and no message is made of them.
    async fn next(&mut self) -> Vec<u8> {
        let (rows, sessions) = self.begin();
        self.next = rows.end;
        let mut statistics = Vec::new();
        if sessions.is_empty() {
            self.asking.went_without();
        } else {
            let told = ask(self.agent.broker.as_ref(), &sessions, self.deadline).await;
            self.asking.was_told(told.is_some());
            statistics = told.unwrap_or_default();
        }
        if let Some(field) = self.ranked_by {
            // What a row was ranked by is shown, whatever the figure is by now: a page must be in the order it says.
            statistics.resize((rows.end - rows.start) as usize, None);
            for (statistics, figure) in statistics.iter_mut().zip(self.listing.figures(rows.clone())) {
                field.set_figure(statistics.get_or_insert_default(), figure);
            }
        }
        let identity = self.is_first.then(|| self.agent.identity.clone());
        let (count, first, start) =
            if self.is_first { (self.listing.count(), self.first, rows.start) } else { (0, 0, 0) };
        self.is_first = false;
        let mut written = Vec::new();
        // Rows go without their node's name; see ARCHITECTURE.md.
        let row = |(number, row)| ClientRef {
            node: "",
            statistics: statistics.get(number).and_then(Option::as_ref),
            ..row
        };
        let clients = self.listing.refs(rows).enumerate().map(row);
        write_list(&ListHead { identity, count, first, start }, clients, &mut written);
        written
    }

    /// The ranks of the next chunk, and the sessions to ask for figures.
    fn begin(&self) -> (Range<u64>, Vec<SessionRef>) {
        let (mut rows, mut bytes, mut sessions) = (0, 0, Vec::new());
        if self.asking.is_due() {
            let left = usize::try_from(self.end.saturating_sub(self.next)).unwrap_or(usize::MAX);
            sessions.reserve(left.min(CHUNK_ROWS));
        }
        for row in self.listing.refs(self.next..self.end).take(CHUNK_ROWS) {
            rows += 1;
            bytes += most_bytes(&row);
            if self.asking.is_due() {
                sessions.push(SessionRef { clientid: row.clientid.to_owned(), session: row.session });
            }
            if bytes >= CHUNK_BYTES {
                break;
            }
        }
        (self.next..self.next + rows, sessions)
    }
}

/// The most bytes a row takes on the wire, without its figures: its texts, and of numbers, keys and lengths what they may
/// have at most. To count what it takes exactly is a third of the work of encoding it.
fn most_bytes(row: &ClientRef<'_>) -> usize {
    const NUMBERS: usize = 176;
    let texts = [row.username, row.zone, row.proto_name, row.mountpoint].map(|text| text.map_or(0, str::len));
    row.clientid.len() + texts.iter().sum::<usize>() + NUMBERS
}

/// Adds the live figures, if the broker tells them in time; says whether it did.
pub(super) async fn add_statistics(broker: &dyn Broker, clients: &mut [Client], deadline: Deadline) -> bool {
    if clients.is_empty() {
        return true;
    }
    // The ids are lent to the question and taken back, whatever comes of it.
    let lend = |client: &mut Client| SessionRef {
        clientid: std::mem::take(&mut client.clientid),
        session: client.session,
    };
    let sessions: Vec<SessionRef> = clients.iter_mut().map(lend).collect();
    let statistics = ask(broker, &sessions, deadline).await;
    for (client, session) in clients.iter_mut().zip(sessions) {
        client.clientid = session.clientid;
    }
    let Some(statistics) = statistics else { return false };
    for (client, statistics) in clients.iter_mut().zip(statistics) {
        client.statistics = statistics;
    }
    true
}

/// The live figures of each session, if the broker tells them in time.
async fn ask(
    broker: &dyn Broker,
    sessions: &[SessionRef],
    deadline: Deadline,
) -> Option<Vec<Option<Statistics>>> {
    let by = deadline.with_reserve(STATISTICS_BUDGET);
    match timeout_at(by, broker.statistics(sessions)).await {
        Ok(statistics) if statistics.len() == sessions.len() => Some(statistics),
        Ok(statistics) => {
            let (asked, told) = (sessions.len(), statistics.len());
            warn!(
                asked,
                told, "the broker told live figures of another number of clients; they are left out"
            );
            None
        }
        Err(_) => {
            warn!(
                clients = sessions.len(),
                "the broker did not tell live figures in time; they are left out"
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn no_row_takes_more_bytes_than_is_counted() {
        let text = || "x".repeat(70_000);
        let whole = Client {
            node: String::new(),
            clientid: text(),
            session: u64::MAX,
            username: Some(text()),
            zone: Some(text()),
            proto_name: Some(text()),
            proto_ver: Some(u32::MAX),
            ip_address: vec![0xff; 16],
            port: Some(u32::MAX),
            is_bridge: Some(true),
            mountpoint: Some(text()),
            keepalive: Some(u32::MAX),
            clean_start: Some(true),
            expiry_interval: Some(u32::MAX),
            conn_state: -1,
            connected_at_ms: Some(-1),
            disconnected_at_ms: Some(-1),
            created_at_ms: Some(-1),
            statistics: None,
        };
        let most = most_bytes(&whole.as_client_ref());
        assert!(whole.encoded_len() <= most && most <= whole.encoded_len() + 100);
    }
}
