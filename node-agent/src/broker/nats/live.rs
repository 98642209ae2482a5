//! The live figures of a page's rows: queues from JetStream, bytes from the kernel.

use futures::join;
use futures::stream::{self, StreamExt as _};
use rollcall_proto::v1::Statistics;
use tracing::debug;

use super::look::AT_ONCE;
use super::{Extra, Node};
use crate::broker::SessionRef;
use crate::broker::polled::{self, Found};
use crate::broker::tcp_info;

/// What the server says of one session.
#[derive(Default)]
struct Queues {
    subscriptions: Option<u64>,
    /// Waiting, and sent without acknowledgement.
    messages: Option<(u64, u64)>,
}

pub(super) async fn statistics(node: &Node, wanted: &[SessionRef]) -> Vec<Option<Statistics>> {
    let found: Vec<Option<Found<Extra>>> = {
        let sessions = polled::lock(&node.sessions);
        wanted.iter().map(|session| sessions.find(session)).collect()
    };
    let ends = found.iter().flatten().filter_map(|found| found.seen.extra.ends).collect();
    let ask = async |found: &Option<Found<Extra>>| match found {
        Some(found) => queues(node, found).await,
        None => Queues::default(),
    };
    let queues = stream::iter(&found).map(ask).buffered(AT_ONCE).collect::<Vec<_>>();
    let (queues, traffic) = join!(queues, tcp_info::of_connections(ends));
    let row = |(found, queues): (&Option<Found<Extra>>, Queues)| {
        let traffic = found.as_ref()?.seen.extra.ends.and_then(|ends| traffic.get(&ends));
        Some(Statistics {
            subscriptions_cnt: queues.subscriptions,
            inflight: queues.messages.map(|(_, inflight)| inflight),
            mqueue_len: queues.messages.map(|(waiting, _)| waiting),
            recv_oct: traffic.map(|traffic| traffic.received_bytes),
            recv_cnt: traffic.map(|traffic| traffic.received_segments),
            send_oct: traffic.map(|traffic| traffic.sent_bytes),
            send_cnt: traffic.map(|traffic| traffic.sent_segments),
            ..Statistics::default()
        })
    };
    found.iter().zip(queues).map(row).collect()
}

async fn queues(node: &Node, found: &Found<Extra>) -> Queues {
    let Some(record) = &found.seen.extra.record else { return Queues::default() };
    let Some(account) = node.accounts.get(&found.place.zone) else { return Queues::default() };
    let mut messages = Some((0, 0));
    for consumer in record.consumers() {
        match account.consumer(consumer).await {
            Ok(Some(state)) => {
                messages = messages.map(|(waiting, inflight)| {
                    (waiting + state.num_pending, inflight + state.num_ack_pending)
                });
            }
            // Unsubscribed meanwhile.
            Ok(None) => {}
            Err(error) => {
                debug!(%error, clientid = found.place.clientid, "the server does not tell a queue");
                messages = None;
                break;
            }
        }
    }
    Queues { subscriptions: Some(record.subscriptions()), messages }
}
