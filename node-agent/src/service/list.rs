//! A list's stream of chunks, and the live figures of rows.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use prost::Message as _;
use rollcall_proto::v1::{Client, ListResponse};
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
        if chunks.deadline.has_passed() {
            return Err(exceeded());
        }
        let (agent, deadline) = (Arc::clone(&chunks.agent), chunks.deadline);
        let chunk = agent.calls.bound(deadline, async { Ok(chunks.next().await) }).await?;
        Ok(chunk.map(|chunk| (chunk, chunks)))
    })
}

impl Chunks {
    async fn next(&mut self) -> Option<ListResponse> {
        if self.next >= self.end && !self.is_first {
            return None;
        }
        let mut clients = Vec::new();
        let mut bytes = 0;
        for client in self.listing.clients(self.next..self.end) {
            bytes += client.encoded_len();
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
        Some(ListResponse { identity, count, clients, first })
    }
}

/// What the rows were ranked by, to be shown whatever the figure is by now: a page must be in the order it says.
fn figures(field: SortField, clients: &[Client]) -> Vec<Option<u64>> {
    clients.iter().map(|client| field.figure(client.statistics.as_ref()?)).collect()
}

/// Adds the live figures, if the broker tells them in time; says whether it did.
pub(super) async fn add_statistics(broker: &dyn Broker, clients: &mut [Client], deadline: Deadline) -> bool {
    if clients.is_empty() {
        return true;
    }
    let sessions: Vec<SessionRef> = clients
        .iter()
        .map(|client| SessionRef { clientid: client.clientid.clone(), session: client.session })
        .collect();
    let by = deadline.with_reserve(STATISTICS_BUDGET);
    let statistics = match timeout_at(by, broker.statistics(&sessions)).await {
        Ok(statistics) if statistics.len() == sessions.len() => statistics,
        Ok(statistics) => {
            let (asked, told) = (sessions.len(), statistics.len());
            warn!(
                asked,
                told, "the broker told live figures of another number of clients; they are left out"
            );
            return false;
        }
        Err(_) => {
            warn!(
                clients = sessions.len(),
                "the broker did not tell live figures in time; they are left out"
            );
            return false;
        }
    };
    for (client, statistics) in clients.iter_mut().zip(statistics) {
        client.statistics = statistics;
    }
    true
}
