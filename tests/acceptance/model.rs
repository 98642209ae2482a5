//! Any list of any clients against the one-`Vec` model. A failure prints the seed that replays it.

use std::collections::HashMap;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rollcall_tests::http::encode;
use rollcall_tests::model::{FIGURES, GROUP_FIELDS, Query, SORT_FIELDS, identity, random_query, rendered};
use rollcall_tests::rows;
use rollcall_tests::sandbox::{Agent, Cluster};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

const NODES: [&str; 3] = ["a@127.0.0.1", "b@127.0.0.1", "node c %+ü"];

/// What one test works with: made-up rows, and a cluster that serves them.
struct Fixture {
    random: StdRng,
    nodes: Vec<String>,
    rows: Vec<Value>,
    cluster: Cluster,
    _table: NamedTempFile,
}

fn fixture(count: usize) -> Fixture {
    let (mut random, _) = rows::generator();
    let nodes = NODES.map(str::to_owned).to_vec();
    let rows = rows::clients(&mut random, &nodes, count);
    let table = rows::table(&rows);
    let cluster = Cluster::of(nodes.iter().map(|node| Agent::file(node, table.path())).collect());
    Fixture { random, nodes, rows, cluster, _table: table }
}

/// One page of a query, checked against the rows it should select; gives its rows.
fn page(fixture: &Fixture, query: &Query, expected: &[&Value], page: usize, limit: usize) -> Vec<Value> {
    let target = query.target(page, limit);
    let response = fixture.cluster.gateway.get(&target);
    let rows = response.rows();
    let meta = &response.json()["meta"];
    let nodes = if query.nodes.is_empty() { NODES.len() } else { query.nodes.len() };
    // By a live figure, none may be asked for that ends behind the ranks there are.
    let by_figure = query.sort.as_ref().is_some_and(|sort| FIGURES.contains(&sort.as_str()));
    let is_ranked = !by_figure || (page + 1) * limit <= 10_000;
    let expected_meta = json!({
        "page": page,
        "limit": limit,
        "count": expected.len(),
        "hasnext": limit > 0 && page * limit < expected.len() && is_ranked,
        "nodes": {"total": nodes, "answered": nodes, "failed": []},
    });
    for (key, value) in expected_meta.as_object().unwrap() {
        assert_eq!(&meta[key], value, "meta.{key} of {target}");
    }
    let start = ((page - 1) * limit).min(expected.len());
    let end = (start + limit).min(expected.len());
    let ids = |rows: &mut dyn Iterator<Item = &Value>| rows.map(identity).collect::<Vec<_>>();
    assert_eq!(ids(&mut rows.iter()), ids(&mut expected[start..end].iter().copied()), "{target}");
    for (row, expected) in rows.iter().zip(&expected[start..end]) {
        assert_eq!(row, &rendered(expected), "{target}");
    }
    rows
}

#[test]
fn pages_of_any_query_concatenated_are_the_sorted_selection() {
    let mut fixture = fixture(400);
    for _ in 0..150 {
        let query = random_query(&mut fixture.random, &fixture.rows, &fixture.nodes);
        let expected = query.select(&fixture.rows);
        // At most about twelve pages, and every size of a page for small selections.
        let least = expected.len() / 12 + 1;
        let limit = fixture.random.random_range(least..least + 40);
        let mut all = Vec::new();
        for number in 1.. {
            let rows = page(&fixture, &query, &expected, number, limit);
            if rows.is_empty() {
                break;
            }
            all.extend(rows);
        }
        assert_eq!(all.len(), expected.len(), "{query:?}");
    }
}

#[test]
fn walks_of_any_query_by_cursor_are_the_sorted_selection() {
    let mut fixture = fixture(400);
    for _ in 0..100 {
        let query = random_query(&mut fixture.random, &fixture.rows, &fixture.nodes);
        let expected: Vec<_> = query.select(&fixture.rows).into_iter().map(identity).collect();
        let mut cursor = String::new();
        let mut all = Vec::new();
        loop {
            // The limit may change from page to page.
            let limit = fixture.random.random_range(1..60);
            let target = query.target_behind(&cursor, limit);
            let response = fixture.cluster.gateway.get(&target);
            let rows = response.rows();
            let meta = &response.json()["meta"];
            all.extend(rows.iter().map(identity));
            assert_eq!(rows.len(), limit.min(expected.len() + rows.len() - all.len()), "{target}");
            assert_eq!((&meta["count"], &meta["limit"]), (&json!(expected.len()), &json!(limit)), "{target}");
            assert_eq!(meta["hasnext"], all.len() < expected.len(), "{target}");
            assert_eq!(meta.get("page").is_some(), cursor.is_empty(), "{target}: {meta}");
            cursor = meta["cursor"].as_str().unwrap().to_owned();
            assert_eq!(cursor.is_empty(), all.len() == expected.len(), "{target}");
            assert!(cursor.len() <= 512 && encode(&cursor) == cursor, "{cursor}");
            if cursor.is_empty() {
                break;
            }
        }
        assert_eq!(all, expected, "{query:?}");
    }
}

