//! A connection by AMQP 0-9-1 that does nothing but be there.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::mqtt::dial;

/// Method frames on channel 0.
const METHOD: u8 = 1;

/// What every frame ends with.
const END: u8 = 0xce;

/// Connects, logs in and opens the virtual host, as client libraries do: the handshake is five methods of the class
/// `connection`.
///
/// # Panics
/// If the broker does not take it.
#[must_use]
pub(super) fn connect(address: SocketAddr, vhost: &str, (username, password): (&str, &str)) -> TcpStream {
    let mut stream = dial(address);
    handshake(&mut stream, vhost, username, password).expect("a handshake by AMQP");
    stream
}

fn handshake(stream: &mut TcpStream, vhost: &str, username: &str, password: &str) -> io::Result<()> {
    stream.write_all(b"AMQP\0\0\x09\x01")?;
    // Start, StartOk: no properties, mechanism, response, locale.
    expect(stream, 10)?;
    let login = format!("\0{username}\0{password}");
    let start_ok = [&long("")[..], &short("PLAIN"), &long(&login), &short("en_US")].concat();
    send(stream, 11, &start_ok)?;
    // Tune, and TuneOk with the same limits.
    let limits = expect(stream, 30)?;
    send(stream, 31, &limits)?;
    // Open, OpenOk.
    send(stream, 40, &[&short(vhost)[..], &short(""), &[0]].concat())?;
    expect(stream, 41).map(drop)
}

fn send(stream: &mut impl Write, method: u16, arguments: &[u8]) -> io::Result<()> {
    let payload = [&10_u16.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
    let mut frame = vec![METHOD, 0, 0];
    frame.extend(u32::try_from(payload.len()).map_err(io::Error::other)?.to_be_bytes());
    frame.extend(payload);
    frame.push(END);
    stream.write_all(&frame)
}

/// The arguments of the next method, which must be this one.
fn expect(stream: &mut impl Read, method: u16) -> io::Result<Vec<u8>> {
    let mut head = [0; 7];
    stream.read_exact(&mut head)?;
    let mut rest = vec![0; u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize + 1];
    stream.read_exact(&mut rest)?;
    let got = &rest[..4];
    if head[0] != METHOD || got != [&10_u16.to_be_bytes()[..], &method.to_be_bytes()].concat() {
        return Err(io::Error::other(format!("expected connection.{method}, got {head:?} {rest:?}")));
    }
    Ok(rest[4..rest.len() - 1].to_vec())
}

fn short(text: &str) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(text.len()).expect("a short string")];
    bytes.extend(text.as_bytes());
    bytes
}

fn long(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).expect("a long string").to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}
