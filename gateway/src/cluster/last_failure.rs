//! Why a node's connection failed last, which the status of a call does not say: tonic's words for it are "transport
//! error", and an agent that refuses a certificate says so on a connection that counts as made.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::tls::explain;
use crate::byte_stream::BoxedStream;

/// What TLS answers to who does not speak it: an alert.
const ALERT: [u8; 2] = [0x15, 0x03];

/// Why it failed last, until it brings something.
#[derive(Clone, Debug, Default)]
pub(super) struct LastFailure(Arc<Mutex<Option<String>>>);

impl LastFailure {
    pub(super) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, why: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Notes why a connection did not come up.
    pub(super) fn note(&self, error: &io::Error) {
        self.set(Some(explain(error)));
    }

    /// Notes what becomes of a connection.
    pub(super) fn watch(&self, stream: BoxedStream) -> Watched {
        Watched { stream, failure: self.clone(), is_fresh: true }
    }
}

/// A connection whose failures are noted.
pub(super) struct Watched {
    stream: BoxedStream,
    failure: LastFailure,
    /// Nothing has been read yet.
    is_fresh: bool,
}

impl Watched {
    fn first(&mut self, read: &[u8]) {
        self.is_fresh = false;
        self.failure.set(if read.is_empty() {
            Some("the agent closed the connection before it said anything".to_owned())
        } else if read.starts_with(&ALERT) {
            Some("the agent speaks TLS: give node-ca".to_owned())
        } else {
            None
        });
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        match &read {
            Poll::Ready(Ok(())) if self.is_fresh => self.first(&buffer.filled()[before..]),
            Poll::Ready(Err(error)) => self.failure.note(error),
            _ => {}
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