#[test]
fn a_walk_over_a_shrinking_cluster_shows_who_stays_once_and_nobody_twice() {
    let mut fixture = fixture(400);
    let is_short = |(clientid, _): &(String, String)| (1..100).contains(&clientid.len());
    for sort in ["clientid", "connected_at", "username"] {
        for order in ["asc", "desc"] {
            let query =
                Query { sort: Some(sort.to_owned()), order: Some(order.to_owned()), ..Query::default() };
            let before: Vec<_> = query.select(&fixture.rows).into_iter().map(identity).collect();
            let (mut cursor, mut shown) = (String::new(), Vec::new());
            loop {
                let response = fixture.cluster.gateway.get(&query.target_behind(&cursor, 25));
                let page: Vec<_> = response.rows().iter().map(identity).collect();
                cursor = response.json()["meta"]["cursor"].as_str().unwrap().to_owned();
                shown.extend(page.iter().cloned());
                // Some that were shown, some that were not, and now and then the one the cursor stands for. (Of a
                // name that does not fit into a cursor, the cursor would be lost with the client.)
                let mut kicked: Vec<_> = before.sample(&mut fixture.random, 3).cloned().collect();
                kicked.extend(page.last().filter(|_| fixture.random.random_bool(0.5)).cloned());
                for client in kicked.iter().filter(|client| is_short(client)) {
                    kick(&mut fixture, client);
                }
                if cursor.is_empty() {
                    break;
                }
            }
            let mut once = shown.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), shown.len(), "a client is shown twice, by {sort} {order}");
            let stayed: Vec<_> =
                fixture.rows.iter().map(identity).filter(|client| !shown.contains(client)).collect();
            assert_eq!(stayed, [], "not shown, by {sort} {order}");
            let mut places = shown.iter().map(|client| before.iter().position(|other| other == client));
            assert!(places.all(|place| place.is_some()), "somebody appeared");
        }
    }
    assert!(
        (50..350).contains(&fixture.rows.len()),
        "{} are left, so the test tells little",
        fixture.rows.len()
    );
}

/// Kicks a client on its node, unless that has happened, and forgets it.
fn kick(fixture: &mut Fixture, client: &(String, String)) {
    let (clientid, node) = client;
    let count = fixture.rows.len();
    fixture.rows.retain(|row| &identity(row) != client);
    if fixture.rows.len() < count {
        let target = format!("/nodes/{}/clients/{}", encode(node), encode(clientid));
        assert_eq!(fixture.cluster.gateway.request("DELETE", &target).status, 200, "{target}");
    }
}

#[test]
fn a_cursor_belongs_to_its_list() {
    let fixture = fixture(60);
    let gateway = &fixture.cluster.gateway;
    let first = gateway.get("/clients?_limit=10&_sort=port").json();
    let cursor = first["meta"]["cursor"].as_str().unwrap();
    assert!(!cursor.is_empty());
    let same = gateway.get(&format!("/clients?_cursor={cursor}&_sort=port&_limit=10"));
    assert_eq!(same.rows(), gateway.get("/clients?_sort=port&_limit=10&_page=2").rows());
    for other in [
        "",
        "&_sort=zone",
        "&_sort=port&_order=desc",
        "&_sort=port&zone=edge",
        "&_sort=port&_node=a@127.0.0.1",
    ] {
        let response = gateway.get(&format!("/clients?_cursor={cursor}{other}"));
        assert_eq!((response.status, response.code()), (400, 108), "{other}");
        assert!(response.message().contains("_cursor"), "{}", response.message());
    }
    let mismatched = gateway.get(&format!("/clients?_cursor={cursor}")).message();
    let others =
        ["x", "AAAA", "%00", "..%2F", &"A".repeat(513), &format!("{cursor}A"), &cursor.to_lowercase()];
    // Cut off anywhere, as by a line break in a mail, it must not begin somewhere else.
    let ends = |limit: usize| gateway.get(&format!("/clients?_limit={limit}&_sort=port")).json();
    let cursors = (10..16).map(|limit| ends(limit)["meta"]["cursor"].as_str().unwrap().to_owned());
    let cut = cursors.flat_map(|whole| (1..whole.len()).map(move |length| whole[..length].to_owned()));
    for malformed in others.map(str::to_owned).into_iter().chain(cut) {
        let response = gateway.get(&format!("/clients?_sort=port&_cursor={malformed}"));
        assert_eq!((response.status, response.code()), (400, 108), "{malformed} of {cursor}");
        assert!(response.message().contains("_cursor"), "{}", response.message());
    }
    assert_ne!(gateway.get("/clients?_cursor=x").message().replace('x', ""), mismatched.replace(cursor, ""));
    let both = gateway.get(&format!("/clients?_cursor={cursor}&_page=1&_sort=port"));
    assert_eq!((both.status, both.code()), (400, 108));
    assert!(both.message().contains("_page") && both.message().contains("_cursor"), "{}", both.message());
}

