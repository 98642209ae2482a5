//! Reads a live figure of every client that matches, and ranks them by it.

use rollcall_proto::Order;
use tokio::task::yield_now;
use tonic::Status;

use super::Agent;
use crate::broker::SessionRef;
use crate::calls::{Deadline, exceeded};
use crate::index::View;
use crate::ranked::{Ranked, Ranking};

/// Clients the broker is asked for at a time: between two questions the call can end, and others get their turn.
const AT_ONCE: u64 = 8_192;

/// Ranks the clients of a view in default order. As many rankings at once as there are cores.
///
/// # Errors
/// The deadline passed, or the broker told figures of another number of clients.
pub(super) async fn rank(
    agent: &Agent,
    view: View,
    order: Order,
    deadline: Deadline,
) -> Result<Ranked, Status> {
    let _scan = agent.scans.begin().await?;
    let mut ranking = Ranking::new(order);
    let (mut position, mut next) = (0, 0);
    while next < view.count() {
        if deadline.has_passed() {
            return Err(exceeded());
        }
        let sessions: Vec<SessionRef> = view
            .sessions(next..next + AT_ONCE)
            .map(|(clientid, session)| SessionRef { clientid: clientid.to_owned(), session })
            .collect();
        let figures = agent.broker.figures(order.field, &sessions).await;
        if figures.len() != sessions.len() {
            let (asked, told) = (sessions.len(), figures.len());
            tracing::error!(asked, told, "the broker told live figures of another number of clients");
            return Err(Status::internal(format!("the broker told {told} figures of {asked} clients")));
        }
        for figure in figures {
            ranking.add(position, figure);
            position += 1;
        }
        next += AT_ONCE;
        yield_now().await;
    }
    Ok(ranking.finish(view))
}
