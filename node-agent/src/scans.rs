//! Searches of many rows: as many at once as there are cores, and how many run.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// The cores, one permit each.
#[derive(Debug)]
pub(crate) struct Scans {
    cores: usize,
    free: Arc<Semaphore>,
}

impl Default for Scans {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { cores, free: Arc::new(Semaphore::new(cores)) }
    }
}

impl Scans {
    /// Waits for a core; it is taken until the permit is dropped. The caller's deadline bounds the wait.
    pub(crate) async fn begin(&self) -> Result<OwnedSemaphorePermit, Status> {
        // Nobody closes the semaphore.
        let scan = Arc::clone(&self.free).acquire_owned().await;
        scan.map_err(|error| Status::internal(error.to_string()))
    }

    /// How many run.
    pub(crate) fn running(&self) -> u32 {
        u32::try_from(self.cores.saturating_sub(self.free.available_permits())).unwrap_or(u32::MAX)
    }
}
