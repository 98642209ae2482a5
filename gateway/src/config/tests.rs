use super::*;

fn layer(toml: &str) -> Layer {
    parse_file(Path::new("g.toml"), toml).unwrap()
}

fn minimal() -> Layer {
    Layer { key: Some(vec!["id:secret:viewer".into()]), ..layer("node = [\"127.0.0.1:7070\"]") }
}

fn environment(variables: &[(&str, &str)]) -> Result<Layer, ConfigError> {
    from_environment(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

/// The example with every commented default taken in.
fn example_with_defaults() -> String {
    let is_key = |line: &str| {
        line.split_once(" = ")
            .is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    include_str!("../../gateway.example.toml")
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line))
        // Examples, of what is off by default.
        .filter(|line| !["node_", "audit_log", "tls_"].iter().any(|key| line.starts_with(key)))
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn the_example_says_what_the_defaults_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.toml");
    KeyFile::at(&path).create("id", crate::keys::Role::Viewer, "").unwrap();
    let config = |text: &str| {
        let told = Layer { key_file: Some(path.clone()), ..layer(text) };
        format!("{:?}", Config::new(told).unwrap())
    };
    let as_it_is = include_str!("../../gateway.example.toml");
    let spelled_out = example_with_defaults();
    assert!(spelled_out.contains("\nrequest_timeout = \"5s\"\n"), "{spelled_out}");
    assert_eq!(config(as_it_is), config(&spelled_out));
    assert_eq!(layer(as_it_is).key_file, Some("keys.toml".into()));
}

#[test]
fn the_example_names_every_key() {
    let command = Layer::augment_args(Command::new("x"));
    for flag in command.get_arguments().filter_map(|argument| argument.get_long()) {
        let is_named = include_str!("../../gateway.example.toml")
            .lines()
            .any(|line| line.trim_start_matches("# ").starts_with(&format!("{} = ", flag.replace('-', "_"))));
        assert_eq!(is_named, !["config", "key"].contains(&flag), "{flag}");
    }
}

/// The table of docs/configuration.md is made of the flags; what fails here prints it.
#[test]
fn the_document_has_every_setting() {
    let command = Layer::augment_args(Command::new("x"));
    let rows: String = command
        .get_arguments()
        .map(|argument| {
            let help = argument.get_help().unwrap().to_string();
            let (meaning, default) = help
                .strip_suffix(']')
                .and_then(|help| help.split_once(" [default: "))
                .unwrap_or((help.as_str(), ""));
            let key = argument.get_long().unwrap().replace('-', "_");
            format!("| `{key}` | {default} | {meaning} |\n")
        })
        .collect();
    let document = include_str!("../../../docs/configuration.md");
    assert!(
        document.contains(&format!("\n|---|---|---|\n{rows}\n")),
        "docs/configuration.md should have\n{rows}"
    );
}

#[test]
fn flags_come_before_the_environment_and_that_before_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.toml");
    std::fs::write(
        &path,
        "node = [\"a:1\"]\nrequest_timeout = \"1s\"\nread_timeout = \"1s\"\nprobe_interval = \"1s\"\n",
    )
    .unwrap();
    let flags = Layer {
        request_timeout: Some("3s".parse().unwrap()),
        key: Some(vec!["id:secret:viewer".into()]),
        ..Layer::default()
    };
    let variables = [
        ("ROLLCALL_GATEWAY_CONFIG", path.to_str().unwrap()),
        ("ROLLCALL_GATEWAY_REQUEST_TIMEOUT", "2s"),
        ("ROLLCALL_GATEWAY_READ_TIMEOUT", "2s"),
    ];
    let config =
        Config::load(flags, variables.map(|(name, value)| (name.to_owned(), value.to_owned()))).unwrap();
    assert_eq!(config.request_timeout, Duration::from_secs(3));
    assert_eq!(config.limits.read_timeout, Duration::from_secs(2));
    assert_eq!(config.cluster.probe_interval, Duration::from_secs(1));
    assert_eq!(config.cluster.nodes, ["a:1"]);
}

