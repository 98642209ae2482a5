//! Walks over nodes at which clients come, go and reconnect before every call, held against the one list.
//!
//! Whatever happens between two calls: the keys shown increase from the first row of a walk to the last; whoever keeps
//! session and place from its beginning to its end is shown, once; nobody is shown who was never there; and a walk
//! that cannot go on says so, for a reason that is true. `ROLLCALL_TEST_SEED` replays a run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rollcall_gateway::cluster::{ClusterError, ListQuery, Lost, Start};
use rollcall_gateway::page::cursor::{self, Fingerprint};
use rollcall_proto::{Order, SortField, v1};

use super::fake_node::{Behaviour, FakeNode};
use super::{cluster_of, list, model, query};

const SEED: &str = "ROLLCALL_TEST_SEED";

/// Walks of a run.
const WALKS: u64 = 24;

/// Sessions that stand where they did when the walk began: node, session and key.
type Places = BTreeMap<(String, u64), v1::Key>;

fn places(nodes: &[Arc<FakeNode>], order: Order) -> Places {
    let of = |node: &Arc<FakeNode>| {
        let name = node.name();
        let rows = node.rows();
        let keys = rows.iter().map(|row| {
            let row = v1::Client { node: name.clone(), ..row.clone() };
            ((name.clone(), row.session), order.key(&row.as_client_ref()).into())
        });
        keys.collect::<Vec<_>>()
    };
    nodes.iter().flat_map(of).collect()
}

/// A client of which each value may be absent, and most are shared.
fn someone(random: &mut StdRng, session: u64) -> v1::Client {
    let is_long = random.random_bool(0.05);
    let id = random.random_range(0..100_000);
    let mut client = v1::Client {
        clientid: if is_long { format!("{}{id}", "x".repeat(500)) } else { format!("c-{id}") },
        session,
        username: random.random_bool(0.8).then(|| format!("u{}", random.random_range(0..5))),
        created_at_ms: Some(random.random_range(0..50)),
        ..v1::Client::default()
    };
    connect(random, &mut client);
    client
}

/// What a connection brings, to a session that may be there already.
fn connect(random: &mut StdRng, client: &mut v1::Client) {
    client.conn_state = v1::ConnState::Connected.into();
    client.connected_at_ms = random.random_bool(0.9).then(|| random.random_range(0..1_000));
    client.disconnected_at_ms = None;
    client.port = random.random_bool(0.9).then(|| random.random_range(0..40));
    client.keepalive = Some(random.random_range(0..3));
    client.ip_address = vec![10, 0, 0, random.random_range(0..9)];
}

/// What may happen at a node between two calls. `moved` learns of whose session or values something happened to.
fn happens(random: &mut StdRng, name: &str, rows: &mut Vec<v1::Client>, moved: &mut BTreeSet<(String, u64)>) {
    for _ in 0..random.random_range(0..4) {
        let session = random.random_range(1_000..u64::MAX / 2);
        let at = (!rows.is_empty()).then(|| random.random_range(0..rows.len()));
        let Some(at) = at.filter(|_| random.random_bool(0.7)) else {
            rows.push(someone(random, session));
            continue;
        };
        moved.insert((name.to_owned(), rows[at].session));
        match random.random_range(0..4) {
            // It reconnects to its session.
            0 => connect(random, &mut rows[at]),
            // It goes, and the session stays.
            1 => {
                rows[at].conn_state = v1::ConnState::Disconnected.into();
                rows[at].disconnected_at_ms = Some(random.random_range(0..1_000));
            }
            // It begins a new session.
            2 => {
                rows[at].session = session;
                connect(random, &mut rows[at]);
            }
            // It is kicked.
            _ => drop(rows.swap_remove(at)),
        }
    }
}

