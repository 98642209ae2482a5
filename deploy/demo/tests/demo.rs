//! The demo, as the README starts it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ends the demo with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(gateway: &str, path: &str) -> String {
    request(gateway, &format!("/api/v4{path}"))
}

fn request(gateway: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(gateway).unwrap();
    // app_id:app_secret
    let key = "Authorization: Basic YXBwX2lkOmFwcF9zZWNyZXQ=";
    let request = format!("GET {path} HTTP/1.1\r\nHost: demo\r\n{key}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_demo_answers_as_one_cluster_and_ends_when_told() {
    let mut demo =
        Running(Command::new(env!("CARGO_BIN_EXE_rollcall-demo")).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines();
    let banner: Vec<String> =
        lines.by_ref().map(Result::unwrap).take_while(|line| !line.starts_with("Ctrl-C")).collect();
    let line = banner.iter().find(|line| line.contains("gateway ")).unwrap();
    let gateway = line.split_once("http://").and_then(|(_, rest)| rest.split_once('/')).unwrap().0;

    let page = format!("http://{gateway}/   key id app_id, secret app_secret");
    assert!(banner.iter().any(|line| line.contains("page ") && line.ends_with(&page)), "{banner:#?}");
    assert!(request(gateway, "/").contains("<title>Rollcall</title>"));
    let prompt = format!("export ROLLCALL_URL=http://{gateway} ROLLCALL_KEY=app_id:app_secret");
    let at = banner.iter().position(|line| line.trim() == prompt);
    let command = at.and_then(|at| banner.get(at + 1)).map(|line| line.trim());
    assert_eq!(
        command,
        Some("cargo run -q -p rollcall-cli -- clients --sort connected_at --limit 3"),
        "{banner:#?}"
    );

    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = get(gateway, "/clients?_fields=clientid,connected");
        let everybody = ["dashboard", "thermometer-attic", "phone-of-bob"];
        let asleep = r#"{"clientid":"night-logger","connected":false}"#;
        if answer.contains(r#""count":7"#) && answer.contains(asleep) {
            assert!(answer.contains(r#""total":3,"answered":3,"failed":[]"#), "{answer}");
            assert!(everybody.iter().all(|client| answer.contains(client)), "{answer}");
            break;
        }
        assert!(Instant::now() < deadline, "{answer}");
    }

    let pid = demo.0.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert!(demo.0.wait().unwrap().success());
}
