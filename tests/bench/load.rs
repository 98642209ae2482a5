//! A closed-loop load generator: so many connections, on each one request after the other.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) label: String,
    address: SocketAddr,
    request: Vec<u8>,
}

impl Target {
    pub(crate) fn new(label: &str, address: SocketAddr, path: &str, authorization: &str) -> Self {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: {authorization}\r\n\r\n")
                .into_bytes();
        Self { label: label.to_owned(), address, request }
    }
}

/// What came of one measurement.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) elapsed: Duration,
    /// One per request.
    pub(crate) latencies: Vec<Duration>,
}

/// The generator.
#[derive(Debug)]
pub(crate) struct Load {
    runtime: Runtime,
    duration: Duration,
}

impl Load {
    /// Measures for so long at a time.
    pub(crate) fn new(duration: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Self { runtime: runtime.expect("a runtime"), duration }
    }

    /// Asks for a target over so many connections; each is warmed up first.
    pub(crate) fn run(&self, target: &Target, connections: usize) -> Outcome {
        self.runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            let mut ready = Vec::new();
            for _ in 0..connections {
                let mut connection = Connection::open(target.address).await;
                for _ in 0..3 {
                    connection.ask(&target.request).await;
                }
                ready.push(connection);
            }
            let start = Instant::now();
            let end = start + self.duration;
            for mut connection in ready {
                let request = target.request.clone();
                tasks.spawn(async move {
                    let mut latencies = Vec::new();
                    loop {
                        let asked = Instant::now();
                        if asked >= end {
                            break latencies;
                        }
                        connection.ask(&request).await;
                        latencies.push(asked.elapsed());
                    }
                });
            }
            let latencies = tasks.join_all().await.concat();
            Outcome { elapsed: start.elapsed(), latencies }
        })
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("no delay");
        Self { stream, buffer: vec![0; 256 << 10] }
    }

    /// Sends a request and reads its whole response, which must be a 200 with a length.
    async fn ask(&mut self, request: &[u8]) {
        self.stream.write_all(request).await.expect("the server reads");
        let mut filled = 0;
        let mut whole = None;
        while whole.is_none_or(|whole| filled < whole) {
            if filled == self.buffer.len() {
                self.buffer.resize(filled * 2, 0);
            }
            let length = self.stream.read(&mut self.buffer[filled..]).await.expect("the server answers");
            assert!(length > 0, "the server closed the connection");
            filled += length;
            if whole.is_none() {
                whole = response_length(&self.buffer[..filled]);
            }
        }
        assert_eq!(Some(filled), whole, "more than one response");
    }
}

/// The length of the response that begins here, once its head is there.
fn response_length(bytes: &[u8]) -> Option<usize> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(body) = head.parse(bytes).expect("an HTTP response") else { return None };
    assert_eq!(head.code, Some(200), "{}", String::from_utf8_lossy(bytes));
    let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    Some(body + length.expect("a content-length"))
}
