//! The index against a model that keeps every client in one Vec.

mod many;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use proptest::prelude::*;
use rollcall_proto::group::GroupValue;
use rollcall_proto::v1::{ConnState, Filter, Group, GroupBy, Key};

use super::*;

const NODE: &str = "a@127.0.0.1";

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "most steps are of the large kind")]
enum Step {
    Present(Client),
    Ended(String, u64),
    Resync(Vec<Client>),
}

/// Few values a field, so that ties and repeats are common.
pub(super) fn client() -> impl Strategy<Value = Client> {
    let text = || proptest::option::of("[abä]{0,2}");
    let identity = ("[abä]{0,2}", 0..12_u64, text(), text(), text(), text());
    let number = || proptest::option::of(0..3_u32);
    let flag = || proptest::option::of(any::<bool>());
    let time = || proptest::option::of(-1..2_i64);
    let numbers = (number(), number(), number(), number(), flag(), flag());
    let times = (1..4_i32, time(), time(), time());
    (identity, numbers, times, address()).prop_map(|(identity, numbers, times, ip_address)| {
        let (clientid, session, username, zone, proto_name, mountpoint) = identity;
        let (proto_ver, port, keepalive, expiry_interval, is_bridge, clean_start) = numbers;
        let (conn_state, connected_at_ms, disconnected_at_ms, created_at_ms) = times;
        Client {
            clientid,
            session,
            username,
            zone,
            proto_name,
            mountpoint,
            ip_address,
            proto_ver,
            port,
            keepalive,
            expiry_interval,
            is_bridge,
            clean_start,
            conn_state,
            connected_at_ms,
            disconnected_at_ms,
            created_at_ms,
            ..Client::default()
        }
    })
}

fn address() -> impl Strategy<Value = Vec<u8>> {
    let v6 = |last| [vec![0x20; 15], vec![last]].concat();
    prop_oneof![Just(vec![]), Just(vec![10, 0, 0, 1]), Just(vec![10, 0, 0, 2]), Just(v6(1)), Just(v6(2))]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => client().prop_map(Step::Present),
        2 => ("[abä]{0,2}", 0..12_u64).prop_map(|(clientid, session)| Step::Ended(clientid, session)),
        1 => proptest::collection::vec(client(), 0..40).prop_map(Step::Resync),
    ]
}

/// Every kind of condition, each alone and with others.
pub(super) fn filter() -> impl Strategy<Value = Filter> {
    let texts = || prop_oneof![3 => Just(vec![]), 1 => proptest::collection::vec("[abä]{0,2}", 1..4)];
    let exact = (texts(), texts(), texts(), texts());
    let like = (texts(), texts());
    let time = || prop_oneof![3 => Just(None), 1 => (-1..2_i64).prop_map(Some)];
    let times = (time(), time(), time(), time());
    let addresses = prop_oneof![3 => Just(vec![]), 1 => proptest::collection::vec(address(), 1..3)];
    let states = prop_oneof![3 => Just(vec![]), 1 => proptest::collection::vec(1..4_i32, 1..3)];
    let typed = (
        prop_oneof![3 => Just(vec![]), 1 => Just(vec![1_i64, 2])],
        prop_oneof![3 => Just(vec![]), 1 => proptest::collection::vec(any::<bool>(), 1..3)],
        addresses,
        states,
    );
    (exact, like, typed, times).prop_map(|(exact, like, typed, times)| Filter {
        clientid: exact.0,
        username: exact.1,
        zone: exact.2,
        proto_name: exact.3,
        like_clientid: like.0,
        like_username: like.1,
        proto_ver: typed.0,
        clean_start: typed.1,
        ip_address: typed.2.into_iter().filter(|address: &Vec<u8>| !address.is_empty()).collect(),
        conn_state: typed.3,
        gte_created_at_ms: times.0,
        lte_created_at_ms: times.1,
        gte_connected_at_ms: times.2,
        lte_connected_at_ms: times.3,
    })
}

fn order() -> impl Strategy<Value = Order> {
    (proptest::sample::select(SortField::IDENTITY.to_vec()), any::<bool>())
        .prop_map(|(field, descending)| Order { field, descending })
}

#[derive(Default)]
struct Model {
    clients: Vec<Client>,
    ended: HashSet<u64>,
}

