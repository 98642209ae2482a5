//! An HTTP/1.1 connection that asks one thing after the other, of any server.

use std::time::Duration;

use rollcall_tests::bench::body::Head;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Bytes of the body as they were sent, without their transfer encoding.
    pub(crate) bytes: u64,
}

/// A connection; a server that closes it after an answer is connected to again.
#[derive(Debug)]
pub(crate) struct Connection {
    authority: String,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(authority: &str) -> Result<Self, String> {
        let mut connection =
            Self { authority: authority.to_owned(), stream: None, buffer: vec![0; 256 << 10] };
        connection.stream = Some(connection.connect().await?);
        Ok(connection)
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        let failed = |error: std::io::Error| format!("cannot connect to {}: {error}", self.authority);
        let stream = TcpStream::connect(&self.authority).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(stream)
    }

    /// Sends a request and reads its whole response; the body's bytes go to `sink`.
    pub(crate) async fn ask(
        &mut self,
        request: &[u8],
        sink: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<Reply, String> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        stream.write_all(request).await.map_err(|error| format!("the server reads no more: {error}"))?;
        let mut filled = 0;
        let mut head = loop {
            let length = read(&mut stream, &mut self.buffer[filled..]).await?;
            if length == 0 {
                return Err("the connection ended without an answer".to_owned());
            }
            filled += length;
            if let Some(head) = Head::read(&self.buffer[..filled])? {
                break head;
            }
            if filled == self.buffer.len() {
                return Err(format!("a head of more than {filled} bytes"));
            }
        };
        let mut bytes = 0;
        let mut sink = |data: &[u8]| {
            bytes += data.len() as u64;
            sink(data);
        };
        head.body.feed(&self.buffer[head.length..filled], &mut sink)?;
        let mut is_open = true;
        while is_open && !head.body.is_whole() {
            let length = read(&mut stream, &mut self.buffer).await?;
            head.body.feed(&self.buffer[..length], &mut sink)?;
            is_open = length > 0;
        }
        if !is_open && !head.body.may_close() {
            return Err("the connection ended within an answer".to_owned());
        }
        self.stream = is_open.then_some(stream);
        Ok(Reply { status: head.status, bytes })
    }
}

async fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<usize, String> {
    let read = timeout(PATIENCE, stream.read(buffer)).await;
    let read = read.map_err(|_| format!("nothing for {} s", PATIENCE.as_secs()))?;
    read.map_err(|error| format!("the connection broke: {error}"))
}
