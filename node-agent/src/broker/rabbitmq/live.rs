//! The live figures of a page's rows.
//!
//! Few sessions are asked for one by one, many by the lists of everything: three to five small questions a session
//! against some large ones. What cannot be asked stays absent.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use futures::{join, try_join};
use rollcall_proto::v1::Statistics;
use tokio::time::timeout;
use tracing::debug;

use super::api::{Channels, Connection, Queue, connection_name, queue_name, queue_of};
use super::look::AT_ONCE;
use super::{Extra, Node};
use crate::broker::polled::{self, Found};
use crate::broker::tcp_info::{self, Traffic};
use crate::broker::{BrokerError, SessionRef};
use crate::front::Counts;

/// Up to so many sessions are asked for one by one.
const FEW: usize = 50;

/// The most rows of a page.
const PAGE: usize = 500;

/// How long the API may take over a page, so that what is not its own, such as bytes, is told without it.
const WITHIN: Duration = Duration::from_millis(1_500);

/// What the broker says of one session.
struct Figures {
    connection: Option<Connection>,
    channels: Option<Channels>,
    subscriptions: Option<u64>,
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
        let asked = async {
            match found.iter().flatten().count() {
                0..=FEW => Ok(one_by_one(node, &found).await),
                _ => all(node, &found).await,
            }
        };
        let asked = async {
            match wanted.len() {
                0..=PAGE => timeout(WITHIN, asked).await.unwrap_or_else(|_| Err(late())),
                // A sort of all clients takes as long as it is waited for.
                _ => asked.await,
            }
        };
        asked.await.unwrap_or_else(|error| {
            debug!(%error, "the broker does not tell live figures");
            found.iter().map(|_| None).collect()
        })
    };
    let (figures, traffic) = join!(figures, tcp_info::of_connections(ends));
    let row = |(found, figures): (&Option<Found<Extra>>, Option<Figures>)| {
        let Found { place, seen } = found.as_ref()?;
        let ends = seen.extra.ends;
        let passed = node.passed(ends, &place.clientid).map(|passed| passed.counts());
        Some(row(figures.unwrap_or(UNKNOWN), ends.and_then(|ends| traffic.get(&ends)), passed))
    };
    found.iter().zip(figures).map(row).collect()
}

fn late() -> BrokerError {
    BrokerError::Unavailable(format!("no live figures within {} ms", WITHIN.as_millis()))
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
        Ok((connection.filter(|it| it.identity() == *identity), channels))
    };
    let of_queues = async {
        let mut figures = Figures { subscriptions: Some(0), ..Figures::default() };
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
            let bindings = bindings.iter().filter(|binding| binding.is_subscription()).count() as u64;
            figures.subscriptions = figures.subscriptions.map(|before| before + bindings);
        }
        Ok(figures)
    };
    let ((connection, channels), figures) = try_join!(of_connection, of_queues)?;
    Ok(Figures { connection, channels, ..figures })
}

async fn all(node: &Node, found: &[Option<Found<Extra>>]) -> Result<Vec<Option<Figures>>, BrokerError> {
    let api = &node.api;
    let subscriptions = async { Ok(subscriptions(node, found).await) };
    let (connections, mut channels, queues, subscriptions) =
        try_join!(api.traffic(), api.channels(), api.queues(), subscriptions)?;
    let is_in_pieces = connections.is_in_pieces || queues.is_in_pieces;
    let mut connections: HashMap<String, Connection> =
        connections.rows.into_iter().map(|connection| (connection.name.clone(), connection)).collect();
    let mut of_queues: HashMap<(&str, &str), (Figures, [bool; 2])> = HashMap::new();
    for queue in &queues.rows {
        let Some((clientid, qos)) = queue.of() else { continue };
        let (figures, has) = of_queues.entry((queue.vhost.as_str(), clientid)).or_default();
        figures.add_queue(queue);
        has[qos] = true;
    }
    // What slipped through between two pages must not be taken for nothing.
    let mut slipped: Vec<Option<Found<Extra>>> = Vec::with_capacity(found.len());
    let mut listed = Vec::with_capacity(found.len());
    for found in found {
        let Some(Found { place, seen }) = found else {
            slipped.push(None);
            listed.push(None);
            continue;
        };
        let (mut figures, has) =
            of_queues.remove(&(place.zone.as_str(), place.clientid.as_str())).unwrap_or_default();
        figures.subscriptions = subscriptions
            .get(place.zone.as_str())
            .map(|of_vhost| of_vhost.get(&place.clientid).copied().unwrap_or_default());
        if let Some(identity) = &seen.connection {
            let name = connection_name(identity);
            figures.connection = connections.remove(name);
            figures.channels = channels.remove(name);
        }
        // Of a client that has just come there are no channels yet: what they would tell is unknown then, and not nothing.
        let is_whole = (0..2).all(|qos| has[qos] || !seen.extra.queues[qos])
            && (seen.connection.is_none() || figures.connection.is_some());
        slipped.push(found.clone().filter(|_| is_in_pieces && !is_whole));
        listed.push(Some(figures));
    }
    // Many are missing only if many have ended since they were looked at, and then there is nothing to ask for.
    let asked = match slipped.iter().flatten().count() {
        0..=FEW => one_by_one(node, &slipped).await,
        _ => slipped.iter().map(|_| None).collect(),
    };
    let figures = slipped.iter().zip(asked).zip(listed);
    Ok(figures.map(|((slipped, asked), listed)| if slipped.is_some() { asked } else { listed }).collect())
}

