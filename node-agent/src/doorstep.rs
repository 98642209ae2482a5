//! Where connections wait until they have said what they are: TLS, if there is a certificate, and the first bytes of HTTP/2.
//!
//! hyper waits for those without end, and every connection is a descriptor of the process, in which there may be a broker that
//! needs some for its clients. So:
//! - A connection has [`GREETING`] to be greeted, and is closed then.
//! - [`MOST_WAITING`] wait at once. When one more comes, the oldest of the address that has the most of them gives way.
//!   To close the one that came last was decided against: whoever keeps the places taken would keep gateways out, while a gateway
//!   speaks at once and is gone from here.
//! - As many as the configuration allows stay, of one address half of them, rounded up: gateways behind one address need many, one for
//!   each export, and still nobody has all. One more is closed, and the log told.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt as _, future};
use rollcall_trust::Live;
use rollcall_trust::guesses::counts_as;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use crate::incoming::Connection;
use crate::refusals::Refusals;
use crate::tls;

/// Connections that have not yet said what they are.
const MOST_WAITING: usize = 128;

/// How long they may take for it. A gateway gives up sooner.
const GREETING: Duration = Duration::from_secs(3);

/// What HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a server of HTTP/2 says first, an empty SETTINGS, and GOAWAY with PROTOCOL_ERROR (RFC 9113, sections 3.4 and 6.8).
const GOODBYE: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01";

/// What is read of a connection that is closed anyway, in bytes: more than any TLS handshake begins with.
const MOST_UNREAD: u64 = 64 << 10;

/// The connections that speak HTTP/2, over TLS where there are files for it, no more than `most` at once.
pub(crate) fn greeted(
    incoming: impl Stream<Item = Connection> + Send,
    files: Option<Arc<Live<ServerConfig>>>,
    most: usize,
) -> impl Stream<Item = Connection> + Send {
    let doorstep = Arc::new(Doorstep { most, ..Doorstep::default() });
    incoming
        .map(move |connection| {
            let acceptor = files.as_ref().map(|files| TlsAcceptor::from(files.current()));
            // Counted from when it comes in, not from when it is first looked at.
            let waiting = Doorstep::wait(&doorstep, connection.remote().ip());
            // On its own, so that a flood of others does not keep it from being looked at.
            AbortOnDropHandle::new(tokio::spawn(greet(connection, acceptor, waiting)))
        })
        // Those that gave way end in between, so this is never what bounds them.
        .buffer_unordered(MOST_WAITING * 2)
        .filter_map(|greeted| future::ready(greeted.ok().flatten()))
}

async fn greet(
    mut connection: Connection,
    acceptor: Option<TlsAcceptor>,
    (waiting, gives_way): (Waiting, oneshot::Receiver<()>),
) -> Option<Connection> {
    let remote = connection.remote();
    let doorstep = Arc::clone(&waiting.doorstep);
    let greeting = async {
        if let Some(acceptor) = acceptor {
            connection = tls::make(connection, acceptor, &doorstep.refusals).await?;
        }
        let first = preface(&mut connection).await?;
        Some((connection, first))
    };
    let greeted = tokio::select! {
        // One that has spoken by now need not give way.
        biased;
        greeted = timeout(GREETING, greeting) => greeted,
        _ = gives_way => {
            debug!(%remote, "a connection that had not spoken yet gave way to another");
            return None;
        }
    };
    drop(waiting);
    let Ok(greeted) = greeted else {
        debug!(%remote, "a connection did not say in time what it is");
        return None;
    };
    let (connection, first) = greeted?;
    let Some(place) = Doorstep::enter(&doorstep, remote.ip()) else {
        doorstep.full.note(|unsaid| {
            let (limit, of_one_address) = (doorstep.most, doorstep.most_of_one());
            warn!(%remote, limit, of_one_address, unsaid, "closed a connection, too many are open (max_connections)");
        });
        return None;
    };
    Some(connection.spoken(first, Box::new(place)))
}

/// Reads until it is clear whether this is HTTP/2. Nothing if it is not.
async fn preface(connection: &mut Connection) -> Option<Vec<u8>> {
    let remote = connection.remote();
    let mut first = Vec::with_capacity(PREFACE.len());
    while first.len() < PREFACE.len() {
        let most = PREFACE.len() - first.len();
        match (&mut *connection).take(most as u64).read_buf(&mut first).await {
            // Load balancers look whether a port is open, and so do others.
            Ok(0) => {
                debug!(%remote, "a connection ended before it said anything");
                return None;
            }
            Ok(_) => {}
            Err(error) => {
                debug!(%remote, %error, "a connection failed before it said anything");
                return None;
            }
        }
        if !PREFACE.starts_with(&first) {
            debug!(%remote, "a connection does not speak HTTP/2");
            refuse(connection).await;
            return None;
        }
    }
    Some(first)
}

/// Says in HTTP/2 that this is HTTP/2, and takes what still comes. To close with bytes unread resets the connection, and a gateway
/// that began with TLS would read of a reset, not that there is no TLS here.
async fn refuse(connection: &mut Connection) {
    let mut rest = tokio::io::sink();
    let said = async {
        connection.write_all(GOODBYE).await?;
        connection.shutdown().await?;
        tokio::io::copy(&mut connection.take(MOST_UNREAD), &mut rest).await
    };
    // It is closed in any case.
    let _ = said.await;
}

