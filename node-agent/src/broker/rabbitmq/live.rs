//! The live figures of a page's rows.
//!
//! Few sessions are asked for one by one, many by the lists of everything: three to five small questions a session
//! against some large ones. What cannot be asked stays absent.

use std::collections::HashMap;

use futures::stream::{self, StreamExt as _};
use futures::{join, try_join};
use rollcall_proto::v1::Statistics;
use tracing::debug;

use super::api::{Channel, Connection, Queue, connection_name, queue_name, queue_of};
use super::look::AT_ONCE;
use super::{Extra, Node};
use crate::broker::polled::{self, Found};
use crate::broker::tcp_info::{self, Traffic};
use crate::broker::{BrokerError, SessionRef};
use crate::front::Counts;

/// Up to so many sessions are asked for one by one.
const FEW: usize = 50;

/// What the broker says of one session.
#[derive(Default)]
struct Figures {
    connection: Option<Connection>,
    channel: Option<Channel>,
    subscriptions: u64,
    ready: Option<u64>,
    unacknowledged: Option<u64>,
}

pub(super) async fn statistics(node: &Node, wanted: &[SessionRef]) -> Vec<Option<Statistics>> {
    let found: Vec<Option<Found<Extra>>> = {
        let sessions = polled::lock(&node.sessions);
        wanted.iter().map(|session| sessions.find(session)).collect()
    };
    let ends = found.iter().flatten().filter_map(|found| found.seen.extra.ends).collect();
    let figures = async {
        if found.iter().flatten().count() <= FEW {
            one_by_one(node, &found).await
        } else {
            let all = all(node, &found).await;
            all.unwrap_or_else(|error| {
                debug!(%error, "the broker does not tell live figures");
                found.iter().map(|_| None).collect()
            })
        }
    };
    let (figures, traffic) = join!(figures, tcp_info::of_connections(ends));
    let row = |(found, figures): (&Option<Found<Extra>>, Option<Figures>)| {
        let Found { place, seen } = found.as_ref()?;
        let ends = seen.extra.ends;
        let passed = node.passed(ends, &place.clientid).map(|passed| passed.counts());
        Some(row(figures?, ends.and_then(|ends| traffic.get(&ends)), passed))
    };
    found.iter().zip(figures).map(row).collect()
}

async fn one_by_one(node: &Node, found: &[Option<Found<Extra>>]) -> Vec<Option<Figures>> {
    let ask = async |found: &Option<Found<Extra>>| {
        let found = found.as_ref()?;
        one(node, found)
            .await
            .inspect_err(|error| {
                debug!(%error, clientid = found.place.clientid, "the broker does not tell live figures");
            })
            .ok()
    };
    stream::iter(found).map(ask).buffered(AT_ONCE).collect().await
}

async fn one(node: &Node, found: &Found<Extra>) -> Result<Figures, BrokerError> {
    let (api, place) = (&node.api, &found.place);
    let of_connection = async {
        let Some(identity) = &found.seen.connection else { return Ok((None, None)) };
        let name = connection_name(identity);
        let (connection, channels) = try_join!(api.connection(name), api.connection_channels(name))?;
        Ok((connection.filter(|it| it.identity() == *identity), channels.into_iter().next()))
    };
    let of_queues = async {
        let mut figures = Figures { ready: Some(0), unacknowledged: Some(0), ..Figures::default() };
        for qos in [0, 1] {
            if !found.seen.extra.queues[qos] {
                continue;
            }
            let name = queue_name(&place.clientid, qos);
            let (queue, bindings) =
                try_join!(api.queue(&place.zone, &name), api.queue_bindings(&place.zone, &name))?;
            if let Some(queue) = queue {
                figures.add_queue(&queue);
            }
            // Every queue is bound to the default exchange, whose name is empty.
            figures.subscriptions +=
                bindings.iter().filter(|binding| !binding.source.is_empty()).count() as u64;
        }
        Ok(figures)
    };
    let ((connection, channel), figures) = try_join!(of_connection, of_queues)?;
    Ok(Figures { connection, channel, ..figures })
}

