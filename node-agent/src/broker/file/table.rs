//! The rows in force: sessions and live figures, without the identity, which the index holds.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use compact_str::CompactString;
use prost::Message as _;
use rollcall_proto::v1::{Client, Statistics};
use thiserror::Error;

use super::line;
use crate::broker::SessionRef;

/// The longest line, bytes: the longest strings MQTT allows, escaped, fit twice over.
const LONGEST_LINE: u64 = 4 << 20;

/// A file that cannot be served.
#[derive(Debug, Error)]
pub enum FileError {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// A line is not of the format.
    #[error("{}:{number}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        number: u64,
        /// Key, value and what was expected.
        reason: String,
    },
}

impl FileError {
    pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        Self::Unreadable { path: path.to_owned(), reason: error.to_string() }
    }
}

/// Reads a file's rows of one node; the rows of others are checked and dropped.
pub(super) fn read(path: &Path, node: &str) -> Result<Vec<Client>, FileError> {
    let unreadable = |error: std::io::Error| FileError::unreadable(path, &error);
    let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let mut clients = Vec::new();
    let mut lines_by_id = HashMap::new();
    let mut text = Vec::new();
    for number in 1.. {
        let wrong = |reason: String| FileError::Line { path: path.to_owned(), number, reason };
        text.clear();
        let mut limited = std::io::Read::take(&mut reader, LONGEST_LINE + 1);
        if limited.read_until(b'\n', &mut text).map_err(unreadable)? == 0 {
            break;
        }
        if text.len() as u64 > LONGEST_LINE {
            return Err(wrong(format!("longer than {LONGEST_LINE} bytes")));
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let client = line::parse(&text).map_err(wrong)?;
        if client.node != node {
            continue;
        }
        match lines_by_id.entry(CompactString::from(&client.clientid)) {
            Entry::Occupied(first) => {
                let (id, first) = (first.key(), first.get());
                return Err(wrong(format!(
                    "clientid {id:?} stands on line {first} already, expected once a node"
                )));
            }
            Entry::Vacant(free) => free.insert(number),
        };
        clients.push(Client { node: String::new(), ..client });
    }
    Ok(clients)
}

#[derive(Debug, Default)]
pub(super) struct Table {
    rows: HashMap<CompactString, Row>,
    last_session: u64,
}

#[derive(Debug)]
struct Row {
    session: u64,
    created_at_ms: Option<i64>,
    /// Encoded: most files tell few figures or none, and all twenty take 320 bytes.
    statistics: Box<[u8]>,
}

impl Table {
    /// Makes these the rows, and gives them their sessions. Their statistics are taken out.
    pub(super) fn replace(&mut self, mut clients: Vec<Client>) -> Vec<Client> {
        let mut rows = HashMap::with_capacity(clients.len());
        for client in &mut clients {
            let id = CompactString::from(&client.clientid);
            let known = self.rows.get(&id).filter(|row| row.created_at_ms == client.created_at_ms);
            client.session = known.map_or_else(
                || {
                    self.last_session += 1;
                    self.last_session
                },
                |row| row.session,
            );
            let statistics = client.statistics.take().unwrap_or_default().encode_to_vec().into_boxed_slice();
            rows.insert(id, Row { session: client.session, created_at_ms: client.created_at_ms, statistics });
        }
        self.rows = rows;
        clients
    }

    pub(super) fn statistics(&self, session: &SessionRef) -> Option<Statistics> {
        let row = self.rows.get(session.clientid.as_str()).filter(|row| row.session == session.session)?;
        // What was encoded here can be decoded.
        Statistics::decode(&*row.statistics).ok()
    }

    /// Ends a session; says whether it was there.
    pub(super) fn remove(&mut self, session: &SessionRef) -> bool {
        let is_there =
            self.rows.get(session.clientid.as_str()).is_some_and(|row| row.session == session.session);
        if is_there {
            self.rows.remove(session.clientid.as_str());
        }
        is_there
    }
}
