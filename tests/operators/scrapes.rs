//! A real Prometheus over real processes with real MQTT clients.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use rollcall_tests::http;
use rollcall_tests::mqtt::{Client, Connect};
use rollcall_tests::sandbox::{Agent, Cluster, OPERATOR};
use rollcall_tests::wait::{eventually, pause};

use crate::deployed::dashboard_expressions;
use crate::prometheus::{self, Prometheus, promtool};

const ANY: &[&str] = &["--mqtt-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];

fn agent(name: &str) -> Agent {
    Agent::start(name, ANY)
}

fn metrics(agent: &Agent) -> SocketAddr {
    agent.process.metrics.unwrap()
}

/// A page of metrics, in the format of this `Accept`.
fn page(address: SocketAddr, accept: &str) -> String {
    let authorization = http::basic(OPERATOR.0, OPERATOR.1);
    let headers = [("authorization", authorization.as_str()), ("accept", accept)];
    let response = http::request(address, "GET", "/metrics", &headers);
    assert_eq!(response.status, 200);
    String::from_utf8(response.body).unwrap()
}

#[test]
fn a_cluster_with_mqtt_clients_as_prometheus_sees_it() {
    if !prometheus::is_here() {
        return;
    }
    let mut cluster = Cluster::of(["a@127.0.0.1", "b@127.0.0.1", "c \"\\"].map(agent).into());
    let connect = |node: usize, level, clientid: &str| {
        Client::connect(cluster.agents[node].mqtt(), &Connect::new(level, clientid))
    };
    let clients: Vec<Client> = (0..5)
        .map(|n| connect(0, 4, &format!("four-{n}")))
        .chain((0..3).map(|n| connect(1, 5, &format!("five-{n}"))))
        .chain((0..2).map(|n| connect(2, 3, &format!("three-{n}"))))
        .collect();
    let kept = Client::connect(cluster.agents[1].mqtt(), &Connect::new(5, "kept").keep_session());
    kept.disconnect();
    cluster.gateway.row_when("kept", |row| row["connected"] == false);

    let agents: Vec<SocketAddr> = cluster.agents.iter().map(metrics).collect();
    let gateway = cluster.gateway.address();
    let prometheus = Prometheus::start(&[gateway], &agents);
    for (job, up) in
        [("rollcall-gateway", 1.0), ("by-bearer", 1.0), ("without-a-key", 0.0), ("rollcall-agent", 3.0)]
    {
        prometheus.await_value(&format!("sum(up{{job=\"{job}\"}})"), Some(up));
    }

    // The numbers, by every label, beside what the API counts.
    let own = "{job=\"rollcall-gateway\"}";
    prometheus.await_value(&format!("rollcall_cluster_clients{own}"), Some(11.0));
    for (query, expected) in [
        (format!("rollcall_cluster_connected_clients{own}"), Some(10.0)),
        (format!("sum(rollcall_clients{own})"), Some(11.0)),
        (format!("rollcall_nodes_expected{own}"), Some(3.0)),
        (format!("rollcall_nodes_available{own}"), Some(3.0)),
        (format!("count(rollcall_node_up{own} == 1)"), Some(3.0)),
        (r#"sum(rollcall_clients{job="rollcall-gateway",proto_ver="4",proto_name="MQTT"})"#.into(), Some(5.0)),
        (r#"sum(rollcall_clients{job="rollcall-gateway",proto_ver="3",proto_name="MQIsdp"})"#.into(), Some(2.0)),
        (r#"sum(rollcall_clients{job="rollcall-gateway",node="b@127.0.0.1",conn_state="connected"})"#.into(), Some(3.0)),
        (r#"sum(rollcall_clients{job="rollcall-gateway",node="b@127.0.0.1",conn_state="disconnected"})"#.into(), Some(1.0)),
        (r#"sum(rollcall_clients{job="rollcall-gateway",node="c \"\\"})"#.into(), Some(2.0)),
        (r#"sum(rollcall_node_state{job="rollcall-gateway",state="connected"})"#.into(), Some(3.0)),
        ("sum(rollcall_agent_clients{conn_state=\"connected\"})".into(), Some(10.0)),
        ("sum(rollcall_agent_broker_up)".into(), Some(3.0)),
        // By their names the agents' own samples belong to the gateway's.
        (
            r#"sum(rollcall_agent_clients * on (instance) group_left (node) rollcall_agent_info{node="a@127.0.0.1"})"#.into(),
            Some(5.0),
        ),
    ] {
        assert_eq!(prometheus.value(&query), expected, "{query}");
    }
    let counted = cluster.gateway.get("/client_counts?_group_by=zone").json();
    for group in counted["data"].as_array().unwrap() {
        let zone = group["value"].as_str().unwrap();
        let query = format!("sum(rollcall_clients{{job=\"rollcall-gateway\",zone=\"{zone}\"}})");
        assert_eq!(prometheus.value(&query), group["count"].as_f64(), "{query}");
    }

    // Kicks, and the client is gone from the next scrape.
    assert_eq!(cluster.gateway.kick("four-0").status, 200);
    assert_eq!(cluster.gateway.kick("nobody").status, 404);
    prometheus.await_value(&format!("rollcall_cluster_clients{own}"), Some(10.0));
    prometheus.await_value("rollcall_kicks_total{job=\"rollcall-gateway\",outcome=\"kicked\"}", Some(1.0));
    prometheus.await_value("rollcall_kicks_total{job=\"rollcall-gateway\",outcome=\"not_found\"}", Some(1.0));
    prometheus.await_value("sum(rollcall_agent_calls_total{rpc=\"kick\",outcome=\"ok\"})", Some(1.0));

    // What promtool finds wanting in names, types and help, it says.
    for address in agents.iter().copied().chain([gateway]) {
        let checked = promtool(&["check", "metrics"], &prometheus::project(), &page(address, "text/plain"));
        let said =
            String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success() && said.trim().is_empty(), "{address}: {said}");
        let open = page(address, "application/openmetrics-text; version=1.0.0");
        assert!(open.ends_with("# EOF\n") && open.contains("# UNIT process_resident_memory_bytes bytes\n"));
    }

    // Every query of the dashboard is one.
    for expression in dashboard_expressions() {
        prometheus.query(&expression);
    }

    // No alert but that of the scraper without a key, which is no job of ours.
    pause(std::time::Duration::from_secs(4));
    for (rule, health) in prometheus.rules() {
        assert!(health.starts_with("ok"), "{rule}: {health}");
        assert_eq!(prometheus.alerts(&rule, "firing"), Vec::<serde_json::Value>::new(), "{rule}");
    }

    // A node goes.
    cluster.agents[2].process.kill();
    let alerts = prometheus.await_alerts("RollcallNodeDown", "firing", 2);
    assert!(
        alerts.iter().all(|labels| labels["node"] == "c \"\\" && labels["severity"] == "critical"),
        "{alerts:?}"
    );
    prometheus.await_alerts("RollcallAgentDown", "firing", 1);
    for (query, expected) in [
        (format!("rollcall_cluster_clients{own}"), None),
        (format!("sum(rollcall_clients{own})"), Some(8.0)),
        (format!("rollcall_nodes_expected{own}"), Some(3.0)),
        (format!("rollcall_nodes_available{own}"), Some(2.0)),
        (r#"rollcall_node_up{job="rollcall-gateway",node="c \"\\"}"#.into(), Some(0.0)),
        (r#"sum(rollcall_clients{job="rollcall-gateway",node="c \"\\"})"#.into(), None),
    ] {
        prometheus.await_value(&query, expected);
    }
    assert_eq!(prometheus.alerts("RollcallNoNodeAvailable", "firing"), Vec::<serde_json::Value>::new());

    // And comes back.
    let name = cluster.agents[2].name.clone();
    let listen = cluster.agents[2].process.address.to_string();
    let back = Agent::start_at(&name, &listen, ANY);
    prometheus.await_alerts("RollcallNodeDown", "firing", 0);
    prometheus.await_value(&format!("rollcall_nodes_available{own}"), Some(3.0));
    prometheus.await_value(&format!("rollcall_cluster_clients{own}"), Some(8.0));
    eventually("restart counted", || {
        let restarts =
            prometheus.value(r#"rollcall_node_restarts_total{job="rollcall-gateway",node="c \"\\"}"#);
        if restarts == Some(1.0) { Ok(()) } else { Err(format!("{restarts:?}")) }
    });
    drop((back, clients));
}

#[test]
fn an_agents_listener_answers_scrapers_and_nobody_else() {
    let agent = agent("a@127.0.0.1");
    let address = metrics(&agent);
    for (method, target, status) in [
        ("GET", "/metrics", 200),
        ("POST", "/metrics", 405),
        ("GET", "/", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/rollcall.v1.Node/List", 404),
    ] {
        assert_eq!(http::request(address, method, target, &[]).status, status, "{method} {target}");
    }
    let mut stream = http::connect(address).unwrap();
    stream.write_all(http::head(address, "HEAD", "/metrics", &[]).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    // Connections that say nothing keep nobody out for long, but no more than there are places.
    let silent: Vec<_> = (0..8).map(|_| http::connect(address).unwrap()).collect();
    assert_eq!(http::request(address, "GET", "/metrics", &[]).status, 200);
    drop(silent);
    // Without the setting there is no such line.
    let plain = Agent::embedded("b@127.0.0.1");
    assert_eq!(plain.process.metrics, None);
}
