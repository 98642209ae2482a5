use std::path::Path;

use clap::{CommandFactory as _, Parser as _};

use super::args::{Cli, Command, Refusal};
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
    let flags = if cfg!(feature = "embedded") { &[][..] } else { &SYNTHETIC };
    for line in text("", flags).lines().filter(|line| !line.is_empty() && *line != "broker = \"synthetic\"") {
        let stands = |shown: &str| shown.strip_prefix("# ").unwrap_or(shown) == line;
        assert!(EXAMPLE.lines().any(stands), "{line}");
    }
    // What is commented out can be used too, and no key is left out.
    let all: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(key)
                if key.starts_with('[') && key.ends_with(']')
                    || key.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) =>
            {
                format!("{key}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let config = load(&["--broker", "file"], &all).unwrap();
    assert_eq!(config.node_name, "rollcall@127.0.0.1");
    assert_eq!(config.tls.and_then(|tls| tls.client_ca), Some("gateways.pem".into()));
    assert!(matches!(config.broker, BrokerConfig::File { path } if path == Path::new("clients.ndjson")));
}

/// The tables of docs/configuration.md are made of the flags, and hold the keys of the example.
#[test]
fn the_document_has_every_setting() {
    let document = include_str!("../../../docs/configuration.md");
    let rows: String = Args::command()
        .get_arguments()
        .filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()))
        .map(|argument| {
            let help = argument.get_help().unwrap().to_string();
            let (meaning, default) = [(" [default: ", ']'), (" (default: ", ')')]
                .into_iter()
                .find_map(|(begin, end)| help.strip_suffix(end)?.split_once(begin))
                .unwrap_or((help.as_str(), ""));
            format!("| `--{}` | {default} | {meaning} |\n", argument.get_long().unwrap())
        })
        .collect();
    let table = format!("\n|---|---|---|\n{rows}\n");
    assert!(document.contains(&table), "docs/configuration.md should have\n{rows}");
    let keys = document.split_once("\n## Agent: the file\n").unwrap().1;
    let mut table = String::new();
    for line in EXAMPLE.lines() {
        let (line, is_default) = line.strip_prefix("# ").map_or((line, true), |line| (line, false));
        if line.starts_with('[') && line.ends_with(']') {
            table = format!("{}.", line.trim_matches(['[', ']']));
        } else if let Some((key, value)) = line.split_once(" = ").filter(|(key, _)| !key.contains(' ')) {
            let row = format!("\n| `{table}{key}` | ");
            let own = keys.split_once(&row).map(|(_, rest)| rest);
            let default = format!("{} | ", value.trim_matches('"'));
            let is_right = own.is_some_and(|own| !is_default || own.starts_with(&default));
            assert!(is_right, "docs/configuration.md should have {row}{default}");
        }
    }
}

