//! The binary: what it prints, refuses, and how it ends.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // clippy knows tests by #[test], not by file

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const KEY: [&str; 2] = ["--key", "id:secret:viewer"];
const NODE: [&str; 2] = ["--node", "127.0.0.1:1"];
const FREE_PORT: [&str; 2] = ["--listen", "127.0.0.1:0"];

fn gateway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall-gateway"));
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> Output {
    gateway().args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A gateway that serves; killed when dropped.
struct Serving {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    address: String,
}

impl Serving {
    fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.strip_prefix("ready ").unwrap_or_else(|| panic!("{line:?}")).trim().to_owned();
        Self { child, stdout, address }
    }

    fn get(&self, url: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {url} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{headers}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Asks it to end, and gives its exit code, the rest of stdout, and stderr.
    fn end(mut self) -> (Option<i32>, String, String) {
        let asked = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(asked.success());
        let (mut out, mut err) = (String::new(), String::new());
        self.stdout.read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (self.child.wait().unwrap().code(), out, err)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_says_ready_serves_and_ends_with_0() {
    let serving = Serving::start(gateway().args(FREE_PORT).args(NODE).args(KEY));
    assert!(serving.address.starts_with("127.0.0.1:") && !serving.address.ends_with(":0"));
    assert!(serving.get("/health/ready", "").starts_with("HTTP/1.1 200"));
    assert!(serving.get("/api/v4/nodes?x=hello", "authorization: Bearer secret\r\n").contains(" 400 "));
    let (code, out, err) = serving.end();
    assert_eq!((code, out.as_str()), (Some(0), ""), "{err}");
    assert!(err.contains("for tests"), "{err}");
    let access = err.lines().find(|line| line.contains("x=hello")).unwrap();
    for part in ["rollcall_gateway::access", "key=\"id\"", "method=GET", "status=400", "remote=127.0.0.1:"] {
        assert!(access.contains(part), "{part}: {access}");
    }
    assert!(!err.contains("secret"), "{err}");
}

#[test]
fn logs_can_be_json_and_come_to_stderr() {
    let mut command = gateway();
    command.env("ROLLCALL_GATEWAY_LOG_FORMAT", "json").env("ROLLCALL_GATEWAY_NODE", "127.0.0.1:1");
    let serving = Serving::start(command.args(FREE_PORT).args(KEY));
    serving.get("/health/live", "x-request-id: r-1\r\n");
    let (_, _, err) = serving.end();
    let lines: Vec<serde_json::Value> = err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let access = lines.iter().find(|line| line["target"] == "rollcall_gateway::access").unwrap();
    assert_eq!((&access["request"], &access["status"]), (&"r-1".into(), &200.into()), "{access}");
    assert!(access["duration_ms"].is_number(), "{access}");
}

#[test]
fn what_cannot_be_used_is_refused_before_serving() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("g.toml");
    std::fs::write(&file, "node = [\"127.0.0.1:1\"]\nlisten = \"here\"\n").unwrap();
    let file = file.to_str().unwrap();
    for (arguments, expected) in [
        (vec![], "no node"),
        (vec!["--node", "127.0.0.1:1"], "rollcall-gateway key create"),
        (vec!["--node", "a:1", "--node", "a:1", "--key", "i:s:viewer"], "given twice"),
        (vec!["--node", "a", "--key", "i:s:viewer"], "host:port"),
        (vec!["--node", "a:1", "--key", "i:hush:root"], "viewer or operator"),
        (vec!["--node", "a:1", "--key", "hush"], "ID:SECRET:ROLE"),
        (vec!["--node", "a:1", "--key", "i:s:viewer", "--listen", "0.0.0.0:0"], "insecure"),
        (
            vec!["--node", "a:1", "--key", "i:s:viewer", "--listen", "192.0.2.1:0", "--insecure"],
            "cannot listen",
        ),
        (vec!["--request-timeout", "soon"], "--request-timeout <TIME>"),
        (vec!["--nodes", "a:1"], "--nodes"),
        (vec!["--config", file], "g.toml:2:10: \"here\": expected an IP address"),
        (vec!["--config", "/nowhere"], "config /nowhere"),
        (vec!["--config", file, "key", "list", "--file", "x"], "mean nothing to this command"),
    ] {
        let output = run(&arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{arguments:?}");
        assert!(!stderr(&output).contains("hush"), "{}", stderr(&output));
    }
}

#[test]
fn a_configuration_can_be_checked() {
    let good = run(&["check-config", NODE[0], NODE[1], KEY[0], KEY[1]]);
    assert!(good.status.success(), "{}", stderr(&good));
    assert!(stdout(&good).contains("good"));
    let bad = gateway().arg("check-config").env("ROLLCALL_GATEWAY_LISTEN", "here").output().unwrap();
    assert_eq!(bad.status.code(), Some(1));
    assert!(stderr(&bad).contains("ROLLCALL_GATEWAY_LISTEN=\"here\""), "{}", stderr(&bad));
}

#[test]
fn a_key_is_made_used_listed_and_revoked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.toml");
    let file = path.to_str().unwrap();
    let made =
        run(&["key", "create", "--file", file, "--id", "dash", "--role", "viewer", "--comment", "wall"]);
    assert!(made.status.success(), "{}", stderr(&made));
    let shown = stdout(&made);
    let secret = shown.trim().strip_prefix("dash:").unwrap();
    assert!(!std::fs::read_to_string(Path::new(file)).unwrap().contains(secret));

    let serving = Serving::start(gateway().args(FREE_PORT).args(NODE).args(["--key-file", file]));
    let answer = serving.get("/api/v4/nodes", &format!("authorization: Bearer {secret}\r\n"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, _, err) = serving.end();
    assert!(!err.contains(secret) && !err.contains("for tests"), "{err}");

    let listed = stdout(&run(&["key", "list", "--file", file]));
    assert!(listed.starts_with("dash\tviewer\t20") && listed.ends_with("Z\twall\n"), "{listed}");
    assert!(run(&["key", "revoke", "--file", file, "--id", "dash"]).status.success());
    let again = run(&["key", "revoke", "--file", file, "--id", "dash"]);
    assert!(!again.status.success() && stderr(&again).contains("no key \"dash\""));
    assert_eq!(stdout(&run(&["key", "list", "--file", file])), "");
}
