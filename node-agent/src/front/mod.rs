//! The counting front: the agent accepts MQTT connections itself, has every byte pass on to a broker that speaks the
//! PROXY protocol, and counts what passes.
//!
//! Promises: the broker gets and says every byte that it would without the front, in the same order; it sees each
//! client under its own address; what is counted is what passed, and is kept for as long as anybody holds the
//! connection's record. TLS is ended here, with the certificate that its files hold when a client comes.
//!
//! `meter` counts, `relay` passes on, `connection` says which connection is whose; this file opens the doors.
//!
//! What it never does is change what a client says. A CONNECT with the bridge bit is refused by the embedded broker,
//! and the front could clear it; but a bridge takes the answer as a promise that its own messages will not come back
//! to it, which the broker would not keep.
//!
//! The broker listens on loopback for the front alone. Who may run programs on the host can connect there too, and
//! claim any address: as wherever a PROXY header is believed.

mod connection;
mod meter;
mod relay;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proxy_protocol::ProxyHeader;
use proxy_protocol::version2::{ProxyAddresses, ProxyCommand, ProxyTransportProtocol};
use rollcall_metrics::process::most_descriptors;
use rollcall_trust::tls::ServerFiles;
use rollcall_trust::{Live, TrustError};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

pub(crate) use self::connection::{ADMINISTRATIVE_ACTION, Connection, Passing};
#[cfg(feature = "rabbitmq")]
pub(crate) use self::meter::Counts;
use crate::broker::tcp_info;
use crate::incoming::Failing;
use crate::refusals::Refusals;

/// Connections that the system keeps for a listener until they are accepted.
pub(crate) const BACKLOG: u16 = 4096;

/// How long a client may take for TLS, and the broker to take a connection.
const HANDSHAKE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(10);

/// TLS handshakes under way at once, as the embedded broker has it.
const MOST_HANDSHAKES: usize = 1000;

/// Descriptors that a client takes if the broker is in the same process: its own, and both ends of the connection behind.
const DESCRIPTORS: u64 = 3;

/// Of the process's descriptors, those left for all but clients: one in so many.
const LEFT: u64 = 8;

/// A listener of the front, before anybody is let in.
pub(crate) struct Entrance {
    listener: TcpListener,
    address: SocketAddr,
    way: Way,
}

/// What happens to a connection that has come in.
struct Way {
    /// The listener's number, under which connections are found.
    number: u16,
    tls: Option<Arc<Live<ServerConfig>>>,
    broker: SocketAddr,
}

impl Entrance {
    /// Listens at `address` for a broker's own listener at `broker`.
    ///
    /// # Errors
    /// What the system says of the address.
    pub(crate) fn bind(
        number: u16,
        address: SocketAddr,
        tls: Option<Live<ServerConfig>>,
        broker: SocketAddr,
    ) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        // Connections inherit it: of a peer that has vanished the kernel tells.
        socket.set_keepalive(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG.into())?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, way: Way { number, tls: tls.map(Arc::new), broker } })
    }

    /// With the port it really has.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The agent's side of TLS towards MQTT clients, out of these files.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn tls(cert: &Path, key: &Path) -> Result<Live<ServerConfig>, TrustError> {
    let files = ServerFiles {
        what: "the certificate for MQTT clients",
        certificate: cert.to_owned(),
        key: key.to_owned(),
        clients: None,
        protocols: &[],
    };
    files.load()
}

/// The open front: it lets clients in for as long as this lives. Those that are in stay.
pub(crate) struct Front {
    #[cfg_attr(not(feature = "embedded"), expect(dead_code, reason = "it is there to be dropped"))]
    accepting: Vec<AbortOnDropHandle<()>>,
    _following: Vec<AbortOnDropHandle<()>>,
}

/// What all connections of a front share.
struct Shared {
    passing: Arc<Passing>,
    places: Arc<Semaphore>,
    handshakes: Semaphore,
    full: Refusals,
    failed: Refusals,
}

impl Front {
    /// Lets clients in, each found among `passing` while it is there. Must be called within a tokio runtime.
    pub(crate) fn open(entrances: Vec<Entrance>, passing: Arc<Passing>) -> Self {
        let places = most_descriptors().map_or(Semaphore::MAX_PERMITS, places);
        let shared = Arc::new(Shared {
            passing,
            places: Arc::new(Semaphore::new(places)),
            handshakes: Semaphore::new(MOST_HANDSHAKES),
            full: Refusals::default(),
            failed: Refusals::default(),
        });
        let certified = entrances.iter().filter_map(|entrance| entrance.way.tls.clone());
        let follow = |tls: Arc<Live<ServerConfig>>| {
            AbortOnDropHandle::new(tokio::spawn(async move { tls.follow().await }))
        };
        let following = certified.map(follow).collect();
        let accepting = entrances
            .into_iter()
            .map(|entrance| AbortOnDropHandle::new(tokio::spawn(accept(entrance, Arc::clone(&shared)))));
        Self { accepting: accepting.collect(), _following: following }
    }

    /// Lets nobody in any more; its addresses are free when this returns.
    #[cfg(feature = "embedded")]
    pub(crate) async fn close(self) {
        for accepting in self.accepting {
            accepting.abort();
            // It has been cancelled.
            let _ = accepting.await;
        }
    }
}

/// How many clients can be in at once with so many descriptors.
fn places(descriptors: u64) -> usize {
    let places = (descriptors - descriptors / LEFT) / DESCRIPTORS;
    usize::try_from(places).map_or(Semaphore::MAX_PERMITS, |places| places.clamp(1, Semaphore::MAX_PERMITS))
}

