//! The body of an answer that a task writes while it is sent.
//!
//! Pieces go through a channel that holds one: a client that reads slowly stops the task there, and whatever feeds it. A
//! client that takes no piece for as long as it may is given up. A task that ends without [`Pieces::end`] breaks the
//! body off, so that nobody takes it for whole.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Where a task puts what it has written.
#[derive(Debug)]
pub(super) struct Pieces {
    sender: mpsc::Sender<Piece>,
    client_timeout: Duration,
}

/// What was put there, for the client.
#[derive(Debug)]
pub(super) struct Taken(mpsc::Receiver<Piece>);

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    End,
}

/// Nobody takes pieces any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientGone;

/// The body ends before its end.
#[derive(Clone, Copy, Debug, Error)]
#[error("the answer broke off")]
struct BrokeOff;

/// A body to be, and where its pieces are put. A client that takes none for `client_timeout` has gone.
pub(super) fn pieces(client_timeout: Duration) -> (Pieces, Taken) {
    let (sender, receiver) = mpsc::channel(1);
    (Pieces { sender, client_timeout }, Taken(receiver))
}

impl Pieces {
    /// Hands over some bytes, once there is room.
    pub(super) async fn send(&self, bytes: Bytes) -> Result<(), ClientGone> {
        self.put(Piece::Data(bytes)).await
    }

    /// Ends the body well.
    pub(super) async fn end(&self) -> Result<(), ClientGone> {
        self.put(Piece::End).await
    }

    /// Waits until nobody takes pieces any more.
    pub(super) async fn client_gone(&self) {
        self.sender.closed().await;
    }

    async fn put(&self, piece: Piece) -> Result<(), ClientGone> {
        match timeout(self.client_timeout, self.sender.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ClientGone),
        }
    }
}

impl Taken {
    /// The pieces as a body, which holds `kept` until it ends or is dropped.
    pub(super) fn body(self, kept: impl Send + 'static) -> Body {
        Body::from_stream(stream::try_unfold((self.0, kept), async |(mut taken, kept)| {
            match taken.recv().await {
                Some(Piece::Data(bytes)) => Ok(Some((bytes, (taken, kept)))),
                Some(Piece::End) => Ok(None),
                None => Err(BrokeOff),
            }
        }))
    }
}
