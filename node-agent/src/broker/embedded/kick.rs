//! Ends a connection and its session.

use std::sync::Arc;
use std::time::Duration;

use rmqtt::types::ClientId;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::info;

use super::node::Node;
use crate::broker::{BrokerError, Kick, SessionRef};
use crate::front::ADMINISTRATIVE_ACTION;

/// How long a kick may take before the caller is told that it did not happen (yet).
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a kick goes on trying when nobody waits for it any more. The broker gives a connection that does not
/// react 10 seconds to take what is being sent to it.
const PERSISTENCE: Duration = Duration::from_secs(12);

/// Pauses between looks at something that is about to happen.
const PAUSE: Duration = Duration::from_millis(2);

/// Kicks and waits until it is done.
///
/// The work goes on when the caller gives up: the broker would forget a kick that nobody waits for, and half of
/// it might have happened.
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

async fn run(node: Arc<Node>, wanted: SessionRef) -> Result<Kick, BrokerError> {
    let give_up = Instant::now() + PERSISTENCE;
    let clientid = ClientId::from(wanted.clientid.as_str());
    // While the entry is locked, no connection can begin or take over under this client id.
    let mut entry = loop {
        match node.scx.extends.shared().await.entry(node.id(&clientid)).try_lock().await {
            Ok(entry) => break entry,
            Err(error) if Instant::now() >= give_up => {
                return Err(BrokerError::Unavailable(format!("client {clientid:?} stays locked: {error}")));
            }
            Err(_) => sleep(PAUSE).await,
        }
    };
    let Some(session) = entry.session() else {
        // Nothing is there and nothing is under way, so whatever was thought alive is over.
        node.registry.end_number(&clientid, wanted.session);
        node.registry.changed(&clientid);
        return Ok(Kick::NotFound);
    };
    let record = node.record(&session).await;
    let number = record.session.number;
    if number != wanted.session || !node.registry.is_alive(&clientid, number) {
        return Ok(Kick::NotFound);
    }

    let connection = entry.tx();
    if let Some(passed) = &record.passed {
        passed.part(ADMINISTRATIVE_ACTION);
    }
    if let Err(error) = entry.kick(true, true, true).await {
        if let Some(passed) = &record.passed {
            passed.part(0);
        }
        return Err(BrokerError::Unavailable(format!("client {clientid:?} cannot be kicked: {error}")));
    }
    node.registry.end_number(&clientid, number);
    node.registry.changed(&clientid);
    drop(entry);
    info!(node = node.name, %clientid, session = number, "client kicked");

    // The session has left the table; its task is done when the socket is closed and the will is published.
    while connection.as_ref().is_some_and(|connection| !connection.is_closed()) {
        if Instant::now() >= give_up {
            return Err(BrokerError::Unavailable(format!("the connection of {clientid:?} does not close")));
        }
        sleep_until(Instant::now() + PAUSE).await;
    }
    if let Some(passed) = &record.passed {
        passed.cut();
    }
    Ok(Kick::Kicked)
}
