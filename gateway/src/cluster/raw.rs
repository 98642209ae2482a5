//! The call `List`, whose answer is taken as the bytes it comes in.
//!
//! The generated stub would make a message of every row; [`NodeRows`](crate::page::rows::NodeRows) reads the rows where they
//! stand.

use bytes::{Buf, Bytes};
use http::uri::PathAndQuery;
use prost::Message as _;
use rollcall_proto::{MAX_MESSAGE_BYTES, v1};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status, Streaming};

use super::bearer::Link;

/// Asks for a list; each item of the stream is one `ListResponse`.
pub(super) async fn list(
    channel: Link,
    request: Request<v1::ListRequest>,
) -> Result<Streaming<Bytes>, Status> {
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
    let path = PathAndQuery::from_static("/rollcall.v1.Node/List");
    Ok(grpc.server_streaming(request, path, Raw).await?.into_inner())
}

struct Raw;

impl Codec for Raw {
    type Encode = v1::ListRequest;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = v1::ListRequest;
    type Error = Status;

    fn encode(&mut self, request: v1::ListRequest, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        request.encode(to).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }
}
