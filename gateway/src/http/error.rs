//! The one table from what went wrong to status, code and message.
//!
//! Codes are EMQX's; the status is chosen by how the reader will react. Messages name the parameter, the value and
//! what was expected. What only the operator can use goes to the log instead.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{ALLOW, CONNECTION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use rollcall_proto::Reason;
use thiserror::Error;

use super::auth::Refused;
use super::bulk::BadBody;
use super::decode::{InvalidEncoding, Shown};
use super::envelope::{self, Code, ErrorBody, Nodes};
use super::query::BadParameter;
use crate::cluster::ClusterError;
use crate::page::completeness::{Completeness, in_words};

/// The limit that a request was refused by: left for the metrics.
#[derive(Clone, Copy, Debug)]
pub(super) struct RefusedBy(pub(super) &'static str);

/// Every limit that a request can be refused by.
pub(crate) const LIMITS: [&str; 9] = [
    "wrong_keys",
    "requests",
    "heavy_requests",
    "exports",
    "event_streams",
    "bulk_kicks",
    "unread_answers",
    "unrecorded",
    "draining",
];

/// Why a request has no answer.
#[derive(Debug, Error)]
pub(crate) enum ApiError {
    /// No key, or none that is known.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// Too many wrong keys came from the address.
    #[error("too many wrong keys from this address, try again in {seconds} s")]
    TooManyGuesses {
        /// When it may try again.
        seconds: u64,
    },
    /// The key may only read.
    #[error("key {key:?} has the role viewer, expected operator")]
    Forbidden {
        /// The key's id.
        key: String,
    },
    /// The path is none of the API's.
    #[error("there is nothing at this path")]
    NoRoute,
    /// The path is, the method is not.
    #[error("this method is not allowed here, expected one of {allow}")]
    MethodNotAllowed {
        /// The value of `Allow`.
        allow: &'static str,
    },
    /// A part of the path cannot be decoded.
    #[error("{name} {} in the path: {why}", Shown(value))]
    BadPath {
        /// The part.
        name: &'static str,
        /// As it came.
        value: String,
        /// What is wrong with it.
        why: InvalidEncoding,
    },
    /// A query parameter is wrong.
    #[error("{0}")]
    BadParameter(#[from] BadParameter),
    /// The body of a bulk kick is wrong.
    #[error("{0}")]
    BadBody(#[from] BadBody),
    /// A header of ours is wrong.
    #[error("header {name}: {value}, expected {expected}")]
    BadHeader {
        /// Its name.
        name: &'static str,
        /// As it came, ready to be shown.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The request's body broke off or took too long.
    #[error("the request's body did not arrive")]
    BodyBroken,
    /// URL, head or body are over their limit.
    #[error("{what} of {bytes} bytes, expected at most {limit}")]
    TooLarge {
        /// What is, and of which header where it is one.
        what: String,
        /// How large it is, at least.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The gateway answers as many requests as it may.
    #[error("the gateway is answering {limit} requests already, try again later")]
    Overloaded {
        /// The limit.
        limit: usize,
    },
    /// The gateway answers as many heavy requests as it may.
    #[error("the gateway is answering {limit} heavy requests already, try again later or ask for fewer rows")]
    TooManyHeavy {
        /// The limit.
        limit: usize,
    },
    /// The gateway writes as many exports as it may.
    #[error("the gateway is writing {limit} exports already, try again later")]
    TooManyExports {
        /// The limit.
        limit: usize,
    },
    /// The gateway carries out as many bulk kicks as it may.
    #[error("the gateway is carrying out {limit} bulk kicks already, try again later")]
    TooManyBulkKicks {
        /// The limit.
        limit: usize,
    },
    /// The gateway writes as many streams of events as it may.
    #[error("the gateway is writing {limit} streams of events already, try again later")]
    TooManyStreams {
        /// The limit.
        limit: usize,
    },
    /// A bulk kick would hit more clients than it may.
    #[error("{count} {what}, expected at most {most}, which is max; nobody was kicked")]
    TooManyToKick {
        /// How many, at least.
        count: u64,
        /// Of what, and a verb.
        what: &'static str,
        /// The limit.
        most: usize,
    },
    /// The gateway holds as much of answers as it may.
    #[error(
        "the gateway holds as much of answers that were not read yet as it may, try again later or ask for fewer rows"
    )]
    TooMuchUnread,
    /// A kick cannot be put on record first.
    #[error("the kick is not carried out, as it cannot be put on record; see the gateway's log")]
    Unrecorded,
    /// The gateway is shutting down.
    #[error("the gateway is shutting down")]
    Draining,
    /// The deadline passed.
    #[error("no answer within the deadline{}", if *kick { "; the kick may have been carried out" } else { "" })]
    Deadline {
        /// Whether it was asked for one.
        kick: bool,
    },
    /// A defect of the gateway.
    #[error("internal error, see the gateway's log for request {request}")]
    Internal {
        /// The request's id.
        request: String,
    },
    /// The cluster has no answer; the scope, if any, came from the path.
    #[error("{0}")]
    Cluster(#[from] ClusterError),
    /// `_node` names a node that is not of the cluster.
    #[error("parameter _node={}: expected the name of a node, one of {}", Shown(name), known.join(", "))]
    UnknownNode {
        /// As asked for.
        name: String,
        /// The nodes there are.
        known: Vec<String>,
    },
    /// `_partial=false`, and some nodes did not answer.
    #[error("not every node answered, and _partial=false asks for all: {}", in_words(&.0.failed))]
    Partial(Completeness),
    /// Some nodes did not answer, so that it is not known who is to be kicked.
    #[error("not every node answered, so nobody was kicked, expected \"partial\": true to kick the clients of those that did: {}", in_words(&.0.failed))]
    PartialKick(Completeness),
    /// Some nodes did not answer, and the format has no place to say so.
    #[error("not every node answered, which a CSV cannot say, expected _partial=true to have it nevertheless: {}", in_words(&.0.failed))]
    PartialCsv(Completeness),
}

impl ApiError {
    /// An error of the cluster where the nodes were named by the query, in `_node`.
    pub(super) fn of_query(error: ClusterError) -> Self {
        match error {
            ClusterError::UnknownNode { name, known } => Self::UnknownNode { name, known },
            error => error.into(),
        }
    }

    /// The table.
    pub(crate) fn verdict(&self) -> (StatusCode, Code) {
        match self {
            Self::Refused(_) => (StatusCode::UNAUTHORIZED, Code::Unknown),
            Self::TooManyGuesses { .. } => (StatusCode::TOO_MANY_REQUESTS, Code::Unknown),
            Self::Forbidden { .. } => (StatusCode::FORBIDDEN, Code::Unknown),
            Self::NoRoute => (StatusCode::NOT_FOUND, Code::Unknown),
            Self::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, Code::Unknown),
            Self::BadPath { .. }
            | Self::BadParameter(_)
            | Self::BadBody(_)
            | Self::BadHeader { .. }
            | Self::UnknownNode { .. } => (StatusCode::BAD_REQUEST, Code::BadParameter),
            Self::BodyBroken => (StatusCode::BAD_REQUEST, Code::Unknown),
            Self::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, Code::Unknown),
            Self::TooManyToKick { .. } => (StatusCode::CONFLICT, Code::BadParameter),
            Self::Overloaded { .. }
            | Self::TooManyHeavy { .. }
            | Self::TooManyExports { .. }
            | Self::TooManyStreams { .. }
            | Self::TooManyBulkKicks { .. }
            | Self::TooMuchUnread
            | Self::Unrecorded
            | Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, Code::Unknown),
            Self::Deadline { .. } => (StatusCode::GATEWAY_TIMEOUT, Code::NodeFailure),
            Self::Internal { .. } => (StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown),
            Self::Partial(_) | Self::PartialCsv(_) | Self::PartialKick(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, Code::NodeFailure)
            }
            Self::Cluster(error) => match error {
                ClusterError::UnknownNode { .. } => (StatusCode::NOT_FOUND, Code::NodeFailure),
                ClusterError::NotFound { .. } => (StatusCode::NOT_FOUND, Code::ClientNotFound),
                ClusterError::NodeNotYetKnown { .. }
                | ClusterError::NobodyAnswered { .. }
                | ClusterError::BrokeOff { .. }
                | ClusterError::PlaceUnknown { .. }
                | ClusterError::NotFoundIncomplete { .. }
                | ClusterError::Moved { .. } => (StatusCode::SERVICE_UNAVAILABLE, Code::NodeFailure),
                ClusterError::CursorLost { .. } | ClusterError::TooManyGroups => {
                    (StatusCode::BAD_REQUEST, Code::BadParameter)
                }
                ClusterError::OwnerFailed { owner, .. } if owner.reason == Reason::Timeout => {
                    (StatusCode::GATEWAY_TIMEOUT, Code::NodeFailure)
                }
                ClusterError::OwnerFailed { .. } => (StatusCode::BAD_GATEWAY, Code::NodeFailure),
            },
        }
    }

    /// The limit of the gateway that a refusal is due to, as metrics name it.
    fn refusal(&self) -> Option<&'static str> {
        Some(match self {
            Self::TooManyGuesses { .. } => "wrong_keys",
            Self::Overloaded { .. } => "requests",
            Self::TooManyHeavy { .. } => "heavy_requests",
            Self::TooManyExports { .. } => "exports",
            Self::TooManyStreams { .. } => "event_streams",
            Self::TooManyBulkKicks { .. } => "bulk_kicks",
            Self::TooMuchUnread => "unread_answers",
            Self::Unrecorded => "unrecorded",
            Self::Draining => "draining",
            _ => return None,
        })
    }

    /// What is known of the nodes that were asked.
    fn nodes(&self) -> Option<Nodes<'_>> {
        match self {
            Self::Partial(completeness)
            | Self::PartialCsv(completeness)
            | Self::PartialKick(completeness) => Some(Nodes::whole(completeness)),
            Self::Cluster(
                ClusterError::NobodyAnswered { failed }
                | ClusterError::BrokeOff { failed }
                | ClusterError::PlaceUnknown { failed }
                | ClusterError::NotFoundIncomplete { failed, .. }
                | ClusterError::OwnerFailed { failed, .. },
            ) => Some(Nodes::failed(failed)),
            Self::Cluster(ClusterError::Moved { failed, .. }) => {
                Some(failed).filter(|failed| !failed.is_empty()).map(|failed| Nodes::failed(failed))
            }
            _ => None,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = self.verdict();
        let body = ErrorBody::new(code, self.to_string(), self.nodes());
        let mut response = envelope::json(status, &body);
        if let Some(limit) = self.refusal() {
            response.extensions_mut().insert(RefusedBy(limit));
        }
        let headers = response.headers_mut();
        match self {
            Self::Refused(_) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(r#"Basic realm="rollcall""#));
            }
            Self::MethodNotAllowed { allow } => {
                headers.insert(ALLOW, HeaderValue::from_static(allow));
            }
            Self::TooManyGuesses { seconds } => {
                headers.insert(RETRY_AFTER, seconds.into());
            }
            Self::Overloaded { .. } | Self::TooManyHeavy { .. } | Self::TooMuchUnread => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::TooManyExports { .. } | Self::TooManyStreams { .. } | Self::TooManyBulkKicks { .. } => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("10"));
            }
            // What is left of the body is not worth reading.
            Self::TooLarge { .. } | Self::BodyBroken => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::cluster::Lost;
    use crate::page::completeness::FailedNode;

    fn node(name: &str, reason: Reason) -> FailedNode {
        FailedNode::new(name, reason)
    }

    #[tokio::test]
    async fn the_table() {
        let failed = || vec![node("b@h", Reason::Timeout), node("c@h", Reason::Unreachable)];
        let clientid = || "c/1".to_owned();
        let known = || vec!["a@h".to_owned(), "b@h".to_owned()];
        let owner_failed = |reason| ClusterError::OwnerFailed {
            clientid: clientid(),
            owner: node("a@h", reason),
            failed: vec![node("a@h", reason)],
            kicked_on: if reason == Reason::Draining { known() } else { vec![] },
        };
        let lost = |lost| ClusterError::CursorLost { lost };
        let errors: Vec<ApiError> = vec![
            Refused::Missing.into(),
            Refused::Malformed("x").into(),
            Refused::Wrong.into(),
            ApiError::TooManyGuesses { seconds: 2 },
            ApiError::Unrecorded,
            ApiError::Forbidden { key: "dash".into() },
            ApiError::NoRoute,
            ApiError::MethodNotAllowed { allow: "GET, HEAD" },
            ApiError::BadPath { name: "clientid", value: "%zz".into(), why: InvalidEncoding::Percent },
            ApiError::BadHeader {
                name: "Rollcall-Timeout-Ms",
                value: "\"x\"".into(),
                expected: "an integer",
            },
            ApiError::BodyBroken,
            ApiError::TooLarge { what: "URL".into(), bytes: 20_000, limit: 16_384 },
            ApiError::Overloaded { limit: 512 },
            ApiError::TooManyHeavy { limit: 16 },
            ApiError::TooManyExports { limit: 4 },
            ApiError::TooManyBulkKicks { limit: 2 },
            ApiError::TooManyToKick { count: 1001, what: "sessions match", most: 1000 },
            BadBody::Nobody.into(),
            ClusterError::BrokeOff { failed: failed() }.into(),
            ApiError::PartialKick(Completeness { total: 3, answered: 1, failed: failed() }),
            ApiError::TooMuchUnread,
            ApiError::Draining,
            ApiError::Deadline { kick: false },
            ApiError::Deadline { kick: true },
            ApiError::Internal { request: "r1".into() },
            ClusterError::UnknownNode { name: "x".into(), known: known() }.into(),
            ApiError::UnknownNode { name: "x".into(), known: known() },
            ClusterError::NodeNotYetKnown { name: "x".into(), silent: vec!["127.0.0.1:1".into()] }.into(),
            ClusterError::NobodyAnswered { failed: failed() }.into(),
            ClusterError::NotFoundIncomplete { clientid: clientid(), failed: failed() }.into(),
            ClusterError::NotFound { clientid: clientid() }.into(),
            lost(Lost::Client { node: "a@h".into() }).into(),
            lost(Lost::Value { field: "username" }).into(),
            lost(Lost::Node { node: "a@h".into() }).into(),
            ClusterError::PlaceUnknown { failed: failed() }.into(),
            ClusterError::TooManyGroups.into(),
            ClusterError::Moved { clientid: clientid(), kicked_on: vec![], failed: vec![] }.into(),
            ClusterError::Moved { clientid: clientid(), kicked_on: known(), failed: failed() }.into(),
            owner_failed(Reason::Timeout).into(),
            owner_failed(Reason::Unreachable).into(),
            owner_failed(Reason::Draining).into(),
            ApiError::Partial(Completeness { total: 3, answered: 1, failed: failed() }),
            ApiError::PartialCsv(Completeness { total: 3, answered: 1, failed: failed() }),
        ];
        let mut table = String::new();
        for error in errors {
            let response = error.into_response();
            let status = response.status();
            assert_eq!(response.headers()["content-type"], "application/json");
            let extra: Vec<String> = [&WWW_AUTHENTICATE, &ALLOW, &RETRY_AFTER, &CONNECTION]
                .into_iter()
                .filter_map(|name| {
                    Some(format!(" {name}: {}", response.headers().get(name)?.to_str().unwrap()))
                })
                .collect();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let body = std::str::from_utf8(&body).unwrap();
            table += &format!("{}{}\n  {body}\n", status.as_u16(), extra.concat());
        }
        insta::assert_snapshot!(table);
    }
}
