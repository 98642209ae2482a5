//! The keys that are let in now: those given at start, and those of the key file, which is read again when it changes.
//!
//! A key made is let in, a key revoked is refused, within some seconds; requests that were let in before go on, but for those
//! that would never end ([`LiveKeys::revoked`]). A file
//! that cannot be read or has a mistake changes nothing: the keys before stay, and the log says so, once. Whoever
//! empties the file means it: then only the keys given at start are left.

use std::sync::Arc;

use rollcall_trust::follow;
use tokio::sync::watch;

use crate::key_file::{KeyFile, KeyFileError};
use crate::keys::{InvalidKey, Key, KeyRing};

/// Every key that is let in now.
#[derive(Debug)]
pub struct LiveKeys {
    file: Option<KeyFile>,
    /// Given at start; they stay.
    fixed: Vec<Key>,
    ring: watch::Sender<Arc<KeyRing>>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read, or it is none.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The keys do not fit together.
    #[error("{0}")]
    Unfit(InvalidKey),
}

impl LiveKeys {
    /// Reads the file, if there is one, and puts its keys beside the given ones.
    ///
    /// # Errors
    /// [`KeysError`]
    pub fn load(file: Option<KeyFile>, fixed: Vec<Key>) -> Result<Self, KeysError> {
        let keys = Self { file, fixed, ring: watch::Sender::default() };
        if let Some(file) = &keys.file {
            keys.set(file.text()?.as_str())?;
        } else {
            keys.put(KeyRing::new(keys.fixed.clone()).map_err(KeysError::Unfit)?);
        }
        Ok(keys)
    }

    /// The keys at this moment.
    #[must_use]
    pub fn current(&self) -> Arc<KeyRing> {
        Arc::clone(&self.ring.borrow())
    }

    /// Waits until a key is let in no more.
    pub(crate) async fn revoked(&self, key: &Key) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.ring.subscribe().wait_for(|ring| !ring.has(key)).await;
    }

    /// Follows the file, without end.
    pub(crate) async fn follow(&self) {
        let Some(file) = &self.file else { return std::future::pending().await };
        follow::follow(&[file.path().to_owned()], |texts| {
            let text = texts.map(|texts| texts.iter().map(|file| file.text.as_str()).collect::<String>());
            let outcome = text
                .map_err(str::to_owned)
                .and_then(|text| self.set(&text).map_err(|error| error.to_string()));
            match outcome {
                // What was read at start is read once more, which is no news.
                Ok(false) => {}
                Ok(true) => tracing::info!(keys = self.current().len(), "the keys have changed"),
                Err(error) => tracing::error!(%error, "the keys stay as they were"),
            }
        })
        .await;
    }

    /// Takes the keys of the file's text; says whether they are others than before.
    fn set(&self, text: &str) -> Result<bool, KeysError> {
        let file = self.file.as_ref().map(|file| file.parse(text)).transpose()?.unwrap_or_default();
        let keys = file.into_iter().chain(self.fixed.iter().cloned()).collect();
        Ok(self.put(KeyRing::new(keys).map_err(KeysError::Unfit)?))
    }

    fn put(&self, ring: KeyRing) -> bool {
        self.ring.send_if_modified(|current| {
            let is_new = **current != ring;
            *current = Arc::new(ring);
            is_new
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::keys::Role;

    #[tokio::test(start_paused = true)]
    async fn keys_made_are_let_in_and_keys_revoked_are_not_and_mistakes_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let file = KeyFile::at(&path);
        let first = file.create("first", Role::Viewer, "").unwrap();
        let fixed = Key::from_argument("fixed:s:operator").unwrap();
        let keys = Arc::new(LiveKeys::load(Some(file.clone()), vec![fixed]).unwrap());
        let follows = Arc::clone(&keys);
        tokio::spawn(async move { follows.follow().await });
        // The clock jumps only while nothing else is to be done; the file is read by a thread of its own.
        let eventually = async |holds: &dyn Fn(&KeyRing) -> bool| {
            for _ in 0..100 {
                if holds(&keys.current()) {
                    return true;
                }
                tokio::time::sleep(follow::INTERVAL).await;
            }
            false
        };
        let second = file.create("second", Role::Operator, "").unwrap();
        assert!(eventually(&|ring| ring.by_id("second", &second).is_some()).await);
        assert!(keys.current().by_id("first", &first).is_some());
        let shown = keys.current().by_id("first", &first).cloned().unwrap();
        let mut revoked = Box::pin(keys.revoked(&shown));
        assert!((&mut revoked).now_or_never().is_none());
        file.revoke("first").unwrap();
        revoked.await;
        assert!(eventually(&|ring| ring.by_secret(&first).is_none()).await);

        let whole = std::fs::read_to_string(&path).unwrap();
        for broken in ["[[key]", &whole.replace("second", "fixed"), "x = 1"] {
            std::fs::write(&path, broken).unwrap();
            assert!(!eventually(&|ring| ring.by_id("second", &second).is_none()).await, "{broken}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(!eventually(&|ring| ring.by_id("second", &second).is_none()).await);
        std::fs::write(&path, "").unwrap();
        assert!(eventually(&|ring| ring.by_id("second", &second).is_none()).await);
        assert!(keys.current().by_id("fixed", "s").is_some());
    }
}
