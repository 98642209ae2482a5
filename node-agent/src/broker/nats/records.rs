//! The records of an account's sessions: the stream `$MQTT_sess`, one message a session, under a subject of its own.
//!
//! A record is written anew when its session changes, and then has a higher sequence number. So it is enough to read
//! what is behind the last one read. A record that was deleted leaves a gap, which the number of messages tells; then
//! the subjects are listed. Format and subjects: nats-server, `server/mqtt.go`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use super::login::Login;
use crate::broker::BrokerError;

const STREAM: &str = "$MQTT_sess";

/// What stands before a session's own part in its subject.
const SUBJECTS: &str = "$MQTT.sess.>";

/// No such stream, no such message.
const NOT_FOUND: u64 = 404;

/// A login of an account.
pub(super) struct Account {
    login: Login,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// When the stream was made: another time is another stream.
    created: String,
    /// The last record read.
    last: u64,
    by_subject: HashMap<String, (u64, Arc<Record>)>,
}

/// What is read of a session's record.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    #[serde(rename = "id")]
    pub(super) clientid: String,
    /// The server that wrote it last, see [`origin`].
    #[serde(default)]
    pub(super) origin: String,
    #[serde(default)]
    pub(super) clean: bool,
    #[serde(default)]
    subs: Option<HashMap<String, IgnoredAny>>,
    /// The consumers of subscriptions above QoS 0.
    #[serde(default)]
    cons: Option<HashMap<String, Consumer>>,
}

#[derive(Debug, Deserialize)]
struct Consumer {
    #[serde(default)]
    durable_name: String,
}

#[derive(Deserialize)]
struct StreamInfo {
    #[serde(default)]
    created: String,
    state: StreamState,
}

#[derive(Deserialize)]
struct StreamState {
    messages: usize,
    last_seq: u64,
    #[serde(default)]
    subjects: Option<HashMap<String, IgnoredAny>>,
}

#[derive(Deserialize)]
struct Got {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    subject: String,
    seq: u64,
    #[serde(default)]
    data: String,
}

/// How a consumer's queue stands.
#[derive(Deserialize)]
pub(super) struct ConsumerState {
    pub(super) num_ack_pending: u64,
    pub(super) num_pending: u64,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    error: Option<ApiError>,
}

/// How the server says no.
#[derive(Deserialize)]
pub(super) struct ApiError {
    pub(super) code: u64,
    #[serde(default)]
    pub(super) description: String,
}

impl Account {
    pub(super) fn new(login: Login) -> Self {
        Self { login, known: Mutex::default() }
    }

    /// All records there are now.
    pub(super) async fn records(&self) -> Result<Vec<Arc<Record>>, BrokerError> {
        let mut known = self.known.lock().await;
        let Some(info) = self.info(json!({})).await? else {
            // The stream is made with the first MQTT client.
            *known = Known::default();
            return Ok(Vec::new());
        };
        if known.created != info.created || info.state.last_seq < known.last {
            *known = Known { created: info.created, ..Known::default() };
        }
        while known.last < info.state.last_seq {
            let from = json!({"seq": known.last + 1, "next_by_subj": SUBJECTS});
            let Some(Got { message }) = self.ask(&format!("STREAM.MSG.GET.{STREAM}"), &from).await? else {
                break;
            };
            known.last = message.seq;
            match read(&message.data) {
                Ok(record) => {
                    known.by_subject.insert(message.subject, (message.seq, Arc::new(record)));
                }
                Err(reason) => {
                    return Err(BrokerError::Refused(format!(
                        "the record at {} is not understood: {reason}",
                        message.subject
                    )));
                }
            }
        }
        known.last = known.last.max(info.state.last_seq);
        if known.by_subject.len() != info.state.messages {
            let subjects = self.subjects().await?;
            known.by_subject.retain(|subject, _| subjects.contains(subject));
        }
        Ok(known.by_subject.values().map(|(_, record)| Arc::clone(record)).collect())
    }

    /// How the queue of a session's subscription stands; `None` if there is none any more.
    pub(super) async fn consumer(&self, name: &str) -> Result<Option<ConsumerState>, BrokerError> {
        self.ask(&format!("CONSUMER.INFO.$MQTT_msgs.{name}"), &json!({})).await
    }

    async fn subjects(&self) -> Result<HashSet<String>, BrokerError> {
        let mut subjects = HashSet::new();
        loop {
            let page = self.info(json!({"subjects_filter": SUBJECTS, "offset": subjects.len()})).await?;
            let page = page.and_then(|info| info.state.subjects).unwrap_or_default();
            let before = subjects.len();
            subjects.extend(page.into_keys());
            if subjects.len() == before {
                return Ok(subjects);
            }
        }
    }

    async fn info(&self, question: Value) -> Result<Option<StreamInfo>, BrokerError> {
        self.ask(&format!("STREAM.INFO.{STREAM}"), &question).await
    }

    /// Asks JetStream; `None` for what is not there.
    async fn ask<T: DeserializeOwned>(
        &self,
        subject: &str,
        question: &Value,
    ) -> Result<Option<T>, BrokerError> {
        let answer = self.login.ask(format!("$JS.API.{subject}"), question.to_string()).await?;
        let explain = |error: serde_json::Error| {
            BrokerError::Refused(format!("{subject}: the answer is not understood: {:?}", error.classify()))
        };
        let failure: Failure = serde_json::from_slice(&answer).map_err(explain)?;
        match failure.error {
            None => serde_json::from_slice(&answer).map(Some).map_err(explain),
            Some(error) if error.code == NOT_FOUND => Ok(None),
            Some(error) => Err(BrokerError::Refused(format!("{subject}: {}", error.description))),
        }
    }
}

impl Record {
    /// Subscriptions.
    pub(super) fn subscriptions(&self) -> u64 {
        self.subs.as_ref().map_or(0, |subscriptions| subscriptions.len() as u64)
    }

    /// The names of the consumers of subscriptions above QoS 0.
    pub(super) fn consumers(&self) -> impl Iterator<Item = &str> {
        self.cons.iter().flat_map(HashMap::values).map(|consumer| consumer.durable_name.as_str())
    }
}

fn read(data: &str) -> Result<Record, String> {
    let bytes = STANDARD.decode(data).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

/// How a server of this name signs records: nats-server, `getHash`.
pub(super) fn origin(server_name: &str) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let digest = Sha256::digest(server_name.as_bytes());
    digest.iter().take(8).map(|&byte| char::from(DIGITS[usize::from(byte) % DIGITS.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_the_server_writes_them() {
        assert_eq!(origin("n1"), "fjFyEjc1");
        let text = r#"{"origin":"fjFyEjc1","id":"c","subs":{"a.b":1,"c.*":0},"cons":{"a.b":{"durable_name":"aats6bF9_x",
            "deliver_policy":"new","ack_wait":30000000000}}}"#;
        let record = read(&STANDARD.encode(text)).unwrap();
        assert_eq!((record.clientid.as_str(), record.clean, record.subscriptions()), ("c", false, 2));
        assert_eq!(record.consumers().collect::<Vec<_>>(), ["aats6bF9_x"]);
        let record = read(&STANDARD.encode(r#"{"origin":"x","id":"d","clean":true}"#)).unwrap();
        assert_eq!((record.clean, record.subscriptions()), (true, 0));
        assert!(read("?").is_err() && read(&STANDARD.encode("{}")).is_err());
    }
}
