//! What happens to clients, followed live: real clients on real nodes.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use rollcall_tests::http;
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::process::run;
use rollcall_tests::sandbox::{Agent, BASE, Cluster, OPERATOR};
use rollcall_tests::wait::{eventually, pause};
use serde_json::Value;

/// A stream of events as JSON lines.
struct Stream {
    lines: BufReader<TcpStream>,
}

impl Stream {
    /// Over HTTP/1.0, whose bodies have no chunks, just as `curl -0` would read them.
    fn open(gateway: SocketAddr, query: &str, headers: &str) -> (String, Self) {
        Self::open_as(OPERATOR, gateway, query, headers)
    }

    fn open_as(
        (id, secret): (&str, &str),
        gateway: SocketAddr,
        query: &str,
        headers: &str,
    ) -> (String, Self) {
        let mut stream = TcpStream::connect(gateway).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let authorization = http::basic(id, secret);
        let request = format!(
            "GET {BASE}/client_events{query} HTTP/1.0\r\nHost: x\r\nAuthorization: {authorization}\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut head).unwrap() > 0, "{head}");
        }
        (head, Self { lines })
    }

    fn follow(cluster: &Cluster, query: &str) -> Self {
        let (head, mut stream) =
            Self::open(cluster.gateway.address(), &format!("?_format=ndjson{query}"), "");
        assert!(head.starts_with("HTTP/1.0 200") && head.contains("application/x-ndjson"), "{head}");
        let ready = stream.next();
        assert_eq!(
            (&ready["event"], &ready["nodes"]["failed"]),
            (&"ready".into(), &Value::Array(vec![])),
            "{ready}"
        );
        stream
    }

    /// The next event that is one.
    fn next(&mut self) -> Value {
        loop {
            let event = self.line().expect("the stream has ended");
            if event["event"] != "alive" {
                return event;
            }
        }
    }

    /// The next line, be it an event or a sign of life.
    fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        let length = self.lines.read_line(&mut line).unwrap();
        (length > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    /// The next event: its name, and the client or node it is about.
    fn short(&mut self) -> (String, String) {
        short(&self.next())
    }
}

fn short(event: &Value) -> (String, String) {
    let about = event["client"]["clientid"].as_str().or_else(|| event["node"].as_str());
    (event["event"].as_str().unwrap().to_owned(), about.unwrap_or_default().to_owned())
}

/// Three nodes that do not read all clients anew while a test lasts, which would be told.
fn cluster(folder: &Path) -> Cluster {
    let config = folder.join("agent.toml");
    std::fs::write(&config, "[embedded]\nresync_secs = 3600\n").unwrap();
    let arguments = ["--config", config.to_str().unwrap(), "--mqtt-listen", "127.0.0.1:0"];
    Cluster::of(
        ["a@127.0.0.1", "b@127.0.0.1", "c@127.0.0.1"].map(|name| Agent::start(name, &arguments)).into(),
    )
}

fn named(name: &str, about: &str) -> (String, String) {
    (name.to_owned(), about.to_owned())
}

#[test]
fn clients_are_followed_from_connect_to_kick_on_every_node() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster(folder.path());
    let mut all = Stream::follow(&cluster, "");
    let mut some = Stream::follow(&cluster, "&_like_clientid=b-&_node=b@127.0.0.1");
    let on = |node: usize, connect: &Connect| Client::connect(cluster.agents[node].mqtt(), connect);
    let first = on(0, &Connect::new(4, "a-1"));
    let event = all.next();
    assert_eq!(short(&event), named("connected", "a-1"));
    assert_eq!(
        (&event["client"]["node"], &event["client"]["connected"], &event["client"]["ip_address"]),
        (&"a@127.0.0.1".into(), &true.into(), &"127.0.0.1".into())
    );
    assert!(event["client"].get("recv_msg").is_none() && event["at"].is_string(), "{event}");
    first.disconnect();
    assert_eq!(all.short(), named("disconnected", "a-1"));
    assert_eq!(all.short(), named("ended", "a-1"));

    // A session that stays, and comes back.
    let kept = Connect::new(5, "b-1").keep_session();
    // What comes and goes at once may be told as neither.
    let away = on(1, &kept);
    assert_eq!(all.short(), named("connected", "b-1"));
    away.disconnect();
    assert_eq!(all.short(), named("disconnected", "b-1"));
    let mut back = on(1, &kept);
    assert_eq!(all.short(), named("connected", "b-1"));
    assert_eq!(cluster.gateway.kick("b-1").status, 200);
    back.await_close();
    let mut kicked: Vec<_> = (0..3).map(|_| all.short().0).collect();
    kicked.sort();
    assert_eq!(kicked, ["disconnected", "ended", "kicked"]);

