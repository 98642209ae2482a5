//! A closed-loop load generator: so many connections, on each one request after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::client::Connection;
use crate::subject::Target;

/// What came of one measurement.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) elapsed: Duration,
    /// One per request.
    pub(crate) latencies: Vec<Duration>,
    /// Of the first request, which is not among the others.
    pub(crate) first: Duration,
    /// What it brought.
    pub(crate) body: Vec<u8>,
}

/// The generator.
#[derive(Debug)]
pub(crate) struct Load {
    runtime: Runtime,
    duration: Duration,
}

/// What one connection has to tell.
struct Told {
    first: Duration,
    body: Vec<u8>,
    start: Instant,
    end: Instant,
    latencies: Vec<Duration>,
}

impl Load {
    /// Measures for so long at a time.
    pub(crate) fn new(duration: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Self { runtime: runtime.expect("a runtime"), duration }
    }

    /// Runs anything else that waits.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// One request; its body if the answer is a 200.
    pub(crate) fn get(&self, target: &Target) -> Result<Vec<u8>, String> {
        self.block_on(async {
            let mut body = Vec::new();
            let mut connection = Connection::open(&target.authority).await?;
            let reply = connection.ask(&target.request(), &mut |data| body.extend_from_slice(data)).await?;
            offered(reply.status).map(|()| body)
        })
    }

    /// Asks over so many connections, each of which has been answered once before; at least one more request each.
    /// Fails if any answer is no 200.
    pub(crate) fn run(&self, target: &Arc<Target>, connections: usize) -> Result<Outcome, String> {
        let together = Arc::new(Barrier::new(connections));
        let told = self.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..connections {
                tasks.spawn(one(Arc::clone(target), Arc::clone(&together), self.duration));
            }
            tasks.join_all().await
        });
        let mut told = told.into_iter().collect::<Result<Vec<Told>, String>>()?;
        let start = told.iter().map(|told| told.start).min();
        let end = told.iter().map(|told| told.end).max();
        let elapsed = start.zip(end).map_or(Duration::ZERO, |(start, end)| end - start);
        let latencies = told.iter_mut().flat_map(|told| std::mem::take(&mut told.latencies)).collect();
        let first = told.swap_remove(0);
        Ok(Outcome { elapsed, latencies, first: first.first, body: first.body })
    }
}

/// What one connection does. All begin together, once each has been answered.
async fn one(target: Arc<Target>, together: Arc<Barrier>, duration: Duration) -> Result<Told, String> {
    let mut body = Vec::new();
    let ready = async {
        let mut connection = Connection::open(&target.authority).await?;
        let asked = Instant::now();
        let reply = connection.ask(&target.request(), &mut |data| body.extend_from_slice(data)).await?;
        offered(reply.status)?;
        Ok::<_, String>((connection, asked.elapsed()))
    }
    .await;
    together.wait().await;
    let (mut connection, first) = ready?;
    let start = Instant::now();
    let mut latencies = Vec::new();
    loop {
        let asked = Instant::now();
        let reply = connection.ask(&target.request(), &mut |_| {}).await?;
        offered(reply.status)?;
        latencies.push(asked.elapsed());
        if start.elapsed() >= duration {
            return Ok(Told { first, body, start, end: Instant::now(), latencies });
        }
    }
}

/// Whether the server knows what it was asked for.
fn offered(status: u16) -> Result<(), String> {
    match status {
        200 => Ok(()),
        status => Err(format!("not offered ({status})")),
    }
}