#[test]
fn the_environment_knows_every_key_and_leaves_other_names_alone() {
    let told = environment(&[
        ("ROLLCALL_GATEWAY_NODE", "a:1,b:2"),
        ("ROLLCALL_GATEWAY_INSECURE", "true"),
        ("ROLLCALL_GATEWAY_MAX_REQUESTS", "7"),
        ("ROLLCALL_GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("ROLLCALL_GATEWAY_PORT", "tcp://10.0.0.1:8081"),
        ("ROLLCALL_GATEWAY_max-requests", "x"),
        ("PATH", "/bin"),
    ])
    .unwrap();
    let expected = Layer {
        insecure: Some(true),
        max_requests: Some(Count(7)),
        node: Some(vec!["a:1".parse().unwrap(), "b:2".parse().unwrap()]),
        ..Layer::default()
    };
    assert_eq!(told, expected);
}

#[test]
fn a_wrong_file_is_refused_by_place_value_and_expectation() {
    let mut table = String::new();
    for text in [
        "nodes = []",
        "node = \"a:1\"",
        "node = [\n  \"a:1\",\n  \"b\",\n]",
        "\nlisten = \"localhost:80\"",
        "listen = 8081",
        "request_timeout = 5",
        "request_timeout = \"5\"",
        "max_requests = -1",
        "base_path = \"api\"",
        "log_format = \"xml\"",
        "insecure = \"yes\"",
        "key = [\"a:b:viewer\"]",
        "insecure = true\ninsecure = true",
        "listen = \"",
    ] {
        table += &format!("{text}\n  {}\n", parse_file(Path::new("g.toml"), text).unwrap_err());
    }
    insta::assert_snapshot!(table);
}

#[test]
fn a_wrong_variable_is_refused_by_name_value_and_expectation() {
    let mut table = String::new();
    for (key, value) in [
        ("LISTEN", "localhost:80"),
        ("NODE", "a:1,b"),
        ("INSECURE", "yes"),
        ("MAX_REQUESTS", "many"),
        ("REQUEST_TIMEOUT", ""),
        ("LOG_FORMAT", "xml"),
    ] {
        let error = environment(&[(&format!("ROLLCALL_GATEWAY_{key}"), value)]).unwrap_err();
        table += &format!("{error}\n");
    }
    insta::assert_snapshot!(table);
}

#[test]
fn values_that_do_not_fit_are_refused() {
    let file = |name: &str| Some(PathBuf::from(name));
    let mut table = String::new();
    for told in [
        Layer { node: None, ..minimal() },
        Layer { node: Some(vec!["A:1".parse().unwrap(), "a:1".parse().unwrap()]), ..minimal() },
        Layer { key: None, ..minimal() },
        Layer { key: Some(vec!["a:hush:viewer".into(), "b:hush:root".into()]), ..minimal() },
        Layer { key: Some(vec!["a:hush:viewer".into(), "a:hush2:viewer".into()]), ..minimal() },
        Layer { key_file: file("/nowhere/keys.toml"), ..minimal() },
        Layer { listen: Some("0.0.0.0:80".parse().unwrap()), ..minimal() },
        Layer { listen: Some("[::]:80".parse().unwrap()), insecure: Some(false), ..minimal() },
        Layer { node_domain: Some("x".into()), ..minimal() },
        Layer { node_ca: file("/nowhere/ca.pem"), ..minimal() },
        Layer { node_ca: file("/dev/null"), ..minimal() },
        Layer { node_ca: file("/dev/null"), node_domain: Some("a b".into()), ..minimal() },
        Layer { node_token_file: file("/dev/null"), ..minimal() },
        Layer {
            node: Some(vec!["10.0.0.7:1".parse().unwrap()]),
            node_token_file: file("/dev/null"),
            ..minimal()
        },
        Layer { node_ca: file("/dev/null"), node_cert: file("/dev/null"), ..minimal() },
        Layer { node_ca: file("/dev/null"), node_key: file("/dev/null"), ..minimal() },
        Layer { max_requests: Some(Count(0)), ..minimal() },
        Layer { max_head_bytes: Some(Count(1 << 25)), ..minimal() },
        Layer { bulk_kick_max: Some(Count(0)), ..minimal() },
        Layer { bulk_kick_default_max: Some(Count(10_001)), ..minimal() },
        Layer { bulk_kick_max_rate: Some(Count(10)), bulk_kick_default_rate: Some(Count(11)), ..minimal() },
        Layer { request_timeout: Some("0s".parse().unwrap()), ..minimal() },
        Layer { log_filter: Some("a=b=c".into()), ..minimal() },
    ] {
        table += &format!("{}\n", Config::new(told).unwrap_err());
    }
    assert!(!table.contains("hush"), "{table}");
    insta::assert_snapshot!(table);
}

#[test]
fn what_a_bulk_kick_gets_by_default_is_within_what_it_may_have() {
    let told = Layer { bulk_kick_max: Some(Count(7)), bulk_kick_max_rate: Some(Count(3)), ..minimal() };
    let kicks = Config::new(told).unwrap().limits.kicks;
    assert_eq!((kicks.most, kicks.default_most, kicks.most_rate, kicks.default_rate), (7, 7, 3, 3));
}

#[test]
fn a_public_address_is_used_if_that_is_said() {
    let told = Layer { listen: Some("0.0.0.0:80".parse().unwrap()), insecure: Some(true), ..minimal() };
    assert_eq!(Config::new(told).unwrap().listen.port(), 80);
}

#[test]
fn a_key_put_into_the_file_by_mistake_is_not_shown() {
    let error = parse_file(Path::new("g.toml"), "key = [\"id:hush-hush:viewer\"]").unwrap_err().to_string();
    assert!(error.contains("key_file") && !error.contains("hush"), "{error}");
}

#[test]
fn no_secret_is_in_debug_output() {
    let told = minimal();
    assert!(!format!("{told:?}").contains("secret"));
    let config = format!("{:?}", Config::new(told).unwrap());
    assert!(!config.contains("secret") && !config.contains("2bb80d53"), "{config}");
}