/// Who waits and who is in, by address.
#[derive(Debug, Default)]
struct Doorstep {
    most: usize,
    counts: Mutex<Counts>,
    refusals: Refusals,
    full: Refusals,
}

#[derive(Debug, Default)]
struct Counts {
    /// The oldest first, each with what tells it to give way.
    waiting: BTreeMap<IpAddr, VecDeque<(u64, oneshot::Sender<()>)>>,
    next: u64,
    inside: BTreeMap<IpAddr, usize>,
}

/// A connection that waits, for as long as this lives.
struct Waiting {
    doorstep: Arc<Doorstep>,
    address: IpAddr,
    number: u64,
}

/// A connection that is in, for as long as this lives.
struct Place {
    doorstep: Arc<Doorstep>,
    address: IpAddr,
}

impl Doorstep {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has one wait, and another give way for it if need be.
    fn wait(this: &Arc<Self>, address: IpAddr) -> (Waiting, oneshot::Receiver<()>) {
        let address = counts_as(address);
        let (give_way, gives_way) = oneshot::channel();
        let mut counts = this.counts();
        let number = counts.next;
        counts.next += 1;
        counts.waiting.entry(address).or_default().push_back((number, give_way));
        if counts.waiting.values().map(VecDeque::len).sum::<usize>() > MOST_WAITING {
            counts.turn_away();
        }
        drop(counts);
        (Waiting { doorstep: Arc::clone(this), address, number }, gives_way)
    }

    /// Lets one in, unless all have their number, or its address has its own.
    fn enter(this: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = counts_as(address);
        let mut counts = this.counts();
        let (all, of_this) = (counts.inside.values().sum::<usize>(), counts.inside.get(&address).copied());
        if all >= this.most || of_this.unwrap_or(0) >= this.most_of_one() {
            return None;
        }
        *counts.inside.entry(address).or_default() += 1;
        drop(counts);
        Some(Place { doorstep: Arc::clone(this), address })
    }

    fn most_of_one(&self) -> usize {
        self.most.div_ceil(2)
    }
}

impl Counts {
    /// Tells the oldest of the address with the most; of several such, of the one whose oldest has waited longest.
    fn turn_away(&mut self) {
        let crowd = self.waiting.iter_mut().max_by_key(|(_, waiting)| {
            (waiting.len(), std::cmp::Reverse(waiting.front().map(|(number, _)| *number)))
        });
        let Some((&address, waiting)) = crowd else { return };
        if let Some((_, give_way)) = waiting.pop_front() {
            // It may just have been greeted, and hear it no more.
            let _ = give_way.send(());
        }
        if waiting.is_empty() {
            self.waiting.remove(&address);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut counts = self.doorstep.counts();
        if let Some(waiting) = counts.waiting.get_mut(&self.address) {
            waiting.retain(|(number, _)| *number != self.number);
            if waiting.is_empty() {
                counts.waiting.remove(&self.address);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.doorstep.counts();
        if let Some(inside) = counts.inside.get_mut(&self.address) {
            *inside -= 1;
            if *inside == 0 {
                counts.inside.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn the_oldest_of_the_address_with_the_most_gives_way() {
        let doorstep = Arc::new(Doorstep::default());
        let mut lone = Doorstep::wait(&doorstep, v4(1));
        let mut crowd: Vec<_> = (1..MOST_WAITING).map(|_| Doorstep::wait(&doorstep, v4(2))).collect();
        assert!(crowd.iter_mut().all(|(_, gives_way)| gives_way.try_recv().is_err()));
        let mut other = Doorstep::wait(&doorstep, v4(3));
        let mut of_crowd = Doorstep::wait(&doorstep, v4(2));
        let mut told = crowd.iter_mut().map(|(_, gives_way)| gives_way.try_recv().is_ok());
        assert!(told.next().unwrap() && told.next().unwrap() && !told.any(|told| told));
        for (_, gives_way) in [&mut lone, &mut other, &mut of_crowd] {
            assert!(gives_way.try_recv().is_err());
        }
        drop((lone, crowd, other, of_crowd));
        assert!(doorstep.counts().waiting.is_empty());
    }

    #[test]
    fn one_address_gets_half_and_all_together_get_all() {
        let doorstep = Arc::new(Doorstep { most: 5, ..Doorstep::default() });
        let enter = |address| Doorstep::enter(&doorstep, address);
        let mut inside: Vec<_> = (0..3).map(|_| enter(v4(1)).unwrap()).collect();
        assert!(enter(v4(1)).is_none(), "more than half");
        assert!(enter("::ffff:10.0.0.1".parse().unwrap()).is_none(), "the same address, written otherwise");
        inside.push(enter("2001:db8::1".parse().unwrap()).unwrap());
        inside.push(enter(v4(2)).unwrap());
        assert!(enter(v4(3)).is_none(), "more than all");
        inside.remove(0);
        inside.push(enter(v4(3)).unwrap());
        drop(inside);
        assert!(doorstep.counts().inside.is_empty());
    }
}
