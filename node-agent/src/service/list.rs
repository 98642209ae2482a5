//! A list's stream of chunks, and the live figures of rows.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use rollcall_proto::v1::{Client, ListResponse, Statistics};
use rollcall_proto::{CHUNK_BYTES, CHUNK_ROWS, SortField};
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

struct Chunks {
    agent: Arc<Agent>,
    listing: Listing,
    /// The rank of the first client to look at.
    first: u64,
    next: u64,
    end: u64,
    is_first: bool,
    with_statistics: bool,
    /// The live figure that the rows are sorted by.
    ranked_by: Option<SortField>,
    deadline: Deadline,
    /// The call counts until its last chunk is taken.
    _call: OwnedSemaphorePermit,
}

/// The chunks of a list; the first says whose rows these are and how many match, even if none is sent.
pub(super) fn chunks(
    agent: Arc<Agent>,
    listing: Listing,
    list: &List,
    deadline: Deadline,
    call: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<ListResponse, Status>> + Send + use<> {
    let first = list.selection.first(&listing);
    let chunks = Chunks {
        agent,
        first,
        next: first.saturating_add(list.ranks.start),
        end: first.saturating_add(list.ranks.end).min(listing.count()),
        listing,
        is_first: true,
        with_statistics: !list.without_statistics,
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

    async fn next(&mut self) -> ListResponse {
        let left = usize::try_from(self.end.saturating_sub(self.next)).unwrap_or(usize::MAX);
        let mut clients = Vec::with_capacity(left.min(CHUNK_ROWS));
        let mut bytes = 0;
        for client in self.listing.clients(self.next..self.end) {
            bytes += most_bytes(&client);
            clients.push(client);
            if clients.len() == CHUNK_ROWS || bytes >= CHUNK_BYTES {
                break;
            }
        }
        self.next += clients.len() as u64;
        let ranks = self.ranked_by.map(|field| (field, figures(field, &clients)));
        // A broker that failed once in this list is not waited for again and again.
        self.with_statistics = self.with_statistics
            && add_statistics(self.agent.broker.as_ref(), &mut clients, self.deadline).await;
        if let Some((field, figures)) = ranks {
            for (client, figure) in clients.iter_mut().zip(figures) {
                field.set_figure(client.statistics.get_or_insert_default(), figure);
            }
        }
        let identity = self.is_first.then(|| self.agent.identity.clone());
        let (count, first) = if self.is_first { (self.listing.count(), self.first) } else { (0, 0) };
        self.is_first = false;
        ListResponse { identity, count, clients, first }
    }
}

/// What the rows were ranked by, to be shown whatever the figure is by now: a page must be in the order it says.
fn figures(field: SortField, clients: &[Client]) -> Vec<Option<u64>> {
    clients.iter().map(|client| field.figure(client.statistics.as_ref()?)).collect()
}

/// The most bytes a row takes on the wire, without its figures: its texts, and of numbers, keys and lengths what they may
/// have at most. To count what it takes exactly is a third of the work of encoding it.
fn most_bytes(client: &Client) -> usize {
    const NUMBERS: usize = 160;
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let Client { username, zone, proto_name, mountpoint, .. } = client;
    let texts = [username, zone, proto_name, mountpoint].into_iter().map(length).sum::<usize>();
    client.clientid.len() + client.ip_address.len() + texts + NUMBERS
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
        assert!(whole.encoded_len() <= most_bytes(&whole));
        assert!(most_bytes(&whole) <= whole.encoded_len() + 100);
    }
}
