//! The rows in force: sessions and live figures, without the identity, which the index holds.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::BuildHasher as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use prost::Message as _;
use rollcall_proto::ClientRef;
use rollcall_proto::v1::{Client, Statistics};
use thiserror::Error;

use super::line;
use crate::packed::{Packed, block, growing_block};

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
pub(super) fn read(path: &Path, node: &str) -> Result<Rows, FileError> {
    let unreadable = |error: std::io::Error| FileError::unreadable(path, &error);
    let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let (mut rows, mut lines, hash) = (Rows::default(), growing_block(0), Hash::default());
    let mut text = Vec::new();
    for number in 1_u64.. {
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
        lines.push((hash.of(&client.clientid), number, rows.clients.len()));
        rows.add(&client);
    }
    lines.sort_unstable();
    let repeated = lines.windows(2).filter(|two| two[0].0 == two[1].0).min_by_key(|two| two[1].1);
    let Some(&[(_, first, row), (_, number, _)]) = repeated else { return Ok(rows) };
    let id = rows.clients.clientid(row);
    let reason = format!("clientid {id:?} stands on line {first} already, expected once a node");
    Err(FileError::Line { path: path.to_owned(), number, reason })
}

/// The rows of a file, as read.
#[derive(Debug)]
pub(super) struct Rows {
    /// Identities, without their sessions.
    clients: Packed,
    /// Live figures of each row that has some, one behind the other, each with its length before it.
    figures: Vec<u8>,
    /// Where the figures of each row begin.
    starts: Vec<u64>,
}

impl Default for Rows {
    fn default() -> Self {
        Self { clients: Packed::default(), figures: Vec::new(), starts: growing_block(0) }
    }
}

impl Rows {
    fn add(&mut self, client: &Client) {
        self.clients.push(&ClientRef { node: "", ..client.as_client_ref() });
        self.starts.push(match client.statistics.unwrap_or_default() {
            none if none == Statistics::default() => NO_FIGURES,
            figures => {
                let start = self.figures.len() as u64;
                // It fails only where there is no room, and a Vec makes room.
                let _ = figures.encode_length_delimited(&mut self.figures);
                start
            }
        });
    }
}

/// The clients of a file, with their sessions.
#[derive(Debug)]
pub(super) struct Clients {
    packed: Packed,
    sessions: Vec<u64>,
}

impl Clients {
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Client> {
        let sessions = (0..).zip(&self.sessions);
        sessions.map(|(number, &session)| Client::from(ClientRef { session, ..self.packed.get(number) }))
    }
}

/// The rows in force.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// In the order of their sessions.
    rows: Vec<Row>,
    /// As [`Rows::figures`].
    figures: Vec<u8>,
    /// Sessions of the rows that are in force no more.
    kicked: HashSet<u64>,
    last_session: u64,
    hash: Hash,
}

/// What the index does not know of a row.
#[derive(Clone, Copy, Debug)]
struct Row {
    session: u64,
    /// Where its figures begin.
    figures: u64,
    /// Of clientid and creation time: a row that has both in common with one of the file before is the same client.
    hash: u128,
}

/// Where the figures of a row begin that has none.
const NO_FIGURES: u64 = u64::MAX;

/// Hashes of 128 bits, so that equal ones are taken for the same text: of a billion texts, two are alike by chance once in
/// 10^20 times.
#[derive(Clone, Debug, Default)]
struct Hash([RandomState; 2]);

impl Hash {
    fn of(&self, what: impl std::hash::Hash) -> u128 {
        let [high, low] = self.0.each_ref().map(|state| u128::from(state.hash_one(&what)));
        high << 64 | low
    }
}

