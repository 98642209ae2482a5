//! Figures of an index of a million clients; run alone and with optimisation:
//! `cargo test --release -p rollcall-node-agent --no-default-features --lib measure -- --ignored --nocapture`.

use std::time::Instant;

use rollcall_proto::v1::{ConnState, Filter};

use super::*;

const CLIENTS: u64 = 1_000_000;

fn client(number: u64) -> Client {
    let scrambled = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Client {
        clientid: format!("dev-{scrambled:016x}"),
        session: number,
        username: Some(format!("user-{}", scrambled % 50_000)),
        zone: Some("external".to_owned()),
        proto_name: Some("MQTT".to_owned()),
        proto_ver: Some(5),
        ip_address: vec![10, 0, 0, 1],
        port: Some((scrambled % 60_000) as u32),
        keepalive: Some(60),
        conn_state: ConnState::Connected.into(),
        connected_at_ms: Some(scrambled as i64 >> 20),
        created_at_ms: Some(scrambled as i64 >> 20),
        ..Client::default()
    }
}

/// Resident memory of this process, bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!("{what}: {:.3} ms", start.elapsed().as_secs_f64() * 1e3);
    result
}

#[test]
#[ignore = "prints figures of a million clients"]
fn measure_a_million_clients() {
    let before = resident();
    let index = Index::new("a@127.0.0.1");
    timed("a million new clients, one by one", || {
        (0..CLIENTS).for_each(|number| index.present(client(number)));
    });
    let bytes = (resident() - before) / CLIENTS;
    println!("{bytes} bytes a client with an id of 20 bytes");
    assert!(bytes <= 250, "{bytes} bytes a client");

    let everyone = Matcher::new(Filter::default()).unwrap();
    let like = Matcher::new(Filter { like_clientid: vec!["abcd".into()], ..Filter::default() }).unwrap();
    let one = Matcher::new(Filter { clientid: vec![client(77).clientid], ..Filter::default() }).unwrap();
    let by = |field, descending| Order { field, descending };
    let page = |what: &str, matcher: &Matcher, order, from: u64| {
        let view = timed(&format!("{what}, view"), || index.view(matcher, order, &|| false).unwrap());
        let rows = timed(&format!("{what}, 100 rows"), || view.clients(from..from + 100).count());
        let _ = timed(&format!("{what}, 64 fences"), || view.fences(0..u64::MAX, 64));
        println!("{what}: {} match, {rows} rows", view.count());
    };
    page("default order", &everyone, Order::default(), 0);
    page("default order, middle", &everyone, Order::default(), CLIENTS / 2);
    page("descending, middle", &everyone, by(SortField::Clientid, true), CLIENTS / 2);
    page("by username, descending", &everyone, by(SortField::Username, true), CLIENTS / 2);
    page("by port", &everyone, by(SortField::Port, false), CLIENTS / 2);
    page("by port, again", &everyone, by(SortField::Port, true), CLIENTS / 2);
    page("substring", &like, Order::default(), 0);
    page("exact id", &one, Order::default(), 0);
    let _view = index.view(&everyone, Order::default(), &|| false).unwrap();
    timed("one change beside a view", || index.present(Client { port: Some(1), ..client(5) }));
    timed("1000 kicks", || (0..1_000).for_each(|n| assert!(index.ended(&client(n).clientid, n))));
    let clients: Vec<Client> = (1_000..CLIENTS).map(client).collect();
    timed("a resync without news", || index.resync(clients));
}
