//! What a connection gets that HTTP clients cannot be made to send: heads too large or broken, silence, pipelines.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)] // clippy knows tests by #[test], not by file

use std::net::SocketAddr;
use std::time::Duration;

use rollcall_gateway::Config;
use rollcall_gateway::config::Layer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

struct Gateway {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

impl Gateway {
    /// A gateway with one key, `id:secret`, over one node that nobody listens for.
    async fn start() -> Self {
        let told = Layer {
            node: Some(vec!["127.0.0.1:1".parse().unwrap()]),
            key: Some(vec!["id:secret:viewer".into()]),
            read_timeout: Some("1s".parse().unwrap()),
            drain_timeout: Some("3s".parse().unwrap()),
            ..Layer::default()
        };
        let config = Config::new(told).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            rollcall_gateway::run(config, listener, shutdown).await.unwrap();
        });
        Self { address, stop: Some(stop), running }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes as they are and reads to the end of the connection.
    async fn send(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The gateway may close before it has read everything.
        let _ = stream.write_all(bytes).await;
        read_to_end(&mut stream).await
    }

    async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        timeout(Duration::from_secs(10), self.running).await.unwrap().unwrap();
    }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    read.expect("the connection is closed").expect("the connection is not reset");
    String::from_utf8(answer).unwrap()
}

