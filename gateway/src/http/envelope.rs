//! The JSON bodies around rows: `code`, `meta`, `data`; and errors.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use rollcall_proto::v1::Client;
use serde::{Serialize, Serializer};

use super::query::cursor_behind;
use super::row::{Fields, Row};
use crate::cluster::{CountAnswer, GetAnswer, KickAnswer, ListAnswer, ListQuery, Start};
use crate::page::completeness::{Completeness, FailedNode};
use crate::page::groups::{Group, GroupBy, Value};

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
pub(super) fn list<'a>(
    answer: &'a ListAnswer,
    query: &ListQuery,
    fields: Fields,
) -> impl Serialize + use<'a> {
    let meta = ListMeta {
        page: match query.start {
            Start::Page(page) => Some(page),
            Start::Cursor(_) => None,
        },
        limit: query.limit,
        hasnext: answer.next.is_some(),
        cursor: cursor_behind(query, answer.next.as_ref()),
        count: answer.count,
        consistent: answer.consistent,
        nodes: Nodes::whole(&answer.completeness),
    };
    Answer::new(meta, Rows { clients: &answer.rows, fields })
}

/// Every session of a client.
pub(super) fn get(answer: &GetAnswer, fields: Fields) -> impl Serialize {
    Answer::new(NodesMeta::of(&answer.completeness), Rows { clients: &answer.rows, fields })
}

/// A count and its groups.
pub(super) fn count(answer: &CountAnswer, group_by: Option<GroupBy>) -> impl Serialize {
    let groups = answer.top.as_ref().map_or(&[][..], |top| &top.groups);
    let meta = CountMeta {
        count: answer.count,
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

/// The sessions that a kick ended, one a node.
pub(super) fn kick<'a>(answer: &'a KickAnswer, clientid: &'a str) -> impl Serialize {
    let kicked: Vec<_> = answer.kicked_on.iter().map(|node| Kicked { node, clientid }).collect();
    Answer::new(NodesMeta::of(&answer.completeness), kicked)
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
    consistent: bool,
    nodes: Nodes<'a>,
}

#[derive(Serialize)]
struct CountMeta<'a> {
    count: u64,
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

struct Rows<'a> {
    clients: &'a [Client],
    fields: Fields,
}

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.clients.iter().map(|client| Row { client, fields: self.fields }))
    }
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
    let (status, body) = match serde_json::to_vec(body) {
        Ok(body) => (status, body),
        Err(error) => {
            // Nothing we write can fail to be JSON: keys are text and writing to memory cannot fail.
            tracing::error!(%error, "response cannot be written");
            (StatusCode::INTERNAL_SERVER_ERROR, br#"{"code":102,"message":"internal error"}"#.to_vec())
        }
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use rollcall_proto::v1::{Filter, Key};
    use rollcall_proto::{Order, Reason};

    use super::*;
    use crate::cluster::Scope;
    use crate::page::cursor::Position;
    use crate::page::groups::Top;

    fn completeness() -> Completeness {
        let failed = vec![FailedNode { node: "b@h".into(), reason: Reason::Timeout }];
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

    #[test]
    fn the_three_bodies() {
        let fields = Fields::parse("clientid,node").unwrap();
        let row = Client { node: "a@h".into(), clientid: "c".into(), ..Client::default() };
        let next = Some(Order::default().key(&row.as_client_ref()).into());
        let page = ListAnswer {
            rows: vec![row.clone()],
            count: 11,
            next,
            consistent: true,
            completeness: completeness(),
        };
        let query = query();
        insta::assert_snapshot!(
            text(&list(&page, &query, fields)),
            @r#"{"code":0,"meta":{"page":1,"limit":10,"hasnext":true,"cursor":"AVskOf8M-Q0tAAAIIgFjKgNhQGg","count":11,"consistent":true,"nodes":{"total":2,"answered":1,"failed":[{"node":"b@h","reason":"timeout"}]}},"data":[{"node":"a@h","clientid":"c"}]}"#
        );
        let found = GetAnswer { rows: vec![row], completeness: completeness() };
        insta::assert_snapshot!(
            text(&get(&found, fields)),
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
            @r#"{"code":0,"meta":{"count":7,"nodes":{"total":2,"answered":1,"failed":[{"node":"b@h","reason":"timeout"}]}},"data":[]}"#
        );
        insta::assert_snapshot!(
            grouped(GroupBy::Username, [Some(Value::Text("undefined".into())), None]),
            @r#"{"code":0,"meta":{"count":7,"group_by":"username","groups":{"total":3,"shown":2,"other":1},"nodes":{"total":2,"answered":1,"failed":[{"node":"b@h","reason":"timeout"}]}},"data":[{"value":"undefined","count":4},{"value":null,"count":2}]}"#
        );
        insta::assert_snapshot!(
            grouped(GroupBy::ProtoVer, [5, 4].map(|number| Some(Value::Number(number)))),
            @r#"{"code":0,"meta":{"count":7,"group_by":"proto_ver","groups":{"total":3,"shown":2,"other":1},"nodes":{"total":2,"answered":1,"failed":[{"node":"b@h","reason":"timeout"}]}},"data":[{"value":5,"count":4},{"value":4,"count":2}]}"#
        );
        insta::assert_snapshot!(
            grouped(GroupBy::CleanStart, [true, false].map(|flag| Some(Value::Flag(flag)))),
            @r#"{"code":0,"meta":{"count":7,"group_by":"clean_start","groups":{"total":3,"shown":2,"other":1},"nodes":{"total":2,"answered":1,"failed":[{"node":"b@h","reason":"timeout"}]}},"data":[{"value":true,"count":4},{"value":false,"count":2}]}"#
        );
    }

    #[test]
    fn a_page_by_cursor_has_no_number_and_the_last_has_no_cursor() {
        let key = Key { clientid: "c".into(), node: "a@h".into(), ..Key::default() };
        let query = ListQuery { start: Start::Cursor(Position::After(key)), ..query() };
        let page = ListAnswer {
            rows: vec![],
            count: 11,
            next: None,
            consistent: true,
            completeness: Completeness { total: 1, answered: 1, failed: vec![] },
        };
        insta::assert_snapshot!(
            text(&list(&page, &query, Fields::ALL)),
            @r#"{"code":0,"meta":{"limit":10,"hasnext":false,"cursor":"","count":11,"consistent":true,"nodes":{"total":1,"answered":1,"failed":[]}},"data":[]}"#
        );
    }
}
