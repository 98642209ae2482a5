//! Ends a connection and its session.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::info;

use super::login::Login;
use super::look::mqtt_address;
use super::monitor::Connection;
use super::records::ApiError;
use super::{Extra, Node, lock};
use crate::broker::polled::{self, Found};
use crate::broker::{BrokerError, Kick, SessionRef};

/// How long a kick may take before the caller is told that it did not happen (yet).
const PATIENCE: Duration = Duration::from_secs(3);

/// How long it goes on when nobody waits for it any more.
const PERSISTENCE: Duration = Duration::from_secs(12);

/// Between looks at something that is about to happen.
const PAUSE: Duration = Duration::from_millis(25);

/// How the server says that there is no such connection; the code is that of any failure.
const GONE: &str = "no such client";

/// What the server answers that was asked to close a connection.
#[derive(Deserialize)]
struct Closed {
    #[serde(default)]
    error: Option<ApiError>,
}

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
    let server = lock(&node.server).clone();
    let Some(server) = server else {
        return Err(BrokerError::Unavailable("it could not be asked when it was last looked at".to_owned()));
    };
    let Found { place, seen } = &found;
    let of_account = |row: &Connection| row.account.as_deref().unwrap_or_default() == place.zone;
    let present: Vec<u64> = node
        .monitor
        .of_client(&place.clientid)
        .await?
        .into_iter()
        .filter(of_account)
        .map(|row| row.cid)
        .collect();
    // A clean session is over with its connection. Whoever has the client id now is another, and left alone.
    let is_there = seen.connection.is_some() && present.contains(&seen.extra.cid);
    if !is_there && !seen.is_persistent {
        polled::lock(&node.sessions).ended(&session);
        return Ok(Kick::NotFound);
    }

    if node.accounts.contains_key(&place.zone) {
        let Some(address) = mqtt_address(&node, &server) else {
            return Err(BrokerError::Refused(
                "it does not say where MQTT clients connect: set mqtt_address".to_owned(),
            ));
        };
        node.takeover.run(&address, &place.zone, &place.clientid).await?;
    } else if let (Some(system), true) = (&node.system, server.is_at_least(2, 10)) {
        close(system, &server.server_id, seen.extra.cid).await?;
    } else {
        return Err(BrokerError::Refused(format!(
            "there is no login for account {:?}, expected one in accounts",
            place.zone
        )));
    }
    await_gone(&node, &found, &present, give_up).await?;
    let connections = present.iter().map(|cid| format!("{}:{cid}", server.server_id)).collect();
    polled::lock(&node.sessions).kicked(&session, connections, Instant::now());
    info!(clientid = place.clientid, account = place.zone, session = session.session, "client kicked");
    Ok(Kick::Kicked)
}

/// Asks the server to close a connection; it can from 2.10 on.
async fn close(system: &Login, server_id: &str, cid: u64) -> Result<(), BrokerError> {
    let answer =
        system.ask(format!("$SYS.REQ.SERVER.{server_id}.KICK"), json!({"cid": cid}).to_string()).await?;
    match serde_json::from_slice::<Closed>(&answer) {
        Ok(Closed { error: None }) => Ok(()),
        // It has gone by itself; whether it has is looked at anyway.
        Ok(Closed { error: Some(error) }) if error.description.starts_with(GONE) => Ok(()),
        Ok(Closed { error: Some(error) }) => {
            Err(BrokerError::Refused(format!("KICK: {} (code {})", error.description, error.code)))
        }
        Err(error) => {
            Err(BrokerError::Refused(format!("KICK: the answer is not understood: {:?}", error.classify())))
        }
    }
}

async fn await_gone(
    node: &Node,
    found: &Found<Extra>,
    cids: &[u64],
    give_up: Instant,
) -> Result<(), BrokerError> {
    for &cid in cids {
        while node.monitor.connection(cid).await?.is_some() {
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
