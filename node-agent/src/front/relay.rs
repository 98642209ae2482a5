//! Passes the bytes of one connection on, both ways, and has them counted.
//!
//! Promises:
//! - Every byte arrives once, unchanged and in order. When the broker has closed and there is a reason to tell, an MQTT 5
//!   client is sent DISCONNECT after its last byte; nothing else is ever added.
//! - Who does not read stops the other from sending: of each direction at most [`PIECE`] bytes are held, and none while nothing
//!   passes.
//! - The end of one direction is passed on as such, and the other goes on: a client that has sent all still gets what
//!   comes, and what the broker said before it closed reaches the client, though it sends on.
//! - An end that does not come is made: [`STALL`], [`LINGER`], [`PARTING`].
//!
//! One task a connection, with both directions in it. Decided against: `tokio::io::copy_bidirectional`, which keeps two
//! buffers for as long as the connection lives, cannot tell what has really been written, and gives up both directions
//! when one fails.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};

use super::connection::Connection;

/// Bytes passed on at a time.
pub(super) const PIECE: usize = 32 * 1024;

/// How long a client may take nothing of what is sent to it. The embedded broker gives a client of its own as long.
const STALL: Duration = Duration::from_secs(10);

/// How long the client's direction may go on when nothing can come back any more.
const LINGER: Duration = Duration::from_secs(10);

/// How long a connection that is cut may take for what is still to be sent to the client.
const PARTING: Duration = Duration::from_secs(1);

thread_local! {
    /// What is read is mostly passed on at once, so all connections of a thread share where it is read to.
    static PASSING: RefCell<Vec<u8>> = RefCell::new(vec![0; PIECE]);
}

/// Passes on until both directions have ended.
pub(super) async fn relay<C, B>(client: C, broker: B, connection: &Connection)
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let relay = Relay {
        client,
        broker,
        connection,
        up: Pipe::new(Direction::Up),
        down: Pipe::new(Direction::Down),
        stall: None,
        linger: None,
    };
    let mut relay = pin!(relay);
    tokio::select! {
        () = &mut relay => return,
        () = connection.is_cut() => {}
    }
    // In any case it is dropped then.
    let _ = timeout(PARTING, relay).await;
}

struct Relay<'a, C, B> {
    client: C,
    broker: B,
    connection: &'a Connection,
    up: Pipe,
    down: Pipe,
    stall: Option<Pin<Box<Sleep>>>,
    linger: Option<Pin<Box<Sleep>>>,
}

impl<C, B> Future for Relay<'_, C, B>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let up = this.up.poll(cx, &mut this.client, &mut this.broker, this.connection);
        let down = this.down.poll(cx, &mut this.broker, &mut this.client, this.connection);
        if up.is_ready() && down.is_ready() {
            return Poll::Ready(());
        }
        if !this.down.is_blocked || this.down.has_moved {
            this.stall = None;
        }
        if this.down.is_blocked {
            let stall = this.stall.get_or_insert_with(|| Box::pin(sleep(STALL)));
            if stall.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
        }
        if down.is_ready() || this.up.has_failed {
            let linger = this.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
            return linger.as_mut().poll(cx);
        }
        Poll::Pending
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// From the client to the broker.
    Up,
    /// From the broker to the client.
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing more is read; the end is to be passed on.
    Ending,
    Over,
}

/// One direction.
struct Pipe {
    direction: Direction,
    state: State,
    /// What was read and could not be written yet begins at `at`.
    pending: Vec<u8>,
    at: usize,
    /// Something may wait within the stream that was written to.
    is_unflushed: bool,
    /// Of the last poll: whether it waits for its receiver, and whether that took something.
    is_blocked: bool,
    has_moved: bool,
    /// It has ended by an error.
    has_failed: bool,
}

impl Pipe {
    fn new(direction: Direction) -> Self {
        Self {
            direction,
            state: State::Open,
            pending: Vec::new(),
            at: 0,
            is_unflushed: false,
            is_blocked: false,
            has_moved: false,
            has_failed: false,
        }
    }

    /// Passes on what there is; ready when this direction is over.
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        connection: &Connection,
    ) -> Poll<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        self.has_moved = false;
        loop {
            self.is_blocked = true;
            if self.at < self.pending.len() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending[self.at..]));
                let Ok(length @ 1..) = written else { return self.fail() };
                let end = self.at + length;
                self.has_moved = true;
                self.is_unflushed = true;
                if self.direction == Direction::Down {
                    connection.sent(&self.pending[self.at..end]);
                }
                self.at = end;
                if self.at == self.pending.len() {
                    // Not kept: most connections never need it again.
                    (self.pending, self.at) = (Vec::new(), 0);
                }
                continue;
            }
            match self.state {
                State::Over => {
                    self.is_blocked = false;
                    return Poll::Ready(());
                }
                State::Ending => {
                    self.has_failed |= ready!(Pin::new(&mut *to).poll_shutdown(cx)).is_err();
                    self.state = State::Over;
                }
                State::Open => {
                    if PASSING
                        .with_borrow_mut(|piece| self.read(cx, from, to, connection, piece))
                        .is_pending()
                    {
                        if self.is_unflushed {
                            if ready!(Pin::new(&mut *to).poll_flush(cx)).is_err() {
                                return self.fail();
                            }
                            self.is_unflushed = false;
                        }
                        self.is_blocked = false;
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Reads one piece, and writes what can be written of it at once. Pending if there is none.
    fn read<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        connection: &Connection,
        piece: &mut [u8],
    ) -> Poll<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut piece = ReadBuf::new(piece);
        let read = ready!(Pin::new(from).poll_read(cx, &mut piece));
        let piece = piece.filled();
        if read.is_err() || piece.is_empty() {
            self.has_failed |= read.is_err();
            self.end(connection);
            return Poll::Ready(());
        }
        if self.direction == Direction::Up {
            connection.received(piece);
        }
        match Pin::new(to).poll_write(cx, piece) {
            Poll::Pending => self.pending = piece.to_vec(),
            Poll::Ready(Ok(length @ 1..)) => {
                self.has_moved = true;
                self.is_unflushed = true;
                if self.direction == Direction::Down {
                    connection.sent(&piece[..length]);
                }
                self.pending = piece[length..].to_vec();
            }
            Poll::Ready(_) => return self.fail(),
        }
        Poll::Ready(())
    }

    /// The receiver takes no more.
    fn fail(&mut self) -> Poll<()> {
        self.has_failed = true;
        self.is_blocked = false;
        self.state = State::Over;
        (self.pending, self.at) = (Vec::new(), 0);
        Poll::Ready(())
    }

    /// Nothing more comes.
    fn end(&mut self, connection: &Connection) {
        self.state = State::Ending;
        if self.direction == Direction::Down
            && let Some(farewell) = connection.farewell()
        {
            self.pending = farewell.to_vec();
        }
    }
}

#[cfg(test)]
mod tests;
