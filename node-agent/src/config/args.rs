//! The command line. Every flag but the subcommands' own can be given as an environment variable too.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue};
use clap::{ArgAction, CommandFactory as _, Parser, Subcommand};

use super::{BrokerKind, LogFormat};

/// Reports one broker node's MQTT clients to Rollcall's gateways, and kicks them.
///
/// When serving, prints the single line `ready ADDR` on stdout, with ` mqtt ADDR` behind it for every MQTT
/// listener and ` metrics ADDR` for that of metrics; logs go to stderr. SIGTERM or SIGINT lets calls in flight finish and then ends the process.
#[derive(Clone, Debug, Parser)]
#[command(name = "rollcall-agent", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Without one: serve.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub args: Args,
}

/// What else the binary does.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Check the settings without serving, and print those in effect
    ///
    /// Takes the same flags and environment as serving. Prints `ok` and the settings, or the error and exits with 2.
    CheckConfig(Box<Args>),
    /// Add a user to a password file of the embedded broker, or change its password
    ///
    /// Reads the password from stdin, up to the end of its first line, and stores only a hash.
    #[cfg(feature = "embedded")]
    Passwd {
        /// The password file; made if there is none
        #[arg(long, value_name = "PATH")]
        file: PathBuf,
        /// The MQTT user name
        #[arg(long, value_name = "NAME")]
        user: String,
    },
}

