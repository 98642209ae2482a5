//! Figures against what a client really sent and received.

use std::path::Path;

use rollcall_tests::binaries;
use rollcall_tests::mqtt::{self, Client, Connect};
use rollcall_tests::process::Process;
use rollcall_tests::sandbox::{Agent, Cluster, Gateway};
use rollcall_tests::wait::eventually;
use serde_json::{Value, json};

/// A row's figure.
fn figure(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or_else(|| panic!("{key} is no number in {row}"))
}

/// The row, once it counts all that the client sent and received.
fn settled(cluster: &Cluster, clientid: &str, client: &Client) -> Value {
    cluster.gateway.row_when(clientid, |row| {
        row["recv_pkt"] == client.sent_packets
            && row["recv_msg"] == client.sent_messages
            && row["send_msg"] == client.received_messages
            && row["recv_oct"] == client.sent_bytes
            && row["send_oct"] == client.received_bytes
    })
}

#[test]
fn counters_match_what_passed_in_every_version_on_every_node() {
    let cluster = Cluster::embedded();
    for (agent, level) in cluster.agents.iter().zip([3, 4, 5]) {
        let clientid = format!("busy-{level}");
        let mut client = Client::connect(agent.mqtt(), &Connect::new(level, &clientid));
        settled(&cluster, &clientid, &client);
        for (number, filter) in ["own/#", "other/+/x", "$share/g/y"].into_iter().enumerate() {
            client.subscribe(filter, 1);
            cluster.gateway.row_when(&clientid, |row| row["subscriptions_cnt"] == number + 1);
        }
        for _ in 0..10 {
            client.publish("elsewhere", 0, b"zero");
            client.publish("elsewhere", 1, b"one");
            client.publish("elsewhere", 2, &[7; 3000]);
        }
        for _ in 0..4 {
            client.publish("own/x", 0, b"back");
            assert_eq!(client.receive(true), b"back");
        }
        client.ping();
        // CONNECT, 3 SUBSCRIBE, 34 PUBLISH, 10 PUBREL, PINGREQ
        assert_eq!(client.sent_packets, 49);
        let row = settled(&cluster, &clientid, &client);
        assert_eq!(figure(&row, "recv_msg"), 34);
        assert_eq!(figure(&row, "send_msg"), 4);
        // Segments: at least one for every packet that was answered before the next was sent.
        assert!(figure(&row, "recv_cnt") >= 25 && figure(&row, "send_cnt") >= 25, "{row}");
        for key in ["inflight", "mqueue_len", "mqueue_dropped"] {
            assert_eq!(figure(&row, key), 0, "{key} of {row}");
        }
    }
}