impl Model {
    fn apply(&mut self, step: &Step) {
        match step {
            Step::Present(client) => self.present(client),
            Step::Ended(clientid, session) => {
                self.ended.insert(*session);
                self.clients.retain(|client| (&client.clientid, client.session) != (clientid, *session));
            }
            Step::Resync(clients) => {
                self.clients.clear();
                clients.iter().for_each(|client| self.present(client));
            }
        }
    }

    fn present(&mut self, client: &Client) {
        if self.ended.contains(&client.session) {
            return;
        }
        self.clients.retain(|known| (&known.clientid, known.session) != (&client.clientid, client.session));
        self.clients.push(client.clone());
    }

    fn select(&self, matcher: &Matcher, order: Order) -> Vec<Client> {
        let mut rows: Vec<Client> =
            self.clients.iter().filter(|client| matcher.matches(&client.as_client_ref())).cloned().collect();
        rows.sort_by(|a, b| order.compare(&order.key(&a.as_client_ref()), &order.key(&b.as_client_ref())));
        rows
    }
}

fn apply(index: &Index, step: Step) {
    match step {
        Step::Present(client) => drop(index.present(client)),
        Step::Ended(clientid, session) => drop(index.ended(&clientid, session)),
        Step::Resync(clients) => drop(index.resync(clients.into_iter().collect())),
    }
}

fn all(view: &View) -> Vec<Client> {
    view.clients(0..u64::MAX).collect()
}

fn key(order: Order, client: &Client) -> Key {
    let named = Client { node: NODE.into(), ..client.clone() };
    Key::from(order.key(&named.as_client_ref()))
}

