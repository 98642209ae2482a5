//! The keys of the configuration, told or not: one layer each of flags, environment and file.

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;

use super::parser;
use super::values::{
    BasePath, Count, KeyArgument, ListenAddress, LogFormat, MetricsAccess, NodeAddress, Span,
};

/// What one source tells. Absent is what it does not.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "snake_case")]
pub struct Layer {
    /// The configuration file (TOML; see gateway.example.toml)
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Where to listen; port 0 takes a free one [default: 127.0.0.1:8081]
    #[arg(long, value_name = "IP:PORT", value_parser = parser::<ListenAddress>())]
    pub listen: Option<ListenAddress>,

    /// Speak HTTPS; the gateway's certificate chain (PEM), followed while it runs
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// The private key of that certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Allow plain HTTP, and a token without TLS, on addresses that are not loopback
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub insecure: Option<bool>,

    /// An agent; give one for each node of the cluster (or several between commas)
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = parser::<NodeAddress>())]
    pub node: Option<Vec<NodeAddress>>,

    /// Speak TLS to agents; the certificates of their authorities (PEM), followed as the next two
    #[arg(long, value_name = "FILE")]
    pub node_ca: Option<PathBuf>,

    /// The name in agents' certificates, where it is not the host of their address
    #[arg(long, value_name = "NAME")]
    pub node_domain: Option<String>,

    /// The gateway's own certificate chain towards agents (PEM)
    #[arg(long, value_name = "FILE")]
    pub node_cert: Option<PathBuf>,

    /// The private key of that certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub node_key: Option<PathBuf>,

    /// The token to show to agents that ask for one: the first line of this file, followed
    #[arg(long, value_name = "FILE")]
    pub node_token_file: Option<PathBuf>,

    /// How often to ask each agent how it fares [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = parser::<Span>())]
    pub probe_interval: Option<Span>,

    /// How long an agent may take to say so; when it takes longer it is taken to be unavailable [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = parser::<Span>())]
    pub probe_timeout: Option<Span>,

    /// After so many calls in a row that waited in vain a node is not asked until it answers a probe; 0: never [default: 3]
    #[arg(long, value_name = "N", value_parser = parser::<Count>())]
    pub circuit_failures: Option<Count>,

    /// How long connecting to an agent may take [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = parser::<Span>())]
    pub connect_timeout: Option<Span>,

    /// The file of API keys; make it with `rollcall-gateway key create`
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// An API key, role viewer or operator; for tests, because others can read command lines
    #[arg(long, value_name = "ID:SECRET:ROLE", value_parser = key_argument())]
    #[serde(skip)]
    pub key: Option<Vec<KeyArgument>>,

    /// Who may scrape /metrics: key (whoever has a key, of any role) or open (everybody) [default: key]
    #[arg(long, value_name = "WHO", value_parser = parser::<MetricsAccess>())]
    pub metrics: Option<MetricsAccess>,

    /// Put every kick on record in this file, as JSON lines; without one, in the log
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,

    /// What the API's paths begin with [default: /api/v4]
    #[arg(long, value_name = "PATH", value_parser = parser::<BasePath>())]
    pub base_path: Option<BasePath>,

    /// How long a request may take; a client may ask for less [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = parser::<Span>())]
    pub request_timeout: Option<Span>,

    /// How long a request's head may take to arrive, and how long a connection may idle [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parser::<Span>())]
    pub read_timeout: Option<Span>,

    /// How long an export waits for a node's next rows [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = parser::<Span>())]
    pub export_node_timeout: Option<Span>,

    /// How long an export waits for a client that takes nothing [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = parser::<Span>())]
    pub export_client_timeout: Option<Span>,

    /// Requests answered at once; more get 503 [default: 512]
    #[arg(long, value_name = "N", value_parser = parser::<Count>())]
    pub max_requests: Option<Count>,

    /// Heavy requests answered at once, of the requests; four times as many wait, more get 503 [default: 16]
    #[arg(long, value_name = "N", value_parser = parser::<Count>())]
    pub max_heavy_requests: Option<Count>,

    /// Calls to one node in flight at once; the node counts as overloaded for more [default: 128]
    #[arg(long, value_name = "N", value_parser = parser::<Count>())]
    pub max_node_calls: Option<Count>,

    /// Exports written at once, beside the requests; more get 503 [default: 4]
    #[arg(long, value_name = "N", value_parser = parser::<Count>())]
    pub max_exports: Option<Count>,

    /// Bulk kicks carried out at once, beside the requests; more get 503 [default: 2]
    #[arg(long, value_name = "N", value_parser = parser::<Count>())]
    pub max_bulk_kicks: Option<Count>,

    /// The most clients one bulk kick may hit, whatever it says [default: 10000]
    #[arg(long, value_name = "N", value_parser = parser::<Count>())]
    pub bulk_kick_max: Option<Count>,

    /// The most clients a bulk kick may hit that does not say how many [default: 1000, or bulk-kick-max if less]
    #[arg(long, value_name = "N", value_parser = parser::<Count>())]
    pub bulk_kick_default_max: Option<Count>,

    /// The most kicks a second of one bulk kick, whatever it says [default: 1000]
    #[arg(long, value_name = "N", value_parser = parser::<Count>())]
    pub bulk_kick_max_rate: Option<Count>,

    /// Kicks a second of a bulk kick that does not say how many [default: 100, or bulk-kick-max-rate if less]
    #[arg(long, value_name = "N", value_parser = parser::<Count>())]
    pub bulk_kick_default_rate: Option<Count>,

    /// Bytes of a bulk kick's body; more get 413 [default: 1048576]
    #[arg(long, value_name = "N", value_parser = parser::<Count>())]
    pub max_bulk_kick_bytes: Option<Count>,

    /// Wrong keys an address may show at once, beyond one a second; more get 429; 0: any number [default: 20]
    #[arg(long, value_name = "N", value_parser = parser::<Count>())]
    pub max_wrong_keys: Option<Count>,

    /// Connections at once; more are closed [default: 4096]
    #[arg(long, value_name = "N", value_parser = parser::<Count>())]
    pub max_connections: Option<Count>,

    /// Bytes of a request's URL; more get 413 [default: 16384]
    #[arg(long, value_name = "N", value_parser = parser::<Count>())]
    pub max_url_bytes: Option<Count>,

    /// Bytes of a request's head; more get 413 [default: 65536]
    #[arg(long, value_name = "N", value_parser = parser::<Count>())]
    pub max_head_bytes: Option<Count>,

    /// Bytes of a request's body; more get 413 [default: 65536]
    #[arg(long, value_name = "N", value_parser = parser::<Count>())]
    pub max_body_bytes: Option<Count>,

    /// How long to say "not ready" before accepting no more, after SIGTERM [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = parser::<Span>())]
    pub drain_delay: Option<Span>,

    /// How long requests may take to finish after that [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parser::<Span>())]
    pub drain_timeout: Option<Span>,

    /// How log lines look: text or json [default: text]
    #[arg(long, value_name = "FORMAT", value_parser = parser::<LogFormat>())]
    pub log_format: Option<LogFormat>,

    /// Which log lines to write, such as debug or rollcall_gateway=debug [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log_filter: Option<String>,
}