#[test]
fn behind_the_counting_front_nothing_of_the_connection_is_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, "[embedded]\ncounting_front = true\n").unwrap();
    let config = path.to_str().unwrap();
    let agents = ["a@127.0.0.1", "b@127.0.0.1"]
        .map(|name| Agent::start(name, &["--config", config, "--mqtt-listen", "127.0.0.1:0"]));
    let cluster = Cluster::of(agents.into());
    let mut clients = Vec::new();
    for (number, level) in [3, 4, 5].into_iter().enumerate() {
        let clientid = format!("counted-{level}");
        let connect = Connect::new(level, &clientid).keep_session();
        let mut client = Client::connect(cluster.agents[number % 2].mqtt(), &connect);
        let own = format!("own/{level}");
        client.subscribe(&own, 1);
        for _ in 0..10 {
            client.publish("elsewhere", 0, b"zero");
            client.publish("elsewhere", 2, &[7; 3000]);
            client.publish(&own, 0, b"back");
            assert_eq!(client.receive(true), b"back");
        }
        // One more than for the others is begun and not released.
        for id in 0..=level {
            let properties: &[u8] = if level == 5 { &[0] } else { &[] };
            let publish = [&mqtt::text("elsewhere"), &[9, id][..], properties].concat();
            client.send(&mqtt::packet(0x34, &publish)).unwrap();
        }
        let row = cluster.gateway.row_when(&clientid, |row| {
            row["recv_oct"] == client.sent_bytes && row["awaiting_rel"] == level + 1
        });
        assert_eq!(
            (figure(&row, "recv_pkt"), figure(&row, "recv_msg")),
            (client.sent_packets, 31 + u64::from(level))
        );
        assert_eq!((&row["is_bridge"], &row["port"]), (&json!(false), &json!(client.local_address().port())));
        assert!(figure(&row, "recv_cnt") > 20 && figure(&row, "send_cnt") > 20, "{row}");
        client.ping_through(usize::from(level) + 1);
        let row = cluster.gateway.row_when(&clientid, |row| row["send_oct"] == client.received_bytes);
        assert_eq!(row["send_pkt"], client.received_packets, "{row}");
        clients.push((clientid, client));
    }
    let first = cluster.gateway.get("/clients?_sort=awaiting_rel&_order=desc&_limit=1").rows();
    assert_eq!(first[0]["clientid"], "counted-5");
    // Figures of the last connection stay, and what the kernel knew of it does not.
    let (clientid, client) = clients.remove(0);
    let (sent, received) = (client.sent_bytes + 2, client.received_bytes);
    client.disconnect();
    let row = cluster.gateway.row_when(&clientid, |row| row["connected"] == false);
    assert_eq!((&row["recv_oct"], &row["send_oct"]), (&json!(sent), &json!(received)), "{row}");
    assert_eq!((&row["recv_cnt"], &row["awaiting_rel"]), (&Value::Null, &json!(4)), "{row}");
    // A kick is told in MQTT 5.
    let (clientid, mut client) = clients.pop().unwrap();
    assert_eq!(cluster.gateway.kick(&clientid).status, 200);
    assert_eq!(client.farewell(), Some((0xe0, vec![0x98, 0])));
}

#[test]
fn the_front_leaves_descriptors_to_others_and_lets_the_next_in_when_one_has_left() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("agent.toml");
    std::fs::write(&config, "[embedded]\ncounting_front = true\n").unwrap();
    let agent = binaries::path("rollcall-agent");
    let words = [
        "-c",
        "ulimit -n 200 && exec \"$0\" \"$@\"",
        agent.to_str().unwrap(),
        "--config",
        config.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--mqtt-listen",
        "127.0.0.1:0",
    ];
    let agent = Process::start_at(Path::new("/bin/sh"), "agent", &words.map(str::to_owned));
    let broker = agent.mqtt.unwrap();
    let connect = |number: usize| Client::over(mqtt::dial(broker), &Connect::new(4, &format!("c{number}")));
    let mut clients: Vec<_> = (0..80).filter_map(|number| connect(number).ok()).collect();
    // Three of seven eighths of 200 each.
    assert_eq!(clients.len(), 58);
    assert!(agent.log().contains("closed a client's connection"), "{}", agent.log());
    clients.pop().unwrap().disconnect();
    let last = eventually("a place for one more", || connect(100).map_err(|error| error.to_string()));
    clients.push(last);
    let gateway = Gateway::start(&[agent.address], &[]);
    gateway.row("c100");
    for client in &mut clients {
        client.ping();
    }
}

