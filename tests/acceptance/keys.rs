//! Keys while the gateway runs: made, revoked, guessed.

use rollcall_tests::http;
use rollcall_tests::process::run;
use rollcall_tests::sandbox::{Agent, Gateway, OPERATOR};
use rollcall_tests::wait::eventually;

const GATEWAY: &str = "rollcall-gateway";

/// Makes a key and gives its id and secret.
fn create(file: &str, id: &str) -> (String, String) {
    let (status, out, err) = run(GATEWAY, &["key", "create", "--file", file, "--id", id, "--role", "viewer"]);
    assert!(status.success(), "{err}");
    let (id, secret) = out.trim().split_once(':').unwrap();
    (id.to_owned(), secret.to_owned())
}

fn status(gateway: &Gateway, key: &(String, String)) -> u16 {
    gateway.request_as((&key.0, &key.1), "GET", "/nodes").status
}

fn becomes(gateway: &Gateway, key: &(String, String), expected: u16) {
    eventually(&format!("{expected} for key {}", key.0), || match status(gateway, key) {
        status if status == expected => Ok(()),
        status => Err(status.to_string()),
    });
}

#[test]
fn keys_made_and_revoked_count_while_the_gateway_runs_and_a_broken_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    let path = file.to_str().unwrap();
    let first = create(path, "first");
    let agent = Agent::start("a@127.0.0.1", &["--broker", "synthetic", "--clients", "1"]);
    let options = ["--key-file", path, "--max-wrong-keys", "0"];
    let gateway = Gateway::start(&[agent.process.address], &options);
    assert_eq!(status(&gateway, &first), 200);
    let second = create(path, "second");
    becomes(&gateway, &second, 200);
    assert_eq!(status(&gateway, &first), 200);
    assert!(run(GATEWAY, &["key", "revoke", "--file", path, "--id", "first"]).0.success());
    becomes(&gateway, &first, 401);
    assert_eq!(status(&gateway, &second), 200);

    std::fs::write(&file, "[[key]]\nid = \"second\"\nrole = \"king\"\n").unwrap();
    eventually("log line", || {
        let log = gateway.process.log();
        if log.contains("the keys stay as they were") { Ok(()) } else { Err(log) }
    });
    assert_eq!(status(&gateway, &second), 200);
    for (_, secret) in [first, second] {
        assert!(!gateway.process.log().contains(&secret), "a secret in the log");
    }
}

#[test]
fn who_guesses_keys_is_not_listened_to_for_a_while() {
    let agent = Agent::start("a@127.0.0.1", &["--broker", "synthetic", "--clients", "1"]);
    let gateway = Gateway::start(&[agent.process.address], &["--max-wrong-keys", "5"]);
    let answers: Vec<_> =
        (0..30).map(|n| gateway.request_as(("app_id", &format!("guess-{n}")), "GET", "/nodes")).collect();
    assert!(answers[..5].iter().all(|answer| answer.status == 401));
    let refused = answers.iter().find(|answer| answer.status == 429).expect("a refusal");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.message(), "too many wrong keys from this address, try again in 1 s");
    assert!(gateway.process.log().contains("too many wrong keys"));
    // A right key is let in again when the second is over.
    becomes(&gateway, &(OPERATOR.0.to_owned(), OPERATOR.1.to_owned()), 200);
    // Requests without any credentials guess nothing.
    for _ in 0..30 {
        let answer = http::request(gateway.address(), "GET", "/api/v4/nodes", &[]);
        assert_eq!(answer.status, 401);
    }
}
