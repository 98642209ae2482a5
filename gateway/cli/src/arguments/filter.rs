//! The filters of the API as options, the same for every command.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};

/// Where help lists them.
const FILTERS: &str = "Filters";

/// Which clients are meant; those that fulfil all of it. An option that is given again means any of them, of --like and
/// --like-username all of them.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Filter {
    /// The client id contains this
    #[arg(long, help_heading = FILTERS, value_name = "TEXT")]
    like: Vec<String>,
    /// The user name contains this
    #[arg(long, help_heading = FILTERS, value_name = "TEXT")]
    like_username: Vec<String>,
    /// The client id is this
    #[arg(long, help_heading = FILTERS, value_name = "ID")]
    clientid: Vec<String>,
    /// The user name is this
    #[arg(long, help_heading = FILTERS, value_name = "NAME")]
    username: Vec<String>,
    /// The client's address is this
    #[arg(long, help_heading = FILTERS, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,
    /// The listener's zone is this
    #[arg(long, help_heading = FILTERS, value_name = "ZONE")]
    zone: Vec<String>,
    /// The connection is in this state
    #[arg(long, help_heading = FILTERS, value_enum, value_name = "STATE")]
    state: Vec<State>,
    /// The client began with a clean session, or not
    #[arg(long, help_heading = FILTERS, value_name = "true|false")]
    clean_start: Option<bool>,
    /// The protocol's name is this: MQTT or MQIsdp
    #[arg(long, help_heading = FILTERS, value_name = "NAME")]
    proto_name: Vec<String>,
    /// The protocol's version is this: 3, 4 (MQTT 3.1.1) or 5
    #[arg(long, help_heading = FILTERS, value_name = "N")]
    proto_ver: Vec<i32>,
    /// The session began at this time or after it: 2h (ago), "2026-01-31 12:00:00" (UTC) or epoch seconds
    #[arg(long, help_heading = FILTERS, value_name = "TIME", value_parser = moment)]
    created_after: Option<i64>,
    /// The session began at this time or before it
    #[arg(long, help_heading = FILTERS, value_name = "TIME", value_parser = moment)]
    created_before: Option<i64>,
    /// The client connected at this time or after it
    #[arg(long, help_heading = FILTERS, value_name = "TIME", value_parser = moment)]
    connected_after: Option<i64>,
    /// The client connected at this time or before it
    #[arg(long, help_heading = FILTERS, value_name = "TIME", value_parser = moment)]
    connected_before: Option<i64>,
    /// Only on this node
    #[arg(long, help_heading = FILTERS, value_name = "NODE")]
    node: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    Connected,
    Idle,
    Disconnected,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Idle => "idle",
            Self::Disconnected => "disconnected",
        }
    }
}

/// A parameter of a query.
pub(crate) type Parameter = (&'static str, String);

impl Filter {
    /// As parameters of a list.
    pub(crate) fn parameters(&self) -> Vec<Parameter> {
        let mut all = self.narrowing();
        all.extend(self.node.iter().map(|node| ("_node", node.clone())));
        all
    }

    /// As `filter` of a bulk kick, whose nodes stand beside it.
    pub(crate) fn body(&self) -> Map<String, Value> {
        let mut body = Map::new();
        for (name, value) in self.narrowing() {
            let values = body.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(values) = values {
                values.push(value.into());
            }
        }
        body
    }

    /// The nodes it is about; none are all.
    pub(crate) fn nodes(&self) -> &[String] {
        &self.node
    }

    /// Whether no filter was given, nodes aside.
    pub(crate) fn is_empty(&self) -> bool {
        self.narrowing().is_empty()
    }

    fn narrowing(&self) -> Vec<Parameter> {
        let mut all = Vec::new();
        for (name, values) in [
            ("_like_clientid", &self.like),
            ("_like_username", &self.like_username),
            ("clientid", &self.clientid),
            ("username", &self.username),
            ("zone", &self.zone),
            ("proto_name", &self.proto_name),
        ] {
            all.extend(values.iter().map(|value| (name, value.clone())));
        }
        all.extend(self.ip.iter().map(|ip| ("ip_address", ip.to_string())));
        all.extend(self.state.iter().map(|state| ("conn_state", state.as_str().to_owned())));
        all.extend(self.clean_start.map(|flag| ("clean_start", flag.to_string())));
        all.extend(self.proto_ver.iter().map(|version| ("proto_ver", version.to_string())));
        for (name, seconds) in [
            ("_gte_created_at", self.created_after),
            ("_lte_created_at", self.created_before),
            ("_gte_connected_at", self.connected_after),
            ("_lte_connected_at", self.connected_before),
        ] {
            all.extend(seconds.map(|seconds| (name, seconds.to_string())));
        }
        all
    }
}

/// Seconds since 1970 of a time, or of so long ago.
fn moment(text: &str) -> Result<i64, String> {
    moment_at(text, SystemTime::now())
}

fn moment_at(text: &str, now: SystemTime) -> Result<i64, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let time = match humantime::parse_rfc3339_weak(text) {
        Ok(time) => Some(time),
        Err(_) => humantime::parse_duration(text).ok().and_then(|ago| now.checked_sub(ago)),
    };
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).as_ref().map(Duration::as_secs).ok();
    time.and_then(since).and_then(|seconds| i64::try_from(seconds).ok()).ok_or_else(|| {
        "expected how long ago (90s, 2h, 7days), a UTC time (\"2026-01-31 12:00:00\") or epoch seconds"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        filter: Filter,
    }

    fn parse(arguments: &[&str]) -> Filter {
        Only::try_parse_from(["x"].iter().chain(arguments)).unwrap().filter
    }

    #[test]
    fn every_option_becomes_its_parameter() {
        let filter = parse(&[
            "--like",
            "a",
            "--like",
            "b",
            "--like-username",
            "c",
            "--clientid",
            "d",
            "--username",
            "e",
            "--zone",
            "f",
            "--proto-name",
            "MQTT",
            "--ip",
            "::1",
            "--state",
            "idle",
            "--clean-start",
            "false",
            "--proto-ver",
            "5",
            "--created-after",
            "1",
            "--created-before",
            "2",
            "--connected-after",
            "3",
            "--connected-before",
            "4",
            "--node",
            "n@h",
        ]);
        let text: Vec<String> =
            filter.parameters().iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            text.join("&"),
            "_like_clientid=a&_like_clientid=b&_like_username=c&clientid=d&username=e&zone=f&proto_name=MQTT\
             &ip_address=::1&conn_state=idle&clean_start=false&proto_ver=5&_gte_created_at=1&_lte_created_at=2\
             &_gte_connected_at=3&_lte_connected_at=4&_node=n@h"
        );
        assert_eq!(filter.body()["_like_clientid"], serde_json::json!(["a", "b"]));
        assert_eq!((filter.body().len(), filter.nodes()), (14, &["n@h".to_owned()][..]));
        assert!(parse(&["--node", "n"]).is_empty() && !filter.is_empty());
    }

    #[test]
    fn times_are_absolute_or_ago() {
        let now = UNIX_EPOCH + Duration::from_secs(100_000);
        for (text, expected) in [
            ("17", Some(17)),
            ("-1", Some(-1)),
            ("90s", Some(99_910)),
            ("1h 30m", Some(94_600)),
            ("1970-01-01 00:01:00", Some(60)),
            ("1970-01-01T00:01:00Z", Some(60)),
            ("yesterday", None),
            ("9999years", None),
            ("", None),
        ] {
            assert_eq!(moment_at(text, now).ok(), expected, "{text}");
        }
    }
}
