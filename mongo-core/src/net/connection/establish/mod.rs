use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bson::RawDocumentBuf;
use bson::oid::ObjectId;
use tokio::time::Instant;

use super::channel::Channel;
use super::compression::Compression;
use super::connect_clock::ConnectClock;
use super::generations::{Generation, Generations};
use super::metadata::Metadata;
use super::on_connect::OnConnect;
use super::{Connection, Identity};
use crate::ServerAddress;
use crate::auth::{AuthError, AuthMechanism, Credential, Nonces};
use crate::error::{Error, Result, Wait};
use crate::event::EventHandlers;
use crate::handshake::{
    ConnectionDescription, Handshake, HandshakeContext, HandshakeError, Outgoing, ServerApi, Step,
};
use crate::net::auth::authenticator::Authenticator;
use crate::net::connection::auth_exchange::{AuthExchange, ReauthState, ask, nonces};
use crate::net::deadline::{Deadline, Elapsed};
use crate::net::transport::connector::Untried;
use crate::net::transport::{Transport, tls};
use crate::sync::lock;
use crate::wire::Limits;

/// Makes connections to one server with one authenticator: opens the transport, sends the hello,
/// authenticates.
pub(crate) struct Establisher {
    pub(crate) transport: Transport,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) server: ServerAddress,
    pub(crate) metadata: Metadata,
    /// Added to every command.
    pub(crate) server_api: Option<ServerApi>,
    /// Bounds the whole establishment except the wait for an access token (`connectTimeoutMS`).
    /// `None` means no time-out.
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) command_timeout: Option<Duration>,
    pub(crate) drain_timeout: Duration,
    /// Whether writes are retryable (`retryWrites`).
    pub(crate) retries_writes: bool,
    /// Whether connections record the time of check-in.
    pub(crate) times_idleness: Arc<AtomicBool>,
    /// Whether the server is a load balancer: each connection leads to one of its services.
    pub(crate) load_balanced: bool,
    /// The replica set that the server must belong to, if no topology checks it.
    pub(crate) replica_set: Option<Arc<str>>,
    pub(crate) compression: Compression,
    /// The handlers for the events of connections and their commands.
    pub(crate) events: EventHandlers,
    /// The application's initialisation of new connections.
    pub(crate) on_connect: Option<OnConnect>,
    pub(crate) generations: Generations,
    /// The current wait of the attempt that made progress last.
    pub(crate) phase: Mutex<Wait>,
}

/// Why a connection was not made, and the progress of the attempt.
pub(crate) struct Failed {
    /// Names the server and the user.
    pub(crate) error: Error,
    /// The phase that failed.
    pub(crate) phase: Wait,
    pub(crate) service: Option<Service>,
}

/// The service behind a load balancer that a connection leads to, and the connection's generation:
/// the generation of the service when the hello named it.
pub(crate) struct Service {
    pub(crate) id: ObjectId,
    pub(crate) generation: Generation,
}

/// The progress of an attempt.
struct Progress {
    phase: Wait,
    /// Known once the hello has named it.
    service: Option<Service>,
}

/// An open transport, and the pool's generation before it was opened.
pub(crate) struct Opened {
    pub(crate) channel: Channel,
    pub(crate) generation: Generation,
    untried: Untried,
}

/// A connection after the hello, not authenticated yet.
pub(crate) struct Greeted {
    pub(crate) opened: Opened,
    handshake: Box<Handshake>,
    step: Step,
}

/// The result of a handshake.
struct Agreed {
    handshake: Box<Handshake>,
    description: ConnectionDescription,
}

impl Opened {
    /// Processes the reply to the hello, which the channel holds.
    pub(crate) fn greeted(self, mut handshake: Box<Handshake>) -> Result<Greeted> {
        let step = handshake.handle_reply(self.channel.body()?)?;
        Ok(Greeted {
            opened: self,
            handshake,
            step,
        })
    }
}

impl Establisher {
    /// The user, if it is known beforehand.
    pub(crate) fn user(&self) -> Option<&Arc<str>> {
        self.authenticator.user()
    }

    /// Adds the server and the user to an error.
    pub(crate) fn name(&self, error: impl Into<Error>) -> Error {
        error.into().at(&self.server).for_user(self.user())
    }