/// By virtual host, the subscriptions of its clients. A host whose bindings cannot be had is left out: of one with very
/// many they are too much for one answer, and the other figures are still worth having.
async fn subscriptions<'a>(
    node: &Node,
    found: &'a [Option<Found<Extra>>],
) -> HashMap<&'a str, HashMap<String, u64>> {
    let vhosts: BTreeSet<&str> = found.iter().flatten().map(|found| found.place.zone.as_str()).collect();
    let mut subscriptions = HashMap::new();
    for vhost in vhosts {
        match node.api.bindings(vhost).await {
            Ok(bindings) => {
                let of_vhost: &mut HashMap<String, u64> = subscriptions.entry(vhost).or_default();
                for binding in bindings.iter().filter(|binding| binding.is_subscription()) {
                    let Some((clientid, _)) = queue_of(&binding.destination) else { continue };
                    *of_vhost.entry(clientid.to_owned()).or_default() += 1;
                }
            }
            Err(error) => debug!(%error, vhost, "the broker does not tell subscriptions"),
        }
    }
    subscriptions
}

/// What is said of a session of which nothing is known.
const UNKNOWN: Figures =
    Figures { connection: None, channels: None, subscriptions: None, ready: None, unacknowledged: None };

/// Without queues nothing waits in them.
impl Default for Figures {
    fn default() -> Self {
        Self {
            connection: None,
            channels: None,
            subscriptions: None,
            ready: Some(0),
            unacknowledged: Some(0),
        }
    }
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
    let Figures { connection, channels, subscriptions, ready, unacknowledged } = figures;
    let connection = connection.as_ref();
    // Statistics leave out what has not happened, but a channel of a connection that has any is known.
    let counted = channels.filter(|_| connection.is_some_and(|connection| connection.recv_oct.is_some()));
    Statistics {
        subscriptions_cnt: subscriptions,
        // Where the front counts, it knows at once what RabbitMQ tells up to 5 s later.
        inflight: passed.and_then(|it| it.inflight).or(unacknowledged),
        max_inflight: channels.and_then(|channels| channels.prefetch_count),
        mqueue_len: ready,
        awaiting_rel: passed.and_then(|it| it.awaiting_rel),
        recv_oct: passed
            .map(|it| it.received_octets)
            .or(traffic.map(|it| it.received_bytes))
            .or(connection.and_then(|it| it.recv_oct)),
        recv_cnt: traffic.map(|it| it.received_segments).or(connection.and_then(|it| it.recv_cnt)),
        recv_msg: passed.and_then(|it| it.received_messages).or(counted.map(|channels| channels.published)),
        recv_pkt: passed.and_then(|it| it.received_packets),
        send_oct: passed
            .map(|it| it.sent_octets)
            .or(traffic.map(|it| it.sent_bytes))
            .or(connection.and_then(|it| it.send_oct)),
        send_pkt: passed.and_then(|it| it.sent_packets),
        send_cnt: traffic.map(|it| it.sent_segments).or(connection.and_then(|it| it.send_cnt)),
        send_msg: passed.and_then(|it| it.sent_messages).or(counted.map(|channels| channels.delivered)),
        reductions: connection.and_then(|connection| connection.reductions),
        ..Statistics::default()
    }
}
