//! Requests to the gateways over the simulated network, one a connection.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::{sleep, timeout};
use turmoil::net::TcpStream;

use crate::hosts::{REQUEST_TIMEOUT, gateway_host};
use crate::truth::Window;
use crate::world::{Shared, now};

/// The most that may pass beyond a request's deadline.
const GRACE_MS: u64 = 250;

/// The most that connection, request and answer spend on the way between client and gateway, milliseconds.
const NETWORK_MS: u64 = 100;

/// Longer than anything may take, exports included.
const PATIENCE: Duration = Duration::from_secs(40);

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) gateway: usize,
    pub(crate) method: &'static str,
    /// Behind the base path.
    pub(crate) target: String,
    /// What the client allows, milliseconds; not for exports.
    pub(crate) timeout_ms: Option<u64>,
    /// When the client leaves, milliseconds.
    pub(crate) leaves_after: Option<u64>,
    /// Of a bulk kick.
    pub(crate) bulk: Option<Bulk>,
}

/// The body of a bulk kick, and what it may take at most.
#[derive(Clone, Debug)]
pub(crate) struct Bulk {
    pub(crate) body: Value,
    /// Clients that it may kick.
    pub(crate) most: u64,
    /// Kicks a second.
    pub(crate) rate: u64,
}

impl Asked {
    pub(crate) fn deadline_ms(&self) -> u64 {
        let most = REQUEST_TIMEOUT.as_millis() as u64;
        self.timeout_ms.map_or(most, |asked| asked.min(most))
    }

    /// What the contract allows for an answer, milliseconds; an export lasts as long as its rows do. In a bulk kick, finding
    /// whom to kick may take the deadline, and each kick as long again: if a node fails most of them, one by one.
    pub(crate) fn most_ms(&self) -> Option<u64> {
        let deadline = self.deadline_ms();
        match &self.bulk {
            _ if self.target.starts_with("/client_export") => None,
            Some(Bulk { most, rate, .. }) => Some(deadline + most * (deadline + 1000 / rate)),
            None => Some(deadline),
        }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) asked: Asked,
    pub(crate) window: Window,
    /// Absent if the connection broke, as it does when a gateway crashes, or the client left.
    pub(crate) answer: Option<Answer>,
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// Whether the body came to its end.
    pub(crate) is_whole: bool,
}

impl Answer {
    /// The body as JSON; what is none is null, as which nothing passes any check.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The lines of the body that are JSON.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = String::from_utf8_lossy(&self.body);
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// Asks, and sees to it that an answer comes in time.
pub(crate) async fn ask(world: &Shared, asked: Asked) -> Answered {
    let from = now();
    let patience = asked.leaves_after.map_or(PATIENCE, Duration::from_millis);
    let answer = tokio::select! {
        answer = timeout(patience, exchange(&asked)) => answer.ok().flatten(),
        // Nobody tells a client that the host it waits for is gone.
        () = crashed(world, asked.gateway, from) => None,
    };
    let window = Window { from, to: now() };
    let may_fail = asked.leaves_after.is_some() || world.lock().gateways[asked.gateway].was_down(from);
    if answer.is_none() && !may_fail {
        world.wrong(format!("no answer at all to {asked:?}"));
    }
    let took = window.to - window.from;
    let most = asked.most_ms().map(|most| most + GRACE_MS + NETWORK_MS);
    if let Some(most) = most.filter(|most| answer.is_some() && took > *most) {
        world.wrong(format!("an answer after {took} ms where {most} are the most, to {asked:?}"));
    }
    let mut state = world.lock();
    state.answers += u64::from(answer.is_some());
    let shown = answer.as_ref().map(|answer| {
        let body = String::from_utf8_lossy(&answer.body);
        format!("{} whole={} {body}", answer.status, answer.is_whole)
    });
    let line = format!(
        "{} {}{} at {} (deadline {}, asked at {from}): {}",
        asked.method,
        asked.target,
        asked.bulk.as_ref().map_or_else(String::new, |bulk| format!(" {}", bulk.body)),
        asked.gateway,
        asked.deadline_ms(),
        shown.as_deref().unwrap_or("nothing")
    );
    state.log(window.to, line);
    drop(state);
    Answered { asked, window, answer }
}

/// Waits until a gateway has been down at some moment since `from`.
async fn crashed(world: &Shared, gateway: usize, from: u64) {
    while !world.lock().gateways[gateway].was_down(from) {
        sleep(Duration::from_millis(50)).await;
    }
}

async fn exchange(asked: &Asked) -> Option<Answer> {
    let stream = TcpStream::connect((gateway_host(asked.gateway).as_str(), 8080)).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    // Ends the connection when the client leaves.
    let _connection = AbortOnDrop(tokio::task::spawn_local(connection));
    let mut request = hyper::Request::builder()
        .method(asked.method)
        .uri(format!("/api/v4{}", asked.target))
        .header("host", "gateway")
        .header("authorization", "Bearer secret");
    if let Some(timeout) = asked.timeout_ms {
        request = request.header("rollcall-timeout-ms", timeout);
    }
    let mut body = Bytes::new();
    if let Some(bulk) = &asked.bulk {
        request = request.header("content-type", "application/json");
        body = bulk.body.to_string().into();
    }
    let response = sender.send_request(request.body(Full::new(body)).ok()?).await.ok()?;
    let status = response.status().as_u16();
    let (mut incoming, mut body) = (response.into_body(), Vec::new());
    let is_whole = loop {
        match incoming.frame().await {
            None => break true,
            Some(Ok(frame)) => body.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Some(Err(_)) => break false,
        }
    };
    Some(Answer { status, body, is_whole })
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
