//! The binary: ready line, signals, exit codes, and the file broker as it is used.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rollcall_proto::v1::node_client::NodeClient;
use rollcall_proto::v1::{DescribeRequest, KickRequest, ListRequest};
use tonic::transport::Channel;

const NODE: &str = "a@127.0.0.1";

fn agent(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall-agent"));
    command.args(flags).env_clear();
    command
}

fn output(flags: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = agent(flags).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A serving agent; killed if a test fails.
struct Serving {
    child: Child,
    stdout: BufReader<ChildStdout>,
    address: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serving {
    fn start(flags: &[&str]) -> Self {
        let flags = [&["--node-name", NODE, "--listen", "127.0.0.1:0"], flags].concat();
        let mut child = agent(&flags).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.strip_prefix("ready ").and_then(|rest| rest.strip_suffix('\n')).unwrap();
        address.parse::<std::net::SocketAddr>().unwrap();
        Self { child, stdout, address: address.to_owned() }
    }

    async fn client(&self) -> NodeClient<Channel> {
        NodeClient::connect(format!("http://{}", self.address)).await.unwrap()
    }

    fn stop(mut self, signal: &str) -> (Option<i32>, String) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(10);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "still running 10 s after {signal}");
            std::thread::park_timeout(Duration::from_millis(10));
        };
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.stdout, &mut rest).unwrap();
        (status.code(), rest)
    }
}

fn write(path: &Path, lines: &[&str]) {
    // Beside it and then in its place, so that the agent sees the whole of it.
    let beside = path.with_extension("new");
    let mut file = std::fs::File::create(&beside).unwrap();
    for line in lines {
        writeln!(file, "{line}").unwrap();
    }
    std::fs::rename(beside, path).unwrap();
}

async fn rows(client: &mut NodeClient<Channel>) -> Vec<(String, u64, Option<u64>)> {
    let request = ListRequest { limit: 100, ..ListRequest::default() };
    let mut stream = client.list(request).await.unwrap().into_inner();
    let mut rows = Vec::new();
    while let Some(chunk) = stream.message().await.unwrap() {
        let row = |row: rollcall_proto::v1::Client| {
            (row.clientid, row.session, row.statistics.and_then(|figures| figures.mqueue_len))
        };
        rows.extend(chunk.clients.into_iter().map(row));
    }
    rows
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within 10 s: {what}");
}

#[test]
fn it_says_ready_once_and_exits_with_0_on_sigterm_and_sigint() {
    for signal in ["-TERM", "-INT"] {
        let serving = Serving::start(&["--broker", "synthetic", "--clients", "100"]);
        assert_eq!(serving.stop(signal), (Some(0), String::new()), "{signal}");
    }
}

#[tokio::test]
async fn a_synthetic_broker_serves_its_clients() {
    let serving = Serving::start(&["--broker", "synthetic", "--clients", "100", "--seed", "7"]);
    let mut client = serving.client().await;
    let description = client.describe(DescribeRequest {}).await.unwrap().into_inner();
    assert_eq!(description.identity.unwrap().name, NODE);
    assert_eq!((description.broker_kind.as_str(), description.clients), ("synthetic", 100));
    assert_eq!(rows(&mut client).await.len(), 100);
}

