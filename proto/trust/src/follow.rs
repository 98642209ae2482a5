//! Files that change while a program runs: keys, certificates, tokens.
//!
//! They are read and compared once an [`INTERVAL`]. Decided against: a signal to read them again (in a container nobody
//! sends one), and the system's file events (they differ by file system, and mounted secrets are swapped by a symbolic
//! link). The files are small; reading them costs less than being wrong about their times of change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::TrustError;

/// How often the files are looked at.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// What stands in a file. It may be a key, so there is no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Text {
    /// Where it stands, for messages.
    pub path: PathBuf,
    /// What.
    pub text: String,
}

impl Text {
    /// Reads a file.
    ///
    /// # Errors
    /// [`TrustError::Unreadable`].
    pub fn read(path: &Path) -> Result<Self, TrustError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Self { path: path.to_owned(), text }),
            Err(source) => Err(TrustError::Unreadable { path: path.to_owned(), source }),
        }
    }
}

/// Hands over what stands in the files, or why one cannot be read, at first and whenever that has changed; without
/// end.
pub async fn follow(paths: &[PathBuf], mut take: impl FnMut(Result<&[Text], &str>)) {
    let mut seen = None;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = read_all(paths).await;
        if seen.as_ref() != Some(&now) {
            take(now.as_deref().map_err(String::as_str));
            seen = Some(now);
        }
    }
}

async fn read_all(paths: &[PathBuf]) -> Result<Vec<Text>, String> {
    let mut texts = Vec::with_capacity(paths.len());
    for path in paths {
        let read = tokio::fs::read_to_string(path).await;
        let text =
            read.map_err(|source| TrustError::Unreadable { path: path.clone(), source }.to_string())?;
        texts.push(Text { path: path.clone(), text });
    }
    Ok(texts)
}
