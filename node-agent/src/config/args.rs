//! The command line. Every flag but the subcommands' own can be given as an environment variable too.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand};

use super::{BrokerKind, LogFormat};

/// Reports one broker node's MQTT clients to Rollcall's gateways, and kicks them.
///
/// When serving, prints the single line `ready ADDR` on stdout, with ` mqtt ADDR` behind it for every MQTT
/// listener; logs go to stderr. SIGTERM or SIGINT lets calls in flight finish and then ends the process.
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
    /// The node's name, unique in the cluster [default: rollcall@HOSTNAME]
    #[arg(long, value_name = "NAME", env = "ROLLCALL_AGENT_NODE_NAME")]
    pub node_name: Option<String>,
    /// Where gateways connect, address:port; port 0 takes a free one [default: 127.0.0.1:18830]
    #[arg(long, value_name = "ADDR", env = "ROLLCALL_AGENT_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Whose clients to report [default: embedded]
    #[arg(long, value_name = "KIND", env = "ROLLCALL_AGENT_BROKER")]
    pub broker: Option<BrokerKind>,
    /// Where MQTT clients connect, address:port, in place of the configured listeners; may be repeated [default: 127.0.0.1:1883]
    #[arg(
        long,
        value_name = "ADDR",
        env = "ROLLCALL_AGENT_MQTT_LISTEN",
        value_delimiter = ',',
        action = ArgAction::Append,
        help_heading = "Broker embedded"
    )]
    pub mqtt_listen: Vec<SocketAddr>,
    /// The table, one JSON object a line; only rows of this node are served
    #[arg(long, value_name = "PATH", env = "ROLLCALL_AGENT_FILE", help_heading = "Broker file")]
    pub file: Option<PathBuf>,
    /// How many clients to make up [default: 1000]
    #[arg(long, value_name = "N", env = "ROLLCALL_AGENT_CLIENTS", help_heading = "Broker synthetic")]
    pub clients: Option<u64>,
    /// Another seed gives other clients [default: 0]
    #[arg(long, value_name = "S", env = "ROLLCALL_AGENT_SEED", help_heading = "Broker synthetic")]
    pub seed: Option<u64>,
    /// Allow plain HTTP/2 on an address other than loopback
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
    /// How long calls in flight may take to finish after SIGTERM [default: 10]
    #[arg(long, value_name = "SECONDS", env = "ROLLCALL_AGENT_DRAIN_TIMEOUT", help_heading = "Limits")]
    pub drain_timeout: Option<u64>,
    /// Calls in flight at the most; more are refused as overloaded [default: 256]
    #[arg(long, value_name = "N", env = "ROLLCALL_AGENT_MAX_CALLS", help_heading = "Limits")]
    pub max_calls: Option<NonZeroU32>,
    /// Form of log lines on stderr [default: text]
    #[arg(long, value_name = "FORMAT", env = "ROLLCALL_AGENT_LOG_FORMAT", help_heading = "Logging")]
    pub log_format: Option<LogFormat>,
    /// Which events to log, such as info,rollcall_node_agent=debug [default: info]
    #[arg(long, value_name = "FILTER", env = "ROLLCALL_AGENT_LOG_FILTER", help_heading = "Logging")]
    pub log_filter: Option<String>,
}
