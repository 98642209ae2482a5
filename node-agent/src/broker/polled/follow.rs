//! From looks to the stream of changes.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::Seen;
use super::sessions::{Sessions, lock};
use crate::broker::{BrokerError, ClientChange, send_resync};
use crate::follow::now_ms;

/// How often the index is compared with the broker as a whole, although every difference is reported.
const RESYNC: Duration = Duration::from_secs(60);

/// How often a failure that goes on is reported.
const FAILURE: Duration = Duration::from_secs(60);

/// The pause after an event: more may follow, and one look serves them all.
const AFTER_EVENT: Duration = Duration::from_millis(100);

/// The share of the time that looks may take at the most, as one in so many.
const SHARE: u32 = 4;

/// A broker that can be looked at.
#[async_trait]
pub(crate) trait Source: Send + Sync {
    /// What the adapter keeps of a session.
    type Extra: Clone + Send + Sync + 'static;

    /// Every session there is.
    async fn look(&self) -> Result<Vec<Seen<Self::Extra>>, BrokerError>;

    /// Waits until the broker says that something happened, if it can. To be dropped at any time.
    async fn event(&self) {
        std::future::pending::<()>().await;
    }

    /// From one look to the next, unless something happens.
    fn interval(&self) -> Duration;

    /// The sessions as last seen.
    fn sessions(&self) -> &Mutex<Sessions<Self::Extra>>;
}

/// Looks, and reports what is different, until the receiver is dropped.
pub(crate) async fn follow<S: Source>(source: &S, changes: mpsc::Sender<ClientChange>) {
    let ended = lock(source.sessions()).listen();
    // An error says that nobody listens any more.
    let _ = run(source, &changes, ended).await;
}

type Sent = Result<(), mpsc::error::SendError<ClientChange>>;

async fn run<S: Source>(
    source: &S,
    changes: &mpsc::Sender<ClientChange>,
    mut ended: mpsc::UnboundedReceiver<ClientChange>,
) -> Sent {
    let mut resynced: Option<Instant> = None;
    let mut failed: Option<Instant> = None;
    loop {
        let started = Instant::now();
        let looked = tokio::select! {
            () = changes.closed() => return Ok(()),
            looked = source.look() => looked,
        };
        match looked {
            Ok(seen) => {
                let is_due = failed.is_some() || resynced.is_none_or(|at| at.elapsed() >= RESYNC);
                let (differences, all) = {
                    let mut sessions = lock(source.sessions());
                    let differences = sessions.take(started, seen, now_ms());
                    (differences, is_due.then(|| sessions.clients()))
                };
                if let Some(all) = all {
                    send_resync(changes, all).await?;
                    (resynced, failed) = (Some(Instant::now()), None);
                } else {
                    for change in differences {
                        changes.send(change).await?;
                    }
                }
            }
            Err(error) => {
                debug!(%error, "the broker cannot be looked at");
                if failed.is_none_or(|at| at.elapsed() >= FAILURE) {
                    changes.send(ClientChange::BrokerFailed(error.to_string())).await?;
                    failed = Some(Instant::now());
                }
            }
        }
        // A broker that takes long to answer is asked less often.
        let earliest = started + started.elapsed() * SHARE;
        let mut next = earliest.max(started + source.interval());
        loop {
            tokio::select! {
                () = changes.closed() => return Ok(()),
                () = sleep_until(next) => break,
                // `None`: another stream has taken over, which is told of the kicks from now on.
                ended = ended.recv() => match ended {
                    Some(ended) => changes.send(ended).await?,
                    None => return Ok(()),
                },
                () = source.event() => next = next.min(earliest.max(Instant::now() + AFTER_EVENT)),
            }
        }
    }
}
