//! The JSON bodies around rows: `code`, `meta`, `data`; and errors.

use axum::response::Response;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde::{Serialize, Serializer};

use super::query::{cursor_behind, has_next};
use super::row::{self, Fields, Row};
use crate::cluster::{CountAnswer, GetAnswer, KickAnswer, ListAnswer, ListQuery, Start};
use crate::keys::Key;
use crate::page::completeness::{Completeness, FailedNode};
use crate::page::groups::{Group, GroupBy, Value};
use crate::page::rows::PageRows;

/// About how many bytes stand round the rows of an answer.
const META_BYTES: usize = 512;

/// A JSON body, or why it could not be written.
pub(super) type Body = Result<Vec<u8>, serde_json::Error>;

/// A successful answer. `Meta` before `Data`, so that a reader of a long page sees first how complete it is.
#[derive(Serialize)]
pub(super) struct Answer<M, D> {
    code: u32,
    meta: M,
    data: D,
}

impl<M, D> Answer<M, D> {
    /// An answer of code 0.
    pub(super) fn new(meta: M, data: D) -> Self {
        Self { code: 0, meta, data }
    }
}

/// A page of a list.
pub(super) fn list(answer: &ListAnswer, query: &ListQuery, fields: Fields) -> Body {
    let meta = ListMeta {
        page: match query.start {
            Start::Page(page) => Some(page),
            Start::Cursor(_) => None,
        },
        limit: query.limit,
        hasnext: has_next(query, answer.has_more),
        // An empty one would say that there is no more.
        cursor: cursor_behind(query, answer.next.as_ref())
            .filter(|_| answer.next.is_some() || !answer.has_more),
        count: answer.count,
        count_is: bound(&answer.completeness),
        consistent: answer.consistent,
        nodes: Nodes::whole(&answer.completeness),
    };
    with_rows(&meta, &answer.rows, fields)
}

/// Every session of a client.
pub(super) fn get(answer: &GetAnswer, fields: Fields) -> Body {
    with_rows(&NodesMeta::of(&answer.completeness), &answer.rows, fields)
}

/// An answer whose data is rows.
fn with_rows(meta: &impl Serialize, rows: &PageRows, fields: Fields) -> Body {
    let mut body = Vec::with_capacity(META_BYTES + rows.len() * fields.row_bytes());
    let nothing: [(); 0] = [];
    serde_json::to_writer(&mut body, &Answer::new(meta, nothing))?;
    // Back to before the "]}" of no rows.
    body.truncate(body.len() - 2);
    for (at, row) in rows.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        row::json::write(&Row { row, fields }, &mut body);
    }
    body.extend_from_slice(b"]}");
    Ok(body)
}

/// A count and its groups.
pub(super) fn count(answer: &CountAnswer, group_by: Option<GroupBy>) -> impl Serialize {
    let groups = answer.top.as_ref().map_or(&[][..], |top| &top.groups);
    let meta = CountMeta {
        count: answer.count,
        count_is: bound(&answer.completeness),
        group_by: group_by.map(GroupBy::name),
        groups: answer.top.as_ref().map(|top| GroupsMeta {
            total: top.total,
            shown: groups.len(),
            other: top.other,
        }),
        nodes: Nodes::whole(&answer.completeness),
    };
    Answer::new(meta, Groups(groups))
}

/// What a count is to the cluster's: nothing is said where it is the same, and of a part of the nodes it is a lower bound.
pub(super) fn bound(completeness: &Completeness) -> Option<&'static str> {
    (!completeness.is_whole()).then_some("at_least")
}

/// Who asks.
pub(super) fn whoami(key: &Key) -> impl Serialize {
    Answer::new(NoMeta {}, Whoami { key: &key.id, role: key.role.as_str() })
}

/// The sessions that a kick ended, one a node.
pub(super) fn kick<'a>(answer: &'a KickAnswer, clientid: &'a str) -> impl Serialize {
    let kicked: Vec<_> = answer.kicked_on.iter().map(|node| Kicked { node, clientid }).collect();
    Answer::new(NodesMeta::of(&answer.completeness), kicked)
}

#[derive(Serialize)]
struct NoMeta {}

