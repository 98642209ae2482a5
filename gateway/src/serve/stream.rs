//! A connection as HTTP needs it: with the bytes read ahead, JSON where hyper has none, and a patient end.
//!
//! hyper answers a head that it cannot parse or hold by itself, without a body, before any of our code has seen the
//! request. Such an answer is recognised on its way out, as every answer of ours has an id, and replaced. It is always
//! a connection's last. A body that comes in chunks may hold any bytes, such as those of an answer of hyper's; hyper never
//! writes one without the frame of its chunk in the next slice, and gives an answer of its own as a single slice.
//!
//! A client that takes nothing for [`STALLED`] while there is something to write is cut off. (Of HTTP/2 that is seen by
//! [`super::activity`].)
//!
//! After an answer to a request that was not read to its end, closing at once would have the kernel reset the
//! connection and discard the answer on the client's side; so what still comes in is read and dropped for a while.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::transport::Transport;

/// How long, and for how many bytes, a client is listened to that was answered before it had finished.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 16 << 20;

/// How long a client may take nothing.
pub(super) const STALLED: Duration = Duration::from_secs(300);

/// No head that hyper writes by itself is longer.
const LONGEST_OWN_HEAD: usize = 256;

pub(super) struct HttpStream {
    tcp: Transport,
    /// Read from the connection, not yet given to hyper.
    ahead: Bytes,
    /// Whether answers of hyper's own are looked for.
    rewrite: bool,
    /// Written by hyper as far as it knows, not yet to the connection.
    pending: Bytes,
    /// The last head written was of a refusal.
    refused: bool,
    /// Runs while the connection takes no more.
    stalled: Option<Pin<Box<Sleep>>>,
    lingering: Option<(Pin<Box<Sleep>>, usize)>,
}

impl HttpStream {
    /// A connection of which `ahead` has been read already.
    pub(super) fn new(tcp: Transport, ahead: Vec<u8>, rewrite: bool) -> Self {
        Self {
            tcp,
            ahead: ahead.into(),
            rewrite,
            pending: Bytes::new(),
            refused: false,
            stalled: None,
            lingering: None,
        }
    }

    /// Passes on how far a write to the connection came, as long as it comes further in time.
    fn within_time<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stalled = None;
            return write;
        }
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALLED)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }

    fn poll_write_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.pending.has_remaining() {
            let write = Pin::new(&mut self.tcp).poll_write(cx, &self.pending);
            let written = ready!(self.within_time(cx, write))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Looks at what hyper writes: what to do with the head at its beginning.
    fn look(&mut self, head: &[u8], is_alone: bool) -> Look {
        if !self.rewrite {
            return Look::AsItIs;
        }
        if head.starts_with(b"HTTP/1.") {
            self.refused = head.get(9) == Some(&b'4');
        }
        match own_answer(head).filter(|_| is_alone) {
            None => Look::AsItIs,
            Some((0, status)) => {
                self.pending = replacement(status);
                self.refused = true;
                Look::Replaced(head.len())
            }
            Some((at, _)) => Look::UpTo(at),
        }
    }
}

enum Look {
    AsItIs,
    /// Only so many bytes yet.
    UpTo(usize),
    /// So many bytes stand for what is pending now.
    Replaced(usize),
}

/// Finds an answer of hyper's own at the end of what it writes: where it begins, and its status. The text it is
/// recognised by cannot be part of a body that is written without chunks, since JSON holds no bare line ends.
fn own_answer(written: &[u8]) -> Option<(usize, &str)> {
    const BEGINNING: &[u8] = b"HTTP/1.1 4";
    if !written.ends_with(b"\r\n\r\n") {
        return None;
    }
    let from = written.len().saturating_sub(LONGEST_OWN_HEAD);
    let at = from + written[from..].windows(BEGINNING.len()).rposition(|window| window == BEGINNING)?;
    let head = std::str::from_utf8(&written[at..]).ok()?.to_ascii_lowercase();
    let has_no_body = head.contains("\r\ncontent-length: 0\r\n");
    let is_ours = head.contains("\r\nx-request-id:");
    let status = std::str::from_utf8(written.get(at + 9..at + 12)?).ok()?;
    (has_no_body && !is_ours).then_some((at, status))
}

