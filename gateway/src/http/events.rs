//! What happens to clients, as Server-Sent Events or as JSON lines, for as long as somebody reads.
//!
//! A task of its own writes what the cluster tells into [`pieces`]: a reader that is slow stops it there and falls behind,
//! is told how many events it has lost, and holds up nobody.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use rollcall_proto::Matcher;
use rollcall_proto::v1::event::Kind;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::Drain;
use super::envelope::Nodes;
use super::error::ApiError;
use super::limits::Limits;
use super::pieces::{ClientGone, Pieces, pieces};
use super::query::{self, EventsRequest};
use super::row::{Fields, Row, json as row_json};
use super::time::Millis;
use crate::cluster::{Cluster, EventFollower, EventPosition, Happened, Scope};
use crate::keys::Key;
use crate::live_keys::LiveKeys;

/// Streams at once; more are refused.
pub(super) const MOST_STREAMS: usize = 256;

/// Something is written at least so often, so that both sides notice when the other has gone.
const BEAT: Duration = Duration::from_secs(15);

/// How long a stream that is ended waits for its reader to take what is written.
const END_WAIT: Duration = Duration::from_secs(1);

/// Bytes that are handed over at once, and what passes them of one event.
const PIECE: usize = 64 << 10;

/// Events that are taken at once.
const MOST_AT_ONCE: usize = 256;

/// What ends a stream from this side.
pub(super) struct Ending {
    /// The gateway goes away: the client comes back to another one, or to the next.
    pub(super) drain: Drain,
    /// The key is let in no more.
    pub(super) keys: Arc<LiveKeys>,
    pub(super) key: Key,
}

impl Ending {
    async fn begun(&self) {
        tokio::select! {
            () = self.drain.begun() => {}
            () = self.keys.revoked(&self.key) => {}
        }
    }
}

