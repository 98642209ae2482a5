//! Agents that are none: what they send is named as a failure of theirs, is never shown, and costs the gateway little.
//!
//! They speak HTTP/2 by the crate `h2`, below gRPC, since no gRPC library would send such messages; or they do not speak
//! HTTP/2 at all.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response};
use prost::Message as _;
use rollcall_proto::v1;
use rollcall_tests::asker::SLACK;
use rollcall_tests::mqtt::{self, Client, Connect};
use rollcall_tests::rows;
use rollcall_tests::sandbox::{Agent, Cluster, Gateway};
use rollcall_tests::wait::{eventually, pause};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

/// How long the gateway of these tests lets a request take.
const TIMEOUT: Duration = Duration::from_secs(1);

/// By how much the gateway's memory may grow in one of these tests, whatever its node sends: two messages of 16 MiB, the
/// largest that are taken, what HTTP/2 has on its way, and what a debug build's allocator keeps.
const MOST_GROWTH: u64 = 96 << 20;

/// What the node does when it is asked for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    Unsorted,
    Duplicates,
    ForeignName,
    ForeignRows,
    TooManyRows,
    WrongFirst,
    /// It counts fewer clients than it sends.
    CountTooSmall,
    /// It counts more.
    CountTooLarge,
    InvalidUtf8,
    Nonsense,
    NoIdentity,
    LongName,
    NoChunk,
    EndlessRows,
    EndlessEmptyChunks,
    /// A message of 1 GiB is announced, and sent.
    Gibibyte,
    /// The same, in pieces that each look well: one chunk after another of 1 MiB.
    ManyMebibytes,
    /// Compressed, which was not agreed on.
    Compressed,
    HeaderBomb,
    TrailerBomb,
    /// What a proxy in the way says that finds nobody.
    HttpError,
    Drip,
    Silence,
    ResetAtOnce,
    ResetMidway,
    LongStatus,
}

/// What may be said of a node that does so.
fn reasons(lie: Lie) -> &'static [&'static str] {
    match lie {
        // It had its time, or the connection was found broken.
        Lie::Drip | Lie::Silence => &["timeout"],
        // On a busy machine the time may be over before what is sent is too much.
        Lie::EndlessRows | Lie::ManyMebibytes | Lie::Gibibyte | Lie::TooManyRows => &["protocol", "timeout"],
        // HTTP/2 itself may find that it is too much.
        Lie::EndlessEmptyChunks => &["timeout", "protocol", "overloaded"],
        Lie::ResetAtOnce | Lie::ResetMidway => &["unreachable", "timeout", "protocol"],
        Lie::HeaderBomb | Lie::TrailerBomb | Lie::HttpError => &["protocol", "unreachable", "timeout"],
        _ => &["protocol"],
    }
}

/// A message as gRPC frames it.
fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], message].concat().into()
}

fn identity(name: &str) -> Option<v1::Identity> {
    Some(v1::Identity { name: name.to_owned(), incarnation: 1 })
}

fn client(id: &str) -> v1::Client {
    v1::Client {
        clientid: id.to_owned(),
        session: 1,
        conn_state: v1::ConnState::Connected.into(),
        ..v1::Client::default()
    }
}

fn chunk(ids: &[&str]) -> v1::ListResponse {
    let clients: Vec<_> = ids.iter().map(|id| client(id)).collect();
    v1::ListResponse {
        identity: identity(NAME),
        count: clients.len() as u64,
        clients,
        ..v1::ListResponse::default()
    }
}

const NAME: &str = "liar@127.0.0.1";

/// The ids an honest answer would have. None of them may be shown.
const IDS: [&str; 3] = ["lie-1", "lie-2", "lie-3"];

/// Serves one lie on a free port, for as long as the test's runtime lives.
async fn serve(lie: Lie) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = h2::server::Builder::new();
                server.max_header_list_size(16 << 20).max_send_buffer_size(4 << 20);
                let Ok(mut connection) = server.handshake::<_, Bytes>(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let path = request.uri().path().to_owned();
                    tokio::spawn(async move {
                        // The gateway may give up at any moment, which is what it should do.
                        let _ = answer(lie, &path, respond).await;
                        drop(request);
                    });
                }
            });
        }
    });
    address
}

fn head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

fn good_trailers() -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))])
}

