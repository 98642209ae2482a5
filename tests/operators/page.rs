//! The page at `/`, in a real browser that `page/check.py` drives.

use std::path::Path;
use std::process::Command;

use rollcall_tests::http;
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::sandbox::{Agent, Cluster, OPERATOR, VIEWER};

use crate::program;

#[test]
fn the_page_may_load_its_own_files_and_nothing_else() {
    let cluster = Cluster::embedded();
    let get = |path: &str| http::request(cluster.gateway.address(), "GET", path, &[]);
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/api.js", "text/javascript; charset=utf-8"),
        ("/columns.js", "text/javascript; charset=utf-8"),
    ] {
        let file = get(path);
        assert_eq!((file.status, file.header("content-type")), (200, Some(kind)), "{path}");
        let policy = file.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
    }
    assert_eq!(http::request(cluster.gateway.address(), "POST", "/", &[]).status, 405);
}

#[test]
fn an_operator_and_a_viewer_use_the_page() {
    let (Some(python), Some(chromium)) = (program("BROWSER_PYTHON"), program("CHROMIUM")) else {
        println!("SKIPPED: the page in a browser: playwright or chromium is not there (Debian: chromium)");
        return;
    };
    let nodes = vec![
        Agent::embedded("a@127.0.0.1"),
        Agent::embedded("b@127.0.0.1"),
        Agent::start("c@127.0.0.1", &["--broker", "synthetic", "--clients", "1200"]),
    ];
    let (a, b) = (nodes[0].mqtt(), nodes[1].mqtt());
    let connect = |node, id: &str| Client::connect(node, &Connect::new(4, id));
    let mut kicked: Vec<_> =
        [(a, "rig-1"), (a, "rig-2"), (b, "rig-3")].map(|(node, id)| connect(node, id)).into();
    let stays = [connect(a, "<img src=x onerror=alert(1)>"), connect(b, "phone")];
    let cluster = Cluster::of(nodes);
    let pictures = tempfile::tempdir().unwrap();
    let key = |(id, secret): (&str, &str)| format!("{id}:{secret}");
    let outcome = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("operators/page/check.py"))
        .env("ROLLCALL", format!("http://{}/", cluster.gateway.address()))
        .env("OPERATOR", key(OPERATOR))
        .env("VIEWER", key(VIEWER))
        .env("VICTIM_PID", cluster.agents[2].process.pid().to_string())
        .env("CHROMIUM", chromium)
        .env("PICTURES", std::env::var_os("PICTURES").unwrap_or_else(|| pictures.path().into()))
        .output()
        .unwrap();
    println!("{}{}", String::from_utf8_lossy(&outcome.stdout), String::from_utf8_lossy(&outcome.stderr));
    assert!(outcome.status.success(), "{}", outcome.status);
    for client in &mut kicked {
        client.await_close();
    }
    for mut client in stays {
        client.ping();
    }
}
