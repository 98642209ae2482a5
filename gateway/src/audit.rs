//! Every kick on record: who asked for it, when, from where, what for, and what came of it.
//!
//! One JSON object a line, in a file of its own or, without one, in the log under the target
//! [`TARGET`]. A kick has two lines: `asked` before anything is done, and one with its outcome. A kick whose first line
//! cannot be written is not carried out, so that a full disk or a lost mount hides nothing. There is room for both lines, or
//! it is not carried out either; if the second cannot be written for all that the log says so. A kick that was refused has one line; of those that an address asks for
//! without a right key, twenty lines and one more a second, which counts the others. A request that is dropped midway is on record as
//! `unknown`. A bulk kick has two lines of its own, the first with its body, and between them two for each client, like
//! any kick, under the request's id. No line holds a secret.
//!
//! The file may be moved away while the gateway runs: the next line begins a new one. Lines are handed to the
//! system, not forced to the disk: what the kernel loses with the power is lost.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::http::Json;
use crate::metrics::KickFigures;

/// The target of log lines that hold records.
pub const TARGET: &str = "rollcall_gateway::audit";

/// What came of a kick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// It is about to be carried out.
    Asked,
    /// At least one session was ended.
    Kicked,
    /// Every node said that it has no such client.
    NotFound,
    /// The session that a bulk kick found was gone before it was kicked.
    Gone,
    /// The client had another session by then, and may be connected.
    Moved,
    /// It was not allowed, or could not be understood.
    Refused,
    /// Nothing was ended.
    Failed,
    /// It may have been carried out.
    Unknown,
    /// A bulk kick has come to its end, however its kicks ended.
    Done,
    /// A bulk kick ended before every client was kicked.
    Stopped,
    /// A bulk kick was a dry run.
    DryRun,
}

/// How the kicks of a bulk kick ended, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Totals {
    pub(crate) kicked: u64,
    pub(crate) gone: u64,
    pub(crate) moved: u64,
    pub(crate) not_found: u64,
    pub(crate) failed: u64,
    pub(crate) unknown: u64,
    /// Not begun.
    pub(crate) left: u64,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Record {
    /// RFC 3339, UTC.
    pub(crate) time: String,
    /// The request's id, as in the access log.
    pub(crate) request: Option<String>,
    pub(crate) remote: Option<SocketAddr>,
    /// The id of the key; none if there was no right one.
    pub(crate) key: Option<String>,
    pub(crate) action: &'static str,
    /// As in the path, if that could be read.
    pub(crate) clientid: Option<String>,
    /// The only node to look at, if the path named one.
    pub(crate) node: Option<String>,
    pub(crate) outcome: Outcome,
    /// The body of a bulk kick, with the first of its lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body: Option<Json>,
    /// How the kicks of a bulk kick ended, with the last of its lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) totals: Option<Totals>,
    /// The HTTP status of the answer, once there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    /// Nodes on which sessions were ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) kicked_on: Vec<String>,
    /// Why it did not end well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
}

/// How long a record may take to be written. A kick whose first line takes longer is not carried out; its lines are
/// written all the same when the disk comes round.
const WRITTEN_WITHIN: Duration = Duration::from_secs(2);

/// Records that may wait for the disk, those to come of kicks that are under way included. Beyond them kicks are not
/// recorded, and so not carried out.
const MOST_WAITING: usize = 4_096;

/// Where records go. Clones are the same place.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// To the one thread that writes the file: a disk that hangs holds up that thread and no other.
    lines: Option<mpsc::Sender<Line>>,
    figures: Arc<KickFigures>,
}

/// A record on its way to the file; without text it asks only to be told when those before it are written.
#[derive(Debug)]
struct Line {
    text: Option<String>,
    written: oneshot::Sender<io::Result<()>>,
}

/// Room for one record, which is certain to be taken.
#[derive(Debug)]
pub(crate) struct Place {
    /// In the log where there is none.
    line: Option<mpsc::OwnedPermit<Line>>,
    figures: Arc<KickFigures>,
}

