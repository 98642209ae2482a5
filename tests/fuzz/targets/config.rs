//! The configuration files of gateway and agent.
//!
//! - What is accepted is within the bounds that the rest of the program relies on.
//! - The agent's settings, printed and read again, are the same.
//! - A refusal names a place that the file has, a key, or what was expected, and ends without a period.

#![no_main]

use std::path::Path;
use std::time::Duration;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use rollcall_fuzz::file;
use rollcall_fuzz::mutate::{self, Form};
use rollcall_gateway::{config as gateway, fuzzing};
use rollcall_node_agent::config as agent;

/// Values at which something changes.
const FORM: Form = Form {
    separator: '\n',
    equals: " = ",
    values: &[
        "0",
        "1",
        "-1",
        "268435455",
        "268435456",
        "20000001",
        "9223372036854775807",
        "true",
        "false",
        "[]",
        "{}",
        "['h:1']",
        "['h:1', 'H:1']",
        "'0s'",
        "'24h'",
        "'24h 1ns'",
        "'127.0.0.1:0'",
        "'0.0.0.0:1'",
        "'[fe80::1%1]:1'",
        "'/'",
        "''",
        "'\"\\ü\u{feff}'",
        "\"a\\u0000\\n\"",
        "'file'",
        "'synthetic'",
        "'json'",
        "'info,a[b{c=d}]=trace'",
    ],
    accepted: &[
        include_str!("../corpus/config/gateway"),
        include_str!("../corpus/config/gateway-short"),
        include_str!("../corpus/config/gateway-tls"),
        include_str!("../corpus/config/agent"),
        include_str!("../corpus/config/agent-file"),
        include_str!("../corpus/config/agent-open"),
    ],
};

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate::mutate(data, size, max_size, seed, 0, |input, noise| mutate::text(input, FORM, noise))
});

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        // As the program does, but without flags and environment, which take longer than all the rest.
        let told = fuzzing::configuration(text)
            .map(|told| gateway::Layer { key: Some(vec!["id:secret:viewer".into()]), ..told });
        match told.and_then(gateway::Config::new) {
            Ok(config) => check_gateway(&config),
            Err(gateway::ConfigError::File { line, column, message, .. }) => {
                check_place(data, line, column, &message);
            }
            Err(error) => check_message(&error.to_string()),
        }
    }
    let path = file::write("config.toml", data);
    let args = agent::args::Args { config: Some(path), ..agent::args::Args::default() };
    match agent::Config::load(&args) {
        Ok(config) => check_agent(&config),
        Err(agent::ConfigError::File { line, column, reason, .. }) => {
            check_place(data, line, column, &reason);
        }
        Err(error) => check_message(&error.to_string()),
    }
});

fn check_gateway(config: &gateway::Config) {
    const LONGEST: Duration = Duration::from_secs(24 * 3600);
    const MOST: usize = (1 << 28) - 1;
    let gateway::Config { cluster, limits, keys, .. } = config;
    assert!(!keys.current().is_empty() && !cluster.nodes.is_empty());
    assert!(cluster.nodes.iter().all(|node| node.rsplit_once(':').is_some_and(|(host, _)| !host.is_empty())));
    for count in [
        limits.requests,
        limits.heavy_requests,
        cluster.max_node_calls,
        limits.exports,
        limits.kicks.at_once,
        limits.kicks.most,
        limits.kicks.default_most,
        limits.kicks.most_rate as usize,
        limits.kicks.default_rate as usize,
        limits.kicks.body_bytes,
        limits.connections,
        limits.url_bytes,
        limits.head_bytes,
        limits.body_bytes.max(1),
    ] {
        assert!((1..=MOST).contains(&count), "{count}");
    }
    let kicks = limits.kicks;
    assert!(kicks.default_most <= kicks.most && kicks.default_rate <= kicks.most_rate, "{kicks:?}");
    for time in [
        config.request_timeout,
        limits.read_timeout,
        limits.export_node_timeout,
        limits.export_client_timeout,
        cluster.probe_interval,
        cluster.circuit.probe_timeout,
        cluster.connect_timeout,
    ] {
        assert!(!time.is_zero() && time <= LONGEST, "{time:?}");
    }
    assert!(config.drain_delay <= LONGEST && config.drain_timeout <= LONGEST);
    let base = config.base_path.as_str();
    assert!(base.is_empty() || base.starts_with('/') && !base.ends_with('/'), "{base}");
    // The one key stood in the open, and is not shown.
    assert!(config.keys_in_the_open || !keys.current().is_empty());
    assert!(!format!("{config:?}").contains("secret:"));
}

fn check_agent(config: &agent::Config) {
    assert!((1..=agent::MAX_NODE_NAME).contains(&config.node_name.len()));
    assert!(config.insecure || config.tls.is_some() || config.listen.ip().is_loopback());
    let shown = config.to_string();
    let path = file::write("shown.toml", shown.as_bytes());
    let args = agent::args::Args { config: Some(path), ..agent::args::Args::default() };
    let again = agent::Config::load(&args).unwrap_or_else(|error| panic!("{error}: {shown}"));
    assert_eq!(format!("{again:?}"), format!("{config:?}"), "{shown}");
}

fn check_place(data: &[u8], line: usize, column: usize, message: &str) {
    let text = String::from_utf8_lossy(data);
    let lines: Vec<&str> = text.split('\n').collect();
    assert!((1..=lines.len()).contains(&line), "line {line} of {}: {message}", lines.len());
    let longest = lines[line - 1].chars().count() + 1;
    assert!((1..=longest).contains(&column), "column {column} of {longest}: {message}");
    check_message(message);
}

fn check_message(message: &str) {
    assert!(!message.is_empty());
    assert!(Path::new(message).extension().is_none_or(|end| !end.is_empty()), "{message} ends with a period");
}
