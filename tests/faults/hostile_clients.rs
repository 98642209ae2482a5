//! Clients of the gateway that take up connections, time and memory: what they get is bounded, and others are served.
//!
//! Memory is what the kernel counts as resident (`VmHWM`, the most there ever was) of a debug build; each bound is stated where
//! it is asserted.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rollcall_tests::http::{self, basic};
use rollcall_tests::sandbox::{Agent, Cluster, OPERATOR};
use rollcall_tests::wait::{pause, within};

/// Clients of each of three nodes.
const CLIENTS: &str = "100000";

/// A light request is answered within this while the gateway is abused, on a machine whose every core is busy with that.
const LIGHT: Duration = Duration::from_secs(5);

/// One of these tests at a time: each takes up thousands of this process's own descriptors.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cluster(arguments: &[&str]) -> Cluster {
    let agents = ["a@127.0.0.1", "b@127.0.0.1", "c@127.0.0.1"]
        .map(|name| Agent::start(name, &["--broker", "synthetic", "--clients", CLIENTS]));
    let quiet = ["--log-filter", "warn"];
    Cluster::with(agents.into(), &[&quiet[..], arguments].concat())
}

fn head(target: &str) -> String {
    let key = basic(OPERATOR.0, OPERATOR.1);
    format!("GET {target} HTTP/1.1\r\nhost: h\r\nconnection: close\r\nauthorization: {key}\r\n\r\n")
}

/// Health and one client are answered in time.
fn assert_light_requests_are_served(address: SocketAddr) {
    for (target, status) in [("/health/ready", 200), ("/api/v4/clients/nobody", 200), ("/health/live", 200)] {
        let begun = Instant::now();
        let response = http::send(address, head(target).as_bytes()).unwrap();
        let took = begun.elapsed();
        assert_eq!(response.status, status, "{target}: {}", String::from_utf8_lossy(&response.body));
        assert!(took < LIGHT, "{target} took {took:?}");
    }
}

/// Whether the gateway has closed its end.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Opens so many connections that never block.
fn connections(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count)
        .map(|_| {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect()
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_leave_nothing_behind() {
    let _alone = alone();
    const IDLE: usize = 10_000;
    let cluster = cluster(&["--max-connections", "12000", "--read-timeout", "2m"]);
    let (address, gateway) = (cluster.gateway.address(), &cluster.gateway.process);
    let (before, descriptors) = (gateway.resident(), gateway.descriptors());
    let mut idle = Vec::new();
    while idle.len() < IDLE {
        // No more at once than may wait to be accepted.
        idle.extend(connections(address, 500));
        within(Duration::from_secs(20), "acceptance of every connection", || match gateway.descriptors() {
            // A connection of its own may have been closed meanwhile.
            open if open + 8 >= descriptors + idle.len() as u64 => Ok(()),
            open => Err(format!("{open} descriptors for {} connections", idle.len())),
        });
    }
    assert_light_requests_are_served(address);
    // 24 KiB a connection.
    let growth = gateway.peak().saturating_sub(before);
    println!("{IDLE} idle connections: {} KiB each", (growth / IDLE as u64) >> 10);
    assert!(growth < 24 * 1024 * IDLE as u64, "{} MiB for {IDLE} idle connections", growth >> 20);
    assert!(!idle.iter_mut().any(is_closed), "a connection was closed before its time");
    drop(idle);
    within(Duration::from_secs(20), "every descriptor closed", || match gateway.descriptors() {
        open if open <= descriptors + 4 => Ok(()),
        open => Err(format!("{descriptors} before, {open} now")),
    });
}

#[test]
fn slow_heads_end_in_time_and_leave_room_for_others() {
    let _alone = alone();
    const SLOW: usize = 2_000;
    let cluster = cluster(&["--read-timeout", "3s"]);
    let (address, gateway) = (cluster.gateway.address(), &cluster.gateway.process);
    let before = gateway.resident();
    let head = head("/api/v4/clients");
    let over = AtomicBool::new(false);
    let ended = AtomicUsize::new(0);
    let mut slow: Vec<(TcpStream, usize)> =
        connections(address, SLOW).into_iter().map(|stream| (stream, 0)).collect();
    std::thread::scope(|scope| {
        // Whoever is cut off comes again, and drips a byte a time.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for (stream, at) in &mut slow {
                    // The last bytes never come.
                    let byte = head.as_bytes()[*at % (head.len() - 8)];
                    *at += 1;
                    if stream.write(&[byte]).is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
                        || is_closed(stream)
                    {
                        ended.fetch_add(1, Ordering::Relaxed);
                        *stream = connections(address, 1).remove(0);
                        *at = 0;
                    }
                }
                pause(Duration::from_millis(200));
            }
        });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            assert_light_requests_are_served(address);
            pause(Duration::from_millis(200));
        }
        over.store(true, Ordering::Relaxed);
    });
    let ended = ended.load(Ordering::Relaxed);
    assert!(ended >= SLOW, "only {ended} slow connections were ended in 10 s");
    // 32 KiB a connection, and those that were there at the same time as their successors.
    let growth = gateway.peak().saturating_sub(before);
    assert!(growth < 2 * 32 * 1024 * SLOW as u64, "{} MiB for {SLOW} slow connections", growth >> 20);
}