async fn accept(entrance: Entrance, shared: Arc<Shared>) {
    let Entrance { listener, way, .. } = entrance;
    let way = Arc::new(way);
    let mut failing = Failing::default();
    loop {
        match listener.accept().await {
            Ok((client, peer)) => {
                failing.over();
                let Ok(place) = Arc::clone(&shared.places).try_acquire_owned() else {
                    shared.full.note(|unsaid| {
                        warn!(%peer, unsaid, "closed a client's connection: the process may not have more files open");
                    });
                    continue;
                };
                tokio::spawn(let_in(Arc::clone(&way), Arc::clone(&shared), client, peer, place));
            }
            Err(error) => failing.wait(&error).await,
        }
    }
}

async fn let_in(
    way: Arc<Way>,
    shared: Arc<Shared>,
    client: TcpStream,
    peer: SocketAddr,
    _place: OwnedSemaphorePermit,
) {
    let Ok(local) = client.local_addr() else {
        debug!(%peer, "a client has gone before it was let in");
        return;
    };
    if let Err(error) = client.set_nodelay(true) {
        debug!(%peer, %error, "cannot have a client's connection send at once");
    }
    match &way.tls {
        None => pass(&way, &shared, client, peer, local).await,
        // Kept apart: TLS takes several kilobytes that nobody else needs.
        Some(tls) => {
            let tls = TlsAcceptor::from(tls.current());
            Box::pin(secure(&way, &shared, tls, client, peer, local)).await;
        }
    }
}

async fn secure(
    way: &Way,
    shared: &Shared,
    tls: TlsAcceptor,
    client: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
) {
    let handshake = async {
        // Never closed.
        let _turn = shared.handshakes.acquire().await;
        tls.accept(client).await
    };
    match timeout(HANDSHAKE, handshake).await {
        Ok(Ok(client)) => pass(way, shared, client, peer, local).await,
        Ok(Err(error)) => debug!(%peer, %error, "a client made no TLS"),
        Err(_) => debug!(%peer, "a client did not make TLS in time"),
    }
}

async fn pass<C>(way: &Way, shared: &Shared, client: C, peer: SocketAddr, local: SocketAddr)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let broker = match timeout(CONNECT, introduced(way.broker, peer, local)).await {
        Ok(Ok(broker)) => broker,
        failed => {
            let reason = match failed {
                Ok(Err(error)) => error.to_string(),
                _ => format!("not within {} s", CONNECT.as_secs()),
            };
            shared.failed.note(|unsaid| {
                warn!(%peer, broker = %way.broker, reason, unsaid, "a client cannot be connected to the broker");
            });
            return;
        }
    };
    // The broker learns of the client only by what passes from here on.
    let passage = shared.passing.enter((way.number, tcp_info::canonical(peer)));
    relay::relay(client, broker, &passage.connection).await;
    if let Some(clientid) = passage.connection.bridge() {
        info!(%peer, clientid, "a bridge came with the bridge bit in its CONNECT");
    }
}

/// A connection to the broker, on which it has been told who comes.
async fn introduced(broker: SocketAddr, client: SocketAddr, local: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = match TcpStream::connect(broker).await {
        // Some 28,000 ports there are from one address to another.
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && broker.ip().is_loopback() => {
            connect_from(another_loopback(client.port()), broker).await?
        }
        connected => connected?,
    };
    stream.set_nodelay(true)?;
    let addresses = match (client, local) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => ProxyAddresses::Ipv4 { source, destination },
        (SocketAddr::V6(source), SocketAddr::V6(destination)) => ProxyAddresses::Ipv6 { source, destination },
        // Both ends of a connection are of one family.
        _ => ProxyAddresses::Unspec,
    };
    let header = proxy_protocol::encode(ProxyHeader::Version2 {
        command: ProxyCommand::Proxy,
        transport_protocol: ProxyTransportProtocol::Stream,
        addresses,
    });
    stream.write_all(&header.map_err(io::Error::other)?).await?;
    Ok(stream)
}

async fn connect_from(own: IpAddr, broker: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(own, 0))?;
    socket.connect(broker).await
}

/// One of many addresses of this host that are not 127.0.0.1, as good as any other to come from.
fn another_loopback(choice: u16) -> IpAddr {
    let [high, low] = choice.to_be_bytes();
    IpAddr::from([127, 1 + high % 200, low, 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_is_another_way_when_the_ports_of_an_address_are_used_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for choice in [0, 255, u16::MAX] {
            let own = another_loopback(choice);
            let _connected = connect_from(own, listener.local_addr().unwrap()).await.unwrap();
            let (_, peer) = listener.accept().await.unwrap();
            assert_eq!(peer.ip(), own);
            assert_ne!(own, IpAddr::from([127, 0, 0, 1]));
        }
    }

    #[tokio::test]
    async fn a_client_costs_the_front_a_kilobyte_or_two() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            passing: Arc::default(),
            places: Arc::new(Semaphore::new(1)),
            handshakes: Semaphore::new(1),
            full: Refusals::default(),
            failed: Refusals::default(),
        });
        let way = Arc::new(Way { number: 1, tls: None, broker: address });
        let place = Arc::clone(&shared.places).try_acquire_owned().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let task = let_in(way, shared, client, address, place);
        assert!(size_of_val(&task) < 2000, "{} bytes", size_of_val(&task));
        let record = size_of::<Connection>();
        assert!(record < 500, "{record} bytes");
    }

    #[test]
    fn clients_leave_some_descriptors_to_others() {
        assert_eq!(places(1024), (1024 - 128) / 3);
        assert_eq!(places(0), 1);
        assert_eq!(places(u64::MAX), Semaphore::MAX_PERMITS);
        // Whatever it is here, three descriptors of it or more.
        #[cfg(target_os = "linux")]
        assert!(most_descriptors().is_none_or(|limit| limit > 3));
    }
}
