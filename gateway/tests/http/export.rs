//! Exports as bytes on a socket.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rollcall_proto::{Order, SortField};

use super::*;

/// A gateway over these nodes, one export at a time, impatient with nodes and clients.
async fn gateway_of(nodes: &[Arc<FakeNode>]) -> SocketAddr {
    let mut addresses = Vec::new();
    for node in nodes {
        addresses.push(node.serve().await.to_string());
    }
    let layer = Layer {
        max_exports: Some("1".parse().unwrap()),
        export_node_timeout: Some("400ms".parse().unwrap()),
        export_client_timeout: Some("500ms".parse().unwrap()),
        ..layer(addresses)
    };
    serve(layer, nodes.len()).await
}

/// Clients whose names need care.
fn awkward(node: usize, count: usize) -> Vec<v1::Client> {
    (0..count)
        .map(|n| {
            let username = (n % 3 > 0).then(|| format!("say \"{}\",\r\nü", n % 7));
            let port = Some((n * 7919 % 500) as u32);
            v1::Client { port, ..client(&format!("c-{n:05}-{node}"), username.as_deref()) }
        })
        .collect()
}

fn three(behaviour: Behaviour) -> Vec<Arc<FakeNode>> {
    let node = |n, count, behaviour| FakeNode::new(&format!("n{n}@h"), awkward(n, count), behaviour);
    vec![node(0, 700, Behaviour::Honest), node(1, 300, behaviour), node(2, 500, Behaviour::Honest)]
}

/// clientid, node and user name of every client of these nodes, in order.
fn model(nodes: &[Arc<FakeNode>], order: Order) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for node in nodes {
        all.extend(node.rows().iter().map(|row| v1::Client { node: node.name(), ..row.clone() }));
    }
    all.sort_by(|a, b| order.compare(&order.key(&a.as_client_ref()), &order.key(&b.as_client_ref())));
    let username = |row: &v1::Client| row.username.clone().unwrap_or_else(|| "undefined".into());
    all.into_iter().map(|row| (row.clientid.clone(), row.node.clone(), username(&row))).collect()
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    body: Vec<u8>,
    /// Whether the body came to its own end.
    pub(super) whole: bool,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The rows and the last line.
    pub(super) fn lines(&self) -> (Vec<Value>, Value) {
        assert!(self.text().ends_with('\n'));
        let mut lines: Vec<Value> =
            self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let last = lines.pop().unwrap();
        (lines, last["meta"].clone())
    }

    fn clients(&self) -> Vec<(String, String, String)> {
        let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let rows = self.lines().0;
        rows.iter().map(|row| (text(row, "clientid"), text(row, "node"), text(row, "username"))).collect()
    }
}

async fn open(gateway: SocketAddr, target: &str, version: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    let head = format!(
        "GET /api/v4{target} {version}\r\nHost: g\r\nAuthorization: Bearer secret\r\n{headers}Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn ask(gateway: SocketAddr, target: &str, version: &str, headers: &str) -> Answer {
    receive(open(gateway, target, version, headers).await).await
}

/// Reads an answer to the end of its connection.
pub(super) async fn receive(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = std::str::from_utf8(&bytes[..end]).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = &bytes[end + 4..];
    let (body, whole) =
        if head.contains("transfer-encoding: chunked") { unchunk(body) } else { (body.to_vec(), true) };
    Answer { status, head, body, whole }
}

async fn get(gateway: SocketAddr, target: &str) -> Answer {
    ask(gateway, target, "HTTP/1.1", "").await
}

/// The body, and whether its last chunk came.
fn unchunk(mut left: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(end) = left.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&left[..end]).unwrap(), 16).unwrap();
        left = &left[end + 2..];
        if size == 0 {
            return (body, true);
        }
        body.extend_from_slice(&left[..size]);
        left = &left[size + 2..];
    }
    assert!(left.is_empty());
    (body, false)
}

pub(super) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

