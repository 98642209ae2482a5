use proptest::prelude::*;
use rollcall_proto::Matcher;
use rollcall_proto::v1::Client;

use super::*;
use crate::page::cursor::Position;

fn read(query: &str) -> Result<ListRequest, BadParameter> {
    list(query, Given::default())
}

fn filter(query: &str) -> Filter {
    read(query).unwrap().query.filter
}

#[test]
fn nothing_asked_for_is_the_first_page_of_everything() {
    let default = ListRequest {
        query: ListQuery {
            filter: Filter::default(),
            order: Order::default(),
            start: Start::Page(1),
            limit: 10_000,
            scope: Scope::All,
        },
        fields: Fields::ALL,
        partial: true,
    };
    assert_eq!(read("").unwrap(), default);
    assert_eq!(read("&&").unwrap(), default);
}

#[test]
fn every_filter() {
    let none = Filter::default;
    let texts = |values: &[&str]| values.iter().map(ToString::to_string).collect::<Vec<_>>();
    for (query, expected) in [
        ("clientid=a&clientid=b%26%3D+c", Filter { clientid: texts(&["a", "b&= c"]), ..none() }),
        ("clientid=", Filter { clientid: texts(&[""]), ..none() }),
        ("clientid", Filter { clientid: texts(&[""]), ..none() }),
        ("username=a=b", Filter { username: texts(&["a=b"]), ..none() }),
        ("zone=%C3%BC", Filter { zone: texts(&["ü"]), ..none() }),
        ("proto_name=MQTT", Filter { proto_name: texts(&["MQTT"]), ..none() }),
        ("proto_ver=04&proto_ver=-5&proto_ver=%2B3", Filter { proto_ver: vec![4, -5, 3], ..none() }),
        ("proto_ver=99999999999999999999", Filter { proto_ver: vec![i64::MAX], ..none() }),
        ("proto_ver=-99999999999999999999", Filter { proto_ver: vec![i64::MIN], ..none() }),
        (
            "ip_address=10.0.0.1&ip_address=::ffff:10.0.0.2",
            Filter { ip_address: vec![vec![10, 0, 0, 1], vec![10, 0, 0, 2]], ..none() },
        ),
        ("ip_address=::", Filter { ip_address: vec![vec![0; 16]], ..none() }),
        ("conn_state=connected&conn_state=idle", Filter { conn_state: vec![1, 2], ..none() }),
        ("conn_state=disconnected", Filter { conn_state: vec![3], ..none() }),
        ("clean_start=true&clean_start=false", Filter { clean_start: vec![true, false], ..none() }),
        ("_like_clientid=a&_like_clientid=", Filter { like_clientid: texts(&["a", ""]), ..none() }),
        ("_like_username=.*", Filter { like_username: texts(&[".*"]), ..none() }),
        ("_gte_created_at=5&_gte_created_at=7", Filter { gte_created_at_ms: Some(7000), ..none() }),
        ("_lte_created_at=5&_lte_created_at=7", Filter { lte_created_at_ms: Some(5000), ..none() }),
        ("_gte_connected_at=-1", Filter { gte_connected_at_ms: Some(-1000), ..none() }),
        ("_lte_connected_at=9223372036854775807", Filter { lte_connected_at_ms: Some(i64::MAX), ..none() }),
    ] {
        assert_eq!(filter(query), expected, "{query}");
    }
}

#[test]
fn paging_order_and_presentation() {
    let request =
        read("_page=3&_limit=20&_sort=connected_at&_order=desc&_fields=node&_partial=false").unwrap();
    let ListQuery { start, limit, order, .. } = request.query;
    assert_eq!((start, limit), (Start::Page(3), 20));
    assert_eq!(order, Order { field: SortField::ConnectedAt, descending: true });
    assert_eq!((request.fields, request.partial), (Fields::parse("node").unwrap(), false));
    for (query, limit) in [
        ("_limit=0", 0),
        ("_limit=-0", 0),
        ("_limit=10001", 10_000),
        ("_limit=4294967297", 10_000),
        ("_limit=99999999999999999999", 10_000),
    ] {
        assert_eq!(read(query).unwrap().query.limit, limit, "{query}");
    }
    assert_eq!(read("_page=18446744073709551615").unwrap().query.start, Start::Page(u64::MAX));
}

#[test]
fn the_scope_comes_from_the_path_or_from_node() {
    assert_eq!(read("_node=a&_node=b,c").unwrap().query.scope, Scope::Only(vec!["a".into(), "b,c".into()]));
    let given = Given { node: Some("a"), username: Some("u") };
    let request = list("zone=z", given).unwrap();
    assert_eq!(request.query.scope, Scope::Only(vec!["a".into()]));
    assert_eq!(request.query.filter.username, ["u"]);
    assert!(matches!(list("_node=a", given), Err(BadParameter::Unknown { .. })));
}

