use std::path::Path;

use clap::Parser as _;

use super::args::{Cli, Command};
use super::*;

const EXAMPLE: &str = include_str!("../../agent.example.toml");

fn args(flags: &[&str]) -> Args {
    Cli::try_parse_from(["rollcall-agent"].iter().chain(flags)).unwrap().args
}

fn file(text: &str) -> Result<FileConfig, String> {
    FileConfig::parse(text, Path::new("agent.toml")).map_err(|error| error.to_string())
}

fn load(flags: &[&str], text: &str) -> Result<Config, String> {
    Config::merge(&args(flags), file(text)?).map_err(|error| error.to_string())
}

const SYNTHETIC: [&str; 2] = ["--broker", "synthetic"];

#[test]
fn the_example_holds_every_key_with_its_default() {
    let without_broker = EXAMPLE.replace("broker = \"embedded\"\n", "");
    let text = |text: &str, flags: &[&str]| load(flags, text).unwrap().to_string();
    assert_eq!(text(&without_broker, &SYNTHETIC), text("", &SYNTHETIC));
    #[cfg(feature = "embedded")]
    assert_eq!(text(EXAMPLE, &[]), text("", &[]));
    // What is commented out can be used too, and no key is left out.
    let all: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(key)
                if key.starts_with('[')
                    || key.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) =>
            {
                format!("{key}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    for key in ["node_name", "cert", "key", "client_ca", "path", "tls"] {
        assert!(all.lines().any(|line| line.starts_with(&format!("{key} = "))), "{key}");
    }
    let config = load(&["--broker", "file"], &all).unwrap();
    assert_eq!(config.node_name, "rollcall@myhost");
    assert_eq!(config.tls.and_then(|tls| tls.client_ca), Some("gateways.pem".into()));
    assert!(matches!(config.broker, BrokerConfig::File { path } if path == Path::new("clients.ndjson")));
}

#[test]
fn flags_override_the_file_and_the_file_the_defaults() {
    let text = "listen = \"[::1]:7\"\nmax_calls = 3\ninsecure = true\n[synthetic]\nclients = 5\nseed = 6";
    let config = load(&["--broker", "synthetic", "--seed", "9", "--insecure=false"], text).unwrap();
    assert_eq!(config.listen, "[::1]:7".parse().unwrap());
    assert_eq!(config.max_calls.get(), 3);
    assert!(!config.insecure);
    assert!(matches!(config.broker, BrokerConfig::Synthetic { clients: 5, seed: 9 }));
    let config =
        load(&["--broker", "synthetic", "--listen", "127.0.0.1:0", "--drain-timeout", "1"], text).unwrap();
    assert_eq!(config.listen, "127.0.0.1:0".parse().unwrap());
    assert_eq!(config.drain_timeout, Duration::from_secs(1));
    assert!(config.insecure);
}

#[test]
fn what_is_wrong_in_the_file_is_named_with_its_place() {
    for (text, expected) in [
        (
            "max_calls = \"x\"",
            "agent.toml:1:13: max_calls = \"x\": invalid type: string \"x\", expected a nonzero u32",
        ),
        (
            "insecure = true\nmax_calls = 0",
            "agent.toml:2:13: max_calls = 0: invalid value: integer `0`, expected a nonzero u32",
        ),
        (
            "\n  listen = \"localhost\"",
            "agent.toml:2:12: listen = \"localhost\": expected an address and a port, such as 127.0.0.1:18830",
        ),
        (
            "broker = \"mosquito\"",
            "agent.toml:1:10: broker = \"mosquito\": unknown variant `mosquito`, expected one of `embedded`, `file`, `synthetic`",
        ),
        ("[log]\nfromat = \"json\"", "agent.toml:2:1: unknown field `fromat`, expected `format` or `filter`"),
        ("[tls]\ncert = \"x\"", "agent.toml:1:1: missing field `key`"),
    ] {
        assert_eq!(file(text).unwrap_err(), expected, "{text}");
    }
    let broken = file("listen = ").unwrap_err();
    assert!(broken.starts_with("agent.toml:1:"), "{broken}");
    assert!(
        file("liste = 1")
            .unwrap_err()
            .contains("unknown field `liste`, expected one of `node_name`, `listen`")
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load(&args(&["--config", "/nowhere/agent.toml"])).unwrap_err();
    assert!(error.to_string().starts_with("cannot read /nowhere/agent.toml: "), "{error}");
}

#[test]
fn values_that_do_not_go_together_are_refused() {
    let refused = |flags: &[&str]| load(flags, "").unwrap_err();
    let with = |more: &[&'static str]| [&SYNTHETIC, more].concat();
    assert!(
        refused(&with(&["--listen", "0.0.0.0:1"])).starts_with("listen is 0.0.0.0:1, which others can reach")
    );
    assert!(load(&with(&["--listen", "0.0.0.0:1", "--insecure"]), "").is_ok());
    assert!(load(&with(&["--listen", "[::]:1", "--tls-cert", "c", "--tls-key", "k"]), "").is_ok());
    assert_eq!(refused(&with(&["--tls-cert", "c"])), "TLS is set up in part: --tls-key is missing");
    assert_eq!(refused(&with(&["--tls-client-ca", "c"])), "TLS is set up in part: --tls-cert is missing");
    assert_eq!(
        refused(&with(&["--file", "x"])),
        "--file is given, but the broker is synthetic, expected file"
    );
    assert_eq!(
        refused(&["--broker", "file"]),
        "the broker is file, but there is no path: give --file PATH or [file] path"
    );
    assert_eq!(
        refused(&with(&["--node-name", ""])),
        "node_name is \"\", expected a name such as a@127.0.0.1"
    );
    assert!(refused(&with(&["--log-filter", "a=b=c"])).starts_with("log filter is \"a=b=c\", expected"));
}

#[test]
fn check_config_takes_the_flags_of_serving() {
    let flags = ["rollcall-agent", "check-config", "--broker", "synthetic", "--clients", "3"];
    let cli = Cli::try_parse_from(flags).unwrap();
    let Some(Command::CheckConfig(args)) = cli.command else { panic!("another command") };
    assert_eq!(args.clients, Some(3));
}

#[test]
fn the_command_line_is_consistent() {
    use clap::CommandFactory as _;
    Cli::command().debug_assert();
}

#[cfg(feature = "embedded")]
#[test]
fn mqtt_listeners_of_flags_replace_those_of_the_file() {
    let text = "[embedded]\nmax_mqueue = 7\n[[embedded.listeners]]\nprotocol = \"websocket\"";
    let flags = ["--node-name", "n", "--mqtt-listen", "127.0.0.1:0", "--mqtt-listen", "[::1]:0"];
    let BrokerConfig::Embedded(settings) = load(&flags, text).unwrap().broker else {
        panic!("another broker")
    };
    let addresses: Vec<String> = settings.listeners.iter().map(|l| l.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1:0", "[::1]:0"]);
    assert_eq!((settings.max_mqueue, settings.node_name.as_str()), (7, "n"));
    assert_eq!(
        load(&[], "[embedded]\nresync_secs = 0").unwrap_err(),
        "[embedded] resync_secs is 0, expected at least 1"
    );
}