#[derive(Debug)]
struct AuditFile {
    path: PathBuf,
    file: File,
    /// The last line may lack its end.
    torn: bool,
}

impl Outcome {
    /// The word used in records and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Kicked => "kicked",
            Self::NotFound => "not_found",
            Self::Gone => "gone",
            Self::Moved => "moved",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::DryRun => "dry_run",
        }
    }
}

impl Audit {
    /// Records go to the end of this file, which is made if there is none, readable by its owner alone.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn to_file(path: &Path) -> io::Result<Self> {
        let mut file = AuditFile::open(path)?;
        let (lines, mut waiting) = mpsc::channel::<Line>(MOST_WAITING);
        let write = move || {
            while let Some(Line { text, written }) = waiting.blocking_recv() {
                let outcome = text.map_or(Ok(()), |text| file.append(text));
                // Whoever waited may have given up.
                let _ = written.send(outcome);
            }
        };
        // Not waited for at the end: `flush` is, for as long as it may take.
        std::thread::Builder::new().name("audit".to_owned()).spawn(write)?;
        Ok(Self { lines: Some(lines), figures: Arc::default() })
    }

    /// Takes a place for a record to come.
    ///
    /// # Errors
    /// `QuotaExceeded`: there is none.
    pub(crate) fn reserve(&self) -> io::Result<Place> {
        let full = |_| {
            self.figures.failures.inc();
            io::Error::new(io::ErrorKind::QuotaExceeded, "too many records wait for the disk")
        };
        let lines = self.lines.clone().map(mpsc::Sender::try_reserve_owned);
        Ok(Place { line: lines.transpose().map_err(full)?, figures: Arc::clone(&self.figures) })
    }

    /// What came of kicks, and of putting them on record.
    pub(crate) fn figures(&self) -> &KickFigures {
        &self.figures
    }

    /// Records that wait for the disk, and those to come of kicks that are under way.
    pub(crate) fn waiting(&self) -> usize {
        self.lines.as_ref().map_or(0, |lines| lines.max_capacity() - lines.capacity())
    }

    /// Waits until what was put so far is written, though not for long.
    pub(crate) async fn flush(&self) {
        let Some(lines) = &self.lines else { return };
        let (written, is_written) = oneshot::channel();
        let flushed = async {
            if lines.send(Line { text: None, written }).await.is_ok() {
                let _ = is_written.await;
            }
        };
        if timeout(WRITTEN_WITHIN, flushed).await.is_err() {
            tracing::error!("records still wait for the disk at the end, and are lost");
        }
    }
}

impl Place {
    /// Puts a record here.
    ///
    /// # Errors
    /// The file takes no more. `TimedOut`: it has not taken this one yet, and may still do.
    pub(crate) async fn put(self, record: &Record) -> io::Result<()> {
        let figures = Arc::clone(&self.figures);
        let outcome = self.write(record).await;
        if outcome.is_err() {
            figures.failures.inc();
        }
        outcome
    }

    async fn write(self, record: &Record) -> io::Result<()> {
        let line = serde_json::to_string(record)?;
        let Some(place) = self.line else {
            tracing::info!(target: TARGET, record = line, "audit");
            return Ok(());
        };
        let (written, is_written) = oneshot::channel();
        place.send(Line { text: Some(line), written });
        let ended = |_| io::Error::other("the audit log's thread has ended");
        match timeout(WRITTEN_WITHIN, is_written).await {
            Ok(outcome) => outcome.map_err(ended)?,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the disk takes its time")),
        }
    }
}