#[derive(Serialize)]
struct Whoami<'a> {
    key: &'a str,
    role: &'static str,
}

#[derive(Serialize)]
struct ListMeta<'a> {
    /// Which page of a walk by cursor this is, nobody counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<u64>,
    limit: u32,
    hasnext: bool,
    /// `None` where a walk by cursor cannot be.
    cursor: Option<String>,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    count_is: Option<&'static str>,
    consistent: bool,
    nodes: Nodes<'a>,
}

#[derive(Serialize)]
struct CountMeta<'a> {
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    count_is: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<GroupsMeta>,
    nodes: Nodes<'a>,
}

#[derive(Serialize)]
struct GroupsMeta {
    total: usize,
    shown: usize,
    other: u64,
}

#[derive(Serialize)]
struct NodesMeta<'a> {
    nodes: Nodes<'a>,
}

impl<'a> NodesMeta<'a> {
    fn of(completeness: &'a Completeness) -> Self {
        Self { nodes: Nodes::whole(completeness) }
    }
}

/// The last line of an export.
#[derive(Serialize)]
pub(super) struct ExportEnd<'a> {
    meta: ExportMeta<'a>,
}

#[derive(Serialize)]
struct ExportMeta<'a> {
    complete: bool,
    count: u64,
    nodes: Nodes<'a>,
}

impl<'a> ExportEnd<'a> {
    /// After so many rows.
    pub(super) fn new(count: u64, completeness: &'a Completeness) -> Self {
        let complete = completeness.is_whole();
        Self { meta: ExportMeta { complete, count, nodes: Nodes::whole(completeness) } }
    }
}

#[derive(Serialize)]
struct Kicked<'a> {
    node: &'a str,
    clientid: &'a str,
}

/// Which nodes answered, as far as it is known.
#[derive(Serialize)]
pub(super) struct Nodes<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answered: Option<usize>,
    #[serde(serialize_with = "failed_nodes")]
    failed: &'a [FailedNode],
}

impl<'a> Nodes<'a> {
    /// Everything is known.
    pub(super) fn whole(completeness: &'a Completeness) -> Self {
        let Completeness { total, answered, failed } = completeness;
        Self { total: Some(*total), answered: Some(*answered), failed }
    }

    /// Only these are known.
    pub(super) fn failed(failed: &'a [FailedNode]) -> Self {
        Self { total: None, answered: None, failed }
    }
}

fn failed_nodes<S: Serializer>(failed: &[FailedNode], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Failed<'a> {
        node: &'a str,
        reason: &'a str,
    }
    serializer
        .collect_seq(failed.iter().map(|node| Failed { node: &node.node, reason: node.reason.as_str() }))
}

/// A code of the API's error bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// A node failed.
    NodeFailure = 101,
    /// Anything without a code of its own.
    Unknown = 102,
    /// A parameter, header or path part is wrong.
    BadParameter = 108,
    /// No node has the client.
    ClientNotFound = 112,
}

struct Groups<'a>(&'a [Group]);

impl Serialize for Groups<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written<'a> {
            value: Option<Scalar<'a>>,
            count: u64,
        }
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Scalar<'a> {
            Text(&'a str),
            Number(u32),
            Flag(bool),
        }
        serializer.collect_seq(self.0.iter().map(|Group { value, count }| {
            let value = value.as_ref().map(|value| match value {
                Value::Text(text) => Scalar::Text(text),
                Value::Number(number) => Scalar::Number(*number),
                Value::Flag(flag) => Scalar::Flag(*flag),
            });
            Written { value, count: *count }
        }))
    }
}

/// The body of every error.
#[derive(Serialize)]
pub(super) struct ErrorBody<'a> {
    code: u32,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<ErrorMeta<'a>>,
}

#[derive(Serialize)]
struct ErrorMeta<'a> {
    nodes: Nodes<'a>,
}

impl<'a> ErrorBody<'a> {
    /// An error, with what is known of the nodes asked.
    pub(super) fn new(code: Code, message: String, nodes: Option<Nodes<'a>>) -> Self {
        Self { code: code as u32, message, meta: nodes.map(|nodes| ErrorMeta { nodes }) }
    }
}