    /// Makes one connection. If the future is dropped at any await, it only leaves a closed socket.
    ///
    /// # Errors
    /// Depend on the phase that failed. A time-out names the phase that it ended.
    pub(crate) async fn establish(
        &self,
        id: u64,
        deadline: Deadline,
    ) -> Result<Connection, Failed> {
        let clock = ConnectClock::new(deadline, deadline.within(self.connect_timeout));
        let mut progress = Progress {
            phase: Wait::Connect,
            service: None,
        };
        self.enter(&mut progress.phase, Wait::Connect);
        // Outlives the future that the deadline bounds.
        let mut opened = None;
        let bounded = clock
            .bound(pin!(self.run(&mut opened, &mut progress, &clock)))
            .await;
        let bounded = bounded.unwrap_or_else(|Elapsed| Err(clock.timed_out(progress.phase)));
        let outcome = match (bounded, opened) {
            (Ok(agreed), Some(opened)) => Ok(self.connection(id, opened, agreed)),
            (Err(error), Some(opened)) => Err(opened.channel.explain_silence(error)),
            (Err(error), None) => Err(error),
            (Ok(_), None) => Err(HandshakeError::OutOfOrder.into()),
        };
        let outcome = match (outcome, &self.on_connect) {
            (Ok(connection), Some(hook)) => {
                self.enter(&mut progress.phase, Wait::Hook);
                // Boxed: it would enlarge the task of every attempt.
                Box::pin(hook.initialise(connection, &clock)).await
            }
            (outcome, _) => outcome,
        };
        *self.phase() = Wait::Connect;
        outcome.map_err(|error| Failed {
            error: self.name(error).of_check_out(self.retries_writes),
            phase: progress.phase,
            service: progress.service,
        })
    }

