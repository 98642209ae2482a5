//! The page at `/`, in a real browser that the programs of `page/` drive.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rollcall_tests::http;
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::proxy::{Proxy, Rules, Way};
use rollcall_tests::sandbox::{Agent, Cluster, Gateway, OPERATOR, VIEWER};
use rollcall_tests::wait::eventually;

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
        ("/dom.js", "text/javascript; charset=utf-8"),
    ] {
        let file = get(path);
        assert_eq!((file.status, file.header("content-type")), (200, Some(kind)), "{path}");
        let policy = file.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
    }
    assert_eq!(http::request(cluster.gateway.address(), "POST", "/", &[]).status, 405);
}

/// Has a program of `page/` look at the page of a gateway; `false` if there is nothing to look with.
fn look(script: &str, gateway: &Gateway, more: &[(&str, String)]) -> bool {
    let (Some(python), Some(chromium)) = (program("BROWSER_PYTHON"), program("CHROMIUM")) else {
        println!("SKIPPED: the page in a browser: playwright or chromium is not there (Debian: chromium)");
        return false;
    };
    let pictures = tempfile::tempdir().unwrap();
    let key = |(id, secret): (&str, &str)| format!("{id}:{secret}");
    let outcome = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("operators/page").join(script))
        .env("ROLLCALL", format!("http://{}/", gateway.address()))
        .env("OPERATOR", key(OPERATOR))
        .env("VIEWER", key(VIEWER))
        .env("CHROMIUM", chromium)
        .env("PICTURES", std::env::var_os("PICTURES").unwrap_or_else(|| pictures.path().into()))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .envs(more.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap();
    println!("{}{}", String::from_utf8_lossy(&outcome.stdout), String::from_utf8_lossy(&outcome.stderr));
    assert!(outcome.status.success(), "{}", outcome.status);
    true
}

/// A client that nobody has to ping, however long a browser takes.
fn connect(node: &Agent, clientid: &str, username: Option<&str>) -> Client {
    let username = username.map(str::to_owned);
    Client::connect(node.mqtt(), &Connect { keepalive: 0, username, ..Connect::new(4, clientid) })
}

#[test]
fn an_operator_and_a_viewer_use_the_page() {
    let nodes = vec![
        Agent::embedded("a@127.0.0.1"),
        Agent::embedded("b@127.0.0.1"),
        Agent::start("c@127.0.0.1", &["--broker", "synthetic", "--clients", "1200"]),
    ];
    let (a, b) = (&nodes[0], &nodes[1]);
    let mut kicked = [(a, "rig-1"), (a, "rig-2"), (b, "rig-3")].map(|(node, id)| connect(node, id, None));
    let stays = [connect(a, "<img src=x onerror=alert(1)>", None), connect(b, "phone", None)];
    let cluster = Cluster::of(nodes);
    let victim = cluster.agents[2].process.pid().to_string();
    if look("tour.py", &cluster.gateway, &[("VICTIM_PID", victim)]) {
        for client in &mut kicked {
            client.await_close();
        }
    }
    for mut client in stays {
        client.ping();
    }
}

#[test]
fn who_is_in_the_middle_of_something_is_not_disturbed() {
    let nodes = vec![
        Agent::embedded("a@127.0.0.1"),
        Agent::embedded("b@127.0.0.1"),
        Agent::start("c@127.0.0.1", &["--broker", "synthetic", "--clients", "60"]),
    ];
    let (a, b) = (&nodes[0], &nodes[1]);
    let mut stay = [(a, "rig-1", "mill-1"), (a, "rig-2", "press-2"), (b, "rig-3", "press-3")]
        .map(|(node, id, username)| connect(node, id, Some(username)));
    let mut kicked = ["bulk-1", "bulk-2", "gone-1"].map(|id| connect(b, id, None));
    let _others = ["late-1", "gone-2"].map(|id| connect(b, id, None));
    let cluster = Cluster::of(nodes);
    if look("care.py", &cluster.gateway, &[]) {
        for client in &mut kicked {
            client.await_close();
        }
    }
    for client in &mut stay {
        client.ping();
    }
}

/// Node b has clients that come and go all the time, node c takes its time for every answer, and node d is not there.
#[test]
fn lists_that_take_longer_than_events_are_apart_are_shown() {
    let nodes = [
        Agent::embedded("a@127.0.0.1"),
        Agent::start("b@127.0.0.1", &["--broker", "synthetic", "--clients", "400", "--churn", "20"]),
        Agent::start("c@127.0.0.1", &["--broker", "synthetic", "--clients", "40"]),
        Agent::start("d@127.0.0.1", &["--broker", "synthetic", "--clients", "40"]),
    ];
    let mut client = connect(&nodes[0], "rig-1", None);
    let [a, b, c, mut d] = nodes;
    let slow = Proxy::to(c.process.address);
    let addresses = [a.process.address, b.process.address, slow.address, d.process.address];
    let gateway = Gateway::start(&addresses, &["--probe-timeout", "10s", "--request-timeout", "20s"]);
    eventually("all nodes", || {
        let answered = gateway.get("/clients?_limit=0").json()["meta"]["nodes"]["answered"].clone();
        if answered == 4 { Ok(()) } else { Err(answered.to_string()) }
    });
    d.process.kill();
    slow.set(Rules {
        down: Way { delay: Duration::from_millis(1600), ..Way::default() },
        ..Rules::default()
    });
    look("slow.py", &gateway, &[]);
    client.ping();
}