#[test]
fn flags_override_the_file_and_the_file_the_defaults() {
    let text = "listen = \"[::1]:7\"\nmax_calls = 3\ninsecure = true\n[synthetic]\nclients = 5\nseed = 6";
    let config = load(&["--broker", "synthetic", "--seed", "9", "--insecure=false"], text).unwrap();
    assert_eq!(config.listen, "[::1]:7".parse().unwrap());
    assert_eq!(config.max_calls.get(), 3);
    assert!(!config.insecure);
    assert!(matches!(config.broker, BrokerConfig::Synthetic { clients: 5, seed: 9, churn: 0 }));
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
            "agent.toml:1:10: broker = \"mosquito\": unknown variant `mosquito`, expected one of `embedded`, `file`, `nats`, `rabbitmq`, `synthetic`",
        ),
        ("[log]\nfromat = \"json\"", "agent.toml:2:1: unknown field `fromat`, expected `format` or `filter`"),
        ("[tls]\ncert = \"x\"", "agent.toml:1:1: missing field `key`"),
    ] {
        assert_eq!(file(text).unwrap_err(), expected, "{text}");
    }
    let misplaced = file("password = hunter2").unwrap_err();
    assert!(misplaced.starts_with("agent.toml:1:12: ") && !misplaced.contains("hunter2"), "{misplaced}");
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
    let tls = with(&["--listen", "[::]:1", "--tls-cert", "c", "--tls-key", "k"]);
    let anybody = load(&tls, "").unwrap_err();
    assert!(anybody.starts_with("listen is [::]:1, which others can reach, and anybody may"), "{anybody}");
    for doors in [&["--tls-client-ca", "a"][..], &["--token-file", "t"], &["--insecure"]] {
        assert!(load(&[&tls, doors].concat(), "").is_ok(), "{doors:?}");
    }
    assert_eq!(
        refused(&with(&["--tls-cert", "c", "--tls-key", "k", "--tls-client-name", "a"])),
        "client_names without client_ca: without it, gateways show no name"
    );
    let names = ["--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a", "--tls-client-name", "a,b:1"];
    assert!(refused(&with(&names)).starts_with("client_names has \"b:1\", expected a name"));
    let plain = with(&["--listen", "0.0.0.0:1", "--token-file", "t"]);
    assert!(
        load(&plain, "").unwrap_err().contains("TLS is not set up"),
        "a token would be shown to the network"
    );
    assert_eq!(refused(&with(&["--tls-cert", "c"])), "TLS is set up in part: --tls-key is missing");
    assert_eq!(refused(&with(&["--tls-client-ca", "c"])), "TLS is set up in part: --tls-cert is missing");
    assert_eq!(
        refused(&with(&["--file", "x"])),
        "--file (or ROLLCALL_AGENT_FILE) is given, but the broker is synthetic, expected file"
    );
    assert_eq!(
        refused(&["--broker", "file"]),
        "the broker is file, but there is no path: give --file PATH or [file] path"
    );
    assert_eq!(
        refused(&with(&["--node-name", ""])),
        "node_name is \"\", expected a name such as a@127.0.0.1: 1 to 128 bytes without slashes and control characters"
    );
    for name in ["a/b", "a\nb", &"x".repeat(129)] {
        let expected = format!("node_name is {name:?}, expected a name");
        assert!(
            load(&["--broker", "synthetic", "--node-name", name], "").unwrap_err().starts_with(&expected)
        );
    }
    assert!(load(&["--broker", "synthetic", "--node-name", &"x".repeat(128)], "").is_ok());
    assert_eq!(refused(&with(&["--clients", "20000001"])), "clients is 20000001, expected at most 20000000");
    assert_eq!(refused(&with(&["--churn", "1000001"])), "churn is 1000001, expected at most 1000000");
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
fn what_is_wrong_on_the_command_line_is_one_line() {
    for (flags, expected) in [
        (
            &["--listen", "localhost"][..],
            "invalid value 'localhost' for '--listen <ADDR>': expected an address and a port, such as 127.0.0.1:18830",
        ),
        (
            &["--broker", "mosquito"],
            "invalid value 'mosquito' for '--broker <KIND>' [possible values: embedded, file, nats, rabbitmq, synthetic]",
        ),
        (
            &["--drain-timeout", "1h"],
            "invalid value '1h' for '--drain-timeout <TIME>': expected whole seconds or minutes, such as 10s or 2m",
        ),
        (
            &["--node_name", "x"],
            "unexpected argument '--node_name' found tip: a similar argument exists: '--node-name'",
        ),
        (&["--file"], "a value is required for '--file <PATH>' but none was supplied"),
    ] {
        let words: Vec<_> = ["rollcall-agent"].iter().chain(flags).map(Into::into).collect();
        match Cli::read_from(&words) {
            Err(Refusal::Wrong(message)) => assert_eq!(message, expected),
            other => panic!("{flags:?}: expected a refusal, got {other:?}"),
        }
    }
    assert!(matches!(Cli::read_from(&["rollcall-agent".into(), "--help".into()]), Err(Refusal::Asked(_))));
}

