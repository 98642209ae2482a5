//! The command lines: what serves, what is refused and how it is said.

use std::path::Path;

use rollcall_tests::http;
use rollcall_tests::process::run;
use rollcall_tests::sandbox::{Agent, Gateway};

const AGENT: &str = "rollcall-agent";
const GATEWAY: &str = "rollcall-gateway";

/// That a program refuses to start, naming these on stderr and nothing on stdout.
fn refused(program: &str, arguments: &[&str], named: &[&str]) {
    let (status, out, err) = run(program, arguments);
    assert!(!status.success(), "{program} {arguments:?} is accepted");
    assert_eq!(out, "", "{program} {arguments:?}");
    for word in named {
        assert!(err.contains(word), "{program} {arguments:?} does not name {word:?}: {err}");
    }
    assert!(!err.contains("panicked"), "{err}");
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn both_programs_explain_themselves() {
    for program in [AGENT, GATEWAY] {
        for arguments in [&["--help"][..], &["check-config", "--help"], &["--version"]] {
            let (status, out, _) = run(program, arguments);
            assert!(status.success() && !out.is_empty(), "{program} {arguments:?}");
        }
        refused(program, &["--no-such-flag"], &["--no-such-flag"]);
        refused(program, &["--listen", "nowhere"], &["--listen", "nowhere"]);
    }
}

#[test]
fn an_agent_refuses_what_it_cannot_serve() {
    let folder = tempfile::tempdir().unwrap();
    refused(AGENT, &["--broker", "file"], &["file"]);
    refused(AGENT, &["--broker", "file", "--file", "/nowhere/clients.ndjson"], &["/nowhere/clients.ndjson"]);
    let bad = write(
        folder.path(),
        "bad.ndjson",
        "{\"node\":\"n\",\"clientid\":\"c\"}\n{\"node\":\"n\",\"port\":\"x\",\"clientid\":\"d\"}\n",
    );
    refused(AGENT, &["--broker", "file", "--file", &bad], &["bad.ndjson:2", "port", "x"]);
    refused(AGENT, &["--listen", "0.0.0.0:0", "--broker", "synthetic"], &["0.0.0.0", "insecure"]);
    refused(AGENT, &["--listen", "[::]:0", "--broker", "synthetic"], &["[::]", "insecure"]);
    for (text, named) in [
        ("broker = \"file\"\nlisen = 1\n", ["agent.toml:2:1", "lisen"]),
        ("listen = \"nowhere\"\n", ["agent.toml:1:10", "nowhere"]),
        ("[embedded]\nmax_inflight = 0\n", ["agent.toml:2:16", "max_inflight"]),
        ("max_calls = \"many\"\n", ["agent.toml:1:13", "many"]),
    ] {
        let config = write(folder.path(), "agent.toml", text);
        refused(AGENT, &["--config", &config], &named);
        refused(AGENT, &["check-config", "--config", &config], &named);
    }
    refused(AGENT, &["--config", "/nowhere/agent.toml"], &["/nowhere/agent.toml"]);
}

#[test]
fn a_gateway_refuses_what_it_cannot_serve() {
    let folder = tempfile::tempdir().unwrap();
    let key = "id:secret:viewer";
    refused(GATEWAY, &["--key", key], &["no node", "host:port"]);
    refused(GATEWAY, &["--node", "127.0.0.1:1"], &["key"]);
    refused(GATEWAY, &["--node", "127.0.0.1", "--key", key], &["127.0.0.1", "port"]);
    refused(
        GATEWAY,
        &["--node", "127.0.0.1:1", "--node", "127.0.0.1:1", "--key", key],
        &["127.0.0.1:1", "twice"],
    );
    refused(
        GATEWAY,
        &["--node", "127.0.0.1:1", "--key", key, "--listen", "0.0.0.0:0"],
        &["0.0.0.0", "insecure"],
    );
    for bad in ["id", "id:hush-hush", "id:hush-hush:admin", ":hush-hush:viewer", "id::viewer"] {
        let (status, out, err) = run(GATEWAY, &["--node", "127.0.0.1:1", "--key", bad]);
        assert!(!status.success() && out.is_empty(), "{bad} is accepted");
        assert!(err.contains("key number 1"), "{bad}: {err}");
        assert!(!err.contains("hush-hush"), "the secret is shown: {err}");
    }
    for (text, named) in [
        ("node = [\"127.0.0.1:1\"]\nlisen = 1\n", ["gateway.toml:2:1", "lisen"]),
        ("request_timeout = \"soon\"\n", ["gateway.toml:1:19", "soon"]),
    ] {
        let config = write(folder.path(), "gateway.toml", text);
        refused(GATEWAY, &["--config", &config, "--key", key], &named);
        refused(GATEWAY, &["check-config", "--config", &config, "--key", key], &named);
    }
}

#[test]
fn the_examples_are_valid() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let example = |path: &str| workspace.join(path).to_str().unwrap().to_owned();
    let (status, out, err) =
        run(AGENT, &["check-config", "--config", &example("node-agent/agent.example.toml")]);
    assert!(status.success() && !out.is_empty(), "{out}{err}");
    // The one file it names has to be there.
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.toml").to_str().unwrap().to_owned();
    assert!(
        run(GATEWAY, &["key", "create", "--file", &keys, "--id", "ops", "--role", "operator"]).0.success()
    );
    let text = std::fs::read_to_string(example("gateway/gateway.example.toml")).unwrap();
    assert!(text.contains("\"keys.toml\""));
    let config = write(folder.path(), "gateway.toml", &text.replace("\"keys.toml\"", &format!("{keys:?}")));
    let (status, out, err) =
        run(GATEWAY, &["check-config", "--config", &config, "--key", "id:hush-hush:viewer"]);
    assert!(status.success() && !out.is_empty(), "{out}{err}");
    assert!(!out.contains("hush-hush") && !err.contains("hush-hush"), "the secret is shown: {out}{err}");
}

