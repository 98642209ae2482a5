//! `GET /metrics`, over nodes that answer and nodes that do not.

use tokio::time::Instant;

use super::*;

/// A scrape's status, content type and text.
async fn scrape(gateway: SocketAddr, headers: &[(&str, &str)]) -> (u16, String, String) {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("GET /metrics HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    (status, kind.to_owned(), body.to_owned())
}

const KEY: (&str, &str) = ("authorization", "Bearer secret");

async fn samples(gateway: SocketAddr) -> String {
    let (status, _, text) = scrape(gateway, &[KEY]).await;
    assert_eq!(status, 200, "{text}");
    text
}

/// The value of a sample, by its name and labels.
fn value(text: &str, sample: &str) -> Option<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    value.map(|value| value.parse().unwrap())
}

#[track_caller]
fn expect(text: &str, expected: &[(&str, Option<f64>)]) {
    for (sample, expected) in expected {
        assert_eq!(value(text, sample), *expected, "{sample} in\n{text}");
    }
}

#[tokio::test]
async fn who_has_a_key_may_scrape_in_either_format() {
    let gateway = gateway(Behaviour::Honest, &[]).await;
    assert_eq!(scrape(gateway, &[]).await.0, 401);
    assert_eq!(scrape(gateway, &[("authorization", "Bearer wrong")]).await.0, 401);
    // base64 of ops:secret
    let (status, kind, text) = scrape(gateway, &[("authorization", "Basic b3BzOnNlY3JldA==")]).await;
    assert_eq!((status, kind.as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    assert!(text.contains("# TYPE rollcall_http_requests_total counter\n") && !text.contains("# EOF"));
    let accept = ("accept", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5");
    let (status, kind, text) = scrape(gateway, &[KEY, accept]).await;
    assert_eq!((status, kind.as_str()), (200, "application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(text.contains("# TYPE rollcall_http_requests counter\n") && text.ends_with("# EOF\n"));
    expect(
        &text,
        &[(r#"rollcall_http_requests_total{route="/metrics",method="GET",code="401"}"#, Some(2.0))],
    );
}

#[tokio::test]
async fn with_open_metrics_everybody_may_and_of_the_rest_nobody_without_a_key() {
    let a = FakeNode::new("a@h", vec![client("c", None)], Behaviour::Honest).serve().await;
    let open = Layer { metrics: Some("open".parse().unwrap()), ..layer(vec![a.to_string()]) };
    let gateway = serve(open, 1).await;
    for headers in [&[][..], &[("authorization", "Bearer wrong")]] {
        let (status, _, text) = scrape(gateway, headers).await;
        assert_eq!((status, value(&text, "rollcall_cluster_clients")), (200, Some(1.0)), "{text}");
    }
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    stream.write_all(b"GET /api/v4/nodes HTTP/1.0\r\n\r\n").await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert!(response.contains(" 401 "), "{response}");
}

#[tokio::test]
async fn clients_are_counted_by_node_and_kind() {
    let gateway = gateway(Behaviour::Honest, &[]).await;
    let text = samples(gateway).await;
    expect(
        &text,
        &[
            ("rollcall_nodes_expected", Some(2.0)),
            ("rollcall_nodes_available", Some(2.0)),
            ("rollcall_cluster_clients", Some(5.0)),
            ("rollcall_cluster_connected_clients", Some(5.0)),
            (r#"rollcall_clients{node="a@h",conn_state="connected"}"#, Some(3.0)),
            (r#"rollcall_clients{node="b@h",conn_state="connected"}"#, Some(2.0)),
            (r#"rollcall_node_up{node="b@h"}"#, Some(1.0)),
            (r#"rollcall_node_state{node="b@h",state="connected"}"#, Some(1.0)),
            (r#"rollcall_node_state{node="b@h",state="unavailable"}"#, Some(0.0)),
            (r#"rollcall_node_circuit_open{node="b@h"}"#, Some(0.0)),
        ],
    );
    // Clients' ids and names stand nowhere.
    for secret in ["b-1", "both", "username"] {
        assert!(!text.lines().any(|line| !line.starts_with('#') && line.contains(&format!("\"{secret}\""))));
    }
}

#[tokio::test]
async fn rows_that_nodes_send_for_pages_are_counted_shown_or_not() {
    let rows = |node: &str| (0..30).map(|n| client(&format!("{node}-{n:02}"), None)).collect();
    let a = FakeNode::new("a@h", rows("a"), Behaviour::Honest);
    let b = FakeNode::new("b@h", rows("b"), Behaviour::Honest);
    let gateway = gateway_over(Arc::clone(&a), Arc::clone(&b), &[]).await;
    assert_eq!(send(gateway, "GET", "/clients?_limit=20").await.0, 200);
    assert_eq!(send(gateway, "GET", "/clients?_limit=0").await.0, 200);
    let text = samples(gateway).await;
    let sent = [&a, &b].map(|node| node.calls.rows_sent.load(std::sync::atomic::Ordering::Relaxed) as f64);
    assert!(sent[0] >= 20.0 && sent[1] > 0.0, "{sent:?}");
    expect(
        &text,
        &[
            (r#"rollcall_node_rows_total{node="a@h"}"#, Some(sent[0])),
            (r#"rollcall_node_rows_total{node="b@h"}"#, Some(sent[1])),
        ],
    );
}

#[tokio::test]
async fn a_silent_node_is_named_and_its_clients_are_absent_not_zero() {
    let gateway = gateway(Behaviour::HangInQueries, &["127.0.0.1:1"]).await;
    let begun = Instant::now();
    let text = samples(gateway).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    expect(
        &text,
        &[
            ("rollcall_nodes_expected", Some(3.0)),
            ("rollcall_nodes_available", Some(1.0)),
            ("rollcall_cluster_clients", None),
            (r#"rollcall_clients{node="a@h",conn_state="connected"}"#, Some(3.0)),
            (r#"rollcall_clients{node="b@h",conn_state="connected"}"#, None),
            (r#"rollcall_node_up{node="a@h"}"#, Some(1.0)),
            (r#"rollcall_node_up{node="b@h"}"#, Some(0.0)),
            (r#"rollcall_node_up{node="127.0.0.1:1"}"#, Some(0.0)),
            (r#"rollcall_node_calls_total{node="b@h",outcome="timeout"}"#, Some(1.0)),
            (r#"rollcall_node_calls_total{node="a@h",outcome="answered"}"#, Some(1.0)),
            (r#"rollcall_node_call_duration_seconds_count{node="b@h"}"#, Some(1.0)),
        ],
    );
    assert!(
        value(&text, r#"rollcall_node_probes_total{node="127.0.0.1:1",outcome="unreachable"}"#) > Some(0.0)
    );
    assert!(!text.contains(r#"rollcall_clients{node="b@h""#));
    // A scraper that gives up sooner has its answer sooner.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    let (status, _, text) = scrape(gateway, &[KEY, ("X-Prometheus-Scrape-Timeout-Seconds", "0.2")]).await;
    assert_eq!((status, value(&text, "rollcall_nodes_available")), (200, Some(1.0)));
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_node_that_counts_wrongly_is_not_believed() {
    let gateway = gateway(Behaviour::LyingCount, &[]).await;
    let text = samples(gateway).await;
    expect(
        &text,
        &[
            (r#"rollcall_node_up{node="b@h"}"#, Some(0.0)),
            (r#"rollcall_node_calls_total{node="b@h",outcome="protocol"}"#, Some(1.0)),
            ("rollcall_cluster_clients", None),
        ],
    );
}

#[tokio::test]
async fn scrapes_that_come_together_ask_the_nodes_once() {
    let gateway = gateway(Behaviour::Honest, &[]).await;
    let together = (0..20).map(|_| samples(gateway));
    futures::future::join_all(together).await;
    let text = samples(gateway).await;
    let asked = value(&text, r#"rollcall_node_calls_total{node="a@h",outcome="answered"}"#);
    // Two of them if a second went by meanwhile.
    assert!(asked >= Some(1.0) && asked <= Some(3.0), "{asked:?}");
}

#[tokio::test]
async fn who_gives_up_at_once_makes_no_node_look_silent_to_others() {
    let gateway = gateway(Behaviour::HangInQueries, &[]).await;
    let timeouts = |text: &str| value(text, r#"rollcall_node_calls_total{node="b@h",outcome="timeout"}"#);
    let (_, _, hasty) = scrape(gateway, &[KEY, ("rollcall-timeout-ms", "50")]).await;
    assert_eq!(timeouts(&hasty), Some(1.0));
    // Each asks for all of its time; they come together, so the nodes are asked once more, and none is late.
    let begun = Instant::now();
    let (first, second, third) = tokio::join!(samples(gateway), samples(gateway), samples(gateway));
    assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
    for text in [first, second, third] {
        assert_eq!((timeouts(&text), value(&text, "rollcall_nodes_available")), (Some(2.0), Some(1.0)));
    }
}

#[tokio::test]
async fn requests_refusals_and_kicks_are_counted() {
    let gateway = gateway(Behaviour::Honest, &[]).await;
    for (method, target) in [
        ("GET", "/clients?_limit=1"),
        ("GET", "/clients/both"),
        ("GET", "/clients/b-1"),
        ("GET", "/clients?nonsense=1"),
        ("GET", "/nowhere/at/all"),
        ("DELETE", "/clients/both"),
        ("DELETE", "/clients/nobody"),
    ] {
        send(gateway, method, target).await;
    }
    for _ in 0..21 {
        scrape(gateway, &[("authorization", "Bearer wrong")]).await;
    }
    // The address has shown too many wrong keys, the right one is not looked at for a second.
    assert_eq!(scrape(gateway, &[KEY]).await.0, 429);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let text = samples(gateway).await;
    expect(
        &text,
        &[
            (r#"rollcall_http_requests_total{route="/clients",method="GET",code="200"}"#, Some(1.0)),
            (r#"rollcall_http_requests_total{route="/clients",method="GET",code="400"}"#, Some(1.0)),
            (
                r#"rollcall_http_requests_total{route="/clients/{clientid}",method="GET",code="200"}"#,
                Some(2.0),
            ),
            (
                r#"rollcall_http_requests_total{route="/clients/{clientid}",method="DELETE",code="200"}"#,
                Some(1.0),
            ),
            (
                r#"rollcall_http_requests_total{route="/clients/{clientid}",method="DELETE",code="404"}"#,
                Some(1.0),
            ),
            (r#"rollcall_http_requests_total{route="other",method="GET",code="404"}"#, Some(1.0)),
            (r#"rollcall_http_request_duration_seconds_count{route="/clients/{clientid}"}"#, Some(4.0)),
            (r#"rollcall_kicks_total{outcome="kicked"}"#, Some(1.0)),
            (r#"rollcall_kicks_total{outcome="not_found"}"#, Some(1.0)),
            (r#"rollcall_kicks_total{outcome="refused"}"#, Some(0.0)),
            ("rollcall_http_requests_in_flight", Some(1.0)),
            ("rollcall_audit_failures_total", Some(0.0)),
        ],
    );
    assert!(value(&text, r#"rollcall_http_refusals_total{limit="wrong_keys"}"#) >= Some(1.0));
    assert!(value(&text, "rollcall_http_connections") >= Some(1.0));
}
