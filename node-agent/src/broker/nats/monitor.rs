//! The monitoring endpoint, and what is read of its answers. See [`super`] on `jwt`, which is not among that.

use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;

use super::settings::{Files, NatsSettings, StartError};
use crate::broker::BrokerError;
use crate::broker::http::{HttpClient, HttpError, encode};

pub(super) struct Monitor {
    http: HttpClient,
    page_size: usize,
}

/// Who answers.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Server {
    pub(super) server_id: String,
    pub(super) server_name: String,
    pub(super) version: String,
    #[serde(default)]
    pub(super) mqtt: Mqtt,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Mqtt {
    #[serde(default)]
    pub(super) host: String,
    #[serde(default)]
    pub(super) port: u16,
}

#[derive(Debug, Deserialize)]
struct Page {
    server_id: String,
    #[serde(default)]
    total: usize,
    #[serde(default)]
    connections: Vec<Connection>,
}

/// One connection, of whatever protocol.
#[derive(Debug, Deserialize)]
pub(super) struct Connection {
    pub(super) cid: u64,
    #[serde(default)]
    ip: String,
    #[serde(default)]
    pub(super) port: u16,
    /// RFC 3339.
    start: Option<String>,
    authorized_user: Option<String>,
    pub(super) account: Option<String>,
    mqtt_client: Option<String>,
}

/// All MQTT connections of one server.
pub(super) struct Connections {
    pub(super) server_id: String,
    pub(super) rows: Vec<Connection>,
    /// Whether a row may have slipped through between two pages.
    pub(super) is_in_pieces: bool,
}

impl Monitor {
    pub(super) fn new(settings: &NatsSettings, files: &Files) -> Result<Self, StartError> {
        let within = Duration::from_millis(settings.timeout_ms);
        let http = HttpClient::new(&settings.url, files.ca.as_deref(), None, within)
            .map_err(StartError::Settings)?;
        Ok(Self { http, page_size: settings.page_size })
    }

    pub(super) async fn server(&self) -> Result<Server, BrokerError> {
        self.http.get("/varz").await.map_err(explain)
    }

    /// Asks for as little as there is.
    pub(super) async fn answers(&self) -> Result<(), BrokerError> {
        let _: Page = self.http.get("/connz?limit=1").await.map_err(explain)?;
        Ok(())
    }

    /// All MQTT connections.
    pub(super) async fn connections(&self) -> Result<Connections, BrokerError> {
        let mut all: Option<Connections> = None;
        let mut offset = 0;
        loop {
            let path = format!("/connz?auth=true&limit={}&offset={offset}", self.page_size);
            let page: Page = self.http.get(&path).await.map_err(explain)?;
            let is_last = page.connections.len() < self.page_size || offset + self.page_size >= page.total;
            let all = all.get_or_insert_with(|| Connections {
                server_id: page.server_id.clone(),
                rows: Vec::new(),
                is_in_pieces: !is_last,
            });
            if all.server_id != page.server_id {
                return Err(BrokerError::Refused(format!(
                    "/connz: one page is of server {}, another of {}, expected one server at url",
                    all.server_id, page.server_id
                )));
            }
            all.rows.extend(page.connections.into_iter().filter(|row| row.clientid().is_some()));
            if is_last {
                break;
            }
            offset += self.page_size;
        }
        all.ok_or_else(|| BrokerError::Refused("/connz: no page".to_owned()))
    }

    /// A connection by its number.
    pub(super) async fn connection(&self, cid: u64) -> Result<Option<Connection>, BrokerError> {
        Ok(self.some(&format!("/connz?auth=true&cid={cid}")).await?.into_iter().find(|row| row.cid == cid))
    }

    /// The connections under a client id, in whatever account.
    pub(super) async fn of_client(&self, clientid: &str) -> Result<Vec<Connection>, BrokerError> {
        let mut rows = self.some(&format!("/connz?auth=true&mqtt_client={}", encode(clientid))).await?;
        rows.retain(|row| row.clientid() == Some(clientid));
        Ok(rows)
    }

    async fn some(&self, path: &str) -> Result<Vec<Connection>, BrokerError> {
        let page: Option<Page> = self.http.find(path).await.map_err(explain)?;
        Ok(page.map(|page| page.connections).unwrap_or_default())
    }
}

impl Server {
    /// Whether it is of this version or later; of what is no number it is not known.
    pub(super) fn is_at_least(&self, major: u64, minor: u64) -> bool {
        let mut numbers = self.version.split('.').map(|number| number.parse::<u64>().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
    }
}

impl Connection {
    /// Of an MQTT connection.
    pub(super) fn clientid(&self) -> Option<&str> {
        self.mqtt_client.as_deref().filter(|clientid| !clientid.is_empty())
    }

    pub(super) fn username(&self) -> Option<&str> {
        self.authorized_user.as_deref().filter(|user| !user.is_empty() && *user != "N/A")
    }

    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.ip.parse().ok().map(|ip: IpAddr| ip.to_canonical())
    }

    /// Milliseconds since 1970.
    pub(super) fn started_at_ms(&self) -> Option<i64> {
        let timestamp: jiff::Timestamp = self.start.as_deref()?.parse().ok()?;
        Some(timestamp.as_millisecond())
    }
}

fn explain(error: HttpError) -> BrokerError {
    match &error {
        HttpError::Status { .. } | HttpError::Body { .. } => BrokerError::Refused(error.to_string()),
        HttpError::Unreachable { .. } | HttpError::Timeout { .. } => {
            BrokerError::Unavailable(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_in_an_answer_is_not_kept() {
        let text = r#"{"server_id":"N","total":1,"connections":[{"cid":5,"kind":"Client","type":"mqtt","ip":"::ffff:10.0.0.1",
            "port":36862,"start":"2026-11-25T08:54:02.29794377Z","authorized_user":"app","account":"A",
            "jwt":"apppw","mqtt_client":"c"}]}"#;
        let page: Page = serde_json::from_str(text).unwrap();
        assert!(!format!("{page:?}").contains("apppw"));
        let connection = &page.connections[0];
        assert_eq!((connection.clientid(), connection.username()), (Some("c"), Some("app")));
        assert_eq!(connection.ip().unwrap().to_string(), "10.0.0.1");
        assert_eq!(connection.started_at_ms(), Some(1_795_596_842_297));
        // Nor does it stand in what is said of an answer that is not understood.
        let bad = text.replace("5,", "\"apppw\",");
        let error = serde_json::from_str::<Page>(&bad).unwrap_err();
        assert!(error.to_string().contains("apppw"), "the parser's own message must not be shown");
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let server = |version: &str| Server {
            server_id: String::new(),
            server_name: String::new(),
            version: version.to_owned(),
            mqtt: Mqtt::default(),
        };
        assert!(server("2.10.3").is_at_least(2, 10) && server("3.0").is_at_least(2, 10));
        assert!(!server("2.9.10").is_at_least(2, 10) && !server("x").is_at_least(2, 10));
    }
}