/// A megabyte of headers.
fn bomb(headers: &mut HeaderMap) {
    for at in 0..20_000 {
        let name: http::HeaderName = format!("x-{at}").parse().unwrap();
        headers.insert(name, HeaderValue::from_static("bomb-bomb-bomb-bomb-bomb-bomb-bomb-bomb"));
    }
}

/// Sends bytes as fast as they are taken.
async fn send(stream: &mut h2::SendStream<Bytes>, mut bytes: Bytes) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let capacity = capacity.unwrap_or_else(|| Err(h2::Reason::CANCEL.into()))?;
        stream.send_data(bytes.split_to(capacity.min(bytes.len())), false)?;
    }
    Ok(())
}

async fn answer(lie: Lie, path: &str, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    if path.ends_with("/Describe") {
        let description =
            v1::DescribeResponse { identity: identity(NAME), clients: 3, ..v1::DescribeResponse::default() };
        let mut stream = respond.send_response(head(), false)?;
        send(&mut stream, framed(&description.encode_to_vec())).await?;
        return stream.send_trailers(good_trailers());
    }
    if lie == Lie::ResetAtOnce {
        respond.send_reset(h2::Reason::INTERNAL_ERROR);
        return Ok(());
    }
    if lie == Lie::Silence {
        return std::future::pending().await;
    }
    let mut first = head();
    if lie == Lie::HeaderBomb {
        bomb(first.headers_mut());
    }
    if lie == Lie::HttpError {
        let refused = Response::builder().status(502).header("content-type", "text/html").body(()).unwrap();
        let mut stream = respond.send_response(refused, false)?;
        return stream.send_data(Bytes::from_static(b"<h1>Bad Gateway</h1>"), true);
    }
    let mut stream = respond.send_response(first, false)?;
    let whole = |message: v1::ListResponse| framed(&message.encode_to_vec());
    let mut rows = chunk(&IDS);
    match lie {
        Lie::Unsorted => rows.clients.reverse(),
        Lie::Duplicates => rows.clients[1] = rows.clients[0].clone(),
        Lie::ForeignName => rows.identity = identity("honest@127.0.0.1"),
        Lie::ForeignRows => rows.clients[1].node = "honest@127.0.0.1".into(),
        Lie::TooManyRows => {
            rows.clients = (0..30_000).map(|at| client(&format!("lie-{at:06}"))).collect();
            rows.count = 30_000;
        }
        Lie::WrongFirst => rows.first = 9,
        Lie::CountTooSmall => rows.count = 1,
        Lie::CountTooLarge => rows.count = 9,
        Lie::NoIdentity => rows.identity = None,
        Lie::LongName => rows.identity = identity(&"n".repeat(100_000)),
        _ => {}
    }
    match lie {
        Lie::NoChunk => {}
        Lie::InvalidUtf8 => {
            let mut bytes = rows.encode_to_vec();
            let at = bytes.windows(5).position(|window| window == b"lie-2").unwrap();
            bytes[at] = 0xff;
            send(&mut stream, framed(&bytes)).await?;
        }
        Lie::Nonsense => send(&mut stream, framed(&[0xff; 1000])).await?,
        Lie::Compressed => {
            let mut bytes = whole(rows).to_vec();
            bytes[0] = 1;
            send(&mut stream, bytes.into()).await?;
        }
        Lie::EndlessRows => {
            for number in 0_u64.. {
                let count = if number == 0 { 1 << 40 } else { 0 };
                let clients = (0..500).map(|at| client(&format!("lie-{number:012}-{at:04}"))).collect();
                send(&mut stream, whole(v1::ListResponse { clients, count, ..chunk(&[]) })).await?;
            }
        }
        Lie::EndlessEmptyChunks => loop {
            send(&mut stream, whole(chunk(&[]))).await?;
        },
        Lie::Gibibyte => {
            let mut prefix = vec![0];
            prefix.extend((1_u32 << 30).to_be_bytes());
            send(&mut stream, prefix.into()).await?;
            let mebibyte = Bytes::from(vec![0x0a; 1 << 20]);
            for _ in 0..1024 {
                send(&mut stream, mebibyte.clone()).await?;
            }
        }
        Lie::ManyMebibytes => {
            for number in 0..1024_u64 {
                let long = format!("lie-{number:06}-{}", "x".repeat(1 << 20));
                let count = if number == 0 { 1024 } else { 0 };
                send(&mut stream, whole(v1::ListResponse { count, ..chunk(&[&long]) })).await?;
            }
        }
        Lie::Drip => {
            for byte in whole(rows) {
                send(&mut stream, vec![byte].into()).await?;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        Lie::ResetMidway => {
            send(&mut stream, whole(rows)).await?;
            stream.send_reset(h2::Reason::INTERNAL_ERROR);
            return Ok(());
        }
        Lie::TrailerBomb => {
            send(&mut stream, whole(rows)).await?;
            let mut trailers = good_trailers();
            bomb(&mut trailers);
            return stream.send_trailers(trailers);
        }
        Lie::LongStatus => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("13"));
            trailers.insert("grpc-message", HeaderValue::try_from("m".repeat(12_000)).unwrap());
            return stream.send_trailers(trailers);
        }
        _ => send(&mut stream, whole(rows)).await?,
    }
    stream.send_trailers(good_trailers())
}

