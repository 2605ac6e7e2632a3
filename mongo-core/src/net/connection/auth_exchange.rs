use std::fmt;
use std::sync::Arc;

use super::channel::Channel;
use super::connect_clock::ConnectClock;
use crate::ServerAddress;
use crate::auth::{AuthNeed, Nonces};
use crate::error::{Error, Result, Wait};
use crate::handshake::{ConnectionDescription, Handshake, Outgoing, RequestOp, Step};
use crate::net::auth::authenticator::Authenticator;

/// The state for authenticating a connection again.
pub(crate) struct ReauthState {
    pub(crate) authenticator: Arc<Authenticator>,
    /// The completed handshake, kept for its results.
    pub(crate) handshake: Box<Handshake>,
}

/// A handshake on its channel, after the reply to the hello.
pub(crate) struct AuthExchange<'a> {
    pub(crate) authenticator: &'a Authenticator,
    pub(crate) channel: &'a mut Channel,
    pub(crate) handshake: &'a mut Handshake,
    /// The clock of the attempt to connect, if this is one.
    pub(crate) clock: Option<&'a ConnectClock>,
}

impl AuthExchange<'_> {
    /// Completes the authentication. Calls `enter` with each wait.
    pub(crate) async fn finish(
        mut self,
        step: Step,
        enter: &mut (dyn FnMut(Wait) + Send),
    ) -> Result<ConnectionDescription> {
        let finished = self.go_on(step, enter).await;
        if finished.is_err() {
            let credential = self.handshake.credential();
            self.authenticator
                .failed(credential.and_then(|own| own.mechanism()));
        }
        finished
    }

    async fn go_on(
        &mut self,
        mut step: Step,
        enter: &mut (dyn FnMut(Wait) + Send),
    ) -> Result<ConnectionDescription> {
        let mut derived = None;
        loop {
            step = match step {
                Step::Send(request) => {
                    enter(Wait::Authentication);
                    ask(self.channel, &request).await?;
                    self.handshake.handle_reply(self.channel.body()?)?
                }
                Step::Need(need) => {
                    enter(match need {
                        AuthNeed::ScramKeys(_) => Wait::Authentication,
                        AuthNeed::AccessToken { .. } | AuthNeed::AwsCredentials => Wait::Credential,
                    });
                    let clock = self.clock.filter(|_| {
                        matches!(need, AuthNeed::AccessToken { .. })
                            && self.authenticator.token_has_own_time()
                    });
                    let credential = self.handshake.credential().cloned();
                    let provided = self.authenticator.provide(need, credential.as_deref());
                    // Boxed: without authentication it would be most of the attempt's task.
                    let provided = Box::pin(provided);
                    let (evidence, keys) = match clock {
                        Some(clock) => clock.pause(provided).await?,
                        None => provided.await?,
                    };
                    derived = keys;
                    self.handshake.handle_evidence(evidence)?
                }
                Step::Done(description) => {
                    // With SCRAM, this point is reached only after the server's signature was
                    // verified.
                    if let Some(derived) = derived {
                        derived.proved();
                    }
                    return Ok(description);
                }
            };
        }
    }
}

impl ReauthState {
    /// Authenticates a connection again, without another hello.
    pub(crate) async fn renew(
        &mut self,
        channel: &mut Channel,
        server: &ServerAddress,
        description: ConnectionDescription,
        enter: &mut (dyn FnMut(Wait) + Send),
    ) -> Result<()> {
        enter(Wait::Credential);
        let Some(credential) = self.authenticator.credential(server).await? else {
            return Err(Error::configuration("the connection has no credential"));
        };
        let mut channel = channel.narrow();
        let nonce = nonces()?.ordinary;
        let step = self
            .handshake
            .reauthenticate(description, credential, nonce)?;
        let conversation = AuthExchange {
            authenticator: &self.authenticator,
            channel: &mut channel,
            handshake: &mut self.handshake,
            clock: None,
        };
        conversation.finish(step, enter).await.map(drop)
    }
}

impl fmt::Debug for ReauthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReauthState").finish_non_exhaustive()
    }
}

/// New nonces.
pub(crate) fn nonces() -> Result<Nonces> {
    let mut random = [0; Nonces::RANDOM_BYTES];
    getrandom::fill(&mut random)
        .map_err(|error| Error::configuration(format!("the system's random generator: {error}")))?;
    Ok(Nonces::from_random(random))
}

/// Sends a request and receives the reply, which the channel holds.
pub(crate) async fn ask(channel: &mut Channel, request: &Outgoing) -> Result<()> {
    match request.op {
        RequestOp::Msg => channel.encode(&request.database, &request.command)?,
        RequestOp::Query => channel.encode_legacy(&request.database, &request.command)?,
    }
    channel.round_trip().await
}