async fn walk(seed: u64) {
    let random = &mut StdRng::seed_from_u64(seed);
    let behaviour = *[Behaviour::Honest, Behaviour::ForgetsSnapshots].choose(random).unwrap();
    let of_all = *SortField::IDENTITY.choose(random).unwrap();
    // By node one node may have all of a page, so that one wave is too dear for large ones.
    let is_by_node = random.random_bool(0.4);
    let field = if is_by_node { SortField::Node } else { of_all };
    let order = Order { field, descending: random.random() };
    let mut session = 0;
    let nodes: Vec<Arc<FakeNode>> = (0..random.random_range(1..6))
        .map(|n| {
            let count =
                *if is_by_node { &[500, 600][..] } else { &[3, 60, 0, 600][..] }.choose(random).unwrap();
            let mut next = || {
                session += 1;
                someone(random, session)
            };
            FakeNode::new(&format!("n{n}"), (0..count).map(|_| next()).collect(), behaviour)
        })
        .collect();
    let most = nodes.iter().map(|node| node.rows().len()).sum::<usize>() as u32;
    let limit = (*if is_by_node { &[30, 350][..] } else { &[1, 7, 30, 150][..] }.choose(random).unwrap())
        .max(most / 30);
    let what = format!("{SEED}={seed}, {order:?} over {} nodes, {limit} a page, {behaviour:?}", nodes.len());
    let cluster = cluster_of(&nodes).await;
    let (begun, moved) = (places(&nodes, order), Arc::new(Mutex::new(BTreeSet::new())));
    let is_quiet = random.random_bool(0.1);
    let quiet = model(&nodes, order);
    for node in nodes.iter().filter(|_| !is_quiet) {
        let (name, moved) = (node.name(), Arc::clone(&moved));
        let mut random = StdRng::seed_from_u64(random.random());
        node.before_each_call(move |rows| happens(&mut random, &name, rows, &mut moved.lock().unwrap()));
    }

    let fingerprint = Fingerprint::of(&v1::Filter::default(), order, &[]);
    let mut shown: Vec<v1::Key> = Vec::new();
    let mut start = Start::Page(1);
    let is_whole = loop {
        let answer = match list(&cluster, &ListQuery { start, ..query(1, limit, order) }).await {
            Ok(answer) => answer,
            Err(ClusterError::CursorLost { lost }) => {
                let last = shown.last().unwrap();
                let now = places(&nodes, order);
                let now = now.get(&(last.node.clone(), last.session));
                match lost {
                    Lost::Client { .. } => assert_eq!(now, None, "{what}: lost"),
                    Lost::Value { field } => assert!(field == order.field.name(), "{what}: {field}"),
                    Lost::Node { node } => panic!("{what}: node {node} is lost"),
                }
                assert!(moved.lock().unwrap().contains(&(last.node.clone(), last.session)), "{what}: lost");
                break false;
            }
            Err(error) => panic!("{what}: {error}"),
        };
        assert!(answer.completeness.is_whole(), "{what}: {:?}", answer.completeness);
        let keys: Vec<v1::Key> = answer.rows.iter().map(|row| order.key(&row.client).into()).collect();
        assert!(keys.len() == limit as usize || answer.next.is_none(), "{what}: a short page");
        assert_eq!(answer.next.as_ref().or(keys.last()), keys.last(), "{what}: the cursor's place");
        assert_eq!(answer.has_more, answer.next.is_some(), "{what}");
        shown.extend(keys);
        let Some(next) = answer.next else { break true };
        let text = cursor::encode(fingerprint, &next);
        start = Start::Cursor(cursor::decode(fingerprint, order, &text).unwrap());
    };

    let compare = |a: &v1::Key, b: &v1::Key| {
        order.compare(&order.key_from_wire(a).unwrap(), &order.key_from_wire(b).unwrap())
    };
    assert!(shown.is_sorted_by(|a, b| compare(a, b).is_lt()), "{what}: the keys do not increase: {shown:?}");
    let moved = moved.lock().unwrap();
    let stayed = begun.iter().filter(|(session, _)| !moved.contains(session));
    let (mut owed, mut times) = (0, BTreeMap::<_, usize>::new());
    for key in &shown {
        *times.entry((key.node.clone(), key.session)).or_default() += 1;
    }
    let last = shown.last();
    for (session, key) in stayed {
        let is_passed = is_whole || last.is_some_and(|last| compare(key, last).is_le());
        owed += usize::from(is_passed);
        let times = times.get(session).copied().unwrap_or_default();
        assert_eq!(times, usize::from(is_passed), "{what}: {key:?} stayed");
    }
    if is_quiet && is_whole {
        let ids: Vec<_> = shown.into_iter().map(|key| (key.clientid, key.node)).collect();
        assert!(ids == quiet && owed == quiet.len(), "{what}: {ids:?}");
    }
}

#[tokio::test]
async fn walks_over_nodes_that_change_before_every_call_lose_nobody_who_stays() {
    let given = std::env::var_os(SEED).and_then(|seed| seed.to_str().and_then(|seed| seed.parse().ok()));
    if let Some(seed) = given {
        return walk(seed).await;
    }
    let first: u64 = rand::random();
    println!("seeds from {first}");
    for seed in 0..WALKS {
        walk(first.wrapping_add(seed)).await;
    }
}