/// An honest node, the address of one that is not, and a gateway over both.
struct Bed {
    gateway: Gateway,
    _honest: Agent,
    _table: NamedTempFile,
}

impl Bed {
    fn new(liar: SocketAddr) -> Self {
        let honest = "honest@127.0.0.1";
        let row = |id: &str| json!({"node": honest, "clientid": id, "conn_state": "connected"});
        let table = rows::table(&["honest-1", "honest-2"].map(row));
        let agent = Agent::file(honest, table.path());
        let arguments = [
            "--request-timeout",
            "1s",
            "--export-node-timeout",
            "1s",
            "--log-filter",
            "info,rollcall_gateway::access=off",
        ];
        let gateway = Gateway::start(&[agent.process.address, liar], &arguments);
        let bed = Self { gateway, _honest: agent, _table: table };
        eventually("answer of the honest node", || {
            let response = bed.gateway.get("/clients/honest-1");
            if response.status == 200 { Ok(()) } else { Err(response.message()) }
        });
        bed
    }

    /// Takes what comes of an export, for a while.
    fn read_export_for(&self, time: Duration) {
        let key = rollcall_tests::http::basic("app_id", "app_secret");
        let head = format!("GET /api/v4/client_export HTTP/1.1\r\nhost: h\r\nauthorization: {key}\r\n\r\n");
        let mut stream = TcpStream::connect(self.gateway.address()).unwrap();
        stream.set_read_timeout(Some(time)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let begun = Instant::now();
        let mut bytes = vec![0; 1 << 20];
        while begun.elapsed() < time && stream.read(&mut bytes).is_ok_and(|length| length > 0) {}
    }

    /// Asks for lists and an export, and asserts that only the honest node's clients are shown.
    fn assert_named(&self, what: &str, reasons: &[&str], is_well_formed: bool) {
        let timed = |target: &str| {
            let begun = Instant::now();
            let response = self.gateway.get(target);
            assert!(begun.elapsed() < TIMEOUT * 2 + SLACK, "{what}, {target}: {:?}", begun.elapsed());
            response
        };
        let is_named = |failed: &Value| {
            let failed = failed.as_array().unwrap();
            assert_eq!(failed.len(), 1, "{what}: {failed:?}");
            let reason = failed[0]["reason"].as_str().unwrap();
            assert!(reasons.contains(&reason), "{what}: {reason}, expected one of {reasons:?}");
        };
        // The second has few rows to take, the third goes by cursor.
        for target in ["/clients", "/clients?_limit=1&_page=2", "/clients?_cursor=&_limit=5&_sort=port"] {
            let response = timed(target);
            let body = response.json();
            assert_eq!(response.status, 200, "{what}: {body}");
            let ids: Vec<&str> = body["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|row| row["clientid"].as_str().unwrap())
                .collect();
            assert!(ids.iter().all(|id| id.starts_with("honest-")), "{what}: {ids:?}");
            assert_eq!(body["meta"]["count"], 2, "{what}: {body}");
            is_named(&body["meta"]["nodes"]["failed"]);
        }
        if is_well_formed {
            // All of it could be true of a large node. What counts is what it costs.
            self.read_export_for(Duration::from_secs(2));
            return;
        }
        let export = timed("/client_export");
        let text = String::from_utf8_lossy(&export.body).into_owned();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(last["meta"]["complete"], false, "{what}: {last}");
        assert!(
            !text.lines().any(|line| line.contains("honest@") && line.contains("lie-")),
            "{what}: {text}"
        );
    }
}

#[test]
fn whatever_a_node_sends_is_named_and_never_shown_in_bounded_memory() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let lies = [
        Lie::Unsorted,
        Lie::Duplicates,
        Lie::ForeignRows,
        Lie::TooManyRows,
        Lie::WrongFirst,
        Lie::CountTooSmall,
        Lie::CountTooLarge,
        Lie::InvalidUtf8,
        Lie::Nonsense,
        Lie::NoIdentity,
        Lie::LongName,
        Lie::NoChunk,
        Lie::EndlessRows,
        Lie::EndlessEmptyChunks,
        Lie::Gibibyte,
        Lie::ManyMebibytes,
        Lie::Compressed,
        Lie::HeaderBomb,
        Lie::TrailerBomb,
        Lie::HttpError,
        Lie::Drip,
        Lie::Silence,
        Lie::ResetAtOnce,
        Lie::ResetMidway,
        Lie::LongStatus,
        Lie::ForeignName,
    ];
    for lie in lies {
        let liar = runtime.block_on(serve(lie));
        let mut bed = Bed::new(liar);
        let before = bed.gateway.process.resident();
        // An export has no limit to pass, and no first rank.
        let is_well_formed =
            matches!(lie, Lie::TooManyRows | Lie::WrongFirst | Lie::EndlessRows | Lie::ManyMebibytes);
        bed.assert_named(&format!("{lie:?}"), reasons(lie), is_well_formed);
        let growth = bed.gateway.process.peak().saturating_sub(before);
        assert!(growth < MOST_GROWTH, "{lie:?} made the gateway grow by {} MiB", growth >> 20);
        assert!(bed.gateway.process.is_running(), "{lie:?}");
        let log = bed.gateway.process.log();
        let longest = log.lines().map(str::len).max().unwrap_or_default();
        assert!(longest < 4000, "{lie:?} made a log line of {longest} bytes");
        assert!(!log.contains("panicked"), "{lie:?}: {log}");
    }
}

#[test]
fn what_is_no_http2_is_named_and_never_waited_for_beyond_the_deadline() {
    type Speech = fn(TcpStream) -> std::io::Result<()>;
    let speeches: [(&str, Speech); 6] = [
        ("nothing", |mut stream| std::io::copy(&mut stream, &mut std::io::sink()).map(drop)),
        ("HTTP/1.1", |mut stream| stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")),
        ("random bytes", |mut stream| {
            let bytes: Vec<u8> =
                (0..100_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            stream.write_all(&bytes)
        }),
        ("settings without end", |mut stream| {
            // Empty SETTINGS frames, each of which has to be acknowledged.
            let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0].repeat(1000);
            stream.set_read_timeout(Some(Duration::from_millis(1)))?;
            loop {
                stream.write_all(&settings)?;
                let _ = stream.read(&mut [0; 16 << 10]);
            }
        }),
        ("pings without end", |mut stream| {
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])?;
            let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8].repeat(1000);
            // Nobody reads the answers.
            loop {
                stream.write_all(&ping)?;
            }
        }),
        ("a byte at a time", |mut stream| {
            for byte in [0, 0, 0, 4, 0, 0, 0, 0, 0].repeat(100) {
                stream.write_all(&[byte])?;
                pause(Duration::from_millis(300));
            }
            Ok(())
        }),
    ];
    for (what, speech) in speeches {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let liar = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = stream.set_write_timeout(Some(Duration::from_secs(10)));
                std::thread::spawn(move || speech(stream));
            }
        });
        let mut bed = Bed::new(liar);
        let before = bed.gateway.process.resident();
        bed.assert_named(what, &["unreachable", "timeout", "protocol"], false);
        let growth = bed.gateway.process.peak().saturating_sub(before);
        assert!(growth < MOST_GROWTH, "{what} made the gateway grow by {} MiB", growth >> 20);
        assert!(
            bed.gateway.process.is_running() && !bed.gateway.process.log().contains("panicked"),
            "{what}"
        );
    }
}