/// A response with a JSON body.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    written(status, serde_json::to_vec(body))
}

/// A response with a body that is written.
pub(super) fn written(status: StatusCode, body: Body) -> Response {
    let (status, body) = match body {
        Ok(body) => (status, body),
        Err(error) => {
            // Nothing we write can fail to be JSON: keys are text and writing to memory cannot fail.
            tracing::error!(%error, "response cannot be written");
            (StatusCode::INTERNAL_SERVER_ERROR, br#"{"code":102,"message":"internal error"}"#.to_vec())
        }
    };
    let mut response = Response::new(axum::body::Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use rollcall_proto::v1::{Filter, Key, Statistics};
    use rollcall_proto::wire::WireRow;
    use rollcall_proto::{ClientRef, Order, Reason, SortField};

    use super::*;
    use crate::cluster::Scope;
    use crate::page::cursor::Position;
    use crate::page::groups::Top;
    use crate::page::merge::merge;
    use crate::page::rows::NodeRows;

    fn completeness() -> Completeness {
        let failed = vec![FailedNode::new("b@h", Reason::Timeout)];
        Completeness { total: 2, answered: 1, failed }
    }

    fn query() -> ListQuery {
        ListQuery {
            filter: Filter::default(),
            order: Order::default(),
            start: Start::Page(1),
            limit: 10,
            scope: Scope::All,
        }
    }

    fn text(body: &impl Serialize) -> String {
        serde_json::to_string(body).unwrap()
    }

    fn page_of(node: &str, clientids: &[&str]) -> PageRows {
        let mut rows = NodeRows::default();
        for clientid in clientids {
            let client = ClientRef { clientid, ..ClientRef::default() };
            rows.push(&WireRow { client, statistics: Statistics::default() }).unwrap();
        }
        rows.belong_to(node, Order::default()).unwrap();
        merge(Order::default(), vec![rows], 0, usize::MAX)
    }

    fn written(body: Body) -> String {
        String::from_utf8(body.unwrap()).unwrap()
    }

    #[test]
    fn the_three_bodies() {
        let fields = Fields::parse("clientid,node").unwrap();
        let next = page_of("a@h", &["c"]).last().map(|row| Order::default().key(&row.client).into());
        let page = ListAnswer {
            rows: page_of("a@h", &["c", "d"]),
            count: 11,
            has_more: true,
            next,
            consistent: true,
            completeness: completeness(),
        };
        let query = query();
        insta::assert_snapshot!(
            written(list(&page, &query, fields)),
            @r#"{"code":0,"meta":{"page":1,"limit":10,"hasnext":true,"cursor":"AVskOf8M-Q0tAAAIIgFjKgNhQGg","count":11,"count_is":"at_least","consistent":true,"nodes":{"total":2,"answered":1,"failed":[{"node":"b@h","reason":"timeout"}]}},"data":[{"node":"a@h","clientid":"c"},{"node":"a@h","clientid":"d"}]}"#
        );
        let found = GetAnswer { rows: page_of("a@h", &["c"]), completeness: completeness() };
        insta::assert_snapshot!(
            written(get(&found, fields)),
            @r#"{"code":0,"meta":{"nodes":{"total":2,"answered":1,"failed":[{"node":"b@h","reason":"timeout"}]}},"data":[{"node":"a@h","clientid":"c"}]}"#
        );
        let kicked = KickAnswer { kicked_on: vec!["a@h".into()], completeness: completeness() };
        insta::assert_snapshot!(
            text(&kick(&kicked, "c")),
            @r#"{"code":0,"meta":{"nodes":{"total":2,"answered":1,"failed":[{"node":"b@h","reason":"timeout"}]}},"data":[{"node":"a@h","clientid":"c"}]}"#
        );
    }

    #[test]
    fn a_count_with_groups_and_without() {
        let total = CountAnswer { count: 7, top: None, completeness: completeness() };
        let grouped = |group_by, values: [Option<Value>; 2]| {
            let groups = values.into_iter().zip([4, 2]).map(|(value, count)| Group { value, count });
            let top = Some(Top { groups: groups.collect(), total: 3, other: 1 });
            text(&count(&CountAnswer { top, ..total.clone() }, Some(group_by)))
        };
        insta::assert_snapshot!(
            text(&count(&total, None)),
            @r#"{"code":0,"meta":{"count":7,"count_is":"at_least","nodes":{"total":2,"answered":1,"failed":[{"node":"b@h","reason":"timeout"}]}},"data":[]}"#
        );
        insta::assert_snapshot!(
            grouped(GroupBy::Username, [Some(Value::Text("undefined".into())), None]),
            @r#"{"code":0,"meta":{"count":7,"count_is":"at_least","group_by":"username","groups":{"total":3,"shown":2,"other":1},"nodes":{"total":2,"answered":1,"failed":[{"node":"b@h","reason":"timeout"}]}},"data":[{"value":"undefined","count":4},{"value":null,"count":2}]}"#
        );
        insta::assert_snapshot!(
            grouped(GroupBy::ProtoVer, [5, 4].map(|number| Some(Value::Number(number)))),
            @r#"{"code":0,"meta":{"count":7,"count_is":"at_least","group_by":"proto_ver","groups":{"total":3,"shown":2,"other":1},"nodes":{"total":2,"answered":1,"failed":[{"node":"b@h","reason":"timeout"}]}},"data":[{"value":5,"count":4},{"value":4,"count":2}]}"#
        );
        insta::assert_snapshot!(
            grouped(GroupBy::CleanStart, [true, false].map(|flag| Some(Value::Flag(flag)))),
            @r#"{"code":0,"meta":{"count":7,"count_is":"at_least","group_by":"clean_start","groups":{"total":3,"shown":2,"other":1},"nodes":{"total":2,"answered":1,"failed":[{"node":"b@h","reason":"timeout"}]}},"data":[{"value":true,"count":4},{"value":false,"count":2}]}"#
        );
    }

    /// A reader that turns pages while there is a next one is never refused.
    #[test]
    fn a_page_behind_which_none_may_be_asked_for_has_no_next() {
        let shown = page_of("a@h", &["c"]);
        let key = shown.last().map(|row| Order::default().key(&row.client).into());
        let hasnext = |field, page, limit, next: Option<Key>| {
            let order = Order { field, descending: true };
            let query = ListQuery { order, start: Start::Page(page), limit, ..query() };
            has_next(&query, next.is_some())
        };
        let (by_id, by_figure) = (SortField::Clientid, SortField::MqueueLen);
        for (field, page, limit, expected) in [
            (by_figure, 1, 100, true),
            (by_figure, 99, 100, true),
            (by_figure, 100, 100, false),
            (by_figure, 1427, 7, true),
            // The next would end at 10,003.
            (by_figure, 1428, 7, false),
            (by_figure, 1, 10_000, false),
            (by_id, 100, 100, true),
            (by_id, u64::MAX, 10_000, true),
        ] {
            assert_eq!(
                hasnext(field, page, limit, key.clone()),
                expected,
                "page {page} of {limit} by {field:?}"
            );
            assert!(!hasnext(field, page, limit, None));
        }
    }

    #[test]
    fn a_page_by_cursor_has_no_number_and_the_last_has_no_cursor() {
        let key = Key { clientid: "c".into(), node: "a@h".into(), ..Key::default() };
        let query = ListQuery { start: Start::Cursor(Position::After(key)), ..query() };
        let page = ListAnswer {
            rows: PageRows::default(),
            count: 11,
            has_more: false,
            next: None,
            consistent: true,
            completeness: Completeness { total: 1, answered: 1, failed: vec![] },
        };
        insta::assert_snapshot!(
            written(list(&page, &query, Fields::ALL)),
            @r#"{"code":0,"meta":{"limit":10,"hasnext":false,"cursor":"","count":11,"consistent":true,"nodes":{"total":1,"answered":1,"failed":[]}},"data":[]}"#
        );
        // Where a page by number came out empty though there are more, no cursor says that the list has ended.
        let page = ListAnswer { has_more: true, ..page };
        let query = ListQuery { start: Start::Page(7), ..query };
        let written = written(list(&page, &query, Fields::ALL));
        assert!(written.contains(r#""hasnext":true,"cursor":null,"#), "{written}");
    }
}