#[test]
fn user_names_of_path_and_query_combine_with_and() {
    let given = Given { node: None, username: Some("u") };
    let named = Filter { username: vec!["u".into()], ..Filter::default() };
    for query in ["", "username=u", "username=v&username=u"] {
        assert_eq!(list(query, given).unwrap().query.filter, named, "{query}");
    }
    for query in ["username=v", "username=", "username=v&_gte_created_at=0&_lte_created_at=9"] {
        let matcher = Matcher::new(list(query, given).unwrap().query.filter).unwrap();
        for created_at_ms in [None, Some(i64::MIN), Some(0), Some(i64::MAX)] {
            let client = Client { username: Some("u".into()), created_at_ms, ..Client::default() };
            assert!(!matcher.matches(&client.as_client_ref()), "{query} {created_at_ms:?}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_refused_by_name_value_and_expectation() {
    let mut table = String::new();
    for query in [
        "foo=bar",
        "_cursor=x",
        "_cursor=&_cursor=",
        "_cursor=&_page=1",
        "ClientId=x",
        "_page=0",
        "_page=-1",
        "_page=",
        "_page=1.5",
        "_page=18446744073709551616",
        "_page=1&_page=2",
        "_limit=-1",
        "_limit=x",
        "_limit=1&_limit=1",
        "proto_ver=x",
        "proto_ver=",
        "proto_ver=+4",
        "proto_ver=-+4",
        "proto_ver=4%00",
        "ip_address=999.1.1.1",
        "ip_address=",
        "ip_address=10.0.0.1:80",
        "conn_state=Connected",
        "conn_state=",
        "clean_start=1",
        "_gte_created_at=abc",
        "_lte_connected_at=1.5",
        "_sort=max_oct",
        "_sort=recv_oct&_cursor=",
        "_sort=recv_oct&_cursor=x",
        "_sort=recv_oct&_page=101&_limit=100",
        "_sort=recv_oct&_page=2",
        "_sort=recv_oct&_page=18446744073709551615",
        "_order=up",
        "_sort=node&_sort=node",
        "_fields=",
        "_fields=clientid,nope",
        "_partial=no",
        "_node=",
        "clientid=%zz",
        "%zz=1",
        "username=%ff",
    ] {
        table += &format!("{query}\n  {}\n", read(query).unwrap_err());
    }
    insta::assert_snapshot!(table);
}

#[test]
fn a_long_value_is_not_repeated_at_length() {
    let error = read(&format!("proto_ver={}", "x".repeat(10_000))).unwrap_err().to_string();
    assert!(error.len() < 200, "{error}");
}

#[test]
fn a_cursor_goes_on_with_its_own_list_alone() {
    let key = Key { clientid: "c".into(), node: "a@h".into(), session: 7, ..Key::default() };
    let first = read("zone=edge&_order=desc&_node=a&_node=b&_cursor=").unwrap().query;
    assert_eq!(first.start, Start::Page(1));
    let cursor = cursor_behind(&first, Some(&key)).unwrap();
    let again = read(&format!("_node=b&_node=a&_limit=7&_order=desc&zone=edge&_cursor={cursor}")).unwrap();
    assert_eq!(again.query.start, Start::Cursor(Position::After(key)));
    for other in ["zone=edge&_order=desc&_node=a", "zone=edge&_node=a&_node=b", "_order=desc&_node=a&_node=b"]
    {
        let error = read(&format!("{other}&_cursor={cursor}")).unwrap_err().to_string();
        assert!(error.ends_with("filters, _sort, _order and nodes must stay as they were"), "{error}");
    }
    assert_eq!(cursor_behind(&first, None).as_deref(), Some(""));
}

#[test]
fn a_list_by_a_live_figure_reads_its_first_ten_thousand_and_has_no_cursor() {
    for query in [
        "_sort=recv_oct",
        "_sort=mqueue_len&_order=desc&_page=100&_limit=100",
        "_sort=inflight&_page=9&_limit=0",
    ] {
        let request = read(query).unwrap();
        assert!(request.query.order.field.is_live(), "{query}");
        assert_eq!(cursor_behind(&request.query, Some(&Key::default())), None);
    }
    let error = export("_sort=recv_oct").unwrap_err().to_string();
    assert!(error.starts_with(r#"parameter _sort="recv_oct": expected one of clientid,"#), "{error}");
    assert!(error.ends_with(", created_at"), "{error}");
}

#[test]
fn too_many_parameters_are_refused() {
    let many = |count| vec!["clientid=c"; count].join("&");
    assert!(read(&many(256)).is_ok());
    assert_eq!(read(&many(257)), Err(BadParameter::TooMany { count: 257 }));
}

#[test]
fn a_single_client_takes_fields_only_and_a_kick_nothing() {
    let fields = Fields::parse("node").unwrap();
    assert_eq!(get("_fields=node").unwrap(), GetRequest { fields, partial: true });
    assert_eq!(get("_partial=false").unwrap(), GetRequest { fields: Fields::ALL, partial: false });
    assert!(matches!(get("_partial=no"), Err(BadParameter::Value { name: "_partial", .. })));
    assert!(matches!(get("zone=x"), Err(BadParameter::Unknown { .. })));
    assert_eq!(get("_fields=node&_fields=node"), Err(BadParameter::Twice { name: "_fields" }));
    assert_eq!(none(""), Ok(()));
    assert_eq!(none("a=1").unwrap_err().to_string(), r#"unknown parameter "a", expected no parameters"#);
}

proptest! {
    #[test]
    fn no_query_string_panics(query in "[a-z_=&%0-9+é.-]{0,80}") {
        let _ = read(&query);
    }

    #[test]
    fn any_text_is_found_again(text in any::<String>()) {
        let encoded = percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC);
        let query = format!("_like_clientid={encoded}");
        prop_assert_eq!(filter(&query).like_clientid, [text]);
    }
}
