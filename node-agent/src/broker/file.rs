//! A fixed table of clients from a file, for tests, benches and demos.
//!
//! The file holds one JSON object a line (see [`line`] for its keys); the rows whose `node` is this node are
//! served. It is read as a stream and checked whole before any of it counts: a bad line refuses the start, or
//! leaves the rows as they are if the file went bad later.
//!
//! - A kick takes the row out in memory; the file is never written.
//! - The file is looked at every second (modification time, length, inode). A changed file is the new truth as a
//!   whole: it brings back clients that were kicked, as new sessions. A client that stays (same clientid and
//!   creation time) keeps its session.
//! - Live figures are those of the file; where a line leaves one out, the broker cannot tell it.

mod line;
mod table;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rollcall_proto::SortField;
use rollcall_proto::v1::Statistics;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::{Broker, BrokerError, BrokerInfo, ClientChange, Kick, SessionRef, capabilities, send_resync};
use table::{Clients, Table};

pub use table::FileError;

/// How often the file is looked at.
const POLL: Duration = Duration::from_secs(1);

/// The file, as broker.
#[derive(Debug)]
pub struct FileBroker {
    info: BrokerInfo,
    path: PathBuf,
    node: String,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    table: Table,
    /// The rows as read at start, until they are first asked for, and the file they were read from.
    read: Option<(Clients, Fingerprint)>,
    /// Where kicks are reported.
    kicked: Option<mpsc::UnboundedSender<SessionRef>>,
}

/// Tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl FileBroker {
    /// Reads the file. Blocks while it does.
    ///
    /// # Errors
    /// The file cannot be read, or a line of it is not of the format, also a line of another node.
    pub fn open(path: &Path, node: &str) -> Result<Self, FileError> {
        let mut table = Table::default();
        let fingerprint = Fingerprint::of(path)?;
        let clients = table.replace(table::read(path, node)?);
        if clients.len() == 0 {
            warn!(path = %path.display(), node, "the file has no client of this node");
        }
        let info = BrokerInfo {
            kind: "file",
            version: env!("CARGO_PKG_VERSION").to_owned(),
            // Whatever a line holds.
            capabilities: capabilities(&["kick", "offline-sessions"], &[], &SortField::LIVE),
            mqtt_addresses: Vec::new(),
        };
        let state = State { table, read: Some((clients, fingerprint)), kicked: None };
        Ok(Self { info, path: path.to_owned(), node: node.to_owned(), state: Arc::new(Mutex::new(state)) })
    }

    /// Reads the file anew and makes it the truth.
    async fn reload(&self) -> Result<(Clients, Fingerprint), FileError> {
        let (path, node, state) = (self.path.clone(), self.node.clone(), Arc::clone(&self.state));
        #[expect(clippy::disallowed_methods, reason = "no request waits for it: it belongs to the stream")]
        let reloaded = tokio::task::spawn_blocking(move || {
            let fingerprint = Fingerprint::of(&path)?;
            let rows = table::read(&path, &node)?;
            Ok((lock(&state).table.replace(rows), fingerprint))
        });
        reloaded.await.unwrap_or_else(|error| {
            Err(FileError::Unreadable { path: self.path.clone(), reason: error.to_string() })
        })
    }

    async fn current_fingerprint(&self) -> Option<Fingerprint> {
        tokio::fs::metadata(&self.path).await.ok().map(|metadata| Fingerprint::from(&metadata))
    }
}

impl Fingerprint {
    fn of(path: &Path) -> Result<Self, FileError> {
        let metadata = std::fs::metadata(path).map_err(|error| FileError::unreadable(path, &error))?;
        Ok(Self::from(&metadata))
    }
}

impl From<&std::fs::Metadata> for Fingerprint {
    fn from(metadata: &std::fs::Metadata) -> Self {
        Self { modified: metadata.modified().ok(), length: metadata.len(), inode: metadata.ino() }
    }
}

#[async_trait]
impl Broker for FileBroker {
    fn info(&self) -> BrokerInfo {
        self.info.clone()
    }

    async fn follow(&self, changes: mpsc::Sender<ClientChange>) -> Result<(), BrokerError> {
        let (sender, mut kicked) = mpsc::unbounded_channel();
        let first = {
            let mut state = lock(&self.state);
            state.kicked = Some(sender);
            state.read.take()
        };
        // `None` for a file that could not be read: whatever it is when it can be read again is news.
        let mut seen = None;
        let mut polls = tokio::time::interval(POLL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut news = match first {
            Some(read) => Some(Ok(read)),
            None => Some(self.reload().await),
        };
        loop {
            let sent = match news.take() {
                Some(Ok((clients, fingerprint))) => {
                    info!(path = %self.path.display(), clients = clients.len(), "file read");
                    seen = Some(fingerprint);
                    send_resync(&changes, clients.iter()).await
                }
                Some(Err(error)) => changes.send(ClientChange::BrokerFailed(error.to_string())).await,
                None => Ok(()),
            };
            if sent.is_err() {
                return Ok(());
            }
            tokio::select! {
                () = changes.closed() => return Ok(()),
                ended = kicked.recv() => {
                    // `None`: another stream has taken over, which is told of the kicks from now on.
                    let Some(ended) = ended else { return Ok(()) };
                    if changes.send(ClientChange::Ended(ended)).await.is_err() {
                        return Ok(());
                    }
                }
                _ = polls.tick() => {
                    let now = self.current_fingerprint().await;
                    if now != seen {
                        news = Some(self.reload().await);
                        seen = now;
                    }
                }
            }
        }
    }

    async fn statistics(&self, sessions: &[SessionRef]) -> Vec<Option<Statistics>> {
        let state = lock(&self.state);
        sessions.iter().map(|session| state.table.statistics(session.session)).collect()
    }

    async fn kick(&self, session: &SessionRef) -> Result<Kick, BrokerError> {
        let mut state = lock(&self.state);
        if !state.table.remove(session.session) {
            return Ok(Kick::NotFound);
        }
        if let Some(kicked) = &state.kicked {
            // Nobody follows any more: then nobody needs to know.
            let _ = kicked.send(session.clone());
        }
        Ok(Kick::Kicked)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