fn key_argument() -> clap::builder::ValueParser {
    clap::builder::ValueParser::new(|text: &str| Ok::<_, std::convert::Infallible>(KeyArgument::from(text)))
}

impl Layer {
    /// This layer where it tells something, the other where it does not.
    #[must_use]
    pub fn over(self, under: Self) -> Self {
        Self {
            config: self.config.or(under.config),
            listen: self.listen.or(under.listen),
            tls_cert: self.tls_cert.or(under.tls_cert),
            tls_key: self.tls_key.or(under.tls_key),
            insecure: self.insecure.or(under.insecure),
            node: self.node.or(under.node),
            node_ca: self.node_ca.or(under.node_ca),
            node_domain: self.node_domain.or(under.node_domain),
            node_cert: self.node_cert.or(under.node_cert),
            node_key: self.node_key.or(under.node_key),
            node_token_file: self.node_token_file.or(under.node_token_file),
            probe_interval: self.probe_interval.or(under.probe_interval),
            probe_timeout: self.probe_timeout.or(under.probe_timeout),
            circuit_failures: self.circuit_failures.or(under.circuit_failures),
            connect_timeout: self.connect_timeout.or(under.connect_timeout),
            key_file: self.key_file.or(under.key_file),
            key: self.key.or(under.key),
            metrics: self.metrics.or(under.metrics),
            audit_log: self.audit_log.or(under.audit_log),
            base_path: self.base_path.or(under.base_path),
            request_timeout: self.request_timeout.or(under.request_timeout),
            read_timeout: self.read_timeout.or(under.read_timeout),
            export_node_timeout: self.export_node_timeout.or(under.export_node_timeout),
            export_client_timeout: self.export_client_timeout.or(under.export_client_timeout),
            max_requests: self.max_requests.or(under.max_requests),
            max_heavy_requests: self.max_heavy_requests.or(under.max_heavy_requests),
            max_node_calls: self.max_node_calls.or(under.max_node_calls),
            max_exports: self.max_exports.or(under.max_exports),
            max_bulk_kicks: self.max_bulk_kicks.or(under.max_bulk_kicks),
            bulk_kick_max: self.bulk_kick_max.or(under.bulk_kick_max),
            bulk_kick_default_max: self.bulk_kick_default_max.or(under.bulk_kick_default_max),
            bulk_kick_max_rate: self.bulk_kick_max_rate.or(under.bulk_kick_max_rate),
            bulk_kick_default_rate: self.bulk_kick_default_rate.or(under.bulk_kick_default_rate),
            max_bulk_kick_bytes: self.max_bulk_kick_bytes.or(under.max_bulk_kick_bytes),
            max_wrong_keys: self.max_wrong_keys.or(under.max_wrong_keys),
            max_connections: self.max_connections.or(under.max_connections),
            max_url_bytes: self.max_url_bytes.or(under.max_url_bytes),
            max_head_bytes: self.max_head_bytes.or(under.max_head_bytes),
            max_body_bytes: self.max_body_bytes.or(under.max_body_bytes),
            drain_delay: self.drain_delay.or(under.drain_delay),
            drain_timeout: self.drain_timeout.or(under.drain_timeout),
            log_format: self.log_format.or(under.log_format),
            log_filter: self.log_filter.or(under.log_filter),
        }
    }
}