/// Frames of HTTP/2, by hand.
mod frames {
    pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

    pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn literal(name: &str, value: &str) -> Vec<u8> {
        [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    }

    /// A call's head, which HPACK takes without any table.
    pub(super) fn call(path: &str) -> Vec<u8> {
        [
            literal(":method", "POST"),
            literal(":scheme", "http"),
            literal(":path", path),
            literal(":authority", "a"),
            literal("content-type", "application/grpc"),
            literal("te", "trailers"),
        ]
        .concat()
    }
}

/// Does something to the other end of a connection.
type Attack = Box<dyn Fn(TcpStream) -> std::io::Result<()> + Send + Sync>;

/// What an agent must bear. Each ends when the agent has closed the connection, or after so many frames.
fn attacks() -> Vec<(&'static str, Attack)> {
    use frames::{PREFACE, call, frame};
    let rounds = |first: &'static [u8], what: fn(u32) -> Vec<u8>| {
        move |mut stream: TcpStream| {
            stream.write_all(first)?;
            for round in 0..2000 {
                let bytes: Vec<u8> = (0..20).flat_map(|at| what(round * 20 + at)).collect();
                stream.write_all(&bytes)?;
            }
            Ok(())
        }
    };
    vec![
        ("garbage", Box::new(|mut stream: TcpStream| stream.write_all(&[0xa5; 100_000]))),
        (
            "HTTP/1.1",
            Box::new(|mut stream: TcpStream| stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")),
        ),
        ("half a preface", Box::new(|mut stream: TcpStream| stream.write_all(&PREFACE[..10]))),
        (
            "rapid reset",
            Box::new(rounds(PREFACE, |at| {
                let stream = at * 2 + 1;
                let open = frame(1, 4, stream, &call("/rollcall.v1.Node/List"));
                [open, frame(3, 0, stream, &8_u32.to_be_bytes())].concat()
            })),
        ),
        ("settings", Box::new(rounds(PREFACE, |_| frame(4, 0, 0, &[]).repeat(50)))),
        ("pings", Box::new(rounds(PREFACE, |_| frame(6, 0, 0, &[0; 8]).repeat(50)))),
        (
            "empty data",
            Box::new(rounds(PREFACE, |at| {
                if at == 0 {
                    return frame(1, 4, 1, &call("/rollcall.v1.Node/List"));
                }
                frame(0, 0, 1, &[]).repeat(50)
            })),
        ),
        (
            "headers without end",
            Box::new(rounds(PREFACE, |at| {
                if at == 0 {
                    return frame(1, 0, 1, &call("/rollcall.v1.Node/List"));
                }
                let field = [&[0, 4][..], b"x-aa", &[100], &[b'x'; 100]].concat();
                frame(9, 0, 1, &field.repeat(20))
            })),
        ),
        (
            "streams without end",
            Box::new(rounds(PREFACE, |at| frame(1, 4, at * 2 + 1, &call("/rollcall.v1.Node/List")))),
        ),
        (
            "a message of 1 GiB",
            Box::new(|mut stream: TcpStream| {
                stream.write_all(PREFACE)?;
                stream.write_all(&frame(1, 4, 1, &call("/rollcall.v1.Node/List")))?;
                stream.write_all(&frame(0, 0, 1, &[0, 0x40, 0, 0, 0]))?;
                for _ in 0..1000 {
                    stream.write_all(&frame(0, 0, 1, &[0; 16_000]))?;
                }
                Ok(())
            }),
        ),
        (
            "nonsense for a message",
            Box::new(|mut stream: TcpStream| {
                stream.write_all(PREFACE)?;
                let message = [&[0, 0, 0, 0, 9][..], &[0xff; 9]].concat();
                for (at, path) in
                    ["List", "Survey", "Get", "Kick", "Count", "Export", "Nothing"].iter().enumerate()
                {
                    let number = at as u32 * 2 + 1;
                    stream.write_all(&frame(1, 4, number, &call(&format!("/rollcall.v1.Node/{path}"))))?;
                    stream.write_all(&frame(0, 1, number, &message))?;
                }
                Ok(())
            }),
        ),
    ]
}

#[test]
fn an_agent_bears_floods_bombs_and_garbage_and_answers_its_gateway_meanwhile() {
    let table =
        rows::table(&[json!({"node": "a@127.0.0.1", "clientid": "there", "conn_state": "connected"})]);
    let mut agent = Agent::file("a@127.0.0.1", table.path());
    let gateway = Gateway::start(&[agent.process.address], &[]);
    gateway.row("there");
    let (before, descriptors) = (agent.process.resident(), agent.process.descriptors());
    let address = agent.process.address;
    for (what, attack) in attacks() {
        let attack = Arc::new(attack);
        let attackers: Vec<_> = (0..4)
            .map(|_| {
                let attack = Arc::clone(&attack);
                std::thread::spawn(move || {
                    let stream = TcpStream::connect(address).unwrap();
                    stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
                    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                    // Closed by the agent, or full because nobody reads: both are well.
                    let _ = attack(stream.try_clone().unwrap());
                    stream
                })
            })
            .collect();
        for _ in 0..3 {
            let begun = Instant::now();
            assert_eq!(gateway.find("there").len(), 1, "{what}");
            assert!(begun.elapsed() < Duration::from_secs(5) + SLACK, "{what}: {:?}", begun.elapsed());
        }
        let streams: Vec<TcpStream> = attackers.into_iter().map(|thread| thread.join().unwrap()).collect();
        let growth = agent.process.peak().saturating_sub(before);
        assert!(growth < MOST_GROWTH, "{what} made the agent grow by {} MiB", growth >> 20);
        assert!(agent.process.is_running(), "{what} ended the agent");
        drop(streams);
    }
    assert_eq!(gateway.find("there").len(), 1);
    eventually("every descriptor closed", || match agent.process.descriptors() {
        now if now <= descriptors + 1 => Ok(()),
        now => Err(format!("{descriptors} before, {now} now")),
    });
    assert!(!agent.process.log().contains("panicked"));
}

/// A connection from another address than everybody else's here.
fn from_elsewhere(to: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        socket.connect(to).await.unwrap().into_std().unwrap()
    })
}