    // Who asked for some has had these alone.
    let had: Vec<_> = (0..6).map(|_| some.short()).collect();
    assert!(had.iter().all(|(_, about)| about == "b-1"), "{had:?}");
    assert_eq!(had.iter().filter(|(event, _)| event == "connected").count(), 2);
}

#[test]
fn who_comes_back_has_missed_nothing_and_a_browser_is_spoken_to() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster(folder.path());
    let mut stream = Stream::follow(&cluster, "");
    let client = Client::connect(cluster.agents[0].mqtt(), &Connect::new(4, "c-1"));
    let seen = stream.next();
    let id = seen["id"].as_str().unwrap().to_owned();
    drop(stream);
    client.disconnect();
    let _other = Client::connect(cluster.agents[1].mqtt(), &Connect::new(4, "other"));
    eventually("the other client", || {
        if cluster.gateway.find("other").len() == 1 { Ok(()) } else { Err("not there".into()) }
    });

    let (head, mut back) = Stream::open(
        cluster.gateway.address(),
        "",
        &format!("Last-Event-ID: {id}\r\nAccept: text/event-stream\r\n"),
    );
    assert!(head.contains("content-type: text/event-stream\r\n"), "{head}");
    let mut text = String::new();
    // The nodes' events come in no order between them. No id of an event can be taken for the client's.
    while !(text.contains("event: ended") && text.contains("other")) {
        back.lines.read_line(&mut text).unwrap();
    }
    assert!(text.starts_with("retry: 2000\n\nid: "), "{text}");
    assert!(text.contains("\nevent: ready\ndata: {"), "{text}");
    let events: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(events, BTreeSet::from(["connected", "disconnected", "ended", "ready"]), "{text}");

    // Of another gateway's numbers, or too old ones, nothing is known, and that is said.
    let mut strange =
        Stream::open(cluster.gateway.address(), "?_format=ndjson&_after=0123456789abcdef-3", "").1;
    assert_eq!((strange.short().0, strange.short().0), ("resync".to_owned(), "ready".to_owned()));
    let refused = cluster.gateway.get("/client_events?_after=yesterday");
    assert_eq!((refused.status, refused.code()), (400, 108));
    let refused = cluster.gateway.get("/client_events?_node=nobody");
    assert_eq!((refused.status, refused.code()), (400, 108));
}

#[test]
fn a_node_that_goes_and_comes_back_is_told_with_what_is_not_known() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = cluster(folder.path());
    let mut stream = Stream::follow(&cluster, "");
    cluster.agents[2].process.kill();
    let down = stream.next();
    assert_eq!(short(&down), named("node_down", "c@127.0.0.1"));
    assert_eq!(down["reason"], "unreachable");
    cluster.agents[2].restart();
    assert_eq!(stream.short(), named("node_up", "c@127.0.0.1"));
    // It is another incarnation: what happened to its clients cannot be told one by one.
    assert_eq!(stream.short(), named("resync", "c@127.0.0.1"));
    let _client = Client::connect(cluster.agents[2].mqtt(), &Connect::new(4, "d-1"));
    loop {
        let (event, about) = stream.short();
        if event == "connected" {
            assert_eq!(about, "d-1");
            break;
        }
        assert_eq!(event, "resync", "{about}");
    }
}

