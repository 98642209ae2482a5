//! The file that keys live in: TOML, one `[[key]]` each, with the hash of the secret and never the secret.
//!
//! A change is written beside the file and renamed over it, under a lock on the directory, so that readers see the
//! old file or the new one and two commands at once lose nothing. The file is made readable by its owner alone.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::keys::{InvalidKey, Key, Role, SecretHash};

/// What stands at the top of every key file.
const HEADING: &str = "# API keys of rollcall-gateway, written by `rollcall-gateway key`.\n\n";

/// Why a key file cannot be read or changed.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// The system says no.
    #[error("key file {}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is not a key file.
    #[error("key file {}:{line}: {message}", path.display())]
    Form {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A key in it, or the one to be added, cannot be.
    #[error("key file {}: {source}", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: InvalidKey,
    },
    /// The key to be revoked is not there.
    #[error("key file {}: there is no key {id:?}", path.display())]
    NoSuchKey {
        /// Which file.
        path: PathBuf,
        /// The id.
        id: String,
    },
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    #[serde(default)]
    key: Vec<Entry>,
}

/// One key as it stands in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Names the key.
    pub id: String,
    /// What it may do.
    pub role: Role,
    /// SHA-256 of the secret, hexadecimal.
    sha256: String,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// For people.
    #[serde(default)]
    pub comment: String,
}

/// A key file.
#[derive(Clone, Debug)]
pub struct KeyFile {
    path: PathBuf,
}

impl KeyFile {
    /// The file at this path, which may not exist yet.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Reads the keys.
    ///
    /// # Errors
    /// [`KeyFileError`]; a file that does not exist is one.
    pub fn keys(&self) -> Result<Vec<Key>, KeyFileError> {
        self.parse(&self.text()?)
    }

    /// Reads the keys as they stand there.
    ///
    /// # Errors
    /// [`KeyFileError`]; a file that does not exist is one.
    pub fn entries(&self) -> Result<Vec<Entry>, KeyFileError> {
        Ok(self.read()?.key)
    }

    /// Adds a key with a new random secret, and gives the secret, which is nowhere else. Makes the file if there is
    /// none.
    ///
    /// # Errors
    /// [`KeyFileError`]
    pub fn create(&self, id: &str, role: Role, comment: &str) -> Result<String, KeyFileError> {
        let secret = format!("rck_{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
        let key = Key::new(id, role, SecretHash::of(&secret)).map_err(|source| self.invalid(source))?;
        let entry = Entry {
            id: id.to_owned(),
            role,
            sha256: key.hash.to_hex(),
            created_at: jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())
                .unwrap_or_default()
                .to_string(),
            comment: comment.to_owned(),
        };
        self.change(|contents| {
            if contents.key.iter().any(|other| other.id == id) {
                return Err(self.invalid(InvalidKey::SameId(id.to_owned())));
            }
            contents.key.push(entry);
            Ok(())
        })?;
        Ok(secret)
    }

    /// Removes a key.
    ///
    /// # Errors
    /// [`KeyFileError`]
    pub fn revoke(&self, id: &str) -> Result<(), KeyFileError> {
        self.change(|contents| {
            let before = contents.key.len();
            contents.key.retain(|entry| entry.id != id);
            if contents.key.len() == before {
                return Err(KeyFileError::NoSuchKey { path: self.path.clone(), id: id.to_owned() });
            }
            Ok(())
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What stands in it.
    pub(crate) fn text(&self) -> Result<String, KeyFileError> {
        std::fs::read_to_string(&self.path).map_err(|source| self.io(source))
    }

    /// The keys of such a text, for which errors name this file.
    pub(crate) fn parse(&self, text: &str) -> Result<Vec<Key>, KeyFileError> {
        self.contents(text)?.key.iter().map(|entry| self.key(entry)).collect()
    }

    fn read(&self) -> Result<Contents, KeyFileError> {
        self.contents(&self.text()?)
    }

    fn contents(&self, text: &str) -> Result<Contents, KeyFileError> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start).min(text.len());
            let line = 1 + text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
            KeyFileError::Form { path: self.path.clone(), line, message: error.message().to_owned() }
        })
    }

    fn key(&self, entry: &Entry) -> Result<Key, KeyFileError> {
        let hash = SecretHash::from_hex(&entry.sha256)
            .ok_or_else(|| self.invalid(InvalidKey::Hash(entry.id.clone())))?;
        Key::new(&entry.id, entry.role, hash).map_err(|source| self.invalid(source))
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Contents) -> Result<(), KeyFileError>,
    ) -> Result<(), KeyFileError> {
        let directory = match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let lock = File::open(directory).map_err(|source| self.io(source))?;
        lock.lock().map_err(|source| self.io(source))?;
        let mut contents = match self.read() {
            Err(KeyFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Contents::default()
            }
            read => read?,
        };
        change(&mut contents)?;
        let text = toml::to_string(&contents).map_err(|error| self.io(io::Error::other(error)))?;
        self.replace(&format!("{HEADING}{text}"))
            .and_then(|()| lock.sync_all())
            .map_err(|source| self.io(source))
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        // What a command left behind that was killed is of no use.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)
    }

    fn io(&self, source: io::Error) -> KeyFileError {
        KeyFileError::Io { path: self.path.clone(), source }
    }

    fn invalid(&self, source: InvalidKey) -> KeyFileError {
        KeyFileError::Key { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::keys::KeyRing;

    #[test]
    fn keys_come_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.toml");
        let file = KeyFile::at(&path);
        assert!(matches!(file.keys(), Err(KeyFileError::Io { .. })));
        let secret = file.create("dash", Role::Viewer, "the page \"on\" the wall").unwrap();
        let other = file.create("ops", Role::Operator, "").unwrap();
        assert!(secret.starts_with("rck_") && secret.len() == 47 && secret != other);

        let ring = KeyRing::new(file.keys().unwrap()).unwrap();
        assert_eq!(ring.by_id("dash", &secret).unwrap().role, Role::Viewer);
        assert_eq!(&*ring.by_secret(&other).unwrap().id, "ops");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&secret[4..]) && text.contains("the page"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        assert!(file.create("dash", Role::Viewer, "").unwrap_err().to_string().contains("two keys \"dash\""));
        file.revoke("dash").unwrap();
        assert!(matches!(file.revoke("dash"), Err(KeyFileError::NoSuchKey { .. })));
        let ids: Vec<String> = file.entries().unwrap().into_iter().map(|entry| entry.id).collect();
        assert_eq!(ids, ["ops"]);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_none_is_refused_by_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.toml");
        let hash = SecretHash::of("x").to_hex();
        for (text, expected) in [
            ("[[key]]\nid = 5\n".to_owned(), "keys.toml:2: invalid type"),
            (
                format!("[[key]]\nid = \"a\"\nrole = \"root\"\nsha256 = \"{hash}\"\n"),
                "keys.toml:3: unknown variant",
            ),
            ("[[key]]\nsecret = \"a\"\n".to_owned(), "keys.toml:2: unknown field"),
            (
                "[[key]]\nid = \"a\"\nrole = \"viewer\"\nsha256 = \"00\"\ncreated_at = \"\"\n".to_owned(),
                "sha256 is not 64",
            ),
        ] {
            std::fs::write(&path, &text).unwrap();
            let error = KeyFile::at(&path).keys().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