/// Asserts status and a JSON error body of the announced length, and gives the body.
fn refusal<'a>(answer: &'a str, status: &str) -> &'a str {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head}\n{body}");
    assert!(body.starts_with(r#"{"code":1"#) && body.contains(r#""message":""#), "{body}");
    body
}

fn get(url: &str, headers: &str) -> Vec<u8> {
    format!(
        "GET {url} HTTP/1.1\r\nhost: h\r\nconnection: close\r\nauthorization: Bearer secret\r\n{headers}\r\n"
    )
    .into_bytes()
}

#[tokio::test]
async fn a_header_of_one_mebibyte_is_refused_by_name() {
    let gateway = Gateway::start().await;
    let answer = gateway.send(&get("/api/v4/nodes", &format!("x-large: {}\r\n", "x".repeat(1 << 20)))).await;
    assert!(refusal(&answer, "413").contains("mostly x-large"), "{answer}");
    gateway.stop().await;
}

#[tokio::test]
async fn heads_beyond_what_hyper_reads_are_refused_with_a_body() {
    let gateway = Gateway::start().await;
    let endless = get("/api/v4/nodes", &format!("x-large: {}\r\n", "x".repeat(8 << 20)));
    let many = get("/api/v4/nodes", &(0..200).map(|n| format!("x-{n}: 1\r\n")).collect::<String>());
    let long = get(&format!("/api/v4/nodes?{}", "x".repeat(100_000)), "");
    for (request, what) in [(endless, "head"), (many, "100 headers"), (long, "URL")] {
        let answer = gateway.send(&request).await;
        assert!(refusal(&answer, "413").contains(what), "{answer}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn an_oversized_url_is_refused() {
    let gateway = Gateway::start().await;
    let answer = gateway.send(&get(&format!("/api/v4/clients?clientid={}", "x".repeat(20_000)), "")).await;
    assert!(refusal(&answer, "413").contains("URL of 20"), "{answer}");
    gateway.stop().await;
}

#[tokio::test]
async fn what_is_not_http_is_refused_with_a_body() {
    let gateway = Gateway::start().await;
    for garbage in [
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\u{1}\u{2}\u{3}\r\n\r\n",
        "GET /a b HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nbad header\r\n\r\n",
        "GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ] {
        let answer = gateway.send(garbage.as_bytes()).await;
        refusal(&answer, "400");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn garbage_behind_good_requests_leaves_their_answers_whole() {
    let gateway = Gateway::start().await;
    let good = "GET /health/live HTTP/1.1\r\nhost: h\r\n\r\n";
    let answer = gateway.send(format!("{good}{good}GARBAGE\r\n\r\n").as_bytes()).await;
    let answers: Vec<&str> = answer.split_inclusive('}').collect();
    assert_eq!(answers.len(), 3, "{answer}");
    for good in &answers[..2] {
        assert!(good.starts_with("HTTP/1.1 200 OK") && good.ends_with(r#"{"status":"live"}"#), "{good}");
    }
    refusal(answers[2], "400");
    gateway.stop().await;
}

#[tokio::test]
async fn bad_percent_encoding_and_bad_bytes_in_urls_are_refused() {
    let gateway = Gateway::start().await;
    for url in ["/api/v4/clients/%zz", "/api/v4/clients/%", "/api/v4/clients/%ff", "/api/v4/clients?zone=%2"]
    {
        let answer = gateway.send(&get(url, "")).await;
        assert!(refusal(&answer, "400").starts_with(r#"{"code":108"#), "{answer}");
    }
    let mut raw = get("/api/v4/clients/X", "");
    let at = raw.iter().position(|byte| *byte == b'X').unwrap();
    raw[at] = 0xff;
    refusal(&gateway.send(&raw).await, "400");
    gateway.stop().await;
}

#[tokio::test]
async fn wrong_credentials_are_refused_in_every_form() {
    let gateway = Gateway::start().await;
    for header in [
        "",
        "authorization: \r\n",
        "authorization: Basic\r\n",
        "authorization: Basic ====\r\n",
        "authorization: Basic aWQ6d3Jvbmc=\r\n",
        "authorization: Bearer wrong\r\n",
        "authorization: Digest x\r\n",
        "authorization: Bearer secret\r\nauthorization: Bearer secret\r\n",
        "authorization: Bearer \u{ff}\r\n",
    ] {
        let request = format!("GET /api/v4/nodes HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{header}\r\n");
        let answer = gateway.send(request.as_bytes()).await;
        refusal(&answer, "401");
        assert!(answer.contains("www-authenticate: Basic realm=\"rollcall\""), "{answer}");
    }
    // id:secret
    let good = "GET /api/v4/nodes HTTP/1.1\r\nhost: h\r\nconnection: close\r\nauthorization: Basic aWQ6c2VjcmV0\r\n\r\n";
    assert!(gateway.send(good.as_bytes()).await.starts_with("HTTP/1.1 200"));
    gateway.stop().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_while_it_is_still_sent() {
    let gateway = Gateway::start().await;
    let length = 4 << 20;
    let mut request = get("/api/v4/nodes", &format!("content-length: {length}\r\n"));
    request.extend(std::iter::repeat_n(b'x', length));
    assert!(refusal(&gateway.send(&request).await, "413").contains("4194304 bytes"));
    gateway.stop().await;
}

#[tokio::test]
async fn a_slow_head_is_not_waited_for() {
    let gateway = Gateway::start().await;
    for head in ["", "P", "GET /health/live HTTP/1.1\r\nx-slow: ", "PRI * HTTP/2.0\r\n"] {
        let begun = Instant::now();
        let answer = gateway.send(head.as_bytes()).await;
        assert_eq!(answer, "", "{head}");
        let waited = begun.elapsed();
        assert!((0.9..4.0).contains(&waited.as_secs_f64()), "{head}: {waited:?}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn silent_and_idle_connections_do_not_hold_up_the_drain() {
    let gateway = Gateway::start().await;
    let mut silent = gateway.connect().await;
    let mut idle = gateway.connect().await;
    idle.write_all(b"GET /health/live HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let address = gateway.address;
    let begun = Instant::now();
    gateway.stop().await;
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    assert_eq!(read_to_end(&mut silent).await, "");
    read_to_end(&mut idle).await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn an_idle_http2_connection_is_closed_though_it_answers_pings() {
    let gateway = Gateway::start().await;
    let stream = hyper_util::rt::TokioIo::new(gateway.connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = || {
        let request = http::Request::get(format!("http://{}/health/live", gateway.address));
        request.body(String::new()).unwrap()
    };
    // As long as it asks for something it stays, for longer than a head may take.
    for _ in 0..4 {
        let response = sender.send_request(request()).await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let begun = Instant::now();
    // It is told, rather than cut off.
    connection.await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(sender.send_request(request()).await.is_err());
    gateway.stop().await;
}

/// The next frame of HTTP/2: its type, flags, stream and payload; `None` at the end.
async fn frame(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    timeout(Duration::from_secs(10), stream.read_exact(&mut head)).await.expect("a frame in time").ok()?;
    let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}

#[tokio::test]
async fn a_request_that_crosses_the_end_of_an_idle_http2_connection_is_answered() {
    const HEADERS: u8 = 1;
    const GOAWAY: u8 = 7;
    let gateway = Gateway::start().await;
    let mut stream = gateway.connect().await;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    stream.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..]].concat()).await.unwrap();
    while frame(&mut stream).await.expect("it says that it ends").0 != GOAWAY {}
    // As if it had been sent before that came. Nor does this client say that nothing else is on its way.
    let mut block = vec![0x82, 0x86];
    for (name, value) in [(0x04, "/health/live"), (0x01, "gateway")] {
        block.extend([name, u8::try_from(value.len()).unwrap()]);
        block.extend(value.as_bytes());
    }
    let mut request = vec![0, 0, u8::try_from(block.len()).unwrap(), HEADERS, 5, 0, 0, 0, 1];
    request.extend(block);
    stream.write_all(&request).await.unwrap();
    let answer = loop {
        let (kind, _, id, payload) = frame(&mut stream).await.expect("an answer");
        if (kind, id) == (HEADERS, 1) {
            break payload;
        }
    };
    assert_eq!(answer[0], 0x88, ":status 200");
    let begun = Instant::now();
    while frame(&mut stream).await.is_some() {}
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    gateway.stop().await;
}

#[tokio::test]
async fn http2_by_prior_knowledge_is_spoken() {
    let gateway = Gateway::start().await;
    let stream = hyper_util::rt::TokioIo::new(gateway.connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    for (large, status) in [(10, 200), (100_000, 413)] {
        let request = http::Request::get(format!("http://{}/api/v4/nodes", gateway.address))
            .header("authorization", "Bearer secret")
            .header("x-large", "x".repeat(large))
            .body(String::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (status, http::Version::HTTP_2));
        assert_eq!(response.headers()["content-type"], "application/json");
    }
    drop(sender);
    connection.await.unwrap().unwrap();
    gateway.stop().await;
}
