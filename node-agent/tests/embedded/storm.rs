//! Many clients that come, go, and push each other out.

use std::time::{Duration, Instant};

use rand::RngExt;
use rollcall_node_agent::broker::Broker;
use rollcall_node_agent::broker::embedded::EmbeddedSettings;
use rollcall_proto::v1::{Client, ConnState};
use tokio::net::TcpStream;

use crate::raw::{Connect, Raw};
use crate::sandbox::{Sandbox, session_of, settings};

#[tokio::test(flavor = "multi_thread")]
async fn after_a_storm_the_view_equals_what_the_broker_has() {
    storm(settings()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_storm_through_the_front_it_does_too() {
    storm(EmbeddedSettings { counting_front: true, ..settings() }).await;
}

async fn storm(settings: EmbeddedSettings) {
    // Resyncs fall into the storm too.
    let sandbox = Sandbox::start(EmbeddedSettings { resync_secs: 1, ..settings }).await;
    let address = sandbox.address();
    let storm = (0..24).map(|_| {
        tokio::spawn(async move {
            let mut held = Vec::new();
            for _ in 0..150 {
                let (clientid, choice) = {
                    let mut random = rand::rng();
                    (format!("c{}", random.random_range(0..12)), random.random_range(0..8))
                };
                let connect = match choice % 4 {
                    0 => Connect::v4(&clientid),
                    1 => Connect::v4(&clientid).keep_session(),
                    2 => Connect::v5(&clientid).keep_session().expiry(600),
                    _ => Connect::v5(&clientid).expiry(600),
                };
                let Ok(stream) = TcpStream::connect(address).await else { continue };
                // Two at once under one id: the broker refuses one of them.
                let Some(client) = Raw::over(stream, &connect).await else { continue };
                if client.connack != 0 {
                    continue;
                }
                match choice {
                    0..=2 => client.disconnect().await,
                    3 => drop(client),
                    _ => held.push(client),
                }
                if held.len() > 4 {
                    held.remove(0);
                }
            }
            held
        })
    });
    let storm: Vec<_> = storm.collect();
    // Kicks of some, meanwhile, but not at its end, so that there is something to compare.
    while storm.iter().filter(|task| !task.is_finished()).count() > 12 {
        for row in sandbox.rows().iter().step_by(3) {
            let _ = sandbox.kick(&session_of(row)).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut held = Vec::new();
    for task in storm {
        held.extend(task.await.unwrap());
    }
    settles(&sandbox).await;

    // Whoever still has a connection is listed with it, and nobody else is.
    let mut open = Vec::new();
    for client in &mut held {
        if client.is_open().await {
            open.push(u32::from(client.local().port()));
        }
    }
    let connected = |row: &&Client| row.conn_state() == ConnState::Connected;
    let mut listed: Vec<u32> = sandbox.rows().iter().filter(connected).filter_map(|row| row.port).collect();
    open.sort_unstable();
    listed.sort_unstable();
    assert_eq!(open, listed);
    assert!(!open.is_empty());

    // A session is listed exactly if the broker lets its client go on with it.
    drop(held);
    sandbox.until("all to be offline", |sandbox| !sandbox.rows().iter().any(|row| connected(&row))).await;
    settles(&sandbox).await;
    let sessions: Vec<String> = sandbox.rows().into_iter().map(|row| row.clientid).collect();
    for clientid in (0..12).map(|number| format!("c{number}")) {
        let client = Raw::tcp(address, &Connect::v5(&clientid).keep_session()).await;
        assert_eq!(client.session_present, sessions.contains(&clientid), "{clientid}");
    }
}

/// Waits until follower and broker agree and stay so.
async fn settles(sandbox: &Sandbox) {
    let started = Instant::now();
    let mut agreed_since: Option<Instant> = None;
    loop {
        let (seen, truth) = (sandbox.rows(), sandbox.resync().await);
        if seen == truth {
            let since = *agreed_since.get_or_insert_with(Instant::now);
            if since.elapsed() > Duration::from_millis(500) {
                return;
            }
        } else {
            agreed_since = None;
            assert!(started.elapsed() < Duration::from_secs(8), "{}", difference(&seen, &truth));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn difference(seen: &[Client], truth: &[Client]) -> String {
    let seen: Vec<_> = seen.iter().filter(|row| !truth.contains(row)).collect();
    let truth: Vec<_> = truth.iter().filter(|row| !seen.contains(row)).collect();
    format!("follower: {seen:?}\nbroker: {truth:?}")
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Prints what 5,000 clients cost: `cargo test -p rollcall-node-agent --test embedded -- --ignored --nocapture`.
#[ignore = "a measurement; opens 10,000 sockets"]
#[tokio::test(flavor = "multi_thread")]
async fn the_cost_of_five_thousand_clients() {
    let sandbox = Sandbox::start(settings()).await;
    let before = resident_kib();
    let started = Instant::now();
    let mut clients = Vec::new();
    for number in 0..5000 {
        clients.push(Raw::tcp(sandbox.address(), &Connect::v4(&format!("client-{number}"))).await);
    }
    let connected = started.elapsed();
    sandbox.until("5,000 clients", |sandbox| sandbox.rows().len() == 5000).await;
    println!("connected in {connected:?}, listed {:?} later", started.elapsed() - connected);
    println!("{} KiB for both ends of each", (resident_kib() - before) / 5000);
    let started = Instant::now();
    assert_eq!(sandbox.resync().await.len(), 5000);
    println!("resync {:?}", started.elapsed());
    let sessions: Vec<_> = sandbox.rows().iter().map(session_of).collect();
    for count in [1, 2, 3, 100, 5000] {
        let started = Instant::now();
        let figures = sandbox.statistics(&sessions[..count]).await;
        assert!(
            figures.iter().all(|figures| figures.as_ref().is_some_and(|figures| figures.recv_oct.is_some()))
        );
        println!("figures of {count}: {:?}", started.elapsed());
    }
    let started = Instant::now();
    drop(clients);
    sandbox.until("nobody", |sandbox| sandbox.rows().is_empty()).await;
    println!("all gone {:?} later", started.elapsed());
}
