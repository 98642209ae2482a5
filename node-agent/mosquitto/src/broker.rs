//! The broker as the agent sees it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rollcall_node_agent::broker::{
    Broker, BrokerError, BrokerInfo, ClientChange, Kick, SessionRef, capabilities, send_resync,
};
use rollcall_proto::SortField;
use rollcall_proto::v1::Statistics;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::plugin::{Gap, Shared};
use crate::table::Standing;
use crate::takeover;

/// Rows that are read while the table is locked: some hundred microseconds.
const ROWS_A_LOCK: usize = 256;

/// How long a kick may take. The loop comes round ten times a second at least.
const LONGEST_KICK: Duration = Duration::from_secs(4);

/// How long the first round of the broker's loop is waited for, until it is said that there is none.
const FIRST_TICK: Duration = Duration::from_secs(5);

/// What the plugin interface says of the broker's version: as much as that it has this interface.
const UNKNOWN_VERSION: &str = "2.x";

/// What is said where clients log in past the plugins.
const UNSEEN: &str = "clients that log in by certificate or enhanced authentication are seen from their first message on: \
                      more may be connected than are listed";

/// How often it is looked whether a connection that is being closed has gone. Those over WebSocket go when the other
/// side has been told.
const CLOSING: Duration = Duration::from_millis(50);

/// What the broker does not let its plugins see.
const UNKNOWN: [SortField; 4] =
    [SortField::Zone, SortField::Port, SortField::IsBridge, SortField::Mountpoint];

/// What is counted, and known.
const FIGURES: [SortField; 3] =
    [SortField::SubscriptionsCnt, SortField::MaxSubscriptions, SortField::RecvMsg];

/// Mosquitto, from inside.
pub(crate) struct MosquittoBroker {
    info: BrokerInfo,
    shared: Arc<Shared>,
    mqtt_address: Option<SocketAddr>,
}

impl MosquittoBroker {
    pub(crate) fn new(shared: Arc<Shared>, mqtt_address: Option<SocketAddr>) -> Self {
        let info = BrokerInfo {
            kind: "mosquitto",
            version: UNKNOWN_VERSION.to_owned(),
            capabilities: capabilities(&["kick", "offline-sessions"], &UNKNOWN, &FIGURES),
            mqtt_addresses: mqtt_address.iter().map(ToString::to_string).collect(),
        };
        Self { info, shared, mqtt_address }
    }

    async fn end_session(&self, session: &SessionRef, until: Instant) -> Result<Kick, BrokerError> {
        let mut was_there = false;
        loop {
            let late = || BrokerError::Late("its loop has not come round".to_owned());
            let kicked = timeout_at(until, self.shared.kick(&session.clientid, session.session)).await;
            let kicked = kicked
                .map_err(|_| late())?
                .ok_or_else(|| BrokerError::Unavailable("it is shutting down".to_owned()))?;
            was_there |= kicked.was_there;
            match kicked.standing {
                Standing::Gone => return Ok(if was_there { Kick::Kicked } else { Kick::NotFound }),
                Standing::Connected => {
                    if Instant::now() + CLOSING >= until {
                        return Err(BrokerError::Late("the connection is still being closed".to_owned()));
                    }
                    sleep(CLOSING).await;
                }
                Standing::Away => self.end_away(session, until).await?,
            }
        }
    }

    /// Ends a session that has no connection, which the broker has no call for.
    async fn end_away(&self, session: &SessionRef, until: Instant) -> Result<(), BrokerError> {
        let Some(address) = self.mqtt_address else {
            return Err(BrokerError::Refused(
                "the connection is closed, but the broker keeps the session: give plugin_opt_mqtt_address for \
                 sessions to be ended"
                    .to_owned(),
            ));
        };
        takeover::end_session(&self.shared, address, session, until).await
    }
}

#[async_trait]
impl Broker for MosquittoBroker {
    fn info(&self) -> BrokerInfo {
        let mut info = self.info.clone();
        if let Some(version) = self.shared.version.get() {
            info.version.clone_from(version);
        }
        info
    }

    async fn follow(&self, changes: mpsc::Sender<ClientChange>) -> Result<(), BrokerError> {
        // A list that lacks sessions would be no answer, nor would "not found" of one of them.
        if let Some(Gap::Loaded(reason)) = &self.shared.gap {
            let message =
                format!("the sessions that the broker has loaded at its start are not known: {reason}");
            if changes.send(ClientChange::BrokerFailed(message)).await.is_ok() {
                changes.closed().await;
            }
            return Ok(());
        }
        // Without ticks nobody is seen to connect, and an empty list would be no answer.
        while timeout(FIRST_TICK, self.shared.first_tick()).await.is_err() {
            let message = "the broker gives its plugins no ticks, as it does with per_listener_settings true: expected false";
            if changes.send(ClientChange::BrokerFailed(message.to_owned())).await.is_err() {
                return Ok(());
            }
        }
        let all = self.shared.table().all();
        if send_resync(&changes, all).await.is_err() {
            return Ok(());
        }
        let mut is_said = false;
        loop {
            let may_lack = self.shared.gap.is_some() || self.shared.table().has_unseen();
            if may_lack && !std::mem::replace(&mut is_said, true) {
                // The next agreement, which would take it back, is that of another process.
                if changes.send(ClientChange::BrokerFailed(UNSEEN.to_owned())).await.is_err() {
                    return Ok(());
                }
            }
            let news = self.shared.table().changes(ROWS_A_LOCK);
            if news.is_empty() {
                tokio::select! {
                    () = changes.closed() => return Ok(()),
                    () = self.shared.news.notified() => {}
                }
            }
            for change in news {
                if changes.send(change).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    async fn statistics(&self, sessions: &[SessionRef]) -> Vec<Option<Statistics>> {
        let mut statistics = Vec::with_capacity(sessions.len());
        for some in sessions.chunks(ROWS_A_LOCK) {
            let table = self.shared.table();
            statistics.extend(some.iter().map(|of| table.statistics(&of.clientid, of.session)));
        }
        statistics
    }

    async fn kick(&self, session: &SessionRef) -> Result<Kick, BrokerError> {
        self.end_session(session, Instant::now() + LONGEST_KICK).await
    }
}