/// Settings of flags and environment; what is not given is left to the file and the defaults.
#[derive(Clone, Debug, Default, Parser)]
pub struct Args {
    /// TOML file with settings; environment and flags override it
    #[arg(long, value_name = "PATH", env = "ROLLCALL_AGENT_CONFIG")]
    pub config: Option<PathBuf>,
    /// The node's name, unique in the cluster (default: rollcall@ and the address of --listen)
    #[arg(long, value_name = "NAME", env = "ROLLCALL_AGENT_NODE_NAME")]
    pub node_name: Option<String>,
    /// Where gateways connect, address:port; port 0 takes a free one [default: 127.0.0.1:18830]
    #[arg(long, value_name = "ADDR", env = "ROLLCALL_AGENT_LISTEN", value_parser = address)]
    pub listen: Option<SocketAddr>,
    /// Where Prometheus scrapes the agent's metrics, address:port, by plain HTTP; port 0 takes a free one [default: nowhere]
    #[arg(long, value_name = "ADDR", env = "ROLLCALL_AGENT_METRICS_LISTEN", value_parser = address)]
    pub metrics_listen: Option<SocketAddr>,
    /// Whose clients to report [default: embedded]
    #[arg(long, value_name = "KIND", env = "ROLLCALL_AGENT_BROKER")]
    pub broker: Option<BrokerKind>,
    /// Where MQTT clients connect, address:port, in place of the configured listeners; may be repeated [default: 127.0.0.1:1883]
    #[arg(
        long,
        value_name = "ADDR",
        env = "ROLLCALL_AGENT_MQTT_LISTEN",
        value_delimiter = ',',
        value_parser = address,
        action = ArgAction::Append,
        help_heading = "Broker embedded"
    )]
    pub mqtt_listen: Vec<SocketAddr>,
    /// Only users of this file may connect, see the subcommand passwd [default: everybody may]
    #[arg(long, value_name = "PATH", env = "ROLLCALL_AGENT_PASSWORD_FILE", help_heading = "Broker embedded")]
    pub password_file: Option<PathBuf>,
    /// The table, one JSON object a line; only rows of this node are served
    #[arg(long, value_name = "PATH", env = "ROLLCALL_AGENT_FILE", help_heading = "Broker file")]
    pub file: Option<PathBuf>,
    /// The monitoring endpoint of the NATS server [default: http://127.0.0.1:8222]
    #[arg(long, value_name = "URL", env = "ROLLCALL_AGENT_NATS_URL", help_heading = "Broker nats")]
    pub nats_url: Option<String>,
    /// Where NATS clients connect, for the logins of the file [default: 127.0.0.1:4222]
    #[arg(
        long,
        value_name = "ADDR",
        env = "ROLLCALL_AGENT_NATS_CLIENT_ADDRESS",
        help_heading = "Broker nats"
    )]
    pub nats_client_address: Option<String>,
    /// The management API of RabbitMQ [default: http://127.0.0.1:15672]
    #[arg(long, value_name = "URL", env = "ROLLCALL_AGENT_RABBITMQ_URL", help_heading = "Broker rabbitmq")]
    pub rabbitmq_url: Option<String>,
    /// The user to ask it as [default: guest]
    #[arg(
        long,
        value_name = "NAME",
        env = "ROLLCALL_AGENT_RABBITMQ_USERNAME",
        help_heading = "Broker rabbitmq"
    )]
    pub rabbitmq_username: Option<String>,
    /// File whose first line is that user's password
    #[arg(
        long,
        value_name = "PATH",
        env = "ROLLCALL_AGENT_RABBITMQ_PASSWORD_FILE",
        help_heading = "Broker rabbitmq"
    )]
    pub rabbitmq_password_file: Option<PathBuf>,
    /// The node of the RabbitMQ cluster whose clients to report [default: the one that answers]
    #[arg(long, value_name = "NAME", env = "ROLLCALL_AGENT_RABBITMQ_NODE", help_heading = "Broker rabbitmq")]
    pub rabbitmq_node: Option<String>,
    /// How many clients to make up [default: 1000]
    #[arg(long, value_name = "N", env = "ROLLCALL_AGENT_CLIENTS", value_parser = number, help_heading = "Broker synthetic")]
    pub clients: Option<u64>,
    /// Another seed gives other clients [default: 0]
    #[arg(long, value_name = "S", env = "ROLLCALL_AGENT_SEED", value_parser = number, help_heading = "Broker synthetic")]
    pub seed: Option<u64>,
    /// Clients that reconnect a second, for benchmarks [default: 0]
    #[arg(long, value_name = "N", env = "ROLLCALL_AGENT_CHURN", value_parser = small_number, help_heading = "Broker synthetic")]
    pub churn: Option<u32>,
    /// Allow plain HTTP/2, or TLS with anybody, on an address other than loopback
    #[arg(
        long,
        value_name = "BOOL",
        env = "ROLLCALL_AGENT_INSECURE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Security"
    )]
    pub insecure: Option<bool>,
    /// PEM file with the agent's certificate chain
    #[arg(long, value_name = "PATH", env = "ROLLCALL_AGENT_TLS_CERT", help_heading = "Security")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the agent's private key
    #[arg(long, value_name = "PATH", env = "ROLLCALL_AGENT_TLS_KEY", help_heading = "Security")]
    pub tls_key: Option<PathBuf>,
    /// PEM file with the authorities of gateways' certificates; with it, gateways must show one
    #[arg(long, value_name = "PATH", env = "ROLLCALL_AGENT_TLS_CLIENT_CA", help_heading = "Security")]
    pub tls_client_ca: Option<PathBuf>,
    /// A name in gateways' certificates, to let in those that carry it and no others; may be repeated [default: any name]
    #[arg(
        long,
        value_name = "NAME",
        env = "ROLLCALL_AGENT_TLS_CLIENT_NAME",
        value_delimiter = ',',
        action = ArgAction::Append,
        help_heading = "Security"
    )]
    pub tls_client_name: Vec<String>,
    /// File with tokens, one a line; with it, gateways must show one of them
    #[arg(long, value_name = "PATH", env = "ROLLCALL_AGENT_TOKEN_FILE", help_heading = "Security")]
    pub token_file: Option<PathBuf>,
    /// How long calls in flight may take to finish after SIGTERM, such as 10s or 2m [default: 10s]
    #[arg(
        long,
        value_name = "TIME",
        env = "ROLLCALL_AGENT_DRAIN_TIMEOUT",
        value_parser = whole_seconds,
        help_heading = "Limits"
    )]
    pub drain_timeout: Option<Duration>,
    /// Calls in flight at the most; more are refused as overloaded [default: 256]
    #[arg(long, value_name = "N", env = "ROLLCALL_AGENT_MAX_CALLS", value_parser = positive, help_heading = "Limits")]
    pub max_calls: Option<NonZeroU32>,
    /// Connections at the most, of one address half of them; one more is closed [default: 512]
    #[arg(
        long,
        value_name = "N",
        env = "ROLLCALL_AGENT_MAX_CONNECTIONS",
        value_parser = positive,
        help_heading = "Limits"
    )]
    pub max_connections: Option<NonZeroU32>,
    /// Wrong tokens of one address after which it is slowed down to one a second; 0 is no limit [default: 20]
    #[arg(long, value_name = "N", env = "ROLLCALL_AGENT_MAX_WRONG_TOKENS", help_heading = "Limits")]
    pub max_wrong_tokens: Option<u32>,
    /// Form of log lines on stderr [default: text]
    #[arg(long, value_name = "FORMAT", env = "ROLLCALL_AGENT_LOG_FORMAT", help_heading = "Logging")]
    pub log_format: Option<LogFormat>,
    /// Which events to log, such as info,rollcall_node_agent=debug [default: info]
    #[arg(long, value_name = "FILTER", env = "ROLLCALL_AGENT_LOG_FILTER", help_heading = "Logging")]
    pub log_filter: Option<String>,
}