/// Answers with a stream that goes on by itself.
pub(super) async fn events(
    cluster: &Cluster,
    places: &Arc<Semaphore>,
    limits: Limits,
    parts: &Parts,
    ending: Ending,
    until: Instant,
) -> Result<Response, ApiError> {
    let EventsRequest { matcher, scope, after, is_sse } = query::events(parts)?;
    let full = |_| ApiError::TooManyStreams { limit: MOST_STREAMS };
    let place = Arc::clone(places).try_acquire_owned().map_err(full)?;
    cluster.check_scope(&scope, until).await.map_err(ApiError::of_query)?;
    let follower = cluster.follow(after, until).await;
    let (pieces, taken) = pieces(limits.export_client_timeout);
    let beat_at = Instant::now() + BEAT;
    let writer = Writer { matcher, scope, is_sse, out: Vec::new(), pieces, beat_at, _place: place };
    let writing = AbortOnDropHandle::new(tokio::spawn(writer.write(follower, ending)));
    let mut response = Response::new(taken.body(writing));
    let kind = if is_sse { "text/event-stream" } else { "application/x-ndjson" };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

struct Writer {
    matcher: Matcher,
    scope: Scope,
    is_sse: bool,
    out: Vec<u8>,
    pieces: Pieces,
    /// When something has to be written, if nothing is before. What happens to others does not count.
    beat_at: Instant,
    /// Taken until the end.
    _place: OwnedSemaphorePermit,
}

impl Writer {
    async fn write(mut self, mut follower: EventFollower, ending: Ending) {
        tokio::select! {
            // Whoever has gone needs no end.
            Err(ClientGone) = self.write_all(&mut follower) => {}
            // One that reads is told that this is the end; for one that is behind it breaks off, between two events.
            () = ending.begun() => drop(timeout(END_WAIT, self.pieces.end()).await),
        }
    }

    async fn write_all(&mut self, follower: &mut EventFollower) -> Result<Infallible, ClientGone> {
        if self.is_sse {
            self.out.extend_from_slice(b"retry: 2000\n\n");
        }
        if follower.is_behind {
            self.put_json("resync", follower.position(), &json!({ "node": null }));
        }
        let completeness = follower.completeness(&self.scope);
        self.put_json("ready", follower.position(), &json!({ "nodes": Nodes::whole(&completeness) }));
        loop {
            let EventPosition { epoch, number } = follower.position();
            let since = follower.next(MOST_AT_ONCE);
            let is_all = since.items.len() < MOST_AT_ONCE;
            if since.lost > 0 {
                self.put_json("lost", follower.position(), &json!({ "events": since.lost }));
            }
            for (number, happened) in (number + since.lost + 1..).zip(&since.items) {
                self.happened(happened, EventPosition { epoch, number });
                if self.out.len() >= PIECE {
                    self.hand_over().await?;
                }
            }
            if Instant::now() >= self.beat_at {
                self.beat(follower.position());
            }
            self.hand_over().await?;
            if is_all {
                tokio::select! {
                    () = follower.more() => {}
                    () = sleep_until(self.beat_at) => {}
                    () = self.pieces.client_gone() => return Err(ClientGone),
                }
            } else {
                consume_budget().await;
            }
        }
    }

    /// Hands over what is written.
    async fn hand_over(&mut self) -> Result<(), ClientGone> {
        if !self.out.is_empty() {
            self.pieces.send(std::mem::take(&mut self.out).into()).await?;
            self.beat_at = Instant::now() + BEAT;
        }
        Ok(())
    }

    fn is_of_scope(&self, node: &str) -> bool {
        match &self.scope {
            Scope::All => true,
            Scope::Only(nodes) => nodes.iter().any(|of| of == node),
        }
    }

    fn happened(&mut self, happened: &Happened, position: EventPosition) {
        let (name, body) = match happened {
            Happened::Client { kind, at_ms, client } => {
                if !self.is_of_scope(&client.node) || !self.matcher.matches(&client.as_client_ref()) {
                    return;
                }
                let name = match kind {
                    Kind::Connected => "connected",
                    Kind::Disconnected => "disconnected",
                    Kind::Kicked => "kicked",
                    Kind::Ended => "ended",
                    Kind::Unspecified | Kind::Resynced => return,
                };
                let mut body = b"{\"at\":\"".to_vec();
                Millis(*at_ms).write(&mut body);
                body.extend_from_slice(b"\",\"client\":");
                row_json::write(&Row::of(client, Fields::identity()), &mut body);
                body.push(b'}');
                return self.put(name, position, &body);
            }
            Happened::Up { node } if self.is_of_scope(node) => ("node_up", json!({ "node": node })),
            Happened::Down(failed) if self.is_of_scope(&failed.node) => {
                ("node_down", json!({ "node": failed.node, "reason": failed.reason.as_str() }))
            }
            Happened::Resync { node } if self.is_of_scope(node) => ("resync", json!({ "node": node })),
            Happened::Up { .. } | Happened::Down(_) | Happened::Resync { .. } => return,
        };
        self.put_json(name, position, &body);
    }

    fn put_json(&mut self, name: &str, position: EventPosition, body: &serde_json::Value) {
        self.put(name, position, body.to_string().as_bytes());
    }

    /// Writes an event, whose body is a JSON object that is not empty.
    fn put(&mut self, name: &str, EventPosition { epoch, number }: EventPosition, body: &[u8]) {
        let (start, body, end) = if self.is_sse {
            (format!("id: {epoch:016x}-{number}\nevent: {name}\ndata: "), body, "\n\n")
        } else {
            // The id and the name stand first in the object itself.
            let inside = body.strip_prefix(b"{").unwrap_or(body);
            (format!(r#"{{"id":"{epoch:016x}-{number}","event":"{name}","#), inside, "\n")
        };
        self.out.extend_from_slice(start.as_bytes());
        self.out.extend_from_slice(body);
        self.out.extend_from_slice(end.as_bytes());
    }

    /// Says that nothing has happened of what is asked for; the id lets a reader come back from here.
    fn beat(&mut self, position: EventPosition) {
        if self.is_sse {
            // Without data: a browser takes the id, and tells no event.
            let EventPosition { epoch, number } = position;
            self.out.extend_from_slice(format!(": alive\nid: {epoch:016x}-{number}\n\n").as_bytes());
        } else {
            self.put_json("alive", position, &json!({ "events": 0 }));
        }
    }
}