/// What the gateway may hold for them: 16 heavy requests are answered at once, each of which holds some 10,300 rows of 500
/// bytes and an answer of 8 MB; the requests in waiting, some 20 KiB each; and what a debug build's allocator keeps.
const MOST_HEAVY: u64 = 512 << 20;

#[test]
fn a_thousand_heavy_requests_at_once_leave_light_ones_served_and_memory_bounded() {
    let _alone = alone();
    const HEAVY: usize = 1_000;
    let cluster = cluster(&[]);
    let (address, gateway) = (cluster.gateway.address(), &cluster.gateway.process);
    let before = gateway.resident();
    let targets = [
        "/api/v4/clients?_limit=10000",
        "/api/v4/clients?_limit=100&_page=1500&_sort=connected_at&_order=desc",
        "/api/v4/clients?_like_clientid=no-such-text&_limit=100",
        "/api/v4/clients?_like_username=a&_sort=username&_limit=1000&_page=20",
    ];
    let mut heavy = Vec::with_capacity(HEAVY);
    for at in 0..HEAVY {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(head(targets[at % targets.len()]).as_bytes()).unwrap();
        stream.set_nonblocking(true).unwrap();
        heavy.push((stream, Vec::new(), false));
    }
    let over = AtomicBool::new(false);
    let light = std::thread::scope(|scope| {
        let light = scope.spawn(|| {
            let mut served = 0;
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                for target in ["/health/ready", "/api/v4/nodes"] {
                    let response = http::send(address, head(target).as_bytes()).unwrap();
                    // A request beyond the limit is refused at once, by name.
                    assert!([200, 429, 503].contains(&response.status), "{target}: {}", response.status);
                    assert!(target != "/health/ready" || response.status == 200);
                }
                assert!(begun.elapsed() < LIGHT, "light requests took {:?}", begun.elapsed());
                served += 1;
                pause(Duration::from_millis(100));
            }
            served
        });
        let begun = Instant::now();
        let mut chunk = vec![0; 256 << 10];
        // The deadline, and what writing and reading the answers takes on a busy machine.
        while heavy.iter().any(|(_, _, ended)| !ended) && begun.elapsed() < Duration::from_secs(60) {
            for (stream, head, ended) in heavy.iter_mut().filter(|(_, _, ended)| !ended) {
                match stream.read(&mut chunk) {
                    Ok(0) => *ended = true,
                    Ok(length) if head.len() < 64 => head.extend(&chunk[..length.min(64)]),
                    Ok(_) => {}
                    Err(error) => *ended = error.kind() != ErrorKind::WouldBlock,
                }
            }
            pause(Duration::from_millis(1));
        }
        over.store(true, Ordering::Relaxed);
        light.join().unwrap()
    });
    let mut by_status = std::collections::BTreeMap::new();
    for (_, head, ended) in &heavy {
        let status = if *ended {
            String::from_utf8_lossy(head.get(9..12).unwrap_or(b"---")).into_owned()
        } else {
            "open".into()
        };
        *by_status.entry(status).or_insert(0) += 1;
    }
    let growth = gateway.peak().saturating_sub(before);
    println!(
        "{HEAVY} heavy requests: {by_status:?}, {light} rounds of light ones, {} MiB more at most",
        growth >> 20
    );
    assert!(
        by_status.keys().all(|status| ["200", "429", "503", "504"].contains(&status.as_str())),
        "{by_status:?}"
    );
    assert!(by_status.contains_key("200") && light > 3, "{by_status:?}, {light} rounds of light requests");
    assert!(growth < MOST_HEAVY, "{} MiB for {HEAVY} heavy requests", growth >> 20);
    within(Duration::from_secs(20), "answers as before", || {
        let response =
            http::send(address, head("/api/v4/clients?_limit=10").as_bytes()).map_err(|e| e.to_string())?;
        let body = response.json();
        if body["meta"]["nodes"]["answered"] == 3 { Ok(()) } else { Err(body["meta"].to_string()) }
    });
}

#[test]
fn clients_that_do_not_read_their_answers_hold_no_more_than_those() {
    let _alone = alone();
    const SLOW: u64 = 12;
    let cluster = cluster(&[]);
    let (address, gateway) = (cluster.gateway.address(), &cluster.gateway.process);
    let (before, descriptors) = (gateway.resident(), gateway.descriptors());
    let mut slow = Vec::new();
    for at in 0..SLOW {
        let target = if at < 2 { "/api/v4/client_export" } else { "/api/v4/clients?_limit=10000" };
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(head(target).as_bytes()).unwrap();
        // The answer is made, and begun to be written.
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&first));
        slow.push(stream);
    }
    for _ in 0..10 {
        assert_light_requests_are_served(address);
    }
    // An answer of 10,000 rows is 8 MB, and while it is made there are its rows as well. Exports hold next to nothing.
    let growth = gateway.peak().saturating_sub(before);
    println!("{SLOW} answers nobody reads: {} MiB", growth >> 20);
    assert!(growth < SLOW * (16 << 20), "{} MiB for {SLOW} answers nobody reads", growth >> 20);
    drop(slow);
    within(Duration::from_secs(20), "closed connections", || match gateway.descriptors() {
        // Connections to nodes may have been made anew.
        open if open <= descriptors + 4 => Ok(()),
        open => Err(format!("{descriptors} before, {open} now")),
    });
}
