//! The login hook of brokers with a password file.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rmqtt::hook::{Handler, HookResult, Parameter, ReturnType};
use rmqtt::types::{AuthResult, ConnectInfo};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::passwords::PasswordFile;

/// How long a login may wait for its turn to be checked.
const PATIENCE: Duration = Duration::from_secs(10);

/// Checks user names and passwords. A check is pure CPU work of tens of milliseconds, so it runs beside the
/// broker's own threads, and only on half the cores at a time: a flood of logins must not stop the messages.
pub(super) struct Authenticator {
    users: Arc<PasswordFile>,
    turns: Arc<Semaphore>,
}

impl Authenticator {
    pub(super) fn new(users: PasswordFile) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self { users: Arc::new(users), turns: Arc::new(Semaphore::new((cores / 2).max(1))) }
    }

    async fn decide(&self, client: &ConnectInfo) -> AuthResult {
        let (Some(user), Some(password)) = (client.username(), client.password()) else {
            return AuthResult::NotAuthorized;
        };
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            warn!(clientid = %client.client_id(), "login not checked: too many logins at once");
            return AuthResult::NotAuthorized;
        };
        let (users, user, password) = (Arc::clone(&self.users), user.clone(), password.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "CPU work, bounded by the turns; a login cannot be cancelled"
        )]
        let check = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            users.verify(&user, &password)
        });
        match check.await {
            Ok(true) => AuthResult::Allow(false, None),
            Ok(false) | Err(_) => AuthResult::BadUsernameOrPassword,
        }
    }
}

#[async_trait]
impl Handler for Authenticator {
    async fn hook(&self, parameter: &Parameter, result: Option<HookResult>) -> ReturnType {
        let Parameter::ClientAuthenticate(client) = parameter else { return (true, result) };
        let decision = self.decide(client).await;
        if !matches!(decision, AuthResult::Allow(..)) {
            info!(
                clientid = %client.client_id(),
                address = client.ipaddress().map(tracing::field::display),
                username = client.username().map(tracing::field::display),
                "login refused"
            );
        }
        (false, Some(HookResult::AuthResult(decision)))
    }
}
