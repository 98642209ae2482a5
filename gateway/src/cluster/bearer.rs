//! The token that calls show to agents.

use std::sync::Arc;

use rollcall_trust::Live;
use rollcall_trust::token::Tokens;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// A node's channel, whose calls show the token, if there is one.
pub(super) type Link = InterceptedService<Channel, Bearer>;

/// Puts the token that is current into every call.
#[derive(Clone, Debug)]
pub(super) struct Bearer(pub(super) Option<Arc<Live<Tokens>>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(tokens) = &self.0 {
            let mut value: MetadataValue<Ascii> = format!("Bearer {}", tokens.current().first())
                .parse()
                .map_err(|_| Status::internal("the token cannot stand in a header"))?;
            // Kept out of logs, and out of the compression's memory on both sides.
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}