/// What hyper's status becomes.
fn replacement(status: &str) -> Bytes {
    let (line, message) = match status {
        "414" => ("413 Payload Too Large", "the URL is too long"),
        "431" => ("413 Payload Too Large", "the request's head is too large or has more than 100 headers"),
        _ => ("400 Bad Request", "the request is not HTTP that can be understood"),
    };
    let body = format!(r#"{{"code":102,"message":"{message}"}}"#);
    Bytes::from(format!(
        "HTTP/1.1 {line}\r\ncontent-type: application/json\r\ncache-control: no-store\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    ))
}

impl AsyncRead for HttpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.has_remaining() {
            let most = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead.split_to(most));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    /// hyper begins a head only when all before it is written or stands in the same first slice.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_write_pending(cx))?;
        let first = slices.first().map_or(&[][..], |slice| slice);
        let write = match self.look(first, slices.len() <= 1) {
            Look::AsItIs => Pin::new(&mut self.tcp).poll_write_vectored(cx, slices),
            Look::UpTo(end) => Pin::new(&mut self.tcp).poll_write(cx, &first[..end]),
            Look::Replaced(length) => return Poll::Ready(Ok(length)),
        };
        self.within_time(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_pending(cx))?;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_pending(cx))?;
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.tcp).poll_shutdown(cx))?;
            if !self.refused {
                return Poll::Ready(Ok(()));
            }
        }
        let Self { tcp, lingering, .. } = &mut *self;
        let (timer, left) = lingering.get_or_insert_with(|| (Box::pin(sleep(LINGER_TIME)), LINGER_BYTES));
        while *left > 0 && timer.as_mut().poll(cx).is_pending() {
            let mut scratch = [0; 8192];
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut *tcp).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => *left = left.saturating_sub(buffer.filled().len()),
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    const OWN: &str = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: Mon, 23 Nov 2026 12:00:00 GMT\r\n\r\n";

    async fn connection() -> (HttpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        (HttpStream::new(Transport::Plain(Box::new(tcp)), Vec::new(), true), client)
    }

    #[tokio::test]
    async fn what_looks_like_hypers_own_answer_in_a_chunk_is_left_alone() {
        use tokio::io::AsyncReadExt as _;
        let (mut stream, mut client) = connection().await;
        let write = |stream: &mut HttpStream, slices: &[IoSlice<'_>]| {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            assert!(Pin::new(stream).poll_write_vectored(&mut cx, slices).is_ready());
        };
        write(&mut stream, &[IoSlice::new(OWN.as_bytes()), IoSlice::new(b"\r\n")]);
        let mut seen = vec![0; OWN.len()];
        client.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, OWN.as_bytes());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_cut_off() {
        use tokio::io::AsyncWriteExt as _;
        let (mut stream, _client) = connection().await;
        let begun = tokio::time::Instant::now();
        let error = stream.write_all(&vec![b' '; 64 << 20]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= STALLED);
    }

    #[test]
    fn hypers_own_answer_is_found_alone_and_behind_others() {
        assert_eq!(own_answer(OWN.as_bytes()), Some((0, "431")));
        let before = "HTTP/1.1 200 OK\r\nx-request-id: 1\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(own_answer(format!("{before}{OWN}").as_bytes()), Some((before.len(), "431")));
    }

    #[test]
    fn answers_of_ours_are_left_alone() {
        for written in [
            "HTTP/1.1 404 Not Found\r\nx-request-id: 1\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\nx-request-id: 1\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "",
        ] {
            assert_eq!(own_answer(written.as_bytes()), None, "{written}");
        }
    }
}