#[test]
fn any_page_of_a_large_cluster_is_where_the_sorted_selection_has_it() {
    // So many that deep pages are not fetched by shipping all that comes before them.
    let mut fixture = fixture(15_000);
    for round in 0..60 {
        let query = Query {
            // Every sort at least once in each direction, most over all clients.
            sort: Some(SORT_FIELDS[round % SORT_FIELDS.len()].to_owned()),
            order: (round / SORT_FIELDS.len() % 2 == 1).then(|| "desc".to_owned()),
            ..random_query(&mut fixture.random, &fixture.rows, &fixture.nodes)
        };
        let query =
            if fixture.random.random_bool(0.7) { Query { filters: Vec::new(), ..query } } else { query };
        let expected = query.select(&fixture.rows);
        let limit = *[1, 7, 100, 1000].choose(&mut fixture.random).unwrap();
        let last = expected.len().div_ceil(limit).max(1);
        for number in [1, last, last + 1, last / 2 + 1, fixture.random.random_range(1..=last)] {
            page(&fixture, &query, &expected, number, limit);
        }
    }
    let query = Query { sort: Some("connected_at".to_owned()), ..Query::default() };
    let expected = query.select(&fixture.rows);
    for number in 1..=4 {
        page(&fixture, &query, &expected, number, 5000);
    }
    // More than 10,000 is lowered to it.
    let all = fixture.cluster.gateway.get("/clients?_limit=99999").json();
    assert_eq!((&all["meta"]["limit"], all["data"].as_array().unwrap().len()), (&json!(10_000), 10_000));
}

#[test]
fn the_first_ten_thousand_by_any_live_figure_are_those_of_the_sorted_selection() {
    // More than have a rank, on one node too.
    let mut fixture = fixture(32_000);
    for round in 0..2 * FIGURES.len() {
        let query = Query {
            sort: Some(FIGURES[round % FIGURES.len()].to_owned()),
            order: (round < FIGURES.len()).then(|| "desc".to_owned()),
            ..random_query(&mut fixture.random, &fixture.rows, &fixture.nodes)
        };
        let query =
            if fixture.random.random_bool(0.7) { Query { filters: Vec::new(), ..query } } else { query };
        let expected = query.select(&fixture.rows);
        let limit = *[1, 7, 100, 1000].choose(&mut fixture.random).unwrap();
        let last = 10_000 / limit;
        for number in [1, last / 2, last, fixture.random.random_range(1..=last)] {
            page(&fixture, &query, &expected, number, limit);
        }
    }
    let gateway = &fixture.cluster.gateway;
    let refused = |target: &str| {
        let response = gateway.get(target);
        assert_eq!((response.status, response.code()), (400, 108), "{target}");
        response.message().to_owned()
    };
    assert_eq!(
        refused("/clients?_sort=mqueue_len&_order=desc&_limit=100&_page=101"),
        "parameter _page=101: expected a page that ends within the first 10000 clients, as none behind them has a rank by the live figure mqueue_len; _limit is 100"
    );
    assert!(
        refused("/clients?_sort=mqueue_len&_cursor=").starts_with("_cursor is given with _sort=mqueue_len")
    );
    assert!(refused("/client_export?_sort=mqueue_len").contains("_sort"));
    // Nothing to walk on with, which is not the end of a walk.
    assert_eq!(gateway.get("/clients?_sort=mqueue_len&_limit=1").json()["meta"]["cursor"], Value::Null);
}

#[test]
fn counting_reads_no_rows_and_counts_all() {
    let mut fixture = fixture(300);
    for _ in 0..60 {
        let query = random_query(&mut fixture.random, &fixture.rows, &fixture.nodes);
        let expected = query.select(&fixture.rows);
        assert_eq!(page(&fixture, &query, &expected, 1, 0), [] as [Value; 0]);
    }
}

