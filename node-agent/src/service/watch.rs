//! A stream of events, which lasts as long as somebody follows.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use rollcall_proto::v1::{WatchRequest, WatchResponse};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;
use tonic::Status;

use super::Agent;
use crate::calls::draining;

/// Something is sent at least so often, so that a silent agent and a quiet one can be told apart.
const BEAT: Duration = Duration::from_secs(3);

/// Events of one message.
const MOST_EVENTS: usize = 256;

struct Watch {
    agent: Arc<Agent>,
    position: u64,
    lost: bool,
    last: watch::Receiver<u64>,
    is_first: bool,
    _call: OwnedSemaphorePermit,
}

/// What happens from now on, or behind a position that an earlier stream has told.
pub(super) fn events(
    agent: Arc<Agent>,
    request: WatchRequest,
    call: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<WatchResponse, Status>> + Send {
    let events = agent.follower.events();
    events.turn_on();
    let last = events.subscribe();
    let now = *last.borrow();
    let (position, lost) = match request {
        WatchRequest { after: Some(after), incarnation } if incarnation == agent.identity.incarnation => {
            (after, false)
        }
        WatchRequest { after, .. } => (now, after.is_some()),
    };
    let watch = Watch { agent, position, lost, last, is_first: true, _call: call };
    stream::try_unfold(watch, async |mut watch| watch.next().await.map(|told| Some((told, watch))))
}

impl Watch {
    async fn next(&mut self) -> Result<WatchResponse, Status> {
        let agent = Arc::clone(&self.agent);
        if !self.is_first && *self.last.borrow_and_update() == self.position {
            tokio::select! {
                // Late or changed: what there is to tell is told in either case.
                _ = timeout(BEAT, self.last.changed()) => {}
                () = agent.calls.drains() => return Err(draining()),
            }
        }
        if agent.calls.is_draining() {
            return Err(draining());
        }
        let after = agent.follower.events().after(self.position, MOST_EVENTS);
        let lost = std::mem::take(&mut self.lost) || after.lost;
        self.position = match after.events.last() {
            Some(event) => event.position,
            None if lost => *self.last.borrow(),
            None => self.position,
        };
        let identity = std::mem::take(&mut self.is_first).then(|| agent.identity.clone());
        Ok(WatchResponse { identity, position: self.position, events: after.events, lost })
    }
}
