//! Gateways let in by a token: every call shows it, and is refused as unauthenticated without a look at what it asks for.

use std::sync::Arc;

use rollcall_trust::Live;
use rollcall_trust::token::Tokens;
use tonic::service::Interceptor;
use tonic::{Request, Status};
use tracing::warn;

use crate::refusals::Refusals;

/// Lets calls in that show one of the tokens, or all if there are none.
#[derive(Clone, Debug)]
pub(crate) struct TokenCheck {
    tokens: Option<Arc<Live<Tokens>>>,
    refusals: Arc<Refusals>,
}

impl TokenCheck {
    pub(crate) fn new(tokens: Option<Arc<Live<Tokens>>>) -> Self {
        Self { tokens, refusals: Arc::default() }
    }
}

impl Interceptor for TokenCheck {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        // Once looked at, it goes no further.
        let shown = request.metadata_mut().remove("authorization");
        let Some(tokens) = &self.tokens else { return Ok(request) };
        let shown = shown.as_ref().and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let why = match shown {
            Some(shown) if tokens.current().accept(shown) => return Ok(request),
            Some(_) => "the call shows another token than those of the agent's token_file",
            None => "the call shows no token, and the agent has a token_file",
        };
        let remote = request.remote_addr().map_or_else(|| "unknown".to_owned(), |remote| remote.to_string());
        self.refusals.note(|unsaid| warn!(remote, unsaid, "refused a call: {why}"));
        Err(Status::unauthenticated(why))
    }
}
