//! The sessions in a file that Mosquitto has saved and loads at its start (`mosquitto.db`).
//!
//! The file holds chunks, each with its kind and its length. Versions 5 and 6 are read, which Mosquitto 1.6 and later write; an
//! older one is what an older broker has left, and this one writes it anew when it ends. Numbers of 16 and 32 bits stand
//! in the order of the network; those of 64 bits as the machine has them, since the broker writes them out of its memory.
//!
//! Messages are passed over, however large; of a session its id, expiry and number of subscriptions are kept. Its user name is
//! not: to a client without one 2.0.11 writes that of another, and up to 64 KiB of its memory behind it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use thiserror::Error;

const MAGIC: &[u8; 15] = b"\x00\xb5\x00mosquitto db";

/// The forms of the file that can be read.
const VERSIONS: [u32; 2] = [5, 6];

const CHUNK_CLIENT_MESSAGE: u32 = 3;
const CHUNK_SUBSCRIPTION: u32 = 5;
const CHUNK_CLIENT: u32 = 6;

/// The fixed parts of chunks, as the broker's structures are laid out.
const CLIENT_OF_5: usize = 16;
const CLIENT_OF_6: usize = 24;
const CLIENT_MESSAGE: usize = 16;
const SUBSCRIPTION: usize = 12;

/// The longest chunk that is kept whole: a subscription has two texts of 64 KiB at most.
const LONGEST: u32 = 256 * 1024;

/// Expiry of a session that never expires.
const NEVER: u32 = u32::MAX;

/// A session that the broker has loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Seconds that it is kept without a connection.
    pub(crate) expiry_interval: u32,
    /// When it was to expire, seconds since 1970; 0 or less if it had a connection or never expires.
    pub(crate) expires_at: i64,
    pub(crate) subscriptions: u64,
}

impl Stored {
    /// When the broker may have let it go, if it was loaded at a time; milliseconds since 1970. `None`: never.
    pub(crate) fn may_be_over_at_ms(&self, loaded_at_ms: i64) -> Option<i64> {
        let whole_ms = i64::from(self.expiry_interval) * 1_000;
        let recorded_ms = self.expires_at.saturating_mul(1_000);
        (self.expiry_interval != NEVER).then(|| recorded_ms.max(loaded_at_ms.saturating_add(whole_ms)))
    }
}

/// Why the sessions are not known.
#[derive(Debug, Error)]
pub(crate) enum Unreadable {
    /// The system says so.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not what was expected.
    #[error("{0}")]
    Form(String),
}

/// The sessions by client id. A file that is not there, or empty, or may not be read, is one that the broker has loaded
/// nothing from.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, Stored>, Unreadable> {
    match File::open(path) {
        Ok(file) => read_chunks(BufReader::new(file)),
        Err(_) => Ok(BTreeMap::new()),
    }
}

fn read_chunks(mut file: impl Read + Seek) -> Result<BTreeMap<String, Stored>, Unreadable> {
    let mut sessions = BTreeMap::new();
    let mut magic = Vec::new();
    file.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic)?;
    if magic.is_empty() {
        return Ok(sessions);
    }
    if magic != MAGIC {
        return Err(Unreadable::Form("it is no file of mosquitto's".to_owned()));
    }
    let mut head = [0; 8];
    file.read_exact(&mut head)?;
    // The first half is a checksum that nobody computes.
    let version = number(&head, 4)?;
    if !VERSIONS.contains(&version) {
        return Err(Unreadable::Form(format!("it has version {version}, expected 5 or 6")));
    }
    // Like the broker: the first head of a chunk that is not whole is the end.
    while file.read_exact(&mut head).is_ok() {
        let (kind, length) = (number(&head, 0)?, number(&head, 4)?);
        match kind {
            CHUNK_CLIENT | CHUNK_SUBSCRIPTION | CHUNK_CLIENT_MESSAGE => {
                // What comes behind a message's id is passed over too.
                let here = if kind == CHUNK_CLIENT_MESSAGE { length.min(LONGEST) } else { length };
                if here > LONGEST {
                    return Err(Unreadable::Form(format!("a chunk of kind {kind} has {length} bytes")));
                }
                let mut chunk = vec![0; here as usize];
                file.read_exact(&mut chunk)?;
                file.seek_relative(i64::from(length - here))?;
                take(&mut sessions, kind, version, &chunk)?;
            }
            _ => file.seek_relative(i64::from(length))?,
        }
    }
    Ok(sessions)
}

fn take(
    sessions: &mut BTreeMap<String, Stored>,
    kind: u32,
    version: u32,
    chunk: &[u8],
) -> Result<(), Unreadable> {
    match kind {
        CHUNK_CLIENT => {
            let fixed = if version == 5 { CLIENT_OF_5 } else { CLIENT_OF_6 };
            let id_length = short(chunk, 14)?;
            // The broker passes over it as well.
            if id_length == 0 {
                return Ok(());
            }
            let session = sessions.entry(text(chunk, fixed, id_length)?).or_default();
            session.expires_at = i64::from_ne_bytes(part(chunk, 0)?);
            session.expiry_interval = number(chunk, 8)?;
        }
        CHUNK_SUBSCRIPTION => {
            let id_length = short(chunk, 4)?;
            sessions.entry(text(chunk, SUBSCRIPTION, id_length)?).or_default().subscriptions += 1;
        }
        // It is of a client that has a chunk of its own; if it had none, the broker would make a session of it.
        _ => {
            let id_length = short(chunk, 10)?;
            sessions.entry(text(chunk, CLIENT_MESSAGE, id_length)?).or_default();
        }
    }
    Ok(())
}

fn part<const N: usize>(chunk: &[u8], at: usize) -> Result<[u8; N], Unreadable> {
    let part = chunk.get(at..).and_then(|rest| rest.first_chunk());
    part.copied().ok_or_else(|| Unreadable::Form("a chunk ends too early".to_owned()))
}

fn number(chunk: &[u8], at: usize) -> Result<u32, Unreadable> {
    part(chunk, at).map(u32::from_be_bytes)
}

fn short(chunk: &[u8], at: usize) -> Result<usize, Unreadable> {
    part(chunk, at).map(|bytes| usize::from(u16::from_be_bytes(bytes)))
}

fn text(chunk: &[u8], at: usize, length: usize) -> Result<String, Unreadable> {
    let bytes = chunk.get(at..at + length);
    let bytes = bytes.ok_or_else(|| Unreadable::Form("a text ends behind its chunk".to_owned()))?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests;