impl Cli {
    /// As [`Parser::try_parse`], but what is wrong is one line, which names the environment variable where the
    /// value came from one. Help and version come as an error of clap's too, and are to be printed as such.
    ///
    /// # Errors
    /// Either of the two.
    pub fn read() -> Result<Self, Refusal> {
        let given: Vec<OsString> = std::env::args_os().collect();
        Self::read_from(&given)
    }

    pub(super) fn read_from(given: &[OsString]) -> Result<Self, Refusal> {
        Self::try_parse_from(given).map_err(|error| {
            if error.use_stderr() { Refusal::Wrong(explain(&error, given)) } else { Refusal::Asked(error) }
        })
    }
}

/// Why there are no flags to go by.
#[derive(Debug)]
pub enum Refusal {
    /// Help or version was asked for.
    Asked(clap::Error),
    /// A flag or variable is unknown or has a value that cannot be used; for the operator.
    Wrong(String),
}

/// clap's message without its advice on usage, on one line.
fn explain(error: &clap::Error, given: &[OsString]) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let is_message = |line: &&str| !line.starts_with("Usage:") && !line.starts_with("For more information");
    let lines = text.lines().map(str::trim).take_while(is_message).filter(|line| !line.is_empty());
    let message = lines.collect::<Vec<_>>().join(" ");
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return message };
    let flag = argument.split(' ').next().unwrap_or_default();
    let is_given = given.iter().any(|word| word.to_string_lossy().split('=').next() == Some(flag));
    match variable(flag) {
        Some(variable) if !is_given => format!("{variable} in the environment: {message}"),
        _ => message,
    }
}

/// The environment variable that stands for a flag.
fn variable(flag: &str) -> Option<String> {
    let command = Cli::command();
    let argument = command.get_arguments().find(|argument| argument.get_long() == flag.strip_prefix("--"))?;
    argument.get_env().map(|name| name.to_string_lossy().into_owned())
}

/// A flag together with the variable that may have stood for it, for messages.
pub(super) fn with_variable(flag: &str) -> String {
    variable(flag).map_or_else(|| flag.to_owned(), |variable| format!("{flag} (or {variable})"))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| EXPECTED_ADDRESS.to_owned())
}

/// What is asked for in place of what is no address.
pub(super) const EXPECTED_ADDRESS: &str = "expected an address and a port, such as 127.0.0.1:18830";

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "expected a whole number".to_owned())
}

fn small_number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("expected a whole number up to {}", u32::MAX))
}

fn positive(text: &str) -> Result<NonZeroU32, String> {
    text.parse().map_err(|_| format!("expected a whole number from 1 to {}", u32::MAX))
}

/// Seconds, or seconds or minutes with their unit.
fn whole_seconds(text: &str) -> Result<Duration, String> {
    let (digits, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let seconds =
        digits.parse::<u64>().ok().filter(|_| is_number).and_then(|number| number.checked_mul(unit));
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "expected whole seconds or minutes, such as 10s or 2m".to_owned())
}
