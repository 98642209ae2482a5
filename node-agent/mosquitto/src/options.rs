//! What stands behind `plugin_opt_` in the broker's configuration.
//!
//! `logins` and `mqtt_address` are the plugin's own; every other option is a setting of the agent, named as its flag
//! with underscores: `plugin_opt_node_name a@10.0.0.1` is `--node-name a@10.0.0.1`. The agent's environment variables and
//! its file (`plugin_opt_config`) count as they do for the agent.

use std::net::SocketAddr;

use clap::Parser as _;
use rollcall_node_agent::config::args::Args;
use rollcall_node_agent::config::{Config, ConfigError};
use thiserror::Error;

/// What to answer when the broker asks about a login, which it asks every plugin before its own password file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Logins {
    /// Let the next one decide: the password file, or another plugin. With nobody behind, the broker refuses everyone
    /// who gives a user name.
    #[default]
    Defer,
    /// Let everyone in, as a broker with `allow_anonymous true` and nothing else does by itself.
    Open,
}

/// Everything that was configured.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) logins: Logins,
    /// A listener without TLS, by which the plugin ends sessions of clients that are away.
    pub(crate) mqtt_address: Option<SocketAddr>,
    pub(crate) agent: Config,
}

/// An option that cannot be used.
#[derive(Debug, Error)]
pub(crate) enum InvalidOption {
    /// A value of the plugin's own.
    #[error("plugin_opt_{name} {value:?}, expected {expected}")]
    Value {
        /// Its name.
        name: &'static str,
        /// As configured.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// It stands there twice.
    #[error("plugin_opt_{0} is given twice")]
    Twice(String),
    /// No setting of the agent has the name, or it has another form.
    #[error("{0}")]
    Agent(String),
    /// The agent's settings do not go together.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Options {
    /// Reads options as the broker gives them: names without `plugin_opt_`, and values.
    pub(crate) fn read(options: &[(String, String)]) -> Result<Self, InvalidOption> {
        let mut logins = Logins::default();
        let mut mqtt_address = None;
        let mut flags = vec!["plugin_opt".to_owned()];
        for (at, (name, value)) in options.iter().enumerate() {
            if options[..at].iter().any(|(before, _)| before == name) {
                return Err(InvalidOption::Twice(name.clone()));
            }
            match name.as_str() {
                "logins" => {
                    logins = match value.as_str() {
                        "defer" => Logins::Defer,
                        "open" => Logins::Open,
                        _ => return Err(invalid("logins", value, "defer or open")),
                    };
                }
                "mqtt_address" => {
                    let expected = "the address and port of a listener without TLS, such as 127.0.0.1:1883";
                    let address = value.parse().map_err(|_| invalid("mqtt_address", value, expected))?;
                    mqtt_address = Some(address);
                }
                _ => flags.push(format!("--{}={value}", name.replace('_', "-"))),
            }
        }
        let args = Args::try_parse_from(flags).map_err(|error| {
            let text = error.to_string();
            let text = text.lines().next().unwrap_or_default();
            InvalidOption::Agent(text.strip_prefix("error: ").unwrap_or(text).to_owned())
        })?;
        Ok(Self { logins, mqtt_address, agent: Config::load_for_plugin(&args)? })
    }
}

fn invalid(name: &'static str, value: &str, expected: &'static str) -> InvalidOption {
    InvalidOption::Value { name, value: value.to_owned(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[(&str, &str)]) -> Result<Options, String> {
        let options: Vec<_> =
            options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Options::read(&options).map_err(|error| error.to_string())
    }

    #[test]
    fn options_are_the_agents_flags_and_two_of_the_plugins_own() {
        let options = read(&[
            ("node_name", "m@10.0.0.1"),
            ("listen", "127.0.0.1:0"),
            ("logins", "open"),
            ("mqtt_address", "127.0.0.1:1883"),
        ]);
        let options = options.unwrap();
        assert_eq!(options.agent.node_name, "m@10.0.0.1");
        assert_eq!(options.logins, Logins::Open);
        assert_eq!(options.mqtt_address, Some("127.0.0.1:1883".parse().unwrap()));
        assert_eq!(read(&[]).unwrap().logins, Logins::Defer);
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_value() {
        for (options, expected) in [
            (&[("logins", "ask")][..], "plugin_opt_logins \"ask\", expected defer or open"),
            (&[("mqtt_address", "here")], "plugin_opt_mqtt_address \"here\", expected the address and port"),
            (&[("node_name", "a"), ("node_name", "b")], "plugin_opt_node_name is given twice"),
            (&[("nodename", "a")], "'--nodename"),
            (&[("listen", "x")], "'x'"),
            (&[("listen", "0.0.0.0:1")], "which others can reach"),
            (&[("broker", "file")], "broker"),
            (&[("clients", "3")], "clients"),
        ] {
            let error = read(options).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{options:?}: {error}");
        }
    }
}