fn check_view(view: &View, order: Order, expected: &[Client]) {
    assert_eq!(all(view), expected);
    let sessions: Vec<_> = expected.iter().map(|client| (client.clientid.as_str(), client.session)).collect();
    assert_eq!(view.sessions(0..u64::MAX).collect::<Vec<_>>(), sessions);
    assert_eq!(view.count(), expected.len() as u64);
    let keys: Vec<Key> = expected.iter().map(|client| key(order, client)).collect();
    // Of many rows some: the first, the last, and some in between.
    let step = expected.len() / 50 + 1;
    for (rank, client) in
        expected.iter().enumerate().filter(|(rank, _)| (expected.len() - rank) % step == 1 % step)
    {
        let key = key(order, client);
        assert_eq!(view.key_at(rank as u64).as_ref(), Some(&key));
        let wire = order.key_from_wire(&key).unwrap();
        assert_eq!((view.rank_of(&wire), view.rank_after(&wire)), (rank as u64, rank as u64 + 1));
        // Keys of clients that are gone, or of another node.
        for other in [
            Key { node: "!".into(), ..key.clone() },
            Key { node: "~".into(), ..key.clone() },
            Key { clientid: format!("{}!", key.clientid), ..key.clone() },
            Key { session: key.session.wrapping_sub(1), ..key.clone() },
        ] {
            let other = order.key_from_wire(&other).unwrap();
            let before = |comes: fn(std::cmp::Ordering) -> bool| {
                let is_before = |key: &&Key| comes(order.compare(&order.key_from_wire(key).unwrap(), &other));
                keys.iter().filter(is_before).count() as u64
            };
            assert_eq!(view.rank_of(&other), before(std::cmp::Ordering::is_lt), "{other:?}");
            assert_eq!(view.rank_after(&other), before(std::cmp::Ordering::is_le), "{other:?}");
        }
        let here: Vec<Client> = view.clients(rank as u64..rank as u64 + 2).collect();
        assert_eq!(here, expected[rank..(rank + 2).min(expected.len())]);
    }
    assert_eq!(view.key_at(view.count()), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn an_index_is_one_sorted_vec(
        steps in proptest::collection::vec(step(), 0..120),
        questions in proptest::collection::vec((filter(), order()), 1..6),
    ) {
        let (index, mut model) = (Index::new(NODE), Model::default());
        for step in steps {
            model.apply(&step);
            apply(&index, step);
        }
        let connected = model.clients.iter().filter(|c| c.conn_state() == ConnState::Connected).count();
        let counts = Counts { connected: connected as u64, clients: model.clients.len() as u64 };
        prop_assert_eq!(index.counts(), counts);
        for (filter, order) in questions {
            for filter in [filter, Filter::default()] {
                let matcher = Matcher::new(filter).unwrap();
                let expected = model.select(&matcher, order);
                // The second answer may come from a kept sort.
                for _ in 0..2 {
                    check_view(&index.view(&matcher, order, &|| false).unwrap(), order, &expected);
                }
            }
        }
    }

    #[test]
    fn a_sort_catches_up_with_changes(
        before in proptest::collection::vec(step(), 0..60),
        after in proptest::collection::vec(step(), 0..60),
        order in order(),
    ) {
        let index = Index::new(NODE);
        before.into_iter().for_each(|step| apply(&index, step));
        let columns = index.read().rows.columns().clone();
        let slots = |view: View| view.slots(0..u64::MAX).collect::<Vec<_>>();
        let everyone = Matcher::new(Filter::default()).unwrap();
        let order = Order { descending: false, ..order };
        let sorted = || slots(index.view(&everyone, order, &|| false).unwrap());
        let mut list = Ordered::from_sorted(&sorted());
        // Kept sorts would make both sides the same by the same means.
        index.expire(Instant::now());
        index.expire(Instant::now() + Duration::from_secs(600));
        after.into_iter().for_each(|step| apply(&index, step));
        let present = index.read().rows.columns().clone();
        if catch_up(&mut list, order.field, &columns, &present, 100) {
            prop_assert_eq!(list.iter().collect::<Vec<_>>(), sorted());
        } else {
            prop_assert!(!present.is_state_of(&columns));
        }
    }

    #[test]
    fn a_count_is_that_of_one_vec(
        steps in proptest::collection::vec(step(), 0..120),
        filter in prop_oneof![Just(Filter::default()), filter()],
    ) {
        let (index, mut model) = (Index::new(NODE), Model::default());
        for step in steps {
            model.apply(&step);
            apply(&index, step);
        }
        let matcher = Matcher::new(filter).unwrap();
        let rows = model.select(&matcher, Order::default());
        for group_by in (0..8).map(|number| GroupBy::try_from(number).unwrap()) {
            let mut expected: HashMap<Option<GroupValue<'_>>, u64> = HashMap::new();
            for row in rows.iter().filter(|_| group_by != GroupBy::Unspecified) {
                *expected.entry(GroupValue::of(group_by, &row.as_client_ref())).or_default() += 1;
            }
            let answer = index.count(&matcher, group_by, &|| false).unwrap();
            prop_assert_eq!(answer.count, rows.len() as u64);
            prop_assert_eq!(answer.groups.len(), expected.len());
            for (value, count) in expected {
                prop_assert!(answer.groups.contains(&Group::of(value, count)), "{:?} of {:?}", value, answer);
            }
        }
    }

    #[test]
    fn a_view_stays_as_it_was(
        before in proptest::collection::vec(step(), 0..60),
        after in proptest::collection::vec(step(), 0..60),
        filter in prop_oneof![Just(Filter::default()), filter()],
        order in order(),
    ) {
        let index = Index::new(NODE);
        before.into_iter().for_each(|step| apply(&index, step));
        let view = index.view(&Matcher::new(filter).unwrap(), order, &|| false).unwrap();
        let rows = all(&view);
        for step in after {
            apply(&index, step);
            prop_assert_eq!(&all(&view), &rows);
        }
    }

    #[test]
    fn fences_are_evenly_spaced_keys_with_their_ranks(
        count in 0..300_u64, start in 0..320_u64, length in 0..400_u64, most in 1..64_u32,
    ) {
        let index = Index::new(NODE);
        index.resync((0..count).map(|n| Client {
            clientid: format!("{n:03}"), session: n, ..Client::default()
        }).collect());
        let everyone = Matcher::new(Filter::default()).unwrap();
        let view = index.view(&everyone, Order::default(), &|| false).unwrap();
        let end = (start + length).min(count);
        let fences = view.fences(start..start + length, most);
        let expected = u64::from(most).min(end.saturating_sub(start));
        prop_assert_eq!(fences.len() as u64, expected);
        prop_assert_eq!(fences.first().map(|fence| fence.rank), (expected > 0).then_some(start));
        for fence in &fences {
            prop_assert_eq!(fence.key.clone(), view.key_at(fence.rank));
        }
        let mut ranks: Vec<u64> = fences.iter().map(|fence| fence.rank).collect();
        ranks.push(end);
        if expected > 0 {
            let gaps: Vec<u64> = ranks.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let (least, greatest) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
            prop_assert!(*least > 0 && greatest - least <= 1, "{:?}", gaps);
        }
    }
}

#[test]
fn slots_are_used_again() {
    let index = Index::new(NODE);
    for number in 0..1_000 {
        index.present(plain(&number.to_string(), number));
        if let Some(old) = number.checked_sub(9) {
            assert!(index.ended(&old.to_string(), old));
        }
    }
    assert_eq!(index.counts().clients, 9);
    assert_eq!(index.read().rows.columns().segment_count(), 1);
}

fn plain(clientid: &str, session: u64) -> Client {
    Client { clientid: clientid.into(), session, ..Client::default() }
}

#[test]
fn an_ended_session_does_not_come_back_by_late_news() {
    let index = Index::new(NODE);
    index.resync([plain("a", 1), plain("b", 2)].into_iter().collect());
    assert!(index.ended("a", 1));
    assert!(!index.ended("a", 1));
    index.present(plain("a", 1));
    index.resync([plain("a", 1), plain("b", 2)].into_iter().collect());
    assert_eq!(index.counts().clients, 1);
    index.present(plain("a", 3));
    assert_eq!(index.counts().clients, 2);
}

#[test]
fn a_sort_is_kept_whatever_changes_until_nobody_has_asked_for_it() {
    let index = Index::new(NODE);
    let clients: Vec<Client> = (0..1_000).map(|n| plain(&format!("{n}"), n)).collect();
    index.resync(clients.iter().cloned().collect());
    let everyone = Matcher::new(Filter::default()).unwrap();
    let by_port = Order { field: SortField::Port, descending: false };
    assert_eq!(index.rows_to_visit(&everyone, by_port), 1_000);
    index.view(&everyone, by_port, &|| false).unwrap();
    index.resync(clients.into_iter().collect());
    index.present(plain("7", 7));
    assert_eq!(index.rows_to_visit(&everyone, by_port), 0);
    index.present(plain("new", 5_000));
    assert_eq!(index.rows_to_visit(&everyone, by_port), 0);
    index.resync((0..500).map(|n| plain(&format!("{n}"), n)).collect());
    assert_eq!(index.rows_to_visit(&everyone, by_port), 0);
    let now = Instant::now();
    index.expire(now);
    index.expire(now + Duration::from_secs(600));
    assert_eq!(index.rows_to_visit(&everyone, by_port), 500);
}

#[test]
fn short_work_is_told_from_long_and_long_work_can_be_stopped() {
    let index = Index::new(NODE);
    let client = |n: u64| Client { username: Some((n % 10).to_string()), ..plain(&format!("{n:05}"), n) };
    index.resync((0..10_000).map(client).collect());
    let visits = |filter: Filter, field| {
        index.rows_to_visit(&Matcher::new(filter).unwrap(), Order { field, descending: true })
    };
    let text = |values: &[&str]| values.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(visits(Filter::default(), SortField::Clientid), 0);
    assert_eq!(visits(Filter::default(), SortField::Username), 0);
    assert_eq!(visits(Filter::default(), SortField::Port), 10_000);
    assert_eq!(
        visits(Filter { clientid: text(&["00001", "none"]), ..Filter::default() }, SortField::Port),
        1
    );
    assert_eq!(visits(Filter { username: text(&["1", "2"]), ..Filter::default() }, SortField::Port), 2_000);
    let scan = Filter { like_clientid: text(&["9"]), ..Filter::default() };
    assert_eq!(visits(scan.clone(), SortField::Clientid), 10_000);
    let scan = Matcher::new(scan).unwrap();
    assert_eq!(index.view(&scan, Order::default(), &|| true).unwrap_err(), Stopped);
    assert_eq!(index.count(&scan, GroupBy::Unspecified, &|| true).unwrap_err(), Uncounted::Stopped);
}

#[test]
fn a_count_visits_no_row_if_all_are_counted_and_few_if_they_are_named() {
    let index = Index::new(NODE);
    index.resync((0..10_000).map(|n| plain(&format!("{n:05}"), n)).collect());
    let visits = |filter: Filter, group_by| index.rows_to_count(&Matcher::new(filter).unwrap(), group_by);
    let named = || Filter { clientid: vec!["00001".into()], ..Filter::default() };
    assert_eq!(visits(Filter::default(), GroupBy::Unspecified), 0);
    assert_eq!(visits(Filter::default(), GroupBy::Username), 10_000);
    for kept in [GroupBy::Zone, GroupBy::ProtoName, GroupBy::ProtoVer, GroupBy::ConnState, GroupBy::Kind] {
        assert_eq!(visits(Filter::default(), kept), 1, "{kept:?}");
    }
    assert_eq!(visits(named(), GroupBy::Unspecified), 1);
    assert_eq!(visits(named(), GroupBy::Zone), 1);
    let scan = Filter { like_clientid: vec!["9".into()], ..Filter::default() };
    assert_eq!(visits(scan, GroupBy::Unspecified), 10_000);
}

#[test]
fn more_groups_than_a_count_may_have_are_refused_and_the_total_is_not() {
    let index = Index::new(NODE);
    let most = rollcall_proto::MAX_GROUPS as u64;
    let client = |n: u64| Client { username: Some(n.to_string()), ..plain(&n.to_string(), n) };
    index.resync((0..most).map(client).collect());
    let everyone = Matcher::new(Filter::default()).unwrap();
    let by_username = || index.count(&everyone, GroupBy::Username, &|| false);
    assert_eq!(by_username().unwrap().groups.len() as u64, most);
    index.present(client(most));
    assert_eq!(by_username().unwrap_err(), Uncounted::TooManyGroups);
    assert_eq!(index.count(&everyone, GroupBy::Unspecified, &|| false).unwrap().count, most + 1);
}

/// Bytes that these views hold and the index does not.
fn held(index: &Index, views: &[View]) -> u64 {
    let (mut present, mut old) = (HashSet::new(), HashMap::new());
    index.read().rows.each_piece(&mut |at, _| {
        present.insert(at);
    });
    for view in views {
        view.each_piece(&mut |at, bytes| {
            if !present.contains(&at) {
                old.insert(at, bytes as u64);
            }
        });
    }
    old.values().sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn views_never_hold_more_than_changes_have_left_to_them(
        steps in proptest::collection::vec((step(), proptest::option::weighted(0.2, order()), any::<bool>()), 0..120),
    ) {
        let index = Index::new(NODE);
        let everyone = Matcher::new(Filter::default()).unwrap();
        let mut views: Vec<View> = Vec::new();
        let mut now = Instant::now();
        for (step, order, is_dropped) in steps {
            apply(&index, step);
            if let Some(order) = order {
                if is_dropped && !views.is_empty() {
                    views.remove(views.len() / 2);
                }
                views.push(index.view(&everyone, order, &|| false).unwrap());
                now += Duration::from_secs(50);
                index.expire(now);
            }
            let first = views.iter().map(View::left).min();
            let left = first.map_or(0, |first| index.left() - first);
            let held = held(&index, &views);
            prop_assert!(held <= left, "{} bytes held, {} left", held, left);
        }
    }
}

#[test]
fn what_changes_leave_to_views_that_all_live_on_is_what_they_hold() {
    let index = Index::new(NODE);
    let row = |n: u64, port| Client { port, username: Some(n.to_string()), ..plain(&format!("{n:05}"), n) };
    index.resync((0..20_000).map(|n| row(n, None)).collect());
    let everyone = Matcher::new(Filter::default()).unwrap();
    let mut views = Vec::new();
    for round in 0..20 {
        views.push(index.view(&everyone, Order::default(), &|| false).unwrap());
        for n in 0..300 {
            let number = (n * 67 + round * 7) % 20_000;
            match n % 10 {
                0 => drop(index.ended(&format!("{number:05}"), number)),
                1 => drop(index.present(row(20_000 + round * 300 + n, Some(1)))),
                _ => drop(index.present(row(number, Some(round as u32)))),
            }
        }
        let (held, left) = (held(&index, &views), index.left() - views[0].left());
        assert!(held == left && held > (round + 1) * 100_000, "{held} bytes held, {left} left");
    }
    let before = held(&index, &views);
    index.resync((0..20_000).map(|n| row(n, Some(99))).collect());
    let (held, left) = (held(&index, &views), index.left() - views[0].left());
    assert!(held > before && held <= left, "{held} bytes held, {left} left");
}