impl Table {
    /// Makes these the rows, and gives them their sessions.
    pub(super) fn replace(&mut self, rows: Rows) -> Clients {
        let Rows { clients, figures, starts } = rows;
        let known = self.rows.iter().filter(|row| !self.kicked.contains(&row.session));
        let mut known: HashMap<u128, u64> = known.map(|row| (row.hash, row.session)).collect();
        let mut sessions = block(starts.len());
        self.rows = Vec::with_capacity(starts.len());
        for (number, figures) in (0..).zip(starts) {
            let client = clients.get(number);
            let hash = self.hash.of((client.clientid, client.created_at_ms));
            let session = known.remove(&hash).unwrap_or_else(|| {
                self.last_session += 1;
                self.last_session
            });
            sessions.push(session);
            self.rows.push(Row { session, figures, hash });
        }
        self.rows.sort_unstable_by_key(|row| row.session);
        self.figures = figures;
        self.figures.shrink_to_fit();
        self.kicked = HashSet::new();
        Clients { packed: clients, sessions }
    }

    pub(super) fn statistics(&self, session: u64) -> Option<Statistics> {
        let figures = usize::try_from(self.row(session)?.figures).ok();
        let encoded = figures.and_then(|figures| self.figures.get(figures..)).unwrap_or_default();
        if encoded.is_empty() {
            return Some(Statistics::default());
        }
        // What was encoded here can be decoded.
        Statistics::decode_length_delimited(encoded).ok()
    }

    /// Ends a session; says whether it was there.
    pub(super) fn remove(&mut self, session: u64) -> bool {
        self.row(session).is_some() && self.kicked.insert(session)
    }

    /// The row of a session that is in force.
    fn row(&self, session: u64) -> Option<&Row> {
        // As long as no file has replaced another, sessions are numbered as rows are.
        let first = self.rows.first()?.session;
        let guess = usize::try_from(session.checked_sub(first)?).ok()?;
        let row = self.rows.get(guess).filter(|row| row.session == session).or_else(|| {
            let at = self.rows.binary_search_by_key(&session, |row| row.session).ok()?;
            self.rows.get(at)
        });
        row.filter(|row| !self.kicked.contains(&row.session))
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

    fn sessions(clients: &Clients) -> Vec<u64> {
        clients.iter().map(|client| client.session).collect()
    }

    #[test]
    fn only_rows_of_the_node_are_kept() {
        let file = write(concat!(
            "{\"node\":\"a\",\"clientid\":\"1\"}\n\n  \n",
            "{\"node\":\"b\",\"clientid\":\"1\"}\r\n",
            "{\"node\":\"a\",\"clientid\":\"2\"}",
        ));
        let clients = Table::default().replace(read(file.path(), NODE).unwrap());
        let ids: Vec<_> = clients.iter().map(|row| (row.node, row.clientid)).collect();
        assert_eq!(ids, [(String::new(), "1".into()), (String::new(), "2".into())]);
        assert_eq!(Table::default().replace(read(write("").path(), NODE).unwrap()).len(), 0);
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
        let rows = |clients: &[Client]| {
            let mut rows = Rows::default();
            clients.iter().for_each(|client| rows.add(client));
            rows
        };
        let both = [client("1", 5, Some(0)), client("2", 5, None)];
        let first = table.replace(rows(&both));
        assert_eq!(sessions(&first), [1, 2]);
        assert!(first.iter().all(|client| client.statistics.is_none() && client.created_at_ms == Some(5)));
        assert_eq!(sessions(&table.replace(rows(&both))), [1, 2], "nothing has changed");
        let figures = Statistics { mqueue_len: Some(0), ..Statistics::default() };
        assert_eq!(table.statistics(1), Some(figures));
        assert_eq!(table.statistics(2), Some(Statistics::default()));
        assert_eq!((table.statistics(0), table.statistics(3)), (None, None));

        assert!(!table.remove(3) && table.remove(1) && !table.remove(1));
        assert_eq!((table.statistics(1), table.statistics(2)), (None, Some(Statistics::default())));
        let again = table.replace(rows(&both));
        assert_eq!(sessions(&again), [3, 2], "a row that was kicked is a new session");
        let told = [1, 2, 3, 4].map(|session| table.statistics(session));
        assert_eq!(told, [None, Some(Statistics::default()), Some(figures), None]);
        assert_eq!(
            sessions(&table.replace(rows(&[client("1", 6, None)]))),
            [4],
            "one created at another time too"
        );
        assert_eq!(sessions(&table.replace(rows(&both))), [5, 6], "and one that was gone");
    }
}
