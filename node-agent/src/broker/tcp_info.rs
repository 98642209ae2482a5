//! Bytes and segments of TCP connections, as the kernel counts them.
//!
//! The kernel tells this about every socket of the machine's network namespace over a netlink socket
//! (`NETLINK_SOCK_DIAG`), without privileges; `ss -ti` shows the same numbers. A connection is found by its
//! listener and its peer. Counters belong to the connection: when it closes they are gone.
//!
//! The kernel walks its table of all connections for every question, so one question serves all rows of a page;
//! a small program sent along makes it answer for their ports only, as answers cost ten times more than looks.
//! Linux only; elsewhere, and where the kernel refuses, there is an error.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddress};
use tracing::debug;

/// What passed over one connection since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of the TCP stream that arrived.
    pub received_bytes: u64,
    /// TCP segments that arrived, those without data too.
    pub received_segments: u64,
    /// Bytes of the TCP stream sent, each counted once, however often it was sent again.
    pub sent_bytes: u64,
    /// TCP segments sent, those without data too.
    pub sent_segments: u64,
}

/// The kernel answers in messages of at most 32 KiB.
const BUFFER: usize = 64 * 1024;

/// More ports than this are not sent along: comparing would cost more than answering for all.
const MOST_PORTS: usize = 256;

/// The traffic of established connections that came in by a listener, by the peer's address in canonical form
/// (an IPv4-mapped IPv6 address as IPv4). With `peer_ports`, those whose peer has one of them are enough; others
/// may be among the answers. Blocks for the time the kernel needs, some milliseconds for 1,000 answers.
///
/// # Errors
/// What the kernel or the netlink socket reports; `Unsupported` for an answer of unknown form.
pub fn established(listener: SocketAddr, peer_ports: &[u16]) -> io::Result<HashMap<SocketAddr, Traffic>> {
    let ports = if peer_ports.len() <= MOST_PORTS { peer_ports } else { &[] };
    match ask(listener, ports) {
        // Linux before 4.16 cannot compare ports.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput && !ports.is_empty() => ask(listener, &[]),
        answered => answered,
    }
}

/// The traffic of connections, by both of their ends: the listener's side as the connection has it, and the peer, in
/// canonical form. What the kernel does not tell is left out.
pub async fn of_connections(
    connections: Vec<(SocketAddr, SocketAddr)>,
) -> HashMap<(SocketAddr, SocketAddr), Traffic> {
    if connections.is_empty() {
        return HashMap::new();
    }
    let mut questions: HashMap<SocketAddr, Vec<u16>> = HashMap::new();
    for (listener, peer) in connections {
        questions.entry(listener).or_default().push(peer.port());
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "system calls of some milliseconds at most, without waiting"
    )]
    let answers = tokio::task::spawn_blocking(move || {
        let mut answers = HashMap::new();
        for (listener, ports) in questions {
            // A listener for both families has IPv6 sockets also for IPv4 addresses.
            let mapped = match listener.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => Some(Ipv6Addr::UNSPECIFIED),
                IpAddr::V4(ip) => Some(ip.to_ipv6_mapped()),
                IpAddr::V6(_) => None,
            };
            let mapped = mapped.map(|ip| SocketAddr::new(ip.into(), listener.port()));
            for address in std::iter::once(listener).chain(mapped) {
                match established(address, &ports) {
                    Ok(found) => {
                        answers.extend(found.into_iter().map(|(peer, traffic)| ((listener, peer), traffic)));
                    }
                    Err(error) => debug!(%address, %error, "the kernel does not tell bytes and segments"),
                }
            }
        }
        answers
    });
    answers.await.unwrap_or_default()
}

fn ask(listener: SocketAddr, peer_ports: &[u16]) -> io::Result<HashMap<SocketAddr, Traffic>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddress::new(0, 0))?;
    // The kernel produces its answers while it is asked, so there is never anything to wait for.
    socket.set_non_blocking(true)?;
    socket.send(&request(listener, peer_ports), 0)?;

    let mut found = HashMap::new();
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::Unsupported, error.to_string()))?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    found.extend(connection(listener, &response));
                }
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            // Messages are aligned to 4 bytes; a length of 0 would never end.
            let length = (message.header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn request(listener: SocketAddr, peer_ports: &[u16]) -> Vec<u8> {
    let (family, mut socket_id) = match listener {
        SocketAddr::V4(_) => (AF_INET, SocketId::new_v4()),
        // Sockets of a dual-stack listener are IPv6 sockets, whoever is at the other end.
        SocketAddr::V6(_) => (AF_INET6, SocketId::new_v6()),
    };
    socket_id.source_port = listener.port();
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(
        header,
        NetlinkPayload::from(SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::INFO,
            states: StateFlags::ESTABLISHED,
            socket_id,
        })),
    );
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    if !peer_ports.is_empty() {
        let program = port_program(peer_ports);
        bytes.extend((4 + program.len() as u16).to_ne_bytes());
        bytes.extend(REQUEST_BYTECODE.to_ne_bytes());
        bytes.extend(program);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
    }
    bytes
}

/// From linux/inet_diag.h: the attribute that carries a program, and two of its instructions.
const REQUEST_BYTECODE: u16 = 1;
const JUMP: u8 = 1;
const PEER_PORT_IS: u8 = 12;

