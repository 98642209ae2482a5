//! A value made of files, and made anew when they change.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use crate::TrustError;
use crate::follow::{self, Text};

/// What is made of some files at present. Whoever has taken it keeps it; the next to ask gets the new one within some
/// seconds of a change. Files that cannot be used, such as a certificate whose key has not been replaced yet, change
/// nothing: what they held before stays, and the log says so, once.
pub struct Live<T> {
    what: &'static str,
    paths: Vec<PathBuf>,
    make: Make<T>,
    current: RwLock<Arc<T>>,
    /// How often the files have changed and counted.
    renewals: watch::Sender<u64>,
}

type Make<T> = Box<dyn Fn(&[Text]) -> Result<T, TrustError> + Send + Sync>;

impl<T> Live<T> {
    /// Reads the files; `make` is given them in their order, now and whenever they have changed. `what` names the value
    /// in the log, such as `the agent's certificate`.
    ///
    /// # Errors
    /// A file cannot be read, or `make` says so.
    pub fn load(
        what: &'static str,
        paths: Vec<PathBuf>,
        make: impl Fn(&[Text]) -> Result<T, TrustError> + Send + Sync + 'static,
    ) -> Result<Self, TrustError> {
        let texts = paths.iter().map(|path| Text::read(path)).collect::<Result<Vec<_>, _>>()?;
        let current = RwLock::new(Arc::new(make(&texts)?));
        Ok(Self { what, paths, make: Box::new(make), current, renewals: watch::Sender::new(0) })
    }

    /// The value at this moment.
    #[must_use]
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How often the value has been replaced because its files have changed, for those who cannot ask for it each time
    /// they need it. It counts for as long as somebody [follows](Self::follow).
    #[must_use]
    pub fn renewals(&self) -> watch::Receiver<u64> {
        self.renewals.subscribe()
    }

    /// Follows the files, without end.
    pub async fn follow(&self) {
        let mut is_first = true;
        follow::follow(&self.paths, |texts| {
            // What was read at start is read once more, which is no news.
            let is_news = !std::mem::take(&mut is_first);
            let made =
                texts.map_err(str::to_owned).and_then(|texts| (self.make)(texts).map_err(|error| error.to_string()));
            match made {
                Ok(value) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                    if is_news {
                        self.renewals.send_modify(|renewals| *renewals += 1);
                        tracing::info!(what = self.what, "the files have changed; from now on they count");
                    }
                }
                Err(error) => {
                    tracing::error!(what = self.what, %error, "the files cannot be used; what they held before stays");
                }
            }
        })
        .await;
    }
}

impl<T> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The value may be a key.
        f.debug_struct("Live").field("what", &self.what).field("paths", &self.paths).finish_non_exhaustive()
    }
}
