//! A login of an account by NATS itself.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::lock;
use super::settings::{Files, NatsSettings, StartError};
use crate::broker::BrokerError;
use crate::broker::http::client_tls;
use crate::broker::secret::Secret;

/// The pause before a connection that was lost is made again; it grows by itself with every attempt.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// The longest such pause.
const LAST_RETRY: Duration = Duration::from_secs(1);

/// A connection that is made in the background, and again whenever it is lost.
pub(super) struct Login {
    pub(super) client: Client,
    /// Why there is no connection, if there is none.
    trouble: Arc<Mutex<Option<String>>>,
    within: Duration,
}

impl Login {
    /// Waits for nobody. Whenever there is a connection it says that something may have changed, because nobody told of
    /// what happened before.
    pub(super) async fn open(
        settings: &NatsSettings,
        username: &str,
        password: &Secret,
        files: &Files,
        changed: &Arc<Notify>,
    ) -> Result<Self, StartError> {
        let within = Duration::from_millis(settings.timeout_ms);
        let trouble: Arc<Mutex<Option<String>>> = Arc::default();
        let (of_events, changed, name) = (Arc::clone(&trouble), Arc::clone(changed), username.to_owned());
        let on_event = move |event: Event| {
            let trouble = match &event {
                Event::Connected => {
                    changed.notify_one();
                    None
                }
                Event::ServerError(error) => Some(error.to_string()),
                Event::ClientError(error) => Some(error.to_string()),
                _ => lock(&of_events).clone(),
            };
            debug!(%event, username = name, "login of NATS");
            let before = std::mem::replace(&mut *lock(&of_events), trouble.clone());
            // An attempt a second fails in the same way.
            if let Some(error) = trouble.filter(|trouble| before.as_ref() != Some(trouble)) {
                warn!(error, username = name, "login of NATS fails");
            }
            std::future::ready(())
        };
        let mut options =
            ConnectOptions::with_user_and_password(username.to_owned(), password.reveal().to_owned())
                .name("rollcall-agent")
                .retry_on_initial_connect()
                .ignore_discovered_servers()
                .connection_timeout(within)
                .request_timeout(Some(within))
                .reconnect_delay_callback(|attempts| {
                    FIRST_RETRY.saturating_mul(attempts as u32).min(LAST_RETRY)
                })
                .event_callback(on_event);
        if let Some(ca) = &files.ca {
            let tls = client_tls(Some(ca)).map_err(StartError::Settings)?;
            options = options.tls_client_config(tls).require_tls(true);
        }
        let address = settings.client_address.as_str();
        let client = options
            .connect(address)
            .await
            .map_err(|error| StartError::Settings(format!("client_address is {address:?}: {error}")))?;
        Ok(Self { client, trouble, within })
    }

    /// The answer to a request.
    pub(super) async fn ask(&self, subject: String, question: String) -> Result<Bytes, BrokerError> {
        let failed = |reason: String| {
            let trouble = lock(&self.trouble).clone().map(|trouble| format!(" ({trouble})"));
            BrokerError::Unavailable(format!("{subject}: {reason}{}", trouble.unwrap_or_default()))
        };
        let asked = timeout(self.within, self.client.request(subject.clone(), question.into())).await;
        match asked {
            Ok(Ok(answer)) => Ok(answer.payload),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {} ms", self.within.as_millis()))),
        }
    }
}