impl AuditFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).read(true).create(true).mode(0o600).open(path)?;
        let torn = lacks_end(&file)?;
        Ok(Self { path: path.to_owned(), file, torn })
    }

    fn append(&mut self, mut line: String) -> io::Result<()> {
        self.follow_path()?;
        line.push('\n');
        if self.torn {
            line.insert(0, '\n');
        }
        // Whether any of it was written is not known after an error.
        self.torn = true;
        self.file.write_all(line.as_bytes())?;
        self.torn = false;
        Ok(())
    }

    /// Opens the path again if another file, or none, has its place.
    fn follow_path(&mut self) -> io::Result<()> {
        let own = self.file.metadata()?;
        let is_same = match std::fs::metadata(&self.path) {
            Ok(there) => (there.dev(), there.ino()) == (own.dev(), own.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if !is_same {
            *self = Self::open(&self.path)?;
        }
        Ok(())
    }
}

/// Whether a file ends in the middle of a line, as one does on which the disk was full or the power was lost.
fn lacks_end(file: &File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.read_exact_at(&mut last, metadata.len() - 1)?;
    Ok(last != [b'\n'])
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    fn record(clientid: &str) -> Record {
        Record {
            time: "2026-01-01T00:00:00Z".into(),
            request: Some("r1".into()),
            remote: Some(SocketAddr::from(([10, 0, 0, 1], 5000))),
            key: Some("ops".into()),
            action: "kick",
            clientid: Some(clientid.into()),
            node: None,
            outcome: Outcome::Kicked,
            body: None,
            totals: None,
            status: Some(200),
            kicked_on: vec!["a@h".into()],
            message: None,
        }
    }

    async fn put(audit: &Audit, record: &Record) -> io::Result<()> {
        audit.reserve()?.put(record).await
    }

    #[tokio::test]
    async fn records_are_lines_and_the_file_may_be_moved_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let audit = Audit::to_file(&path).unwrap();
        put(&audit, &record("line\n\"1\"")).await.unwrap();
        let moved = folder.path().join("audit.jsonl.1");
        std::fs::rename(&path, &moved).unwrap();
        put(&audit, &record("2")).await.unwrap();
        insta::assert_snapshot!(std::fs::read_to_string(&moved).unwrap(), @r#"{"time":"2026-01-01T00:00:00Z","request":"r1","remote":"10.0.0.1:5000","key":"ops","action":"kick","clientid":"line\n\"1\"","node":null,"outcome":"kicked","status":200,"kicked_on":["a@h"]}"#);
        assert!(std::fs::read_to_string(&path).unwrap().contains(r#""clientid":"2""#));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_line_that_was_torn_does_not_spoil_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let audit = Audit::to_file(&path).unwrap();
        put(&audit, &record("first")).await.unwrap();
        // As a full disk leaves it, and the next start finds it.
        std::fs::write(&path, r#"{"time":"#).unwrap();
        let audit = Audit::to_file(&path).unwrap();
        put(&audit, &record("whole")).await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!((text.lines().count(), &last["clientid"]), (2, &"whole".into()));
    }

    #[tokio::test]
    async fn a_disk_that_hangs_holds_up_nobody_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        // A pipe that nobody reads takes some hundred lines, and then none.
        let audit = Audit::to_file(&path).unwrap();
        let begun = std::time::Instant::now();
        let line = record("c");
        let puts = (0..6_000).map(|_| put(&audit, &line));
        let kinds: Vec<_> = futures::future::join_all(puts)
            .await
            .into_iter()
            .map(|outcome| outcome.map_err(|error| error.kind()))
            .collect();
        for expected in [Ok(()), Err(io::ErrorKind::TimedOut), Err(io::ErrorKind::QuotaExceeded)] {
            assert!(kinds.contains(&expected), "{expected:?} is not among them");
        }
        audit.flush().await;
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        // It comes round: what waited is written, in order.
        let pipe = File::open(&path).unwrap();
        let reading = std::thread::spawn(move || {
            let lines = BufReader::new(pipe).lines().map_while(Result::ok);
            lines.take_while(|line| !line.contains("\"last\"")).count()
        });
        audit.flush().await;
        put(&audit, &record("last")).await.unwrap();
        let written = kinds.iter().filter(|kind| **kind != Err(io::ErrorKind::QuotaExceeded)).count();
        assert_eq!(reading.join().unwrap(), written);
    }

    #[tokio::test]
    async fn a_full_disk_is_an_error() {
        let audit = Audit::to_file(Path::new("/dev/full")).unwrap();
        let error = put(&audit, &record("c")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(Audit::to_file(Path::new("/nowhere/audit")).is_err());
    }
}
