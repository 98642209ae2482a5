//! The system account's word that a client came or went.
//!
//! An event only makes the next look come at once: what it says may be late, and part of it is a password.

use futures::StreamExt as _;
use futures::stream::select;
use serde::Deserialize;
use tracing::warn;

use super::login::Login;
use super::{Node, lock};

#[derive(Deserialize)]
struct Event {
    server: EventServer,
}

#[derive(Deserialize)]
struct EventServer {
    id: String,
}

/// Listens for ever; without a login there is nothing to hear.
pub(super) async fn listen(node: &Node) {
    let Some(Login { client, .. }) = &node.system else { return std::future::pending().await };
    let subjects = ["$SYS.ACCOUNT.*.CONNECT", "$SYS.ACCOUNT.*.DISCONNECT"];
    let subscribed = futures::try_join!(client.subscribe(subjects[0]), client.subscribe(subjects[1]));
    match subscribed {
        Ok((came, went)) => {
            let mut events = select(came, went);
            while let Some(message) = events.next().await {
                let event = serde_json::from_slice::<Event>(&message.payload);
                let is_here = |event: &Event| {
                    lock(&node.server).as_ref().is_none_or(|server| server.server_id == event.server.id)
                };
                if event.as_ref().is_ok_and(is_here) {
                    node.changed.notify_one();
                }
            }
            warn!("the system account tells no more events, changes show with the next poll");
        }
        Err(error) => warn!(%error, "the system account tells no events, changes show with the next poll"),
    }
    std::future::pending::<()>().await;
}
