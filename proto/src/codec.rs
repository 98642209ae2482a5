//! The codec of the service's stubs: prost's, but for a list's answers, which are written by [`write_list`].

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

use crate::v1;
use crate::wire::write_list;

/// A message that knows how it is written.
pub trait Written: Message + Sized {
    /// Writes the message; `scratch` is empty.
    fn write(&self, scratch: &mut Vec<u8>) {
        // Memory has room for any message.
        let _ = self.encode(scratch);
    }
}

macro_rules! written_by_prost {
    ($($message:ident),* $(,)?) => { $(impl Written for v1::$message {})* };
}

written_by_prost!(
    DescribeRequest,
    DescribeResponse,
    SurveyRequest,
    SurveyResponse,
    ListRequest,
    CountRequest,
    CountResponse,
    ExportRequest,
    GetRequest,
    GetResponse,
    KickRequest,
    KickResponse,
);

impl Written for v1::ListResponse {
    fn write(&self, scratch: &mut Vec<u8>) {
        write_list(self, scratch);
    }
}

/// Sends `T`, receives `U`.
#[derive(Clone, Copy, Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Written + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Writer<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Writer<T> {
        Writer(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstDecoder::new(BufferSettings::default())
    }
}

/// Writes messages.
#[derive(Clone, Copy, Debug)]
pub struct Writer<T>(PhantomData<T>);

impl<T: Written> Encoder for Writer<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let mut written = Vec::new();
        message.write(&mut written);
        to.reserve(written.len());
        bytes::BufMut::put_slice(to, &written);
        Ok(())
    }
}
