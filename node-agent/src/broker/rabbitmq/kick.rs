//! Ends a connection and its session.
//!
//! The durable queue goes first: it is the session, and RabbitMQ closes the connection of whoever consumed from it. If
//! the connection went first, a client that comes back at once would take the session up again before it is deleted.
//! Then the connection is closed, and a queue that the client made in between is deleted if nobody uses it. A client
//! that comes back meanwhile has a connection of another name and a queue that is used: neither is touched.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::info;

use super::api::{connection_name, queue_name};
use super::{Extra, Node};
use crate::broker::polled::{self, Found};
use crate::broker::{BrokerError, Kick, SessionRef};
use crate::front::ADMINISTRATIVE_ACTION;

/// How long a kick may take before the caller is told that it did not happen (yet).
const PATIENCE: Duration = Duration::from_secs(3);

/// How long it goes on when nobody waits for it any more.
const PERSISTENCE: Duration = Duration::from_secs(12);

/// Between looks at something that is about to happen.
const PAUSE: Duration = Duration::from_millis(50);

/// Kicks and waits until it is done. The work goes on when the caller gives up: half of it might have happened.
pub(super) async fn kick(node: Arc<Node>, session: SessionRef) -> Result<Kick, BrokerError> {
    let deadline = Instant::now() + PATIENCE;
    let clientid = session.clientid.clone();
    match timeout_at(deadline, tokio::spawn(run(node, session))).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Err(BrokerError::Refused(format!("the kick of {clientid:?} broke off: {error}"))),
        Err(_) => {
            Err(BrokerError::Late(format!("client {clientid:?} is not gone after {} s", PATIENCE.as_secs())))
        }
    }
}

async fn run(node: Arc<Node>, session: SessionRef) -> Result<Kick, BrokerError> {
    let give_up = Instant::now() + PERSISTENCE;
    let Some(found) = polled::lock(&node.sessions).find(&session) else { return Ok(Kick::NotFound) };
    let Found { place, seen } = &found;
    let (vhost, queue) = (place.zone.as_str(), queue_name(&place.clientid, 1));

    // Whose connections belong to the session: the one seen, and, as a persistent session can be taken up by another,
    // whoever consumes from its queue now.
    let mut connections = Vec::new();
    if let Some(identity) = &seen.connection {
        let present = node.api.connection(connection_name(identity)).await?;
        connections.extend(present.filter(|it| it.identity() == *identity).map(|it| it.identity()));
    }
    let durable = node.api.queue(vhost, &queue).await?;
    let is_session = seen.is_persistent || !connections.is_empty();
    if let Some(durable) = durable.as_ref().filter(|_| seen.is_persistent) {
        for name in durable.consumers() {
            if connections.iter().any(|known| connection_name(known) == name) {
                continue;
            }
            connections.extend(node.api.connection(name).await?.map(|connection| connection.identity()));
        }
    }
    let is_over = connections.is_empty() && durable.as_ref().is_none_or(|queue| !queue.is_persistent());
    if is_over || !is_session {
        polled::lock(&node.sessions).ended(&session);
        return Ok(Kick::NotFound);
    }

    if let Some(durable) = durable {
        let is_of_session = |name: &str| connections.iter().any(|known| connection_name(known) == name);
        // The consumers are known some seconds late; a queue whose consumers are all of this session is the session's.
        if durable.consumers().all(is_of_session) {
            node.api.delete_queue(vhost, &queue, connections.is_empty()).await?;
        }
    }
    let passed = node.passed(seen.extra.ends, &place.clientid);
    if let Some(passed) = &passed {
        passed.part(ADMINISTRATIVE_ACTION);
    }
    for identity in &connections {
        node.api.close(connection_name(identity)).await?;
    }
    await_gone(&node, &found, &connections, give_up).await?;
    if let Some(passed) = &passed {
        passed.cut();
    }
    // Made by a client that subscribed while it was being kicked.
    node.api.delete_queue(vhost, &queue, true).await?;
    polled::lock(&node.sessions).kicked(&session, connections, Instant::now());
    info!(clientid = place.clientid, vhost, session = session.session, "client kicked");
    Ok(Kick::Kicked)
}

async fn await_gone(
    node: &Node,
    found: &Found<Extra>,
    connections: &[String],
    give_up: Instant,
) -> Result<(), BrokerError> {
    for identity in connections {
        loop {
            let present = node.api.connection(connection_name(identity)).await?;
            if present.is_none_or(|connection| connection.identity() != *identity) {
                break;
            }
            if Instant::now() >= give_up {
                let clientid = &found.place.clientid;
                return Err(BrokerError::Unavailable(format!(
                    "the connection of {clientid:?} does not close"
                )));
            }
            sleep(PAUSE).await;
        }
    }
    Ok(())
}
