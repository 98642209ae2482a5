//! Figures of an index of a million clients; run alone and with optimisation:
//! `cargo test --release -p rollcall-node-agent --no-default-features --lib measure -- --ignored --nocapture`.
//! `MEASURE_CLIENTS=4000000` before it takes another number of clients.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rollcall_proto::v1::{ConnState, Filter, GroupBy};

use super::*;

fn client(number: u64) -> Client {
    let scrambled = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let state = if scrambled >> 20 & 7 == 0 { ConnState::Disconnected } else { ConnState::Connected };
    Client {
        clientid: format!("dev-{scrambled:016x}"),
        session: number,
        username: Some(format!("user-{}", scrambled % 50_000)),
        zone: Some(if scrambled >> 40 & 3 == 0 { "edge" } else { "external" }.to_owned()),
        proto_name: Some("MQTT".to_owned()),
        proto_ver: Some(4 + (scrambled >> 24 & 1) as u32),
        ip_address: vec![10, (scrambled >> 30) as u8, (scrambled >> 38) as u8, 1],
        port: Some((scrambled % 60_000) as u32),
        is_bridge: Some(false),
        keepalive: Some(60),
        clean_start: Some(scrambled >> 28 & 1 == 0),
        expiry_interval: Some(0),
        conn_state: state.into(),
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

/// What this thread has had of a core, milliseconds, in steps of some: other work on the machine does not count.
fn cpu() -> f64 {
    let figures = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    figures.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e6
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (start, on_cpu) = (Instant::now(), cpu());
    let result = work();
    let taken = start.elapsed().as_secs_f64() * 1e3;
    println!("{what}: {taken:.3} ms, {:.0} ms on a core", cpu() - on_cpu);
    result
}

/// The least time of some runs, and their mean on a core: that tells it also where others use the machine.
fn repeated<T>(what: &str, mut work: impl FnMut() -> T) -> T {
    const RUNS: u32 = 20;
    let (mut least, start) = (f64::MAX, cpu());
    let mut result = work();
    for _ in 1..RUNS {
        let start = Instant::now();
        result = work();
        least = least.min(start.elapsed().as_secs_f64() * 1e3);
    }
    println!("{what}: least {least:.3} ms, mean {:.3} ms", (cpu() - start) / f64::from(RUNS));
    result
}

fn matcher(filter: Filter) -> Matcher {
    Matcher::new(filter).unwrap()
}

fn by(field: SortField, descending: bool) -> Order {
    Order { field, descending }
}

#[test]
#[ignore = "prints figures of a million clients"]
fn measure_a_million_clients() {
    let clients: u64 = std::env::var_os("MEASURE_CLIENTS")
        .map_or(1_000_000, |number| number.to_str().unwrap().parse().unwrap());
    let before = resident();
    let index = Index::new("a@127.0.0.1");
    timed(&format!("{clients} new clients, one by one"), || {
        for number in 0..clients {
            index.present(client(number));
        }
    });
    let bytes = (resident() - before) / clients;
    println!("{bytes} bytes a client with an id of 20 bytes");

    counts(&index);
    pages(&index, clients);
    storm("20,000 changes with three kept sorts", &index, clients, false);
    sorts(&index);
    index.expire(Instant::now() + Duration::from_secs(90_000));
    index.expire(Instant::now() + Duration::from_secs(91_000));
    changes(&index, clients);

    let full = resident();
    let everyone = || (1_000..clients).map(client).collect();
    let other = Index::new("b@127.0.0.1");
    timed("the first resync of an index, its clients made and all", || other.resync(everyone()));
    println!(
        "resident by a first resync: {} bytes a client",
        (resident() as i64 - full as i64) / clients as i64
    );
    timed("a resync without news", || other.resync(everyone()));
    storm("20,000 changes alone, after a resync", &other, clients, false);
    counts(&other);
}

fn counts(index: &Index) {
    let none = Filter::default;
    for (what, filter) in [
        ("protocol level", Filter { proto_ver: vec![5], ..none() }),
        ("connection state", Filter { conn_state: vec![ConnState::Disconnected.into()], ..none() }),
        ("connected since", Filter { gte_connected_at_ms: Some(0), ..none() }),
        ("address", Filter { ip_address: vec![vec![10, 1, 1, 1]], ..none() }),
        ("zone, clean start", Filter { zone: vec!["edge".into()], clean_start: vec![true], ..none() }),
        ("substring of no id", Filter { like_clientid: vec!["xyz".into()], ..none() }),
        ("substring of few ids", Filter { like_clientid: vec!["abcd".into()], ..none() }),
        ("substring of a third", Filter { like_clientid: vec!["ab".into(), "-".into()], ..none() }),
        ("substring of every id", Filter { like_clientid: vec!["dev".into()], ..none() }),
        ("substring of no name", Filter { like_username: vec!["xyz".into()], ..none() }),
        ("substring of few names", Filter { like_username: vec!["-4242".into()], ..none() }),
    ] {
        let matcher = matcher(filter);
        let count = || index.count(&matcher, GroupBy::Unspecified, &|| false).unwrap().count;
        let matches = repeated(&format!("count by {what}"), count);
        let view = || index.view(&matcher, Order::default(), &|| false).unwrap().count();
        assert_eq!(repeated(&format!("view by {what}, {matches} match"), view), matches);
    }
    for group_by in [GroupBy::Zone, GroupBy::ConnState, GroupBy::CleanStart, GroupBy::Username] {
        repeated(&format!("all in groups by {group_by:?}"), || {
            index.count(&matcher(Filter::default()), group_by, &|| false).unwrap()
        });
    }
}

fn pages(index: &Index, clients: u64) {
    let page = |what: &str, filter: Filter, order: Order, from: u64| {
        let matcher = matcher(filter);
        let view = timed(&format!("{what}, view"), || index.view(&matcher, order, &|| false).unwrap());
        let from = from.min(view.count() / 2);
        let rows = repeated(&format!("{what}, 100 rows"), || view.clients(from..from + 100).count());
        repeated(&format!("{what}, 64 fences"), || view.fences(0..u64::MAX, 64));
        println!("{what}: {} match, {rows} rows, {} bytes", view.count(), view.bytes());
    };
    let none = Filter::default;
    let some = || Filter { clean_start: vec![true], ..none() };
    page("default order", none(), Order::default(), 0);
    page("default order, middle", none(), Order::default(), clients / 2);
    page("descending, middle", none(), by(SortField::Clientid, true), clients / 2);
    page("by username, descending", none(), by(SortField::Username, true), clients / 2);
    page(
        "few by keepalive",
        Filter { like_clientid: vec!["abc".into()], ..none() },
        by(SortField::Keepalive, true),
        0,
    );
    page("half by address", some(), by(SortField::IpAddress, false), clients / 4);
    page("half by address, again", some(), by(SortField::IpAddress, true), clients / 4);
    page("by port", none(), by(SortField::Port, false), clients / 2);
    page("by port, again", none(), by(SortField::Port, true), clients / 2);
    index.present(Client { port: Some(1), ..client(5) });
    page("by port after a change", none(), by(SortField::Port, true), clients / 2);
    page("half by port", some(), by(SortField::Port, false), clients / 4);
    page("by time", none(), by(SortField::CreatedAt, false), clients / 2);
    page("exact id", Filter { clientid: vec![client(77).clientid], ..none() }, Order::default(), 0);
    page("exact name", Filter { username: vec!["user-77".into()], ..none() }, Order::default(), 0);
}

/// Every sort of all rows, without one that is kept.
fn sorts(index: &Index) {
    for (round, field) in (1..).zip(SortField::IDENTITY) {
        index.expire(Instant::now() + Duration::from_secs(round * 1_000));
        index.expire(Instant::now() + Duration::from_secs(round * 1_000 + 500));
        let view = || index.view(&matcher(Filter::default()), by(field, false), &|| false).unwrap();
        timed(&format!("first list by {}", field.name()), view);
    }
}

fn changes(index: &Index, clients: u64) {
    let everyone = matcher(Filter::default());
    let view = || index.view(&everyone, Order::default(), &|| false).unwrap();
    for round in 0..3 {
        let _view = view();
        let changed = Client { port: Some(round), ..client(5 + u64::from(round)) };
        timed("one change beside a view", || index.present(changed));
        timed("one more", || index.present(client(clients / 2 + u64::from(round))));
        let new = client(clients * 2 + u64::from(round));
        timed("one new client", || index.present(new.clone()));
        timed("one end", || index.ended(&new.clientid, new.session));
    }
    timed("1000 kicks", || (0..1_000).for_each(|n| assert!(index.ended(&client(n).clientid, n))));
    storm("20,000 changes alone", index, clients, false);
    storm("20,000 changes while queries run", index, clients, true);
}

static STORMS: AtomicU64 = AtomicU64::new(0);

/// Four reconnects, one end and one new client, over and over.
fn storm(what: &str, index: &Index, clients: u64, with_queries: bool) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let queries = scope.spawn(|| {
            let matcher = matcher(Filter { clean_start: vec![true], ..Filter::default() });
            let (mut asked, mut longest) = (0, Duration::ZERO);
            while with_queries && !over.load(Relaxed) {
                let start = Instant::now();
                let view = index.view(&matcher, Order::default(), &|| false).unwrap();
                assert_eq!(view.clients(1_000..1_100).count(), 100);
                longest = longest.max(start.elapsed());
                asked += 1;
            }
            (asked, longest)
        });
        // No storm ends a session that another has ended.
        let first = STORMS.fetch_add(1, Relaxed) * 40_000 + 10_000;
        let (start, on_cpu, mut longest) = (Instant::now(), cpu(), Duration::ZERO);
        for number in 0..20_000_u64 {
            let row = (first + number) % clients;
            let change = Instant::now();
            match number % 6 {
                0 => drop(index.ended(&client(row).clientid, row)),
                1 => drop(index.present(client(clients * 3 + first + number))),
                _ => drop(index.present(Client {
                    connected_at_ms: Some(number as i64),
                    port: Some(number as u32),
                    ..client(row)
                })),
            }
            longest = longest.max(change.elapsed());
        }
        let (taken, on_cpu) = (start.elapsed(), cpu() - on_cpu);
        over.store(true, Relaxed);
        let (asked, slowest) = queries.join().unwrap();
        println!(
            "{what}: {on_cpu:.1} ms in {taken:.1?}, longest change {longest:.1?}, {asked} queries, longest {slowest:.1?}"
        );
    });
}
