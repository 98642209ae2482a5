//! Takes a session over by MQTT 3.1.1 with Clean Session, and lets it go: CONNECT, CONNACK, DISCONNECT.
//!
//! The server closes the connection that had the client id, and forgets the session before it accepts. Four packets
//! are all there is to it; a client library would come with reconnecting, keep-alive and a task.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::lock;
use super::settings::{Files, NatsSettings, StartError, host};
use crate::broker::BrokerError;
use crate::broker::http::client_tls;
use crate::broker::secret::Secret;

/// How long a connection of ours may still be listed when it is closed.
const REMEMBERED: Duration = Duration::from_secs(10);

/// The longest string of MQTT, bytes.
const MAX_TEXT: usize = 65_535;

pub(super) struct Takeover {
    /// User and password by account.
    logins: HashMap<String, (String, Secret)>,
    tls: Option<TlsConnector>,
    within: Duration,
    /// Our own ends, so that they are not taken for clients.
    own: Mutex<HashMap<SocketAddr, Instant>>,
}

impl Takeover {
    pub(super) fn new(settings: &NatsSettings, files: Files) -> Result<Self, StartError> {
        let tls = match &files.ca {
            None => None,
            Some(ca) => {
                let config = client_tls(Some(ca)).map_err(StartError::Settings)?;
                Some(TlsConnector::from(std::sync::Arc::new(config)))
            }
        };
        let accounts = settings.accounts.iter().zip(files.accounts);
        let logins =
            accounts.map(|(account, password)| (account.name.clone(), (account.username.clone(), password)));
        Ok(Self {
            logins: logins.collect(),
            tls,
            within: Duration::from_millis(settings.timeout_ms),
            own: Mutex::default(),
        })
    }

    /// Whether a connection from there is one of ours.
    pub(super) fn is_own(&self, ip: Option<IpAddr>, port: u16) -> bool {
        let mut own = lock(&self.own);
        own.retain(|_, ends| ends.elapsed() < REMEMBERED);
        ip.is_some_and(|ip| own.contains_key(&SocketAddr::new(ip, port)))
    }

    pub(super) async fn run(&self, address: &str, account: &str, clientid: &str) -> Result<(), BrokerError> {
        let Some((username, password)) = self.logins.get(account) else {
            return Err(BrokerError::Refused(format!("there is no login for account {account:?}")));
        };
        let connect = connect_packet(clientid, username, password).map_err(BrokerError::Refused)?;
        let failed = |error: io::Error| BrokerError::Unavailable(format!("MQTT at {address}: {error}"));
        let exchange = async {
            let tcp = TcpStream::connect(address).await.map_err(failed)?;
            let own = tcp.local_addr().map_err(failed)?;
            lock(&self.own).insert(SocketAddr::new(own.ip().to_canonical(), own.port()), Instant::now());
            let code = match &self.tls {
                None => exchange(tcp, &connect).await,
                Some(tls) => {
                    let name = host(address).unwrap_or_default().to_owned();
                    let name = ServerName::try_from(name).map_err(|error| failed(io::Error::other(error)))?;
                    exchange(tls.connect(name, tcp).await.map_err(failed)?, &connect).await
                }
            };
            match code.map_err(failed)? {
                0 => Ok(()),
                code @ (4 | 5) => Err(BrokerError::Refused(format!(
                    "MQTT at {address}: CONNACK {code} to user {username:?}, expected one of account {account:?} that may connect by MQTT"
                ))),
                code => Err(BrokerError::Refused(format!("MQTT at {address}: CONNACK {code}"))),
            }
        };
        timeout(self.within, exchange).await.unwrap_or_else(|_| {
            Err(BrokerError::Unavailable(format!(
                "MQTT at {address}: no answer within {} ms",
                self.within.as_millis()
            )))
        })
    }
}

/// Gives the return code of CONNACK.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, connect: &[u8]) -> io::Result<u8> {
    stream.write_all(connect).await?;
    stream.flush().await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    let [0x20, 2, _, code] = answer else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("expected CONNACK, got {answer:02x?}"),
        ));
    };
    if code == 0 {
        stream.write_all(&[0xe0, 0]).await?;
        // The session is over when the server has taken this in, and then it closes.
        stream.shutdown().await?;
        let _ = stream.read(&mut answer).await?;
    }
    Ok(code)
}

fn connect_packet(clientid: &str, username: &str, password: &Secret) -> Result<Zeroizing<Vec<u8>>, String> {
    const CLEAN_WITH_LOGIN: u8 = 0b1100_0010;
    let mut body = Zeroizing::new(vec![0, 4, b'M', b'Q', b'T', b'T', 4, CLEAN_WITH_LOGIN, 0, 10]);
    for text in [clientid, username, password.reveal()] {
        let length = u16::try_from(text.len())
            .map_err(|_| format!("a text of {} bytes, expected at most {MAX_TEXT}", text.len()))?;
        body.extend(length.to_be_bytes());
        body.extend(text.as_bytes());
    }
    let mut packet = Zeroizing::new(vec![0x10]);
    let mut rest = body.len();
    loop {
        let low = (rest % 128) as u8;
        rest /= 128;
        packet.push(if rest > 0 { low | 128 } else { low });
        if rest == 0 {
            break;
        }
    }
    packet.extend(body.iter());
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, text).unwrap();
        Secret::read(&path).unwrap()
    }

    #[test]
    fn connect_is_as_the_standard_writes_it() {
        let packet = connect_packet("c", "u", &secret("pw")).unwrap();
        assert_eq!(packet.as_slice(), b"\x10\x14\0\x04MQTT\x04\xc2\0\x0a\0\x01c\0\x01u\0\x02pw");
        let long = connect_packet(&"x".repeat(300), "u", &secret("pw")).unwrap();
        assert_eq!(long[..3], [0x10, 0xbf, 2]);
        assert!(connect_packet(&"x".repeat(65_536), "u", &secret("pw")).is_err());
    }

    #[tokio::test]
    async fn only_connack_is_taken_for_an_answer() {
        for (answer, expected) in [([0x20, 2, 0, 0], Some(0)), ([0x20, 2, 0, 5], Some(5)), (*b"HTTP", None)] {
            let (ours, mut theirs) = tokio::io::duplex(64);
            let server = async move {
                let mut got = [0; 2];
                theirs.read_exact(&mut got).await.unwrap();
                theirs.write_all(&answer).await.unwrap();
                let mut rest = Vec::new();
                theirs.read_to_end(&mut rest).await.unwrap();
                rest
            };
            let (code, rest) = tokio::join!(exchange(ours, b"ok"), server);
            assert_eq!(code.ok(), expected);
            assert_eq!(rest, if expected == Some(0) { &[0xe0, 0][..] } else { &[] });
        }
    }
}
