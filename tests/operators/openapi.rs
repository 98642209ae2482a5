//! The description of the API, held against a running cluster by Schemathesis, which makes requests out of it.

use std::path::Path;
use std::process::Command;

use rollcall_tests::http;
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::sandbox::{Agent, BASE, Cluster, OPERATOR};

use crate::program;

/// Clients on every node, by their ids.
const CLIENTS: [&str; 4] = ["sensor-1", "sensor-2", "a b/c", "\"ü\""];

#[test]
fn the_document_and_its_page_need_no_key_and_nothing_from_elsewhere() {
    let cluster = Cluster::embedded();
    let address = cluster.gateway.address();
    let document = http::request(address, "GET", &format!("{BASE}/openapi.json"), &[]);
    assert_eq!((document.status, document.header("content-type")), (200, Some("application/json")));
    let document = document.json();
    assert_eq!((&document["openapi"], &document["servers"][0]["url"]), (&"3.1.0".into(), &BASE.into()));
    let page = http::request(address, "GET", &format!("{BASE}/docs"), &[]);
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    for path in [format!("{BASE}/openapi.json"), format!("{BASE}/docs")] {
        let refused = http::request(address, "DELETE", &path, &[]);
        assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
    }
    assert_eq!(http::request(address, "GET", &format!("{BASE}/clients"), &[]).status, 401);
}

#[test]
fn requests_made_of_the_document_are_answered_as_it_says() {
    let Some(program) = program("SCHEMATHESIS") else {
        println!("SKIPPED: schemathesis is not there (python3 -m venv, pip install schemathesis)");
        return;
    };
    let nodes: Vec<Agent> = ["a@127.0.0.1", "b@127.0.0.1", "c@127.0.0.1"].map(Agent::embedded).into();
    let clients: Vec<Client<_>> = nodes
        .iter()
        .flat_map(|node| CLIENTS.map(|id| Client::connect(node.mqtt(), &Connect::new(5, id))))
        .collect();
    // It shows wrong keys by the dozen.
    let cluster = Cluster::with(nodes, &["--max-wrong-keys", "1000000"]);
    let (id, secret) = OPERATOR;
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("operators/openapi");
    // It finds its hooks from where it works, and leaves a database of examples there.
    let work = tempfile::tempdir().unwrap();
    for file in ["hooks.py", "schemathesis.toml"] {
        std::fs::copy(here.join(file), work.path().join(file)).unwrap();
    }
    let outcome = Command::new(program)
        .args(["run", &format!("http://{}{BASE}/openapi.json", cluster.gateway.address())])
        .args([
            "--auth",
            &format!("{id}:{secret}"),
            "--request-timeout",
            "20",
            "--workers",
            "1",
            "--no-color",
        ])
        .current_dir(work.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&outcome.stdout);
    println!("{said}{}", String::from_utf8_lossy(&outcome.stderr));
    assert!(outcome.status.success(), "{}", outcome.status);
    // All of the document was tried, but for the path that the document itself came from, and the stream that has no end.
    let operations = http::request(cluster.gateway.address(), "GET", &format!("{BASE}/openapi.json"), &[])
        .json()["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|path| path.as_object().unwrap().keys())
        .filter(|method| *method != "parameters")
        .count();
    assert!(said.contains(&format!("Tested: {}\n", operations - 2)), "{operations} operations");
    // And the cluster is as well as before.
    cluster.await_all_answering();
    drop(clients);
}