#[test]
fn what_is_not_acknowledged_fills_the_window_then_the_queue_then_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, "[embedded]\nmax_inflight = 4\nmax_mqueue = 3\nmax_subscriptions = 9\n").unwrap();
    let agent =
        Agent::start("a@127.0.0.1", &["--config", path.to_str().unwrap(), "--mqtt-listen", "127.0.0.1:0"]);
    let cluster = Cluster::of(vec![agent]);
    let broker = cluster.agents[0].mqtt();
    let mut slow = Client::connect(broker, &Connect::new(4, "slow"));
    slow.subscribe("t", 1);
    let mut publisher = Client::connect(broker, &Connect::new(4, "publisher"));
    for _ in 0..10 {
        publisher.publish("t", 1, b"x");
    }
    let row = cluster.gateway.row_when("slow", |row| row["mqueue_dropped"] == 3);
    assert_eq!((figure(&row, "inflight"), figure(&row, "max_inflight")), (4, 4));
    assert_eq!((figure(&row, "mqueue_len"), figure(&row, "max_mqueue")), (3, 3));
    assert_eq!((figure(&row, "subscriptions_cnt"), figure(&row, "max_subscriptions")), (1, 9));
    assert_eq!(figure(&row, "send_msg"), 4);
    for _ in 0..7 {
        assert_eq!(slow.receive(true), b"x");
    }
    let row = cluster.gateway.row_when("slow", |row| row["inflight"] == 0);
    assert_eq!((figure(&row, "mqueue_len"), figure(&row, "send_msg")), (0, 7));
    assert_eq!(figure(&row, "mqueue_dropped"), 3);
}

#[test]
fn messages_are_counted_over_the_session_and_packets_over_the_connection() {
    let cluster = Cluster::embedded();
    let connect = Connect::new(5, "c").keep_session();
    let mut first = Client::connect(cluster.agents[1].mqtt(), &connect);
    first.publish("t", 1, b"x");
    first.publish("t", 1, b"x");
    settled(&cluster, "c", &first);
    first.disconnect();
    cluster.gateway.row_when("c", |row| row["connected"] == false);
    let mut second = Client::connect(cluster.agents[1].mqtt(), &connect);
    second.publish("t", 1, b"x");
    let row = cluster.gateway.row_when("c", |row| row["recv_msg"] == 3);
    assert_eq!(row["recv_pkt"], json!(2), "{row}");
    assert_eq!(row["recv_oct"], json!(second.sent_bytes), "{row}");
}

#[test]
fn who_is_drowning_is_the_first_of_the_whole_cluster() {
    let cluster = Cluster::embedded();
    let mut publishers = Vec::new();
    for (number, agent) in cluster.agents.iter().enumerate() {
        for name in ["light", "heavy"] {
            let clientid = format!("{name}-{number}");
            let mut client = Client::connect(agent.mqtt(), &Connect::new(5, &clientid).keep_session());
            client.subscribe(name, 1);
            client.disconnect();
            cluster.gateway.row_when(&clientid, |row| row["connected"] == false);
        }
        let mut publisher = Client::connect(agent.mqtt(), &Connect::new(4, &format!("publisher-{number}")));
        for _ in 0..=number {
            publisher.publish("heavy", 1, b"x");
            publisher.publish("heavy", 1, b"x");
            publisher.publish("light", 1, b"x");
        }
        let queued = 2 * (number + 1);
        cluster.gateway.row_when(&format!("heavy-{number}"), |row| row["mqueue_len"] == queued);
        publishers.push(publisher);
    }
    let first = |query: &str| {
        let rows = cluster.gateway.get(&format!("/clients?{query}")).rows();
        rows.iter()
            .map(|row| format!("{} {}", row["clientid"].as_str().unwrap(), row["mqueue_len"]))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        first("_sort=mqueue_len&_order=desc&_limit=4"),
        ["heavy-2 6", "heavy-1 4", "light-2 3", "heavy-0 2"]
    );
    assert_eq!(first("_sort=mqueue_len&_order=desc&_limit=2&_page=3"), ["light-1 2", "light-0 1"]);
    assert_eq!(first("_sort=mqueue_len&conn_state=disconnected&_limit=2"), ["light-0 1", "heavy-0 2"]);
    let busiest = cluster.gateway.get("/clients?_sort=recv_oct&_order=desc&_limit=1").rows();
    assert_eq!(busiest[0]["clientid"], "publisher-2");
    // Offline clients have no connection whose bytes could be counted: they are last both ways.
    let last = |order: &str| {
        cluster.gateway.get(&format!("/clients?_sort=recv_oct&_order={order}&_page=2&_limit=3")).rows()
    };
    for row in last("asc").iter().chain(&last("desc")) {
        assert_eq!(row["recv_oct"], Value::Null, "{row}");
    }
}