#[tokio::test]
async fn a_file_is_served_kicked_from_and_reloaded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("clients.ndjson");
    let a = r#"{"node":"a@127.0.0.1","clientid":"a","created_at_ms":1,"mqueue_len":7}"#;
    let b = r#"{"node":"a@127.0.0.1","clientid":"b","created_at_ms":1}"#;
    let c = r#"{"node":"a@127.0.0.1","clientid":"c","created_at_ms":1}"#;
    let elsewhere = r#"{"node":"b@127.0.0.1","clientid":"a"}"#;
    write(&path, &[b, elsewhere, a, ""]);
    let serving = Serving::start(&["--broker", "file", "--file", path.to_str().unwrap()]);
    let mut client = serving.client().await;
    let before = rows(&mut client).await;
    assert_eq!(before, [("a".into(), 2, Some(7)), ("b".into(), 1, None)]);

    client.kick(KickRequest { clientid: "a".into(), session: None, incarnation: None }).await.unwrap();
    assert_eq!(rows(&mut client).await, [("b".into(), 1, None)]);

    // Bad news changes nothing but the description.
    write(&path, &[a, b, r#"{"node":"a@127.0.0.1","clientid":"c","prot":1}"#]);
    let expected = format!("{}:3: prot: unknown field `prot`, expected one of", path.display());
    until("the error", async || {
        let description = client.clone().describe(DescribeRequest {}).await.unwrap().into_inner();
        description.broker_error.starts_with(&expected)
    })
    .await;
    assert_eq!(rows(&mut client).await, [("b".into(), 1, None)]);

    // A changed file is the new truth: who was kicked comes back as a new session, who stayed keeps its own.
    write(&path, &[a, b, c]);
    until("the new rows", async || rows(&mut client.clone()).await.len() == 3).await;
    let after = rows(&mut client).await;
    assert_eq!(after, [("a".into(), 3, Some(7)), ("b".into(), 1, None), ("c".into(), 4, None)]);
    let description = client.describe(DescribeRequest {}).await.unwrap().into_inner();
    assert_eq!(description.broker_error, "");
}

#[test]
fn a_bad_file_refuses_the_start_and_is_named_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("clients.ndjson");
    let flags = [
        "--node-name",
        NODE,
        "--listen",
        "127.0.0.1:0",
        "--broker",
        "file",
        "--file",
        path.to_str().unwrap(),
    ];
    let a = r#"{"node":"a@127.0.0.1","clientid":"a"}"#;
    for (lines, expected) in [
        (
            vec![a, a],
            format!("{}:2: clientid \"a\" stands on line 1 already, expected once a node", path.display()),
        ),
        (
            vec![a, r#"{"node":"b@127.0.0.1","clientid":"a","port":"x"}"#],
            format!("{}:2: port: invalid type: string \"x\", expected u16", path.display()),
        ),
        (vec![r#"{"clientid":"a"}"#], format!("{}:1: missing field `node`", path.display())),
    ] {
        write(&path, &lines);
        let (code, stdout, stderr) = output(&flags);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        assert!(stderr.ends_with(&format!("error: {expected}\n")), "{stderr}");
    }
    std::fs::remove_file(&path).unwrap();
    let (code, _, stderr) = output(&flags);
    assert_eq!(code, Some(1));
    assert!(stderr.contains(&format!("error: cannot read {}: ", path.display())), "{stderr}");
}

#[test]
fn check_config_tells_the_settings_or_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    std::fs::write(&path, "broker = \"synthetic\"\nmax_calls = 7\n").unwrap();
    let flags = ["check-config", "--config", path.to_str().unwrap()];
    let (code, stdout, _) = output(&flags);
    assert_eq!(code, Some(0));
    assert!(stdout.starts_with("ok\nnode_name = \"rollcall@"), "{stdout}");
    assert!(stdout.contains("\nmax_calls = 7\n"), "{stdout}");
    let (code, stdout, stderr) = output(&[&flags[..], &["--listen", "0.0.0.0:0"]].concat());
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.starts_with("error: listen is 0.0.0.0:0, which others can reach"), "{stderr}");
    std::fs::write(&path, "broker = \"synthetic\"\nmax_cals = 7\n").unwrap();
    let (code, _, stderr) = output(&flags);
    assert_eq!(code, Some(2));
    let expected = format!("error: {}:2:1: unknown field `max_cals`, expected one of", path.display());
    assert!(stderr.starts_with(&expected), "{stderr}");
}

#[test]
fn environment_variables_stand_between_file_and_flags() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    std::fs::write(&path, "broker = \"synthetic\"\nmax_calls = 7\nnode_name = \"file\"\n").unwrap();
    let output = agent(&["check-config", "--node-name", "flag"])
        .env("ROLLCALL_AGENT_CONFIG", &path)
        .env("ROLLCALL_AGENT_NODE_NAME", "environment")
        .env("ROLLCALL_AGENT_MAX_CALLS", "8")
        .env("ROLLCALL_AGENT_INSECURE", "true")
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("node_name = \"flag\"\n") && stdout.contains("max_calls = 8\n"), "{stdout}");
    assert!(stdout.contains("insecure = true\n"), "{stdout}");
}

#[test]
fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, stdout, stderr) = output(&["--broker", "synthetic", "--listen", &address]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains(&format!("error: cannot listen on {address}: ")), "{stderr}");
}