/// A program that lets connections through whose peer has one of the ports. Every instruction says how many bytes
/// to go on by if it holds and if not; running off the end exactly is yes, 4 bytes further is no. So, for each
/// port: if it is this one, fall to the jump to the end, else to the next port.
fn port_program(ports: &[u16]) -> Vec<u8> {
    const COMPARISON: u16 = 8;
    const BLOCK: u16 = COMPARISON + 4;
    let mut program = Vec::with_capacity(ports.len() * usize::from(BLOCK));
    for (index, port) in ports.iter().enumerate() {
        let later = (ports.len() - 1 - index) as u16 * BLOCK;
        let unless = if later == 0 { BLOCK + 4 } else { BLOCK };
        let mut instruction = |code: u8, then: u8, otherwise: u16| {
            program.extend([code, then]);
            program.extend(otherwise.to_ne_bytes());
        };
        instruction(PEER_PORT_IS, COMPARISON as u8, unless);
        instruction(0, 0, *port);
        instruction(JUMP, 4, 4 + later);
    }
    program
}

/// Peer and traffic, if the connection came in by this listener.
fn connection(listener: SocketAddr, response: &InetResponse) -> Option<(SocketAddr, Traffic)> {
    let id = &response.header.socket_id;
    let local = id.source_address.to_canonical();
    let is_of_listener = id.source_port == listener.port()
        && (listener.ip().is_unspecified() || local == listener.ip().to_canonical());
    if !is_of_listener {
        return None;
    }
    let traffic = response.nlas.iter().find_map(|attribute| match attribute {
        Nla::TcpInfo(info) => traffic(info),
        _ => None,
    })?;
    Some((SocketAddr::new(id.destination_address.to_canonical(), id.destination_port), traffic))
}

/// Reads `struct tcp_info` of linux/tcp.h, which only ever grows at its end.
fn traffic(info: &[u8]) -> Option<Traffic> {
    let u64_at = |offset: usize| info.get(offset..offset + 8)?.try_into().ok().map(u64::from_ne_bytes);
    let u32_at = |offset: usize| info.get(offset..offset + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let acknowledged = u64_at(120)?;
    // Since Linux 4.19: bytes sent, and how many of them were sent again. Before, what the peer acknowledged
    // must do, which is less by what is under way.
    let sent = u64_at(200).zip(u64_at(208)).map(|(sent, again)| sent.saturating_sub(again));
    Some(Traffic {
        received_bytes: u64_at(128)?,
        received_segments: u32_at(140)?.into(),
        sent_bytes: sent.unwrap_or(acknowledged),
        sent_segments: u32_at(136)?.into(),
    })
}

/// The form in which [`established`] names a peer.
#[must_use]
pub fn canonical(peer: SocketAddr) -> SocketAddr {
    let ip: IpAddr = peer.ip().to_canonical();
    SocketAddr::new(ip, peer.port())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// One connection among 400; 1000 bytes go to the listener's side, 300 come back.
    fn exchange(listen: &str, connect: impl Fn(u16) -> SocketAddr) {
        let listener = TcpListener::bind(listen).unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(connect(address.port())).unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        let others: Vec<_> = (1..400)
            .map(|_| (TcpStream::connect(connect(address.port())).unwrap(), listener.accept().unwrap()))
            .collect();
        client.write_all(&[1; 1000]).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        server.write_all(&[1; 300]).unwrap();
        client.read_exact(&mut [0; 300]).unwrap();

        let peer = canonical(peer);
        let other_ports: Vec<u16> = others.iter().map(|(_, (_, peer))| peer.port()).collect();
        for (others, expected) in [(0, 1), (1, 2), (2, 3), (MOST_PORTS - 1, MOST_PORTS), (MOST_PORTS, 400)] {
            let ports = [&other_ports[..others], &[peer.port()]].concat();
            let found = established(address, &ports).unwrap();
            let traffic = found[&peer];
            assert_eq!((traffic.received_bytes, traffic.sent_bytes), (1000, 300), "{listen}");
            assert!(traffic.received_segments >= 2 && traffic.sent_segments >= 2, "{traffic:?}");
            assert_eq!(found.len(), expected, "{listen}");
        }
        assert_eq!(established(address, &[]).unwrap().len(), 400);
        drop((client, server));
        assert!(!established(address, &[]).unwrap().contains_key(&peer), "gone with its connection");
    }

    #[test]
    fn traffic_is_found_over_ipv4_ipv6_and_mapped_addresses() {
        exchange("127.0.0.1:0", |port| SocketAddr::from(([127, 0, 0, 1], port)));
        exchange("[::1]:0", |port| format!("[::1]:{port}").parse().unwrap());
        exchange("[::]:0", |port| SocketAddr::from(([127, 0, 0, 1], port)));
        exchange("0.0.0.0:0", |port| SocketAddr::from(([127, 0, 0, 1], port)));
    }

    #[test]
    fn an_older_kernel_without_sent_bytes_gives_acknowledged_ones() {
        let mut info = vec![0; 160];
        info[120..128].copy_from_slice(&7_u64.to_ne_bytes());
        info[128..136].copy_from_slice(&8_u64.to_ne_bytes());
        info[136..140].copy_from_slice(&3_u32.to_ne_bytes());
        info[140..144].copy_from_slice(&4_u32.to_ne_bytes());
        let expected = Traffic { received_bytes: 8, received_segments: 4, sent_bytes: 7, sent_segments: 3 };
        assert_eq!(traffic(&info), Some(expected));
        assert_eq!(traffic(&info[..100]), None);
    }
}