#[test]
fn the_time_to_drain_is_in_seconds_unless_it_says_otherwise() {
    for (text, seconds) in [("0", 0), ("10", 10), ("10s", 10), ("2m", 120)] {
        let flags = ["--broker", "synthetic", "--drain-timeout", text];
        assert_eq!(load(&flags, "").unwrap().drain_timeout, Duration::from_secs(seconds), "{text}");
    }
    for text in ["", "s", "+1", "-1", "1.5s", "1 s", "99999999999999999999", "9999999999999999999m"] {
        let flags = ["rollcall-agent", "--drain-timeout", text];
        assert!(Cli::try_parse_from(flags).is_err(), "{text:?}");
    }
}

#[test]
fn without_a_name_the_node_is_called_by_its_address() {
    for (listen, name) in [
        ("127.0.0.1:0", "rollcall@127.0.0.1"),
        ("10.1.2.3:7", "rollcall@10.1.2.3"),
        ("[fd00::1]:7", "rollcall@fd00::1"),
        ("0.0.0.0:7", "rollcall@127.0.0.1"),
        ("[::]:7", "rollcall@127.0.0.1"),
    ] {
        let flags = ["--broker", "synthetic", "--insecure", "--listen", listen];
        assert_eq!(load(&flags, "").unwrap().node_name, name, "{listen}");
    }
}

#[test]
fn the_settings_shown_can_be_used_as_a_file() {
    let mut cases = vec![
        (
            "token_file = \"t\"\n[tls]\ncert = \"c\"\nkey = \"k\"\nclient_ca = 'a\"b\\c'\nclient_names = [\"g\"]",
            vec!["--broker", "synthetic", "--seed", "3", "--churn", "4"],
        ),
        (
            "max_calls = 3\ndrain_timeout_secs = 70\n[log]\nformat = \"json\"",
            vec!["--broker", "file", "--file", "ü \u{7f}"],
        ),
    ];
    if cfg!(feature = "embedded") {
        let listeners = "[[embedded.listeners]]\nprotocol = \"websocket\"\nzone = \"a'\\\"b\"\nproxy_protocol = true\n\
                         tls = { cert = \"c\", key = \"k\" }\n[[embedded.listeners]]\naddress = \"[::1]:7\"";
        cases.push((listeners, vec!["--password-file", "users"]));
        cases.push(("[embedded]\nmax_inflight = 7\nmax_retained = 8\ncounting_front = true", vec![]));
    }
    if cfg!(feature = "rabbitmq") {
        let text = "[rabbitmq]\nurl = 'https://h:1/b\"'\ntls_ca = 'a'\nnode = 'r@h'\npoll_interval_ms = 100\npage_size = 7\n\
                    front = { listen = '[::1]:1', forward = '127.0.0.1:2', tls_cert = 'c', tls_key = 'k' }";
        cases.push((text, vec!["--broker", "rabbitmq", "--rabbitmq-password-file", "p"]));
    }
    if cfg!(feature = "nats") {
        let text = "[nats]\nserver_name = 'n'\nmqtt_address = 'h:1'\ntimeout_ms = 60000\npage_size = 1\n\
                    system = { username = 'u', password_file = 'p' }\n\
                    accounts = [{ name = '$G', username = 'v', password_file = 'q' }]";
        cases.push((text, vec!["--broker", "nats", "--nats-client-address", "[::1]:4"]));
    }
    for (text, flags) in cases {
        let shown = load(&flags, text).unwrap().to_string();
        assert_eq!(load(&[], &shown).unwrap().to_string(), shown);
        assert_ne!(shown, load(&["--broker", "synthetic"], "").unwrap().to_string());
    }
}

#[test]
fn the_command_line_is_consistent() {
    use clap::CommandFactory as _;
    Cli::command().debug_assert();
}