#[tokio::test]
async fn rows_of_all_nodes_come_in_order_and_the_last_line_says_that_it_is_all() {
    let nodes = three(Behaviour::Honest);
    let gateway = gateway_of(&nodes).await;
    let answer = get(gateway, "/client_export?_sort=port&_order=desc").await;
    assert_eq!((answer.status, answer.whole), (200, true));
    assert!(answer.head.contains("content-type: application/x-ndjson"), "{}", answer.head);
    assert!(answer.head.contains("cache-control: no-store"), "{}", answer.head);
    let order = Order { field: SortField::Port, descending: true };
    assert!(answer.clients() == model(&nodes, order));
    let (rows, meta) = answer.lines();
    let expected =
        json!({"complete": true, "count": 1500, "nodes": {"total": 3, "answered": 3, "failed": []}});
    assert_eq!(meta, expected);
    let (_, page) = send(gateway, "GET", "/clients?_sort=port&_order=desc&_limit=1").await;
    let keys = |row: &Value| row.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&rows[0]), keys(&page["data"][0]), "a row looks as in a list");
    assert!(rows[0]["recv_oct"].is_u64());

    for (accepted, coding) in [("gzip", "gzip"), ("gzip, deflate, br, zstd", "zstd")] {
        let accept = format!("Accept-Encoding: {accepted}\r\n");
        let compressed = ask(gateway, "/client_export?_sort=port&_order=desc", "HTTP/1.1", &accept).await;
        assert!(compressed.head.contains(&format!("content-encoding: {coding}")), "{}", compressed.head);
        let mut plain = Vec::new();
        match coding {
            "gzip" => flate2::read::GzDecoder::new(&compressed.body[..]).read_to_end(&mut plain).unwrap(),
            _ => zstd::Decoder::new(&compressed.body[..]).unwrap().read_to_end(&mut plain).unwrap(),
        };
        assert!(plain == answer.body && compressed.body.len() < answer.body.len() / 4);
    }

    let narrow = get(gateway, "/client_export?_fields=clientid&_like_clientid=-00001-&_node=n2@h").await;
    assert_eq!(narrow.lines().0, [json!({"clientid": "c-00001-2"})]);
    assert_eq!(narrow.lines().1["nodes"]["total"], 1);
    let empty = get(gateway, "/client_export?clientid=none").await;
    assert_eq!((empty.lines().0.len(), &empty.lines().1["complete"]), (0, &json!(true)));
    let old = ask(gateway, "/client_export?_limit=5", "HTTP/1.0", "").await;
    assert_eq!(old.status, 400);
    let old = ask(gateway, "/client_export", "HTTP/1.0", "").await;
    assert!(!old.head.contains("chunked") && old.body == get(gateway, "/client_export").await.body);
}