#[test]
fn the_events_under_churn_add_up_to_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = cluster(folder.path());
    let mut stream = Stream::follow(&cluster, "");
    let mut clients = Vec::new();
    let mut model = BTreeSet::new();
    for round in 0..120_usize {
        let id = format!("churn-{:02}", round * 7 % 40);
        if !model.insert(id.clone()) {
            model.remove(&id);
            let at = clients.iter().position(|(known, _)| *known == id).unwrap();
            let (_, client): (String, Client<TcpStream>) = clients.swap_remove(at);
            client.disconnect();
        } else {
            let node = &cluster.agents[round % 3];
            clients.push((id.clone(), Client::connect(node.mqtt(), &Connect::new(4, &id))));
        }
    }
    let _last = Client::connect(cluster.agents[0].mqtt(), &Connect::new(4, "last"));
    // The order is that of each node. Until all that is expected has come, of every node.
    let mut on_nodes = BTreeSet::new();
    let seen = loop {
        let event = stream.next();
        let (name, about) = short(&event);
        let place = (event["client"]["node"].to_string(), about.clone());
        match name.as_str() {
            "connected" => assert!(on_nodes.insert(place), "{about} twice"),
            "disconnected" => assert!(on_nodes.remove(&place), "{about} was not connected"),
            "ended" => assert!(!on_nodes.contains(&place), "{about}"),
            other => panic!("{other} {about}"),
        }
        let mut seen: BTreeSet<String> = on_nodes.iter().map(|(_, about)| about.clone()).collect();
        if seen.remove("last") && seen == model && on_nodes.len() == model.len() + 1 {
            break seen;
        }
    };
    let listed: BTreeSet<String> = (cluster.gateway.get("/clients?_like_clientid=churn-").rows().iter())
        .map(|row| row["clientid"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(listed, seen);
}

#[test]
fn a_reader_that_is_too_slow_is_told_what_it_lost_and_slows_nobody() {
    let churning = ["--broker", "synthetic", "--clients", "2000", "--churn", "20000"];
    let cluster = Cluster::of(vec![Agent::start("a@127.0.0.1", &churning)]);
    let mut slow = Stream::follow(&cluster, "");
    let mut quick = Stream::follow(&cluster, "");
    // More than the socket's buffers and the ring of events hold.
    for _ in 0..60_000 {
        assert_ne!(quick.next()["event"], "lost");
    }
    let mut lost = 0;
    while lost == 0 {
        let event = slow.next();
        if event["event"] == "lost" {
            lost = event["events"].as_u64().unwrap();
        }
    }
    assert!(lost > 0);
    assert_eq!(slow.next()["event"].as_str().map(|event| event != "lost"), Some(true), "and it goes on");
    assert!(cluster.gateway.get("/clients?_limit=1").status == 200);
}

#[test]
fn a_stream_of_which_nothing_happens_shows_that_it_is_alive_however_busy_the_cluster_is() {
    let churning = ["--broker", "synthetic", "--clients", "2000", "--churn", "500"];
    let cluster = Cluster::of(vec![Agent::start("a@127.0.0.1", &churning)]);
    let mut busy = Stream::follow(&cluster, "");
    let mut quiet = Stream::follow(&cluster, "&_like_clientid=nobody-is-called-so");
    let (_, mut browser) = Stream::open(cluster.gateway.address(), "?_like_clientid=nobody-is-called-so", "");
    assert_eq!(busy.next()["event"].as_str().map(|event| event != "lost"), Some(true));
    drop(busy);
    let alive = quiet.line().unwrap();
    assert_eq!(alive["event"], "alive");
    let number =
        |event: &Value| event["id"].as_str().unwrap().rsplit_once('-').unwrap().1.parse::<u64>().unwrap();
    assert!(number(&alive) > 100, "its id is of now: {alive}");
    let mut text = String::new();
    while !text.ends_with("\n\n") || !text.contains(": alive\n") {
        assert!(browser.lines.read_line(&mut text).unwrap() > 0, "{text}");
    }
    let (_, beat) = text.split_once(": alive\n").unwrap();
    assert!(beat.starts_with("id: ") && !beat.contains("data"), "{text}");
    // Who comes back with it has missed nothing.
    let id = beat.trim().strip_prefix("id: ").unwrap();
    let (_, mut back) = Stream::open(cluster.gateway.address(), &format!("?_format=ndjson&_after={id}"), "");
    assert_eq!(back.next()["event"], "ready");
}

#[test]
fn a_stream_ends_with_its_key_and_with_its_gateway_even_if_nobody_reads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    let file = file.to_str().unwrap();
    let key = |words: &[&str]| {
        let (status, out, err) = run("rollcall-gateway", &[&["key"], words, &["--file", file]].concat());
        assert!(status.success(), "{err}");
        out
    };
    let created = key(&["create", "--id", "script", "--role", "viewer"]);
    let (_, secret) = created.trim().split_once(':').unwrap();
    let agent =
        Agent::start("a@127.0.0.1", &["--broker", "synthetic", "--clients", "2000", "--churn", "20000"]);
    let mut cluster = Cluster::with(vec![agent], &["--key-file", file, "--drain-timeout", "100s"]);
    let gateway = cluster.gateway.address();
    let (head, mut script) =
        Stream::open_as(("script", secret), gateway, "?_format=ndjson&clientid=nobody", "");
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    assert_eq!(script.line().unwrap()["event"], "ready");
    let mut other = Stream::follow(&cluster, "&clientid=nobody");
    key(&["revoke", "--id", "script"]);
    while let Some(line) = script.line() {
        assert_eq!(line["event"], "alive");
    }

    // The other's goes on until the gateway goes, which does not wait for one that reads nothing.
    let behind = Stream::follow(&cluster, "");
    pause(Duration::from_secs(2));
    let begun = Instant::now();
    assert!(cluster.gateway.process.terminate().success());
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
    while let Some(line) = other.line() {
        assert_eq!(line["event"], "alive");
    }
    drop(behind);
}