#[cfg(feature = "rabbitmq")]
#[test]
fn settings_of_rabbitmq_are_checked_and_overridden_by_flags() {
    let with = |flags: &[&str], text: &str| load(&[&["--broker", "rabbitmq"], flags].concat(), text);
    let refused = |flags: &[&str], text: &str| with(flags, text).unwrap_err();
    let file = ["--rabbitmq-password-file", "p"];
    let BrokerConfig::Rabbitmq(settings) = with(
        &["--rabbitmq-url", "http://h:1", "--rabbitmq-username", "u", "--rabbitmq-node", "r@h"],
        "[rabbitmq]\npassword_file = 'p'\nusername = 'v'",
    )
    .unwrap()
    .broker
    else {
        panic!("another broker")
    };
    assert_eq!((settings.url.as_str(), settings.username.as_str()), ("http://h:1", "u"));
    assert_eq!((settings.node.as_deref(), settings.password_file), (Some("r@h"), Some("p".into())));
    assert_eq!(
        refused(&[], ""),
        "[rabbitmq] password_file is missing, expected a file with the password of username"
    );
    assert_eq!(
        refused(&[&file[..], &["--rabbitmq-url", "ftp://h"]].concat(), ""),
        "[rabbitmq] url is \"ftp://h\", expected http or https"
    );
    assert_eq!(
        refused(&[&file[..], &["--rabbitmq-node", "h"]].concat(), ""),
        "[rabbitmq] node is \"h\", expected a name such as rabbit@host"
    );
    assert_eq!(
        refused(&file, "[rabbitmq]\npoll_interval_ms = 99"),
        "[rabbitmq] poll_interval_ms is 99, expected 100 to 3600000"
    );
    assert_eq!(
        refused(&file, "[rabbitmq]\npage_size = 501"),
        "[rabbitmq] page_size is 501, expected 1 to 500"
    );
    let front =
        |keys: &str| refused(&file, &format!("[rabbitmq]\nfront = {{ listen = '127.0.0.1:1', {keys} }}"));
    assert_eq!(
        front("forward = '127.0.0.1:1'"),
        "[rabbitmq] front.listen and front.forward are both 127.0.0.1:1, expected two addresses"
    );
    assert_eq!(
        front("forward = '127.0.0.1:2', tls_cert = 'c'"),
        "[rabbitmq] front.tls_key is missing, expected a file with the key of front.tls_cert"
    );
    assert_eq!(
        front("forward = '127.0.0.1:2', tls_key = 'k'"),
        "[rabbitmq] front.tls_cert is missing, expected a file with the certificate of front.tls_key"
    );
    assert!(front("").contains("forward"), "{}", front(""));
    // A password cannot be written into the file.
    assert!(refused(&file, "[rabbitmq]\npassword = 'x'").contains("unknown field `password`"));
    assert_eq!(
        load(&[&SYNTHETIC[..], &file].concat(), "").unwrap_err(),
        "--rabbitmq-password-file (or ROLLCALL_AGENT_RABBITMQ_PASSWORD_FILE) is given, but the broker is synthetic, \
         expected rabbitmq"
    );
}

#[cfg(feature = "nats")]
#[test]
fn settings_of_nats_are_checked() {
    let refused = |text: &str| load(&["--broker", "nats"], &format!("[nats]\n{text}")).unwrap_err();
    assert_eq!(
        refused("client_address = 'h'"),
        "[nats] client_address is \"h\", expected host and port, such as 127.0.0.1:4222"
    );
    assert_eq!(
        refused("mqtt_address = ':1'"),
        "[nats] mqtt_address is \":1\", expected host and port, such as 127.0.0.1:4222"
    );
    assert_eq!(refused("timeout_ms = 60001"), "[nats] timeout_ms is 60001, expected 100 to 60000");
    assert_eq!(refused("page_size = 0"), "[nats] page_size is 0, expected 1 to 1024");
    let login = "{ name = 'A', username = 'u', password_file = 'p' }";
    assert_eq!(
        refused(&format!("accounts = [{login}, {login}]")),
        "[nats] accounts name \"A\" twice, expected one login of each"
    );
    assert!(
        refused("url = 'https://h'")
            .starts_with("[nats] url is \"https://h\", expected a file with the authorities")
    );
    assert!(load(&["--broker", "nats"], "").is_ok());
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
