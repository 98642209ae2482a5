//! Sessions outlive connections, and clients move.

use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::sandbox::Cluster;
use rollcall_tests::wait::eventually;
use serde_json::{Value, json};

use crate::identity::seconds;
use crate::real::{Login, Real};

#[test]
fn an_offline_session_is_listed_its_queue_grows_and_a_kick_ends_it() {
    let cluster = Cluster::embedded();
    let broker = cluster.agents[1].mqtt();
    for (clientid, level) in [("sleeper-3", 3), ("sleeper-4", 4), ("sleeper-5", 5)] {
        let mut sleeper = Client::connect(broker, &Connect::new(level, clientid).keep_session());
        sleeper.subscribe("news", 1);
        sleeper.disconnect();
        let row = cluster.gateway.row_when(clientid, |row| row["connected"] == false);
        assert_eq!(row["node"], "b@127.0.0.1");
        assert_eq!((&row["subscriptions_cnt"], &row["mqueue_len"]), (&json!(1), &json!(0)), "{row}");
        assert!(seconds(&row["disconnected_at"]) >= seconds(&row["connected_at"]), "{row}");
        assert_eq!(row.as_object().unwrap().len(), 37);
    }
    let states = |state: &str| {
        let response = cluster.gateway.get(&format!("/clients?conn_state={state}&_fields=clientid"));
        response.rows().iter().map(|row| row["clientid"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(states("disconnected"), ["sleeper-3", "sleeper-4", "sleeper-5"]);
    assert_eq!(states("connected"), [] as [Value; 0]);

    let mut publisher = Client::connect(broker, &Connect::new(4, "publisher"));
    for waiting in 1..=5 {
        publisher.publish("news", 1, b"x");
        for clientid in ["sleeper-3", "sleeper-4", "sleeper-5"] {
            cluster.gateway.row_when(clientid, |row| row["mqueue_len"] == waiting);
        }
    }

    // One that comes back gets what waited, one that was kicked does not.
    assert_eq!(cluster.gateway.kick("sleeper-5").status, 200);
    assert_eq!(cluster.gateway.find("sleeper-5"), [] as [Value; 0]);
    let kicked = Client::connect(broker, &Connect::new(5, "sleeper-5").keep_session());
    assert!(!kicked.session_present);
    assert_eq!(cluster.gateway.row("sleeper-5")["subscriptions_cnt"], 0);
    let mut back = Client::connect(broker, &Connect::new(4, "sleeper-4").keep_session());
    assert!(back.session_present);
    for _ in 0..5 {
        assert_eq!(back.receive(true), b"x");
    }
    let row = cluster.gateway.row_when("sleeper-4", |row| row["send_msg"] == 5 && row["inflight"] == 0);
    assert_eq!((&row["connected"], &row["mqueue_len"]), (&json!(true), &json!(0)), "{row}");
}

#[test]
fn a_session_keeps_its_age_and_a_new_one_begins_anew() {
    let cluster = Cluster::embedded();
    let broker = cluster.agents[0].mqtt();
    drop(Real::v5(broker, Login::persistent("c")));
    let first = cluster.gateway.row_when("c", |row| row["connected"] == false);
    let created = seconds(&first["created_at"]);
    // Times are in seconds, so the second connection has to wait for the next one.
    let _again = eventually("later connection", || {
        let client = Real::v5(broker, Login::persistent("c"));
        assert!(client.session_present);
        let row = cluster.gateway.row("c");
        assert_eq!(seconds(&row["created_at"]), created);
        if seconds(&row["connected_at"]) > created { Ok(client) } else { Err(row.to_string()) }
    });
    let _new = Real::v5(broker, Login::clean("c"));
    let row = cluster.gateway.row_when("c", |row| row["clean_start"] == true);
    assert!(seconds(&row["created_at"]) > created, "{row}");
    assert_eq!(row["created_at"], row["connected_at"]);
}

#[test]
fn a_client_that_takes_over_its_connection_is_one_row() {
    let cluster = Cluster::embedded();
    let broker = cluster.agents[2].mqtt();
    let mut first = Client::connect(broker, &Connect::new(4, "c"));
    cluster.gateway.row("c");
    let second = Client::connect(broker, &Connect::new(4, "c"));
    first.await_close();
    let port = second.local_address().port();
    cluster.gateway.row_when("c", |row| row["port"] == port && row["connected"] == true);
    second.disconnect();
    eventually("end of the clean session", || match cluster.gateway.find("c") {
        rows if rows.is_empty() => Ok(()),
        rows => Err(format!("{rows:?}")),
    });
}

#[test]
fn a_client_that_moves_has_a_row_on_each_node_and_a_kick_ends_both() {
    let cluster = Cluster::embedded();
    let [a, b, c] = &cluster.agents[..] else { panic!("three agents") };
    let first = Real::v4(a.mqtt(), Login::persistent("nomad"));
    cluster.gateway.row("nomad");
    drop(first);
    cluster.gateway.row_when("nomad", |row| row["connected"] == false);
    let second = Real::v4(b.mqtt(), Login::persistent("nomad"));
    let places = || {
        let rows = cluster.gateway.find("nomad");
        rows.iter().map(|row| (row["node"].clone(), row["connected"].clone())).collect::<Vec<_>>()
    };
    eventually("two rows", || {
        let expected = vec![(json!(a.name), json!(false)), (json!(b.name), json!(true))];
        if places() == expected { Ok(()) } else { Err(format!("{:?}", places())) }
    });
    let list = cluster.gateway.get("/clients?clientid=nomad").json();
    assert_eq!((&list["meta"]["count"], list["data"].as_array().unwrap().len()), (&json!(2), 2));

    let body = cluster.gateway.kick("nomad").json();
    assert_eq!(
        body["data"],
        json!([
            {"node": a.name, "clientid": "nomad"},
            {"node": b.name, "clientid": "nomad"},
        ])
    );
    assert_eq!(places(), []);
    second.await_close();
    for agent in [a, b, c] {
        assert!(!Real::v4(agent.mqtt(), Login::persistent("nomad")).session_present, "{}", agent.name);
    }
}
