//! Files that change while the gateway runs: keys, certificates.
//!
//! They are read and compared once an [`INTERVAL`]. Decided against: a signal to read them again (in a container nobody
//! sends one), and the system's file events (they differ by file system, and mounted secrets are swapped by a symbolic
//! link). The files are small; reading them costs less than being wrong about their times of change.

use std::path::Path;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// How often the files are looked at.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// Hands over what stands in the files, or why one cannot be read, at first and whenever that has changed; without
/// end.
pub(crate) async fn follow<const N: usize>(
    paths: [&Path; N],
    mut take: impl FnMut(Result<[String; N], String>),
) {
    let mut seen = None;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = read(paths).await;
        if seen.as_ref() != Some(&now) {
            take(now.clone());
            seen = Some(now);
        }
    }
}

async fn read<const N: usize>(paths: [&Path; N]) -> Result<[String; N], String> {
    let mut texts = [const { String::new() }; N];
    for (text, path) in texts.iter_mut().zip(paths) {
        *text =
            tokio::fs::read_to_string(path).await.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(texts)
}
