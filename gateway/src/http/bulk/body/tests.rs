use proptest::prelude::*;
use rollcall_proto::Matcher;
use rollcall_proto::v1::Client;

use super::*;
use crate::http::query::Given;

const LIMITS: KickLimits = KickLimits {
    at_once: 1,
    most: 10_000,
    default_most: 1000,
    most_rate: 500,
    default_rate: 100,
    body_bytes: 1 << 20,
};

/// 2026-01-01.
const NOW_MS: i64 = 1_767_225_600_000;

fn read(body: &str) -> Result<BulkRequest, BadBody> {
    request(&json(body.as_bytes())?, &LIMITS, NOW_MS)
}

fn filter_of(body: &str) -> Filter {
    match read(body).unwrap().which {
        Which::Matching { filter, .. } => *filter,
        Which::Ids(ids) => panic!("{ids:?}"),
    }
}

#[test]
fn a_body_is_read_as_it_says() {
    let ids = read(r#"{"clientids":["b","a"," "]}"#).unwrap();
    let default = BulkRequest {
        which: Which::Ids(vec!["b".into(), "a".into(), " ".into()]),
        scope: Scope::All,
        dry_run: false,
        most: 1000,
        rate: 100,
    };
    assert_eq!(ids, default);
    let all = read(
        r#" {"rate":500, "max":10000, "dry_run":true, "nodes":["a@h","b@h"], "filter":{"zone":"edge"}, "partial":true}"#,
    );
    let filter = Box::new(Filter { zone: vec!["edge".into()], ..Filter::default() });
    let expected = BulkRequest {
        which: Which::Matching { filter, partial: true, confirmed: false },
        scope: Scope::Only(vec!["a@h".into(), "b@h".into()]),
        dry_run: true,
        most: 10_000,
        rate: 500,
    };
    assert_eq!(all.unwrap(), expected);
}

#[test]
fn a_filter_means_what_it_means_in_a_list() {
    for (body, query) in [
        (r#"{"clientid":["a","b&c"]}"#, "clientid=a&clientid=b%26c"),
        (r#"{"username":"u","zone":["x"]}"#, "username=u&zone=x"),
        (r#"{"proto_ver":[3,"5",-1,4.0]}"#, "proto_ver=3&proto_ver=5&proto_ver=-1&proto_ver=4"),
        (r#"{"proto_ver":"99999999999999999999","zone":""}"#, "proto_ver=99999999999999999999&zone="),
        (r#"{"ip_address":"::ffff:10.0.0.1"}"#, "ip_address=10.0.0.1"),
        (r#"{"conn_state":["idle","connected"]}"#, "conn_state=idle&conn_state=connected"),
        (r#"{"clean_start":true,"proto_name":"MQTT"}"#, "clean_start=true&proto_name=MQTT"),
        (r#"{"clean_start":["false"]}"#, "clean_start=false"),
        (
            r#"{"_like_clientid":["a","%2"],"_like_username":"é"}"#,
            "_like_clientid=a&_like_clientid=%252&_like_username=%C3%A9",
        ),
        (
            r#"{"_gte_created_at":[1700000000,1700000001],"_lte_created_at":[1800000000,"1700000009"]}"#,
            "_gte_created_at=1700000001&_lte_created_at=1700000009",
        ),
        (
            r#"{"_gte_connected_at":1700000000,"_lte_connected_at":9223372036854775807}"#,
            "_gte_connected_at=1700000000&_lte_connected_at=9223372036854775807",
        ),
    ] {
        let listed = query::list(query, Given::default()).unwrap().query.filter;
        assert_eq!(filter_of(&format!(r#"{{"filter":{body}}}"#)), listed, "{body}");
    }
}

#[test]
fn a_filter_that_excludes_nobody_has_to_be_confirmed() {
    for (filter, excludes) in [
        (r#"{}"#, false),
        (r#"{"_like_clientid":""}"#, false),
        (r#"{"_like_clientid":["",""],"_like_username":""}"#, false),
        (r#"{"conn_state":["idle","connected","disconnected"]}"#, false),
        (r#"{"clean_start":[true,false]}"#, false),
        (r#"{"_gte_created_at":0}"#, false),
        (r#"{"_gte_created_at":946684799,"_lte_connected_at":1767225601}"#, false),
        (r#"{"_lte_created_at":99999999999}"#, false),
        (r#"{"_like_clientid":["","x"]}"#, true),
        (r#"{"conn_state":["idle","connected"]}"#, true),
        (r#"{"clean_start":[true]}"#, true),
        (r#"{"_gte_connected_at":946684800}"#, true),
        (r#"{"_lte_created_at":1767225600}"#, true),
        (r#"{"clientid":""}"#, true),
        (r#"{"username":["a","b"]}"#, true),
        (r#"{"proto_ver":5}"#, true),
        (r#"{"zone":"z","_like_clientid":""}"#, true),
        (r#"{"ip_address":"::1"}"#, true),
        (r#"{"proto_name":"MQTT"}"#, true),
        (r#"{"_like_username":"x"}"#, true),
    ] {
        let plain = read(&format!(r#"{{"filter":{filter}}}"#));
        if excludes {
            assert!(plain.is_ok(), "{filter}: {plain:?}");
        } else {
            assert_eq!(plain, Err(BadBody::Unconfirmed), "{filter}");
        }
        for more in [r#""confirm":"all""#, r#""dry_run":true"#] {
            assert!(read(&format!(r#"{{"filter":{filter},{more}}}"#)).is_ok(), "{filter} {more}");
        }
        let not_dry = read(&format!(r#"{{"filter":{filter},"dry_run":false,"nodes":["a@h"]}}"#));
        assert_eq!(not_dry.is_ok(), excludes, "{filter}");
    }
}

#[test]
fn what_cannot_be_used_is_refused_by_place_value_and_expectation() {
    let long = format!(r#"{{"clientids":"{}"}}"#, "x".repeat(200));
    let many = format!(r#"{{"filter":{{"zone":[{}"z"]}}}}"#, r#""z","#.repeat(256));
    let mut table = String::new();
    for body in [
        "",
        "nonsense",
        r#"{"clientids":["a"]"#,
        r#"{"clientids":["a"]} x"#,
        r#"["a"]"#,
        r#"null"#,
        r#"{}"#,
        r#"{"clientid":["a"]}"#,
        r#"{"clientids":["a"],"filter":{}}"#,
        r#"{"clientids":["a"],"clientids":["b"]}"#,
        r#"{"clientids":"a"}"#,
        &long,
        r#"{"clientids":[]}"#,
        r#"{"clientids":["a",""]}"#,
        r#"{"clientids":["a",5]}"#,
        r#"{"clientids":["a","b","a"]}"#,
        r#"{"clientids":["a"],"confirm":"all"}"#,
        r#"{"clientids":["a"],"partial":false}"#,
        r#"{"clientids":["a"],"nodes":[]}"#,
        r#"{"clientids":["a"],"nodes":"a@h"}"#,
        r#"{"clientids":["a"],"nodes":[""]}"#,
        r#"{"clientids":["a"],"dry_run":"yes"}"#,
        r#"{"clientids":["a"],"max":0}"#,
        r#"{"clientids":["a"],"max":10001}"#,
        r#"{"clientids":["a"],"max":"5"}"#,
        r#"{"clientids":["a"],"rate":-1}"#,
        r#"{"clientids":["a"],"rate":1.5}"#,
        r#"{"clientids":["a"],"rate":501}"#,
        r#"{"filter":"zone=x"}"#,
        r#"{"filter":{}}"#,
        r#"{"filter":{},"confirm":true}"#,
        r#"{"filter":{},"confirm":"yes"}"#,
        r#"{"filter":{"zone":"a"},"partial":null}"#,
        r#"{"filter":{"zone":"a","zone":"b"}}"#,
        r#"{"filter":{"zone":[]}}"#,
        r#"{"filter":{"zone":["a",null]}}"#,
        r#"{"filter":{"zone":{"is":"a"}}}"#,
        r#"{"filter":{"zones":"a"}}"#,
        r#"{"filter":{"_node":"a@h"}}"#,
        r#"{"filter":{"_limit":5}}"#,
        r#"{"filter":{"clientid":7}}"#,
        r#"{"filter":{"proto_ver":"v5"}}"#,
        r#"{"filter":{"proto_ver":5.5}}"#,
        r#"{"filter":{"proto_ver":99999999999999999999}}"#,
        r#"{"filter":{"clean_start":1}}"#,
        r#"{"filter":{"clean_start":"yes"}}"#,
        r#"{"filter":{"conn_state":"online"}}"#,
        r#"{"filter":{"ip_address":"10.0.0"}}"#,
        r#"{"filter":{"_gte_created_at":"yesterday"}}"#,
        &many,
    ] {
        let shown: String = body.chars().take(80).collect();
        table += &format!("{shown}\n  {}\n", read(body).unwrap_err());
    }
    insta::assert_snapshot!(table);
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let error = json(b"{\"clientids\":[\"\xff\"]}").unwrap_err();
    assert!(error.to_string().starts_with("the body is no JSON: "), "{error}");
    assert!(json("[".repeat(10_000).as_bytes()).is_err());
}

proptest! {
    /// Whatever else the filter says: what is not asked to be confirmed excludes somebody.
    #[test]
    fn an_unconfirmed_filter_excludes_some_client(
        like in proptest::option::of("[x]{0,2}"),
        states in proptest::option::of(proptest::sample::subsequence(vec!["connected", "idle", "disconnected"], 1..=3)),
        clean in proptest::option::of(proptest::sample::subsequence(vec![true, false], 1..=2)),
        from in proptest::option::of(946_684_790..946_684_810_i64),
        to in proptest::option::of(1_767_225_590..1_767_225_610_i64),
    ) {
        let mut filter = serde_json::Map::new();
        let mut put = |name: &str, value: Option<serde_json::Value>| {
            if let Some(value) = value { filter.insert(name.into(), value); }
        };
        put("_like_clientid", like.map(Into::into));
        put("conn_state", states.map(Into::into));
        put("clean_start", clean.map(Into::into));
        put("_gte_created_at", from.map(Into::into));
        put("_lte_connected_at", to.map(Into::into));
        let body = serde_json::json!({"filter": filter, "confirm": "all"}).to_string();
        let read_filter = filter_of(&body);
        let matcher = Matcher::new(read_filter.clone()).unwrap();
        let states = [ConnState::Connected, ConnState::Idle, ConnState::Disconnected];
        let matches_all = states.iter().all(|state| [true, false].into_iter().all(|clean_start| {
            [FIRST_SESSION_MS, NOW_MS].into_iter().all(|time| matcher.matches(&Client {
                clientid: "c".into(), conn_state: (*state).into(), clean_start: Some(clean_start),
                created_at_ms: Some(time), connected_at_ms: Some(time), ..Client::default()
            }.as_client_ref()))
        }));
        // A bound at the very moment that limits the times a client can have excludes nobody, but need not be known to.
        prop_assert!(!excludes_nobody(&read_filter, NOW_MS) || matches_all);
        let on_the_edge = from == Some(946_684_800) || to == Some(1_767_225_600);
        prop_assert!(!matches_all || on_the_edge || excludes_nobody(&read_filter, NOW_MS));
    }
}