async fn all(node: &Node, found: &[Option<Found<Extra>>]) -> Result<Vec<Option<Figures>>, BrokerError> {
    let api = &node.api;
    let (connections, channels, queues, bindings) =
        try_join!(api.traffic(), api.channels(), api.queues(), api.bindings())?;
    let mut connections: HashMap<String, Connection> =
        connections.into_iter().map(|connection| (connection.name.clone(), connection)).collect();
    let mut channels: HashMap<String, Channel> = channels
        .into_iter()
        .filter_map(|channel| Some((channel.connection()?.to_owned(), channel)))
        .collect();
    let mut of_queues: HashMap<(String, String), Figures> = HashMap::new();
    let empty = || Figures { ready: Some(0), unacknowledged: Some(0), ..Figures::default() };
    for queue in &queues.rows {
        let Some((clientid, _)) = queue.of() else { continue };
        of_queues.entry((queue.vhost.clone(), clientid.to_owned())).or_insert_with(empty).add_queue(queue);
    }
    for binding in bindings.iter().filter(|binding| !binding.source.is_empty()) {
        let Some((clientid, _)) = queue_of(&binding.destination) else { continue };
        of_queues.entry((binding.vhost.clone(), clientid.to_owned())).or_insert_with(empty).subscriptions +=
            1;
    }
    let figures = |found: &Option<Found<Extra>>| {
        let Found { place, seen } = found.as_ref()?;
        let figures = of_queues.remove(&(place.zone.clone(), place.clientid.clone()));
        let mut figures = figures.unwrap_or_else(empty);
        if let Some(identity) = &seen.connection {
            let name = connection_name(identity);
            figures.connection = connections.remove(name);
            figures.channel = channels.remove(name);
        }
        Some(figures)
    };
    Ok(found.iter().map(figures).collect())
}

impl Figures {
    /// A queue of which there is no statistics yet makes the sum unknown.
    fn add_queue(&mut self, queue: &Queue) {
        let add = |sum: Option<u64>, more: Option<u64>| Some(sum? + more?);
        self.ready = add(self.ready, queue.messages_ready);
        self.unacknowledged = add(self.unacknowledged, queue.messages_unacknowledged);
    }
}

fn row(figures: Figures, traffic: Option<&Traffic>, passed: Option<Counts>) -> Statistics {
    let Figures { connection, channel, subscriptions, ready, unacknowledged } = figures;
    let connection = connection.as_ref();
    let channel = channel.as_ref();
    // Statistics leave out what has not happened, but a channel that has any is known.
    let is_counted = connection.is_some_and(|connection| connection.recv_oct.is_some());
    let counted = |counts: [Option<u64>; 2]| {
        channel.filter(|_| is_counted).map(|_| counts.into_iter().flatten().sum::<u64>())
    };
    let messages = channel.map(|channel| &channel.message_stats);
    Statistics {
        subscriptions_cnt: Some(subscriptions),
        inflight: unacknowledged,
        max_inflight: channel.and_then(|channel| channel.prefetch_count),
        mqueue_len: ready,
        awaiting_rel: passed.and_then(|it| it.awaiting_rel),
        recv_oct: passed
            .map(|it| it.received_octets)
            .or(traffic.map(|it| it.received_bytes))
            .or(connection.and_then(|it| it.recv_oct)),
        recv_cnt: traffic.map(|it| it.received_segments).or(connection.and_then(|it| it.recv_cnt)),
        recv_msg: counted([messages.and_then(|it| it.publish), None]),
        recv_pkt: passed.and_then(|it| it.received_packets),
        send_oct: passed
            .map(|it| it.sent_octets)
            .or(traffic.map(|it| it.sent_bytes))
            .or(connection.and_then(|it| it.send_oct)),
        send_pkt: passed.and_then(|it| it.sent_packets),
        send_cnt: traffic.map(|it| it.sent_segments).or(connection.and_then(|it| it.send_cnt)),
        send_msg: counted([messages.and_then(|it| it.deliver), messages.and_then(|it| it.deliver_no_ack)]),
        reductions: connection.and_then(|connection| connection.reductions),
        ..Statistics::default()
    }
}