/// Whether the other side has closed it. What it has sent is read.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 1024]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[test]
fn whoever_holds_an_agents_connections_open_starves_neither_its_broker_nor_its_gateways() {
    /// What many systems let a process have.
    const DESCRIPTORS: u64 = 1024;
    const SILENT: usize = 1500;
    const SPEAKING: usize = 600;
    let cluster = Cluster::with(
        vec![Agent::embedded("a@127.0.0.1")],
        &["--export-node-timeout", "2s", "--log-filter", "warn"],
    );
    let (agent, mqtt) = (&cluster.agents[0].process, cluster.agents[0].mqtt());
    let mut there = Client::connect(mqtt, &Connect::new(5, "there"));
    cluster.gateway.row("there");
    agent.limit_descriptors(DESCRIPTORS);
    let (address, over, begun) = (agent.address, AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let open = |from: fn(SocketAddr) -> TcpStream| {
                let stream = from(address);
                stream.set_nonblocking(true).unwrap();
                stream
            };
            let silent = || open(|to| TcpStream::connect(to).unwrap());
            // They speak HTTP/2, and then no more.
            let speaking = || {
                let mut stream = open(from_elsewhere);
                let _ = stream.write_all(frames::PREFACE);
                stream
            };
            let mut silents: Vec<TcpStream> = Vec::new();
            let mut speakers: Vec<TcpStream> = Vec::new();
            // Whoever is sent away comes again.
            while !over.load(Ordering::Relaxed) {
                silents.retain_mut(|stream| !is_closed(stream));
                speakers.retain_mut(|stream| !is_closed(stream));
                for _ in 0..100 {
                    if silents.len() < SILENT {
                        silents.push(silent());
                    }
                    if speakers.len() < SPEAKING {
                        speakers.push(speaking());
                    }
                }
                pause(Duration::from_millis(50));
            }
        });
        let mut most = 0;
        let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..16 {
                pause(Duration::from_millis(500));
                most = most.max(agent.descriptors());
                there.ping();
                let id = format!("new-{round}");
                let new = eventually("a new MQTT client", || {
                    Client::over(mqtt::dial(mqtt), &Connect::new(5, &id)).map_err(|error| error.to_string())
                });
                cluster.gateway.row(&id);
                drop(new);
                // It needs a connection of its own.
                eventually("an export", || {
                    let export = cluster.gateway.get("/client_export");
                    let text = String::from_utf8_lossy(&export.body).into_owned();
                    if text.ends_with("\"failed\":[]}}}\n") { Ok(()) } else { Err(text) }
                });
            }
        }));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = served {
            std::panic::resume_unwind(panic);
        }
        println!("{most} descriptors at the most");
        assert!(most < DESCRIPTORS - 200, "{most} of {DESCRIPTORS} descriptors");
    });
    let told = agent.log().lines().filter(|line| line.contains("too many are open")).count();
    let most = begun.elapsed().as_secs() as usize / 5 + 1;
    assert!((1..=most).contains(&told), "{told} lines of connections that were closed");
    assert!(!agent.log().contains("cannot accept connections"));
}