#[tokio::test]
async fn a_csv_has_a_header_and_quotes_where_they_are_needed() {
    let nodes = three(Behaviour::Honest);
    let gateway = gateway_of(&nodes).await;
    let answer = get(gateway, "/client_export?_format=csv&_fields=username,node,clientid,zone").await;
    assert_eq!((answer.status, answer.whole), (200, true));
    assert!(answer.head.contains("content-type: text/csv; charset=utf-8"), "{}", answer.head);
    let quoted = |text: &str| {
        if text.contains('"') { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
    };
    let lines = model(&nodes, Order::default())
        .into_iter()
        .map(|(clientid, node, username)| format!("{node},{clientid},{},\r\n", quoted(&username)));
    assert!(answer.text() == format!("node,clientid,username,zone\r\n{}", lines.collect::<String>()));

    let all = get(gateway, "/client_export?_format=csv&clientid=none").await;
    assert_eq!(all.text().trim_end().split(',').count(), 37);
    let old = ask(gateway, "/client_export?_format=csv", "HTTP/1.0", "").await;
    assert_eq!((old.status, &old.json()["code"]), (400, &json!(108)));
}

#[tokio::test]
async fn what_an_export_does_not_take_is_refused() {
    let gateway = gateway_of(&three(Behaviour::Honest)).await;
    for (target, status, code) in [
        ("/client_export?_page=1", 400, 108),
        ("/client_export?_cursor=", 400, 108),
        ("/client_export?_format=xml", 400, 108),
        ("/client_export?_format=csv&_format=csv", 400, 108),
        ("/client_export?_node=x", 400, 108),
        ("/clients?_format=csv", 400, 108),
        ("/nodes/n0@h/client_export", 404, 102),
    ] {
        let answer = get(gateway, target).await;
        assert_eq!((answer.status, &answer.json()["code"]), (status, &json!(code)), "{target}");
    }
}

#[tokio::test]
async fn a_node_that_is_silent_from_the_start_is_named_or_refused() {
    let nodes = three(Behaviour::HangInQueries);
    let gateway = gateway_of(&nodes).await;
    let failed = json!([{"node": "n1@h", "reason": "timeout"}]);
    let others = model(&[Arc::clone(&nodes[0]), Arc::clone(&nodes[2])], Order::default());
    for target in ["/client_export", "/client_export?_partial=true"] {
        let answer = get(gateway, target).await;
        assert_eq!((answer.status, answer.whole), (200, true));
        assert!(answer.clients() == others);
        let expected =
            json!({"complete": false, "count": 1200, "nodes": {"total": 3, "answered": 2, "failed": failed}});
        assert_eq!(answer.lines().1, expected);
    }
    for target in [
        "/client_export?_partial=false",
        "/client_export?_format=csv",
        "/client_export?_format=csv&_partial=false",
        "/client_export?_node=n1@h",
    ] {
        let answer = get(gateway, target).await;
        assert_eq!((answer.status, &answer.json()["code"]), (503, &json!(101)), "{target}");
        assert_eq!(answer.json()["meta"]["nodes"]["failed"], failed, "{target}");
    }
    let csv = get(gateway, "/client_export?_format=csv&_partial=true&_fields=clientid").await;
    assert_eq!((csv.status, csv.whole, csv.text().lines().count()), (200, true, 1201));
}

#[tokio::test]
async fn a_node_that_fails_midway_never_looks_whole() {
    for (behaviour, reason) in [(Behaviour::HangMidway, "timeout"), (Behaviour::BreakMidway, "unreachable")] {
        let nodes = three(behaviour);
        let gateway = gateway_of(&nodes).await;
        let answer = get(gateway, "/client_export").await;
        assert_eq!((answer.status, answer.whole), (200, true));
        let clients = answer.clients();
        // Rows 0 to 99 of each node; nothing behind the last that the failed node sent.
        assert!(
            clients.len() == 299 && clients == model(&nodes, Order::default())[..299],
            "{}",
            clients.len()
        );
        let failed = json!([{"node": "n1@h", "reason": reason}]);
        let expected =
            json!({"complete": false, "count": 299, "nodes": {"total": 3, "answered": 2, "failed": failed}});
        assert_eq!(answer.lines().1, expected);
        for partial in ["", "&_partial=true"] {
            let csv = get(gateway, &format!("/client_export?_format=csv{partial}")).await;
            assert_eq!((csv.status, csv.whole), (200, false), "{behaviour:?}");
        }
        assert_eq!(over_http2(gateway, "/client_export").await, Ok(answer.body.clone()));
        over_http2(gateway, "/client_export?_format=csv").await.expect_err("a CSV that is not whole");
        let open = || nodes.iter().map(|node| node.calls.exports_open.load(Relaxed)).sum::<usize>();
        eventually("the other nodes' calls end too", || open() == 0).await;
    }
}

/// Asks by HTTP/2: the body, or why it did not come to its end. That ends one stream: the connection must go on.
async fn over_http2(gateway: SocketAddr, target: &str) -> Result<Vec<u8>, String> {
    use http_body_util::BodyExt as _;
    let stream = hyper_util::rt::TokioIo::new(TcpStream::connect(gateway).await.unwrap());
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = |target: &str| {
        http::Request::get(format!("http://{gateway}/api/v4{target}"))
            .header("authorization", "Bearer secret")
            .body(String::new())
            .unwrap()
    };
    let response = sender.send_request(request(target)).await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, http::Version::HTTP_2), "{target}");
    let body = response.into_body().collect().await;
    let again = sender.send_request(request("/clients?_limit=0&_node=n0@h")).await.unwrap();
    assert_eq!(again.status(), 200, "the connection ended with the stream");
    drop((again, sender));
    connection.abort();
    body.map(|body| body.to_bytes().to_vec()).map_err(|error| error.to_string())
}