#[test]
fn flags_override_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let text = "node_name = \"from-file\"\nbroker = \"synthetic\"\n[synthetic]\nclients = 5\n";
    let config = write(folder.path(), "agent.toml", text);
    let agent = Agent::start("from-flag", &["--config", &config, "--clients", "7"]);
    let gateway = Gateway::start(&[agent.process.address], &[]);
    rollcall_tests::wait::eventually("seven clients", || {
        let response = gateway.get("/clients");
        let body = response.json();
        if body["meta"]["count"] == 7 { Ok(()) } else { Err(body.to_string()) }
    });
    assert!(gateway.get("/clients").rows().iter().all(|row| row["node"] == "from-flag"));
}

#[test]
fn a_key_file_holds_no_secret_and_lets_in_whom_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    let file = path.to_str().unwrap();
    let create = |id: &str, role: &str| {
        let (status, out, err) = run(GATEWAY, &["key", "create", "--file", file, "--id", id, "--role", role]);
        assert!(status.success(), "{err}");
        let secret = out.trim().strip_prefix(&format!("{id}:")).unwrap_or_default().to_owned();
        assert!(secret.len() >= 20 && !secret.contains(char::is_whitespace), "{out:?}");
        secret
    };
    let (viewer, operator) = (create("dash", "viewer"), create("ops", "operator"));
    assert_ne!(viewer, operator);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("dash") && !text.contains(&viewer) && !text.contains(&operator), "{text}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o077,
            0,
            "others can read the file"
        );
    }
    refused(GATEWAY, &["key", "create", "--file", file, "--id", "dash", "--role", "viewer"], &["dash"]);

    let agent = Agent::start("a@127.0.0.1", &["--broker", "synthetic", "--clients", "2"]);
    let gateway = Gateway::start(&[agent.process.address], &["--key-file", file]);
    let address = gateway.address();
    let status = |method: &str, target: &str, authorization: &str| {
        http::request(address, method, &format!("/api/v4{target}"), &[("authorization", authorization)])
            .status
    };
    let bearer = |secret: &str| format!("Bearer {secret}");
    for (id, secret, kick) in [("dash", &viewer, 403), ("ops", &operator, 404)] {
        for authorization in [http::basic(id, secret), bearer(secret)] {
            assert_eq!(status("GET", "/clients", &authorization), 200, "{id}");
            assert_eq!(status("DELETE", "/clients/nobody", &authorization), kick, "{id}");
        }
    }
    assert_eq!(status("GET", "/clients", &http::basic("dash", &operator)), 401);
    assert_eq!(status("GET", "/clients", &bearer("dash")), 401);
    let (ended, out, _) = run(GATEWAY, &["key", "list", "--file", file]);
    assert!(ended.success() && out.contains("dash") && out.contains("ops"), "{out}");
    assert!(!out.contains(&viewer), "{out}");
    assert!(!gateway.process.log().contains(&operator), "a secret stands in the log");
}
