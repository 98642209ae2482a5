//! gRPC as bytes, over a connection in memory: a node that answers what it is told, and a caller that asks what it is told.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::io::DuplexStream;
use tokio::time::timeout;

/// What a node answers to a call of this path with this message: messages, after which the call ends well.
pub type Answers = Arc<dyn Fn(&str, &[u8]) -> Vec<Vec<u8>> + Send + Sync>;

/// Buffers of a connection in memory, bytes.
pub const BUFFER: usize = 1 << 16;

/// How long a caller waits for one more message, on a clock that goes forward by itself when nothing is left to do.
const PATIENCE: Duration = Duration::from_millis(100);

/// A message with its prefix: not compressed, and its length.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// The first message in these bytes, if it is there as a whole.
fn unframed(bytes: &mut BytesMut) -> Option<Vec<u8>> {
    let length = bytes.get(1..5)?.try_into().map(u32::from_be_bytes).ok()?;
    let end = usize::try_from(length).ok()?.checked_add(5)?;
    let message = bytes.get(5..end)?.to_vec();
    bytes.advance(end);
    Some(message)
}

async fn more(body: &mut RecvStream, bytes: &mut BytesMut) -> bool {
    let Some(Ok(data)) = body.data().await else { return false };
    // Whoever is told to wait for room would wait for ever; these are small.
    let _ = body.flow_control().release_capacity(data.len());
    bytes.extend_from_slice(&data);
    true
}

/// Answers every call that comes on a connection, until it ends.
pub async fn answer(connection: DuplexStream, answers: Answers) {
    let Ok(mut connection) = h2::server::handshake(connection).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let answers = Arc::clone(&answers);
        // The connection is served by this task alone, so the request has to be read by another.
        tokio::spawn(async move {
            let path = request.uri().path().to_owned();
            let (mut body, mut bytes) = (request.into_body(), BytesMut::new());
            while more(&mut body, &mut bytes).await {}
            let asked = unframed(&mut bytes).unwrap_or_default();
            let head = Response::builder().header("content-type", "application/grpc").body(());
            let Ok(head) = head else { return };
            // Whoever asked may have gone.
            let Ok(mut sending) = respond.send_response(head, false) else { return };
            for message in answers(&path, &asked) {
                if sending.send_data(framed(&message), false).is_err() {
                    return;
                }
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let _ = sending.send_trailers(trailers);
        });
    }
}

/// One who asks an agent.
pub struct Caller(SendRequest<Bytes>);

/// The answer to a call, as it comes.
pub struct Answer {
    body: RecvStream,
    bytes: BytesMut,
}

impl Caller {
    /// Speaks HTTP/2 on a connection.
    ///
    /// # Panics
    /// If nobody answers there.
    pub async fn on(connection: DuplexStream) -> Self {
        let (sender, connection) = h2::client::handshake(connection).await.expect("a server of HTTP/2");
        tokio::spawn(connection);
        Self(sender)
    }

    /// Calls a method with these bytes for a message.
    ///
    /// # Panics
    /// If the agent ends the connection, or does not answer.
    pub async fn call(&mut self, method: &str, message: &[u8]) -> Answer {
        let uri = format!("http://agent/rollcall.v1.Node/{method}");
        let head = Request::post(uri).header("content-type", "application/grpc").header("te", "trailers");
        let head = head.body(()).expect("a request");
        poll_fn(|cx| self.0.poll_ready(cx)).await.expect("an open connection");
        let (response, mut sending) = self.0.send_request(head, false).expect("an open connection");
        sending.send_data(framed(message), true).expect("an open connection");
        let response = response.await.expect("an answer");
        assert_eq!(response.status(), 200);
        Answer { body: response.into_body(), bytes: BytesMut::new() }
    }
}

impl Answer {
    /// The next message; `None` after the last, or if none comes any more.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(message) = unframed(&mut self.bytes) {
                return Some(message);
            }
            if !timeout(PATIENCE, more(&mut self.body, &mut self.bytes)).await.unwrap_or(false) {
                return None;
            }
        }
    }
}