#[test]
fn groups_of_any_query_are_those_of_the_selection() {
    let mut fixture = fixture(600);
    for round in 0..20 * GROUP_FIELDS.len() {
        let field = GROUP_FIELDS[round % GROUP_FIELDS.len()];
        let query = random_query(&mut fixture.random, &fixture.rows, &fixture.nodes);
        let expected = query.groups(&fixture.rows, field);
        let top = *[1, 2, 3, 1000].choose(&mut fixture.random).unwrap();
        let target = query.target_of_groups(field, top);
        let body = fixture.cluster.gateway.get(&target).json();
        let shown = &expected[..top.min(expected.len())];
        let groups: Vec<_> =
            shown.iter().map(|(value, count)| json!({"value": value, "count": count})).collect();
        assert_eq!(body["data"], json!(groups), "{target}");
        let sum = |groups: &[(Value, usize)]| groups.iter().map(|(_, count)| count).sum::<usize>();
        let meta = &body["meta"];
        assert_eq!(meta["count"], sum(&expected), "{target}");
        let other = sum(&expected) - sum(shown);
        assert_eq!(
            meta["groups"],
            json!({"total": expected.len(), "shown": shown.len(), "other": other}),
            "{target}"
        );
    }
}

#[test]
fn fields_that_were_not_asked_for_are_left_out() {
    let mut fixture = fixture(60);
    let whole: HashMap<_, _> = fixture.rows.iter().map(|row| (identity(row), rendered(row))).collect();
    let keys: Vec<String> = whole
        .values()
        .find(|row| row.as_object().unwrap().len() == 37)
        .unwrap()
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    assert_eq!(keys.len(), 37);
    for _ in 0..40 {
        let count = fixture.random.random_range(1..=37);
        let mut chosen: Vec<&str> = keys.sample(&mut fixture.random, count).map(String::as_str).collect();
        for key in ["clientid", "node"] {
            if !chosen.contains(&key) {
                chosen.push(key);
            }
        }
        let rows = fixture.cluster.gateway.get(&format!("/clients?_fields={}", chosen.join(","))).rows();
        assert_eq!(rows.len(), 60);
        for row in &rows {
            let mut expected = whole[&identity(row)].clone();
            expected.as_object_mut().unwrap().retain(|key, _| chosen.contains(&key.as_str()));
            assert_eq!(row, &expected, "{chosen:?}");
        }
        let one = identity(&rows[0]).0;
        let found = fixture
            .cluster
            .gateway
            .get(&format!("/clients/{}?_fields={}", encode(&one), chosen.join(",")))
            .rows();
        assert!(found.contains(&rows[0]), "{found:?}");
    }
    // Fields alone, without the ones that name the row.
    let rows = fixture.cluster.gateway.get("/clients?_fields=port&_limit=1").rows();
    assert_eq!(rows[0].as_object().unwrap().keys().collect::<Vec<_>>(), ["port"]);
}

#[test]
fn one_client_and_one_user_are_found_on_all_nodes_that_have_them() {
    let mut fixture = fixture(300);
    for _ in 0..60 {
        let row = fixture.rows.choose(&mut fixture.random).unwrap();
        let clientid = row["clientid"].as_str().unwrap();
        let query = Query { filters: vec![("clientid".into(), clientid.into())], ..Query::default() };
        let expected: Vec<Value> = query.select(&fixture.rows).into_iter().map(rendered).collect();
        if !clientid.is_empty() {
            assert_eq!(fixture.cluster.gateway.find(clientid), expected);
        }
        let Some(username) = row["username"].as_str().filter(|name| !name.is_empty()) else { continue };
        let node = row["node"].as_str().unwrap();
        let mut query = Query { filters: vec![("username".into(), username.into())], ..Query::default() };
        for scope in ["", node] {
            let target = match scope {
                "" => format!("/clients/username/{}", encode(username)),
                node => format!("/nodes/{}/clients/username/{}", encode(node), encode(username)),
            };
            query.nodes = [scope].iter().filter(|node| !node.is_empty()).map(ToString::to_string).collect();
            let expected: Vec<Value> = query.select(&fixture.rows).into_iter().map(rendered).collect();
            assert_eq!(fixture.cluster.gateway.get(&target).rows(), expected, "{target}");
        }
    }
}

#[test]
fn the_model_itself_knows_the_order_it_documents() {
    let row = |node: &str, id: &str, port: Option<u16>| json!({"node": node, "clientid": id, "port": port});
    let rows = [
        row("b", "x", None),
        row("a", "x", None),
        row("b", "w", Some(2)),
        row("a", "z", Some(1)),
        row("a", "y", Some(2)),
    ];
    let sorted = |order: &str| {
        let query = Query { sort: Some("port".into()), order: Some(order.into()), ..Query::default() };
        query.select(&rows).into_iter().map(identity).map(|(id, node)| id + &node).collect::<Vec<_>>()
    };
    assert_eq!(sorted("asc"), ["za", "wb", "ya", "xa", "xb"]);
    assert_eq!(sorted("desc"), ["wb", "ya", "za", "xa", "xb"]);
}