/// What was compressed; an error if the coding did not come to its end.
fn decoded(coding: &str, compressed: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    match coding {
        "gzip" => flate2::read::GzDecoder::new(compressed).read_to_end(&mut plain)?,
        _ => zstd::Decoder::new(compressed)?.read_to_end(&mut plain)?,
    };
    Ok(plain)
}

/// Whoever writes what comes to a file, and decodes it some other day, must not take a part for the whole either.
#[tokio::test]
async fn a_compressed_export_that_broke_off_never_looks_whole() {
    let nodes = three(Behaviour::BreakMidway);
    let mut state = 1_u64;
    for node in &nodes {
        for row in node.rows().iter_mut() {
            // What cannot be compressed, and so much of it that some is sent before the node fails.
            let noise = (0..100).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                format!("{:08x}", state >> 32)
            });
            row.zone = Some(noise.collect());
        }
    }
    let gateway = gateway_of(&nodes).await;
    let plain = get(gateway, "/client_export").await;
    assert_eq!(plain.lines().1["complete"], false);
    for coding in ["gzip", "zstd"] {
        let accept = format!("Accept-Encoding: {coding}\r\n");
        let encoding = format!("content-encoding: {coding}");
        // The last line says so, so the coding comes to its end behind it.
        let lines = ask(gateway, "/client_export", "HTTP/1.1", &accept).await;
        assert!(lines.whole && lines.head.contains(&encoding), "{}", lines.head);
        assert!(decoded(coding, &lines.body).unwrap() == plain.body, "{coding}");
        // Here nothing says so but that there is no end.
        let csv = ask(gateway, "/client_export?_format=csv", "HTTP/1.1", &accept).await;
        assert!(csv.head.contains(&encoding), "{}", csv.head);
        assert_eq!((csv.status, csv.whole), (200, false), "{coding}");
        assert!(csv.body.len() > 10_000, "{} bytes tell nothing", csv.body.len());
        decoded(coding, &csv.body).expect_err("a coding that ends");
    }
}

#[tokio::test]
async fn exports_beyond_the_limit_are_refused_and_a_dropped_connection_ends_the_calls() {
    let node = FakeNode::new("n0@h", awkward(0, 1000), Behaviour::HangMidway);
    let address = node.serve().await.to_string();
    let patient = Layer { max_exports: Some("1".parse().unwrap()), ..layer(vec![address]) };
    let gateway = serve(patient, 1).await;
    let mut first = open(gateway, "/client_export", "HTTP/1.1", "").await;
    let mut head = [0; 12];
    first.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    assert_eq!(node.calls.exports_open.load(Relaxed), 1);
    let second = get(gateway, "/client_export").await;
    assert_eq!((second.status, &second.json()["code"]), (503, &json!(102)));
    assert!(second.head.contains("retry-after: "), "{}", second.head);
    assert_eq!(send(gateway, "GET", "/clients/c-00001-0").await.0, 200);
    drop(first);
    eventually("the call ends with its client", || node.calls.exports_open.load(Relaxed) == 0).await;
    let mut third = open(gateway, "/client_export", "HTTP/1.1", "").await;
    third.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let mut large = awkward(0, 4000);
    for row in &mut large {
        row.zone = Some("z".repeat(10_000));
    }
    let node = FakeNode::new("n0@h", large, Behaviour::Honest);
    let gateway = gateway_of(std::slice::from_ref(&node)).await;
    let mut slow = open(gateway, "/client_export", "HTTP/1.1", "").await;
    eventually("the export begins", || node.calls.exports_open.load(Relaxed) == 1).await;
    eventually("the export is given up", || node.calls.exports_open.load(Relaxed) == 0).await;
    assert!(node.calls.rows_sent.load(Relaxed) < 4000, "the whole export fits into the sockets' buffers");
    let mut bytes = Vec::new();
    slow.read_to_end(&mut bytes).await.unwrap();
    assert!(!bytes.ends_with(b"0\r\n\r\n"), "it looks whole");
}
