//! A kick ends connection and session, wherever the client is, and nothing else.

use rollcall_tests::http::encode;
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::sandbox::{Cluster, VIEWER};
use serde_json::{Value, json};

use crate::real::{Login, Real};

/// That a list shows the client nowhere, at once.
fn assert_gone(cluster: &Cluster, clientid: &str) {
    assert_eq!(cluster.gateway.find(clientid), [] as [Value; 0], "{clientid}");
    let list = cluster.gateway.get(&format!("/clients?clientid={}", encode(clientid))).json();
    assert_eq!((&list["meta"]["count"], &list["data"]), (&json!(0), &json!([])), "{clientid}");
}

fn kicked_on(nodes: &[&str], clientid: &str) -> Value {
    nodes.iter().map(|node| json!({"node": node, "clientid": clientid})).collect()
}

#[test]
fn one_gateway_kicks_clients_of_every_version_on_every_node() {
    let cluster = Cluster::embedded();
    let bystander = Real::v4(cluster.agents[0].mqtt(), Login::clean("bystander"));
    bystander.subscribe("still/there");
    for agent in &cluster.agents {
        let kick = |clientid: &str| {
            cluster.gateway.row(clientid);
            let response = cluster.gateway.kick(clientid);
            let body = response.json();
            assert_eq!((response.status, &body["code"]), (200, &json!(0)), "{body}");
            assert_eq!(body["data"], kicked_on(&[&agent.name], clientid));
            assert_eq!(body["meta"]["nodes"], json!({"total": 3, "answered": 3, "failed": []}));
            assert_gone(&cluster, clientid);
        };

        let mut v31 = Client::connect(agent.mqtt(), &Connect::new(3, "old").keep_session());
        kick("old");
        v31.await_close();
        let again = Client::connect(agent.mqtt(), &Connect::new(3, "old").keep_session());
        cluster.gateway.row("old");
        again.disconnect();

        let v4 = Real::v4(agent.mqtt(), Login::persistent("middle"));
        v4.subscribe("t");
        cluster.gateway.row_when("middle", |row| row["subscriptions_cnt"] == 1);
        kick("middle");
        v4.await_close();
        let again = Real::v4(agent.mqtt(), Login::persistent("middle"));
        assert!(!again.session_present, "the kicked session is still there");
        assert_eq!(cluster.gateway.row("middle")["subscriptions_cnt"], 0);

        let v5 = Real::v5(agent.mqtt(), Login::persistent("new"));
        kick("new");
        v5.await_close();
        let again = Real::v5(agent.mqtt(), Login::persistent("new"));
        assert!(!again.session_present, "the kicked session is still there");

        // For the next node the ids must be free again.
        for clientid in ["old", "middle", "new"] {
            assert_eq!(cluster.gateway.kick(clientid).status, 200);
        }
    }
    bystander.publish("still/there", "yes");
    assert_eq!(bystander.receive(), "yes");
}

#[test]
fn a_session_without_kick_is_found_again() {
    // The control of the test above: session_present=false says something only if it could be true.
    let cluster = Cluster::embedded();
    let broker = cluster.agents[1].mqtt();
    for connect in [Real::v4, Real::v5] {
        let first = connect(broker, Login::persistent("c"));
        assert!(!first.session_present);
        drop(first);
        cluster.gateway.row_when("c", |row| row["connected"] == false);
        let second = connect(broker, Login::persistent("c"));
        assert!(second.session_present);
        cluster.gateway.row("c");
        assert_eq!(cluster.gateway.kick("c").status, 200);
    }
}

#[test]
fn under_a_node_only_that_node_is_kicked() {
    let cluster = Cluster::embedded();
    let on = |at: usize| Real::v5(cluster.agents[at].mqtt(), Login::persistent("twin"));
    let (_a, b, c) = (on(0), on(1), on(2));
    let nodes = || cluster.gateway.find("twin").iter().map(|row| row["node"].clone()).collect::<Vec<_>>();
    assert_eq!(nodes(), ["a@127.0.0.1", "b@127.0.0.1", "c@127.0.0.1"]);

    let response = cluster.gateway.request("DELETE", "/nodes/b@127.0.0.1/clients/twin");
    let body = response.json();
    assert_eq!((response.status, &body["data"]), (200, &kicked_on(&["b@127.0.0.1"], "twin")), "{body}");
    assert_eq!(body["meta"]["nodes"]["total"], 1);
    b.await_close();
    assert_eq!(nodes(), ["a@127.0.0.1", "c@127.0.0.1"]);

    let again = cluster.gateway.request("DELETE", "/nodes/b%40127.0.0.1/clients/twin");
    assert_eq!((again.status, again.code()), (404, 112));
    assert_eq!(nodes(), ["a@127.0.0.1", "c@127.0.0.1"]);

    // Without a node: wherever it is.
    let body = cluster.gateway.kick("twin").json();
    assert_eq!(body["data"], kicked_on(&["a@127.0.0.1", "c@127.0.0.1"], "twin"), "{body}");
    c.await_close();
    assert_gone(&cluster, "twin");
}

#[test]
fn whom_nobody_has_cannot_be_kicked() {
    let cluster = Cluster::embedded();
    for target in ["/clients/nobody", "/nodes/a@127.0.0.1/clients/nobody"] {
        let response = cluster.gateway.request("DELETE", target);
        assert_eq!((response.status, response.code()), (404, 112), "{target}");
        assert!(response.message().contains("nobody"), "{}", response.message());
    }
    let client = Real::v4(cluster.agents[0].mqtt(), Login::clean("once"));
    cluster.gateway.row("once");
    assert_eq!(cluster.gateway.kick("once").status, 200);
    client.await_close();
    assert_eq!(cluster.gateway.kick("once").status, 404);

    let nowhere = cluster.gateway.request("DELETE", "/nodes/z@127.0.0.1/clients/once");
    assert_eq!((nowhere.status, nowhere.code()), (404, 101));
    assert!(nowhere.message().contains("z@127.0.0.1"), "{}", nowhere.message());
}

#[test]
fn a_viewer_sees_but_does_not_kick() {
    let cluster = Cluster::embedded();
    let client = Real::v5(cluster.agents[2].mqtt(), Login::clean("safe"));
    client.subscribe("still/there");
    cluster.gateway.row("safe");
    for target in ["/clients/safe", "/nodes/c@127.0.0.1/clients/safe", "/clients/nobody"] {
        let response = cluster.gateway.request_as(VIEWER, "DELETE", target);
        assert_eq!((response.status, response.code()), (403, 102), "{target}");
        assert!(response.message().contains("operator"), "{}", response.message());
    }
    assert_eq!(cluster.gateway.request_as(VIEWER, "GET", "/clients/safe").rows().len(), 1);
    client.publish("still/there", "yes");
    assert_eq!(client.receive(), "yes");
}

#[test]
fn a_kick_takes_no_parameters() {
    let cluster = Cluster::embedded();
    let client = Real::v4(cluster.agents[0].mqtt(), Login::clean("safe"));
    client.subscribe("still/there");
    cluster.gateway.row("safe");
    let response = cluster.gateway.request("DELETE", "/clients/safe?_node=b@127.0.0.1");
    assert_eq!((response.status, response.code()), (400, 108));
    assert!(response.message().contains("_node"), "{}", response.message());
    client.publish("still/there", "yes");
    assert_eq!(client.receive(), "yes");
}
