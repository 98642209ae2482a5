//! The calls `List` and `Export`, whose answers are sent as the bytes they were written in.
//!
//! The generated server would want a message of every row, with strings of its own; the rows are written where they stand in
//! the index instead ([`rollcall_proto::wire::write_list`]). Every other call goes on to the generated server.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use prost::bytes::BufMut as _;
use rollcall_proto::MAX_MESSAGE_BYTES;
use rollcall_proto::v1::node_server::NodeServer;
use rollcall_proto::v1::{ExportRequest, ListRequest};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::{Request, Response, Status};

use super::{NodeService, WrittenStream};

/// The server of `rollcall.v1.Node`.
#[derive(Clone)]
pub(crate) struct RawLists {
    service: NodeService,
    others: NodeServer<NodeService>,
}

impl RawLists {
    pub(crate) fn new(service: NodeService) -> Self {
        let others = NodeServer::new(service.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self { service, others }
    }

    fn answer<T>(&self, request: http::Request<Body>) -> BoxFuture<'static, Answer>
    where
        T: prost::Message + Default + 'static,
        Rows: ServerStreamingService<T, Response = Vec<u8>, ResponseStream = WrittenStream>,
        <Rows as ServerStreamingService<T>>::Future: Send,
    {
        let rows = Rows(self.service.clone());
        Box::pin(async move {
            let mut grpc = Grpc::new(Raw::<T>(PhantomData))
                .apply_max_message_size_config(Some(MAX_MESSAGE_BYTES), Some(MAX_MESSAGE_BYTES));
            Ok(grpc.server_streaming(rows, request).await)
        })
    }
}

type Answer = Result<http::Response<Body>, Infallible>;

impl NamedService for RawLists {
    const NAME: &'static str = <NodeServer<NodeService> as NamedService>::NAME;
}

impl Service<http::Request<Body>> for RawLists {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // as the generated server
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match request.uri().path() {
            "/rollcall.v1.Node/List" => self.answer::<ListRequest>(request),
            "/rollcall.v1.Node/Export" => self.answer::<ExportRequest>(request),
            _ => self.others.call(request),
        }
    }
}

struct Rows(NodeService);

impl ServerStreamingService<ListRequest> for Rows {
    type Response = Vec<u8>;
    type ResponseStream = WrittenStream;
    type Future = BoxFuture<'static, Result<Response<WrittenStream>, Status>>;

    fn call(&mut self, request: Request<ListRequest>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { service.written_list(request).await })
    }
}

impl ServerStreamingService<ExportRequest> for Rows {
    type Response = Vec<u8>;
    type ResponseStream = WrittenStream;
    type Future = BoxFuture<'static, Result<Response<WrittenStream>, Status>>;

    fn call(&mut self, request: Request<ExportRequest>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { service.written_export(request).await })
    }
}

/// Takes a message `T`, sends bytes.
struct Raw<T>(PhantomData<T>);

impl<T: prost::Message + Default + 'static> Codec for Raw<T> {
    type Encode = Vec<u8>;
    type Decode = T;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self(PhantomData)
    }

    fn decoder(&mut self) -> Self {
        Self(PhantomData)
    }
}

impl<T> Encoder for Raw<T> {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(message.len());
        to.put_slice(&message);
        Ok(())
    }
}

impl<T: prost::Message + Default> Decoder for Raw<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        T::decode(message).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