#[test]
fn what_cannot_be_used_is_one_line_that_names_it() {
    for (flags, expected) in [
        (
            &["--broker", "file"][..],
            "the broker is file, but there is no path: give --file PATH or [file] path",
        ),
        (
            &["--broker", "file", "--file", "x", "--clients", "3"],
            "--clients (or ROLLCALL_AGENT_CLIENTS) is given, but the broker is file, expected synthetic",
        ),
        (
            &["--broker", "synthetic", "--listen", "0.0.0.0:0"],
            "listen is 0.0.0.0:0, which others can reach, but TLS is not set up: give --tls-cert and --tls-key, or \
             --insecure if the network is trusted, or listen on a loopback address",
        ),
        (
            &["--broker", "synthetic", "--clients", "many"],
            "invalid value 'many' for '--clients <N>': expected a whole number",
        ),
    ] {
        for command in [&[][..], &["check-config"]] {
            let (code, stdout, stderr) = output(&[command, flags].concat());
            assert_eq!((code, stdout, stderr), (Some(2), String::new(), format!("error: {expected}\n")));
        }
    }
}

#[test]
fn a_bad_environment_variable_is_named() {
    let output = agent(&["--broker", "synthetic"]).env("ROLLCALL_AGENT_LISTEN", "here").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: ROLLCALL_AGENT_LISTEN in the environment: invalid value 'here' for '--listen <ADDR>': expected an \
         address and a port, such as 127.0.0.1:18830\n"
    );
}

#[test]
fn help_and_version_are_told_on_stdout() {
    let (code, stdout, stderr) = output(&["--help"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for word in ["--node-name", "--listen", "ROLLCALL_AGENT_CONFIG", "check-config", "ready ADDR"] {
        assert!(stdout.contains(word), "{word} in {stdout}");
    }
    let version = format!("rollcall-agent {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(output(&["--version"]), (Some(0), version, String::new()));
}

#[test]
fn logs_go_to_stderr_as_json_if_asked_for() {
    let mut child = agent(&["--broker", "synthetic", "--listen", "127.0.0.1:0", "--log-format", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.starts_with("ready "), "{line:?}");
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    assert_eq!(status.code(), Some(0));
    let log = String::from_utf8(stderr).unwrap();
    let events: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().any(|event| event["signal"] == "SIGTERM"), "{log}");
}

#[cfg(feature = "embedded")]
mod embedded {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn passwd(path: &Path, user: &str, password: &str) -> Option<i32> {
        let mut child = agent(&["passwd", "--file", path.to_str().unwrap(), "--user", user])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        child.wait().unwrap().code()
    }

    #[test]
    fn the_ready_line_names_every_mqtt_listener() {
        let flags = ["--listen", "127.0.0.1:0", "--mqtt-listen", "127.0.0.1:0", "--mqtt-listen", "[::1]:0"];
        let mut child = agent(&flags).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["ready", address, "mqtt", first, "mqtt", second] = words[..] else { panic!("{line:?}") };
        let serving = Serving { child, stdout, address: address.to_owned() };
        for address in [first, second] {
            std::net::TcpStream::connect(address).unwrap();
        }
        assert_eq!(serving.stop("-TERM"), (Some(0), String::new()));
    }

    #[test]
    fn users_are_added_with_hashes_that_only_the_owner_reads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        assert_eq!(passwd(&path, "alice", "secret-1\n"), Some(0));
        assert_eq!(passwd(&path, "bob", "secret-2"), Some(0));
        let text = std::fs::read_to_string(&path).unwrap();
        let users: Vec<_> = text.lines().map(|line| line.split_once(":$argon2id$").unwrap().0).collect();
        assert_eq!(users, ["alice", "bob"]);
        assert!(!text.contains("secret"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(passwd(&path, "carol", "\n"), Some(1));
        assert_eq!(passwd(&path, "", "x\n"), Some(1));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_password_file_that_cannot_be_used_refuses_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        std::fs::write(&path, "alice\n").unwrap();
        let flags = ["--listen", "127.0.0.1:0", "--mqtt-listen", "127.0.0.1:0", "--password-file"];
        let (code, stdout, stderr) = output(&[&flags[..], &[path.to_str().unwrap()]].concat());
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        assert!(stderr.ends_with(&format!("error: {}:1: expected USER:HASH\n", path.display())), "{stderr}");
    }
}
