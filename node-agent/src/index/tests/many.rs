//! The same with enough rows for several segments, chunks and every plan of a selection, and with readers and changes
//! at once.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rollcall_proto::v1::{Client, Filter, GroupBy, Key};
use rollcall_proto::{Matcher, Order, SortField};

use super::super::Index;
use super::{Model, NODE, Step, apply, check_view, order};

/// What the index promises of memory, for ids of 20 bytes and user names of 10. All are taken in at once, and one after
/// the other.
#[test]
fn a_client_takes_some_hundred_bytes_and_a_sort_five_more() {
    const CLIENTS: u64 = 60_000;
    let client = |number: u64| Client {
        clientid: format!("dev-{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        session: number,
        username: Some(format!("user-{:05}", number % 50_000)),
        zone: Some("external".to_owned()),
        proto_name: Some("MQTT".to_owned()),
        proto_ver: Some(5),
        ip_address: vec![10, (number >> 16) as u8, (number >> 8) as u8, number as u8],
        port: Some((number % 60_000) as u32),
        keepalive: Some(60),
        clean_start: Some(number.is_multiple_of(2)),
        expiry_interval: Some(0),
        conn_state: 1,
        connected_at_ms: Some(1_700_000_000_000 + number as i64),
        created_at_ms: Some(1_700_000_000_000 + number as i64),
        ..Client::default()
    };
    let (at_once, one_by_one) = (Index::new(NODE), Index::new(NODE));
    at_once.resync((0..CLIENTS).map(client).collect());
    for number in 0..CLIENTS {
        assert!(one_by_one.present(client(number)));
    }
    let each = |index: &Index| index.bytes() as u64 / CLIENTS;
    let (least, most) = (each(&at_once), each(&one_by_one));
    assert!((80..=115).contains(&least), "{least} bytes a client that came with all others");
    assert!((80..=150).contains(&most), "{most} bytes a client that came alone");
    let by_port = Order { field: SortField::Port, descending: false };
    let sorted = at_once.view(&Matcher::new(Filter::default()).unwrap(), by_port, &|| false).unwrap();
    assert_eq!(sorted.count(), CLIENTS);
    let more = each(&at_once) - least;
    assert!((1..=9).contains(&more), "{more} bytes a client for a sort");
}

/// Many clients of many values, the same for the same seed.
fn many(count: u64, seed: u64) -> Vec<Client> {
    (0..count).map(|number| one_of_many(number, seed)).collect()
}

fn one_of_many(number: u64, seed: u64) -> Client {
    let random = (number ^ seed << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7;
    let pick = |shift: u32, of: u64| (random >> shift) % of;
    Client {
        clientid: format!("dev-{}", pick(0, 2_000)),
        session: number,
        username: (pick(3, 5) > 0)
            .then(|| if pick(3, 5) > 1 { "most".into() } else { pick(9, 40).to_string() }),
        zone: Some(pick(5, 3).to_string()),
        mountpoint: (pick(6, 3) == 0).then(|| format!("ä{}", pick(8, 300))),
        proto_ver: Some(pick(2, 3) as u32),
        ip_address: if pick(4, 9) == 0 {
            [vec![1; 15], vec![pick(1, 200) as u8]].concat()
        } else {
            vec![10, 0, pick(3, 4) as u8, 1]
        },
        port: (pick(6, 4) > 0).then(|| pick(1, 60_000) as u32),
        clean_start: Some(pick(11, 2) == 0),
        conn_state: 1 + pick(12, 3) as i32,
        connected_at_ms: Some(pick(0, 5_000) as i64 - 2_500),
        disconnected_at_ms: (pick(12, 3) == 2).then(|| pick(0, 500) as i64),
        ..Client::default()
    }
}

/// Filters that leave of many clients all, most, half, few and one over, by every way there is.
fn filters_of_many() -> Vec<Filter> {
    let text = |value: &str| vec![value.to_owned()];
    let none = Filter::default;
    vec![
        none(),
        Filter { clean_start: vec![true], ..none() },
        Filter { gte_connected_at_ms: Some(-2_490), ..none() },
        Filter { lte_connected_at_ms: Some(-2_480), ..none() },
        Filter { like_clientid: text("-"), ..none() },
        Filter { like_clientid: vec!["1".into(), "dev-".into()], ..none() },
        Filter { like_clientid: text("1234"), ..none() },
        Filter { like_username: text("most"), clean_start: vec![false], ..none() },
        Filter { username: text("most"), ..none() },
        Filter { username: vec!["most".into(), "7".into()], proto_ver: vec![1], ..none() },
        Filter { username: text("7"), zone: text("1"), ..none() },
        Filter { clientid: vec!["dev-7".into(), "dev-70".into()], ..none() },
        Filter { clientid: text("dev-7"), username: text("most"), ..none() },
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    /// Sorts are kept through the changes, and views held.
    #[test]
    fn many_rows_are_one_sorted_vec_too(
        count in 0..4_500_u64,
        seed in any::<u64>(),
        changes in proptest::collection::vec((0..5_000_u64, any::<u64>(), 0..3_u8), 0..400),
        kept in proptest::sample::subsequence(SortField::IDENTITY.to_vec(), 4),
        questions in proptest::collection::vec(order(), 3),
    ) {
        let (index, mut model) = (Index::new(NODE), Model::default());
        let start = Step::Resync(many(count, seed));
        model.apply(&start);
        apply(&index, start);
        let everyone = Matcher::new(Filter::default()).unwrap();
        let by = |field| Order { field, descending: true };
        let held: Vec<_> = kept.iter().map(|&field| {
            let view = index.view(&everyone, by(field), &|| false).unwrap();
            (by(field), view, model.select(&everyone, by(field)))
        }).collect();
        for (session, seed, kind) in changes {
            let client = one_of_many(session, seed);
            let step = match (kind, model.clients.iter().find(|known| known.session == session)) {
                (0, Some(known)) => Step::Ended(known.clientid.clone(), session),
                (1, Some(known)) => Step::Present(Client { clientid: known.clientid.clone(), ..client }),
                _ => Step::Present(client),
            };
            model.apply(&step);
            apply(&index, step);
        }
        for (order, view, expected) in &held {
            check_view(view, *order, expected);
        }
        for field in &kept {
            prop_assert_eq!(index.rows_to_visit(&everyone, by(*field)), 0);
        }
        for order in kept.into_iter().map(by).chain(questions) {
            for filter in filters_of_many() {
                let matcher = Matcher::new(filter).unwrap();
                let expected = model.select(&matcher, order);
                check_view(&index.view(&matcher, order, &|| false).unwrap(), order, &expected);
                prop_assert_eq!(index.count(&matcher, GroupBy::Unspecified, &|| false).unwrap().count, expected.len() as u64);
            }
        }
    }
}

#[test]
fn views_taken_while_changes_come_are_each_of_one_moment() {
    let index = Index::new(NODE);
    index.resync(many(20_000, 1).into_iter().collect());
    let everyone = Matcher::new(Filter::default()).unwrap();
    let fields = [SortField::Port, SortField::ConnectedAt, SortField::IpAddress, SortField::Mountpoint];
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut views = 0;
            while !is_over.load(Relaxed) || views < 8 {
                let order = Order { field: fields[views % 4], descending: views % 2 == 0 };
                let view = index.view(&everyone, order, &|| false).unwrap();
                let keys: Vec<_> = view.refs(0..u64::MAX).map(|row| Key::from(order.key(&row))).collect();
                assert_eq!(keys.len() as u64, view.count());
                let wire = |key| order.key_from_wire(key).unwrap();
                assert!(keys.is_sorted_by(|a, b| order.compare(&wire(a), &wire(b)).is_lt()));
                // The clients with an even number never end.
                assert_eq!(view.refs(0..u64::MAX).filter(|row| row.session % 2 == 0).count(), 10_000);
                views += 1;
                // Each field is sorted anew, and catches up, every other time.
                index.expire(Instant::now() + Duration::from_secs(1_000 * views as u64));
            }
        });
        for (number, client) in (0_u64..).zip(many(20_000, 1)) {
            match number % 4 {
                0 | 2 => {
                    index.present(Client { port: Some(number as u32), connected_at_ms: None, ..client });
                }
                _ => assert!(index.ended(&client.clientid, client.session)),
            }
        }
        is_over.store(true, Relaxed);
        reader.join().unwrap();
    });
    assert_eq!(index.counts().clients, 10_000);
}
