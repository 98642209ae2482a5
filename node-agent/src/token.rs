//! Gateways let in by a token: every call shows it, and is refused as unauthenticated without a look at what it asks for.
//!
//! Whoever guesses tokens is slowed down as whoever guesses keys at the gateway is: over its budget an address is not listened to,
//! right token or not. The same wrong token again is no guess, since what comes of it is known: a gateway that was given the wrong
//! file shows it with every call, and must not lock out another one at its address. Who shows no token at all guesses nothing.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rollcall_trust::Live;
use rollcall_trust::guesses::Guesses;
use rollcall_trust::token::Tokens;
use tokio::time::Instant;
use tonic::service::Interceptor;
use tonic::{Request, Status};
use tracing::warn;

use crate::metrics::{CallFigures, TokenRefusal};
use crate::refusals::Refusals;

/// Wrong tokens that are remembered, of all addresses together.
const REMEMBERED: usize = 16;

/// Lets calls in that show one of the tokens, or all if there are none.
#[derive(Clone, Debug)]
pub(crate) struct TokenCheck {
    tokens: Option<Arc<Live<Tokens>>>,
    wrong: Arc<WrongTokens>,
    figures: Arc<CallFigures>,
    refusals: Arc<Refusals>,
    floods: Arc<Refusals>,
}

/// What was shown that is none of the tokens.
#[derive(Debug)]
struct WrongTokens {
    guesses: Guesses,
    /// Hashes of the last ones, under a key of this process alone.
    last: Mutex<VecDeque<u64>>,
    hasher: RandomState,
}

impl TokenCheck {
    /// An address may show `burst` wrong tokens at once; 0: any number.
    pub(crate) fn new(tokens: Option<Arc<Live<Tokens>>>, burst: u32, figures: Arc<CallFigures>) -> Self {
        let wrong =
            WrongTokens { guesses: Guesses::new(burst), last: Mutex::default(), hasher: RandomState::new() };
        Self { tokens, wrong: Arc::new(wrong), figures, refusals: Arc::default(), floods: Arc::default() }
    }

    /// Whether a call that shows this is to be let in.
    fn check(
        &self,
        tokens: &Tokens,
        shown: Option<&str>,
        remote: Option<IpAddr>,
    ) -> Result<(), TokenRefusal> {
        let Some(shown) = shown else { return Err(TokenRefusal::Missing) };
        let now = Instant::now();
        let guesses = &self.wrong.guesses;
        if remote.is_some_and(|remote| guesses.wait(remote, now).is_some()) {
            return Err(TokenRefusal::TooMany);
        }
        if tokens.accept(shown) {
            return Ok(());
        }
        if let Some(remote) = remote
            && self.wrong.is_new(shown)
            && guesses.wrong(remote, now)
        {
            self.floods.note(|unsaid| {
                warn!(%remote, unsaid, "too many wrong tokens from one address, it is not listened to for a while");
            });
        }
        Err(TokenRefusal::Wrong)
    }
}

impl WrongTokens {
    /// Whether it was not shown lately; from now on it was.
    fn is_new(&self, token: &str) -> bool {
        let hash = self.hasher.hash_one(token);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.contains(&hash) {
            return false;
        }
        last.truncate(REMEMBERED - 1);
        last.push_front(hash);
        true
    }
}

impl Interceptor for TokenCheck {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        // Once looked at, it goes no further.
        let shown = request.metadata_mut().remove("authorization");
        let Some(tokens) = &self.tokens else { return Ok(request) };
        let shown = shown.as_ref().and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let remote = request.remote_addr();
        let Err(refusal) = self.check(&tokens.current(), shown, remote.map(|remote| remote.ip())) else {
            return Ok(request);
        };
        self.figures.token_refused(refusal);
        let why = match refusal {
            TokenRefusal::Wrong => "the call shows another token than those of the agent's token_file",
            TokenRefusal::Missing => "the call shows no token, and the agent has a token_file",
            TokenRefusal::TooMany => {
                "too many wrong tokens came from this address, it is not listened to for a while"
            }
        };
        let remote = remote.map_or_else(|| "unknown".to_owned(), |remote| remote.to_string());
        self.refusals.note(|unsaid| warn!(remote, unsaid, "refused a call: {why}"));
        Err(Status::unauthenticated(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_wrong_token_again_is_no_guess() {
        let wrong =
            WrongTokens { guesses: Guesses::new(1), last: Mutex::default(), hasher: RandomState::new() };
        assert!(wrong.is_new("a") && !wrong.is_new("a"));
        assert!((0..REMEMBERED - 1).all(|number| wrong.is_new(&number.to_string())));
        assert!(!wrong.is_new("a"), "it is remembered yet");
        assert!(wrong.is_new("b") && wrong.is_new("a"), "and then forgotten");
        assert_eq!(wrong.last.lock().unwrap().len(), REMEMBERED);
    }
}
