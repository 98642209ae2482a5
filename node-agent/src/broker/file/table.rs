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

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "a";

    fn write(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn refused(text: &str) -> String {
        let file = write(text);
        let message = read(file.path(), NODE).unwrap_err().to_string();
        message.strip_prefix(&format!("{}:", file.path().display())).unwrap_or(&message).to_owned()
    }

    fn client(clientid: &str, created_at_ms: i64, mqueue_len: Option<u64>) -> Client {
        Client {
            clientid: clientid.to_owned(),
            created_at_ms: Some(created_at_ms),
            statistics: Some(Statistics { mqueue_len, ..Statistics::default() }),
            ..Client::default()
        }
    }

    fn sessions(clients: &[Client]) -> Vec<u64> {
        clients.iter().map(|client| client.session).collect()
    }

    #[test]
    fn only_rows_of_the_node_are_kept() {
        let file = write(concat!(
            "{\"node\":\"a\",\"clientid\":\"1\"}\n\n  \n",
            "{\"node\":\"b\",\"clientid\":\"1\"}\r\n",
            "{\"node\":\"a\",\"clientid\":\"2\"}",
        ));
        let clients = read(file.path(), NODE).unwrap();
        let ids: Vec<_> = clients.iter().map(|row| (row.node.as_str(), row.clientid.as_str())).collect();
        assert_eq!(ids, [("", "1"), ("", "2")]);
        assert!(read(write("").path(), NODE).unwrap().is_empty());
    }

    #[test]
    fn a_bad_line_is_named_with_file_and_number_whatever_its_node() {
        let good = r#"{"node":"a","clientid":"1"}"#;
        assert_eq!(
            refused(&format!("{good}\n\n{good}")),
            "3: clientid \"1\" stands on line 1 already, expected once a node"
        );
        assert_eq!(
            refused(&format!("{good}\n{{\"node\":\"b\",\"clientid\":\"1\",\"port\":-1}}")),
            "2: port: invalid value: integer `-1`, expected u16"
        );
        assert!(refused(&format!("{good}\n{{\"node\":")).starts_with("2: column "));
        let long = " ".repeat(usize::try_from(LONGEST_LINE).unwrap() + 1);
        assert_eq!(refused(&format!("{good}\n{long}")), format!("2: longer than {LONGEST_LINE} bytes"));
        let nowhere = read(Path::new("/nowhere/clients.ndjson"), NODE).unwrap_err().to_string();
        assert!(nowhere.starts_with("cannot read /nowhere/clients.ndjson: "), "{nowhere}");
    }

    #[test]
    fn a_session_stays_with_its_row_and_is_never_used_again() {
        let mut table = Table::default();
        let rows = || vec![client("1", 5, Some(0)), client("2", 5, None)];
        let first = table.replace(rows());
        assert_eq!(sessions(&first), [1, 2]);
        assert!(first.iter().all(|client| client.statistics.is_none()));
        assert_eq!(sessions(&table.replace(rows())), [1, 2], "nothing has changed");
        let session = |clientid: &str, session| SessionRef { clientid: clientid.to_owned(), session };
        let figures = table.statistics(&session("1", 1)).unwrap();
        assert_eq!(figures, Statistics { mqueue_len: Some(0), ..Statistics::default() });
        assert_eq!(table.statistics(&session("2", 2)), Some(Statistics::default()));
        assert_eq!(table.statistics(&session("1", 2)), None);

        assert!(!table.remove(&session("1", 2)) && table.remove(&session("1", 1)));
        assert!(!table.remove(&session("1", 1)));
        assert_eq!(table.statistics(&session("1", 1)), None);
        assert_eq!(sessions(&table.replace(rows())), [3, 2], "a row that was kicked is a new session");
        assert_eq!(
            sessions(&table.replace(vec![client("1", 6, None)])),
            [4],
            "one created at another time too"
        );
        assert_eq!(sessions(&table.replace(rows())), [5, 6], "and one that was gone");
    }
}