    pub(crate) fn phase(&self) -> MutexGuard<'_, Wait> {
        lock(&self.phase)
    }

    fn enter(&self, phase: &mut Wait, next: Wait) {
        *phase = next;
        *self.phase() = next;
    }

    async fn run(
        &self,
        opened: &mut Option<Opened>,
        progress: &mut Progress,
        clock: &ConnectClock,
    ) -> Result<Agreed> {
        let phase = &mut progress.phase;
        let mut enter = |wait| self.enter(phase, wait);
        let opened = opened.insert(self.open(Untried::default(), &mut enter).await?);
        self.enter(phase, Wait::Credential);
        let credential = self.authenticator.credential(&self.server).await?;
        let user = credential.as_ref().and_then(|own| own.username().cloned());
        let greeted = async {
            let enter = &mut |wait| self.enter(phase, wait);
            let mut handshake = self.greet(opened, credential, enter).await?;
            let step = handshake.handle_reply(opened.channel.body()?);
            // First, because the reply may reject the credential in the hello.
            progress.service = self.join_service(opened, &handshake);
            self.finish(&mut opened.channel, handshake, step?, phase, clock)
                .await
        };
        greeted.await.map_err(|error| error.for_user(user.as_ref()))
    }

    /// After the hello, a connection belongs to the generation of its service.
    fn join_service(&self, opened: &mut Opened, handshake: &Handshake) -> Option<Service> {
        let id = handshake.service_id().filter(|_| self.load_balanced)?;
        self.generations.join(&mut opened.generation, id);
        Some(Service {
            id,
            generation: opened.generation.clone(),
        })
    }

    /// Opens the transport. Calls `enter` with each phase.
    pub(crate) async fn open(
        &self,
        mut untried: Untried,
        enter: &mut (dyn FnMut(Wait) + Send),
    ) -> Result<Opened> {
        let generation = self.generations.begin();
        let stream = self.transport.open(&self.server, &mut untried, enter);
        Ok(Opened {
            channel: Channel::new(stream.await?),
            generation,
            untried,
        })
    }

    /// Sends the hello. If the peer closes or resets the connection before it has answered, another
    /// address of the host is tried. The channel holds the reply, which is not checked yet.
    pub(crate) async fn greet(
        &self,
        opened: &mut Opened,
        credential: Option<Arc<Credential>>,
        enter: &mut (dyn FnMut(Wait) + Send),
    ) -> Result<Box<Handshake>> {
        loop {
            let channel = &mut opened.channel;
            if !self.compression.compressors.is_empty() {
                channel.exchange.accept_compressed();
            }
            enter(Wait::Handshake);
            match say_hello(channel, self.context(credential.clone())?).await {
                Err(error) if channel.is_unheard() && opened.untried.is_left_after(&error) => {
                    let untried = std::mem::take(&mut opened.untried);
                    // Boxed: rare, and would enlarge the task of every attempt.
                    *opened = Box::pin(self.open(untried, enter)).await?;
                }
                Err(error) => {
                    self.transport.note_failure(&error).await;
                    return Err(error);
                }
                Ok(handshake) => return Ok(handshake),
            }
        }
    }

    /// Authenticates a connection whose hello was sent without a credential, maybe long ago.
    /// Another hello negotiates the mechanism and carries the first message. Cancellation and
    /// errors are as with [`establish`](Self::establish). Only the clock bounds it.
    pub(crate) async fn complete(
        &self,
        id: u64,
        greeted: Greeted,
        credential: Option<Arc<Credential>>,
        clock: &ConnectClock,
    ) -> Result<Connection> {
        let mut phase = Wait::Authentication;
        let user = credential.as_ref().and_then(|own| own.username().cloned());
        let Greeted {
            mut opened,
            mut handshake,
            mut step,
        } = greeted;
        let completed = async {
            if credential.is_some() {
                let context = HandshakeContext {
                    metadata: None,
                    ..self.context(credential)?
                };
                handshake = say_hello(&mut opened.channel, context).await?;
                step = handshake.handle_reply(opened.channel.body()?)?;
            }
            self.finish(&mut opened.channel, handshake, step, &mut phase, clock)
                .await
        };
        let completed = clock.bound(pin!(completed)).await;
        match completed.unwrap_or_else(|Elapsed| Err(clock.timed_out(phase))) {
            Ok(agreed) => Ok(self.connection(id, opened, agreed)),
            Err(error) => {
                let error = opened.channel.explain_silence(error);
                Err(self.name(error.for_user(user.as_ref())))
            }
        }
    }

    async fn finish(
        &self,
        channel: &mut Channel,
        mut handshake: Box<Handshake>,
        step: Step,
        phase: &mut Wait,
        clock: &ConnectClock,
    ) -> Result<Agreed> {
        let mut enter = |next| self.enter(phase, next);
        let conversation = AuthExchange {
            authenticator: &self.authenticator,
            channel,
            handshake: &mut handshake,
            clock: Some(clock),
        };
        let description = conversation.finish(step, &mut enter).await?;
        // A server must not be able to skip authentication.
        if handshake.credential().is_some() && description.authenticated.is_none() {
            return Err(AuthError::Arbiter.into());
        }
        Ok(Agreed {
            handshake,
            description,
        })
    }

    fn connection(&self, id: u64, opened: Opened, agreed: Agreed) -> Connection {
        let Opened {
            mut channel,
            generation,
            untried: _,
        } = opened;
        let Agreed {
            handshake,
            description,
        } = agreed;
        if let Some(compressor) = description.compressor {
            let level = self.compression.zlib_level;
            channel.exchange.compress_with(compressor, level);
        }
        let limits = Limits {
            max_message_size: description.max_message_size_bytes,
            ..Limits::default()
        };
        let is_standalone = description.set_name.is_none() && !description.mongos;
        let has_sessions = description.logical_session_timeout_minutes.is_some();
        let can_retry_writes = has_sessions && (!is_standalone || self.load_balanced);
        let user = handshake
            .credential()
            .and_then(|own| own.username().cloned());
        let principal = handshake
            .credential()
            .map(|own| super::identity::principal(own));
        let proof = description.authenticated.map(|_| ReauthState {
            authenticator: self.authenticator.clone(),
            handshake,
        });
        let identity = Identity {
            id,
            generation,
            server: self.server.clone(),
            user,
            principal,
            description,
            server_api: self.server_api.map(|api| api.fields()),
            command_timeout: self.command_timeout,
            drain_timeout: self.drain_timeout,
            retries_writes: self.retries_writes && can_retry_writes,
            times_idleness: self.times_idleness.load(Ordering::Relaxed),
            created: Instant::now(),
            events: self.events.clone(),
        };
        Connection::new(channel, limits, identity, proof)
    }

    fn context(&self, credential: Option<Arc<Credential>>) -> Result<HandshakeContext> {
        let access_token = match credential.as_ref().and_then(|own| own.mechanism()) {
            Some(AuthMechanism::MongoDbOidc) => self.authenticator.kept_token(),
            _ => None,
        };
        let nonces = match credential {
            Some(_) => nonces()?,
            None => Nonces::UNUSED,
        };
        Ok(HandshakeContext {
            credential,
            access_token,
            server_api: self.server_api,
            load_balanced: self.load_balanced,
            replica_set: self.replica_set.clone(),
            compressors: self.compression.compressors.clone(),
            ..HandshakeContext::new(self.metadata.document(), nonces)
        })
    }
}

/// Sends a monitor's hello: without a credential, and with the reply left to the caller.
pub(crate) async fn first_hello(
    channel: &mut Channel,
    metadata: Arc<RawDocumentBuf>,
    server_api: Option<ServerApi>,
) -> Result<()> {
    let context = HandshakeContext {
        server_api,
        ..HandshakeContext::new(metadata, Nonces::UNUSED)
    };
    say_hello(channel, context).await.map(drop)
}

/// Sends the first message of a handshake. The channel holds the reply.
async fn say_hello(channel: &mut Channel, context: HandshakeContext) -> Result<Box<Handshake>> {
    // Boxed, because the futures that pass it on would each store it twice.
    let mut handshake = Box::new(Handshake::new(context));
    match handshake.start()? {
        Step::Send(request) => ask_first(channel, &request).await?,
        Step::Need(_) | Step::Done(_) => return Err(HandshakeError::OutOfOrder.into()),
    }
    Ok(handshake)
}

/// With TLS 1.3, a server that rejects the client's certificate reports it only here.
async fn ask_first(channel: &mut Channel, request: &Outgoing) -> Result<()> {
    ask(channel, request).await.map_err(tls::explain)
}

#[cfg(test)]
pub(crate) mod tests;
