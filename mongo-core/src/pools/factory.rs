use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::oid::ObjectId;
use bson::rawdoc;
use tokio::time::Instant;

use super::config::{DEFAULT_DRAIN_TIMEOUT, ManagerConfig, RecyclingMethod};
use crate::ServerAddress;
use crate::error::{ClosedReason, Error, ErrorKind, Result, Wait};
use crate::event::EventHandlers;
use crate::handshake::{ClientMetadata, DriverInfo};
#[cfg(feature = "tls-rustls")]
use crate::net::Tls;
use crate::net::{
    AuthParts, Authenticator, AwsCredentialProvider, Compression, Connection, Connector,
    CredentialProvider, Deadline, Establisher, Generations, KeyService, OidcCallback, PROCESS,
    TransportBuilder,
};
use crate::uri::ClientOptions;
use crate::wire::Readiness;

/// Makes and checks the connections of one pool: one server, one credential.
///
/// Both adapters' managers are thin translations of this, so that a connection means the same on
/// either backend. It serves the first host of its options, as with `directConnection=true`; with
/// `loadBalanced=true` that is the load balancer, and each connection is to one of its services.
pub struct ConnectionFactory {
    establisher: Establisher,
    recycling_method: RecyclingMethod,
    max_idle_time: Option<Duration>,
    max_lifetime: Option<Duration>,
    next_id: AtomicU64,
    last_failure: Mutex<Option<Failure>>,
}

struct Failure {
    at: Instant,
    error: Error,
}

impl ConnectionFactory {
    /// A builder over client options, such as [`ClientOptions::parse`] gives, or
    /// [`resolve`](crate::net::resolve) for `mongodb+srv`: nothing is looked up here.
    pub fn builder(options: ClientOptions) -> ConnectionFactoryBuilder {
        ConnectionFactoryBuilder {
            options,
            config: ManagerConfig::default(),
            transport: TransportBuilder::default(),
            auth: AuthParts::default(),
            driver_info: Vec::new(),
            events: EventHandlers::new(),
        }
    }

    /// Makes one connection: transport, handshake, authentication.
    ///
    /// Bounded by `connectTimeoutMS` (default 10 s) and by the deadline, whichever is earlier.
    /// Dropped meanwhile, it leaves nothing behind.
    ///
    /// # Errors
    /// By what failed: [`ErrorKind::Connect`], [`ErrorKind::Handshake`],
    /// [`ErrorKind::Authentication`], [`ErrorKind::Network`], [`ErrorKind::Protocol`], or a
    /// [`ErrorKind::Timeout`] that names the phase; always with the server and the user.
    pub async fn establish(&self, deadline: Deadline) -> Result<Connection> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        // In a box: by size it would dominate the future of every check-out, which gets moved about.
        let established = Box::pin(self.establisher.establish(id, deadline)).await;
        *self.last_failure() = match &established {
            Ok(_) => None,
            Err(error) => Some(Failure {
                at: Instant::now(),
                error: error.clone(),
            }),
        };
        established
    }

    /// Checks an idle connection that is about to be handed out, and reads away what it owes.
    ///
    /// # Errors
    /// Why it must not be handed out. The connection is closed then. Dropped meanwhile, the
    /// connection stays as safe as any whose command was cancelled.
    pub async fn recycle(&self, connection: &mut Connection, deadline: Deadline) -> Result<()> {
        if let Some(verdict) = self.recycle_now(connection) {
            return verdict;
        }
        let checked = self.check(connection, deadline).await;
        checked.inspect_err(|error| give_up(connection, error))
    }

    /// The verdict of [`recycle`](Self::recycle) where it takes no I/O; `None` where it does. Reads
    /// the clock only if there is a bound to compare with.
    pub fn recycle_now(&self, connection: &mut Connection) -> Option<Result<()>> {
        let checked = match (self.needs_ping(connection), connection.readiness()) {
            (Err(error), _) => Err(error),
            (Ok(true), _) | (Ok(_), Readiness::Owed) => return None,
            (Ok(false), Readiness::Closed(reason)) => self.closed(reason),
            (Ok(false), Readiness::Idle) => self.check_quiet(connection),
        };
        Some(checked.inspect_err(|error| give_up(connection, error)))
    }

    async fn check(&self, connection: &mut Connection, deadline: Deadline) -> Result<()> {
        let needs_ping = self.needs_ping(connection)?;
        connection.drain(deadline).await?;
        self.check_quiet(connection)?;
        match needs_ping {
            true => self.ping(connection, deadline).await,
            false => Ok(()),
        }
    }

    /// Whether the server has to be asked, too; an error if the connection is stale or too old.
    fn needs_ping(&self, connection: &Connection) -> Result<bool> {
        if connection.is_stale() {
            return self.closed(ClosedReason::Stale);
        }
        let idle = match (self.recycling_method, self.max_idle_time, self.max_lifetime) {
            // Nothing to compare: spares the clock.
            (RecyclingMethod::Fast | RecyclingMethod::Verified, None, None) => Duration::ZERO,
            (_, max_idle_time, max_lifetime) => {
                let now = Instant::now();
                let idle = now.saturating_duration_since(connection.idle_since());
                let age = now.saturating_duration_since(connection.created());
                if max_idle_time.is_some_and(|max| idle > max)
                    || max_lifetime.is_some_and(|max| age > max)
                {
                    return self.closed(ClosedReason::Expired);
                }
                idle
            }
        };
        Ok(match self.recycling_method {
            RecyclingMethod::Fast => false,
            RecyclingMethod::Verified => true,
            RecyclingMethod::VerifiedAfter(bound) => idle >= bound,
        })
    }

    fn check_quiet(&self, connection: &mut Connection) -> Result<()> {
        match connection.is_quiet() {
            true => Ok(()),
            false => self.closed(ClosedReason::Network),
        }
    }

    fn closed<T>(&self, reason: ClosedReason) -> Result<T> {
        Err(self.name(ErrorKind::ConnectionClosed(reason)))
    }

    async fn ping(&self, connection: &mut Connection, deadline: Deadline) -> Result<()> {
        let ping = rawdoc! { "ping": 1_i32 };
        let answered = connection
            .run_command_by(
                deadline.within(self.establisher.connect_timeout),
                "admin",
                &ping,
            )
            .await;
        match answered {
            Ok(_) => Ok(()),
            // The server answered: the connection is alive, whatever it thinks of a ping.
            Err(error) if error.command().is_some() => Ok(()),
            Err(error) if error.is_timeout() => {
                let cut = Error::timeout(Wait::Recycle, deadline.elapsed());
                Err(self.name(cut).caused_by(Some(error)))
            }
            Err(error) => Err(error),
        }
    }

    /// The generation that new connections belong to; behind a load balancer their service's is
    /// another one.
    pub fn generation(&self) -> u64 {
        self.establisher.generations.current()
    }

    /// Begins a new generation: no connection made before is handed out again.
    pub fn clear(&self) {
        self.establisher.generations.clear();
    }

    /// Begins a new generation of the connections to one service behind a load balancer: none made
    /// before is handed out again. Those to other services stay.
    ///
    /// Specification: load balancers.
    pub fn clear_service(&self, id: ObjectId) {
        self.establisher.generations.clear_service(id);
    }

    /// The server.
    pub fn server(&self) -> &ServerAddress {
        &self.establisher.server
    }

    /// The user of the credential, if there is one.
    pub fn user(&self) -> Option<&str> {
        self.establisher.user().map(|user| &**user)
    }

    /// Adds the server and the user to an error that has none.
    pub fn name(&self, error: impl Into<Error>) -> Error {
        self.establisher.name(error)
    }

    /// What the attempt to make a connection that moved on last is waiting for. For a pool whose
    /// attempts are not its callers' own, when such a caller's wait runs out.
    pub fn phase(&self) -> Wait {
        *self.establisher.phase()
    }

    /// The error for a wait that ran out, with the last failure to make a connection if that was
    /// since the wait began: what a bare "timed out" would hide.
    pub fn timed_out(&self, wait: Wait, deadline: Deadline) -> Error {
        let after = deadline.elapsed();
        let cause = self
            .last_failure()
            .as_ref()
            .filter(|failure| failure.at.elapsed() <= after)
            .map(|failure| failure.error.clone());
        self.name(Error::timeout(wait, after)).caused_by(cause)
    }

    fn last_failure(&self) -> std::sync::MutexGuard<'_, Option<Failure>> {
        self.last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn give_up(connection: &mut Connection, error: &Error) {
    connection.close_for(match error.kind() {
        ErrorKind::ConnectionClosed(reason) => *reason,
        _ => ClosedReason::Network,
    });
}

impl fmt::Debug for ConnectionFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionFactory")
            .field("server", self.server())
            .field("user", &self.user())
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

/// Builds a [`ConnectionFactory`].
pub struct ConnectionFactoryBuilder {
    options: ClientOptions,
    config: ManagerConfig,
    transport: TransportBuilder,
    auth: AuthParts,
    driver_info: Vec<DriverInfo>,
    events: EventHandlers,
}

impl ConnectionFactoryBuilder {
    /// How connections are checked and bounded. Default [`ManagerConfig::default`].
    #[must_use]
    pub fn config(mut self, config: ManagerConfig) -> Self {
        self.config = config;
        self
    }

    /// What opens the transport. Default
    /// [`SocketConnector`](crate::net::SocketConnector), or
    /// [`ProxyConnector`](crate::net::ProxyConnector) where the options name a proxy.
    #[must_use]
    pub fn connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.transport.connector = Some(connector);
        self
    }

    /// TLS of your own: a [`Tls`], or an `Arc` of a `rustls::ClientConfig`. Default: what the options
    /// say.
    #[cfg(feature = "tls-rustls")]
    #[must_use]
    pub fn tls(mut self, tls: impl Into<Tls>) -> Self {
        self.transport.tls = Some(tls.into());
        self
    }

    /// The cache of derived keys, and the executor that fills it. Default one of its own, on
    /// tokio's blocking threads.
    #[must_use]
    pub fn keys(mut self, keys: Arc<KeyService>) -> Self {
        self.auth.keys = Some(keys);
        self
    }

    /// Who gives the credential whenever a connection is made; the options have none then. For
    /// secrets that change. Default: the options' credential.
    #[must_use]
    pub fn credential_provider(mut self, provider: Arc<dyn CredentialProvider>) -> Self {
        self.auth.provider = Some(provider);
        self
    }

    /// Who gives the credentials of AWS for `MONGODB-AWS`. Default
    /// [`AwsSources`](crate::net::AwsSources).
    #[must_use]
    pub fn aws_credential_provider(mut self, provider: Arc<dyn AwsCredentialProvider>) -> Self {
        self.auth.aws = Some(provider);
        self
    }

    /// Who gives the access tokens for `MONGODB-OIDC`, where the credential has no `ENVIRONMENT`.
    #[must_use]
    pub fn oidc_callback(mut self, callback: Arc<dyn OidcCallback>) -> Self {
        self.auth.oidc = Some(callback);
        self
    }

    /// Names the embedding framework in the handshake's metadata, after those named before.
    #[must_use]
    pub fn driver_info(mut self, driver_info: DriverInfo) -> Self {
        self.driver_info.push(driver_info);
        self
    }

    /// Who is told of the connections and of the commands that are run on them. Default nobody.
    #[must_use]
    pub fn event_handlers(mut self, events: EventHandlers) -> Self {
        self.events = events;
        self
    }

    /// The factory. No I/O, but that the files of TLS are read.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] for what the options ask and this version can't do; it names
    /// the option. Nothing that a user asked for is left out silently.
    pub fn build(self) -> Result<ConnectionFactory> {
        let server = self.check_options()?;
        let options = &self.options;
        let transport = self.transport.build(options)?;
        let authenticator = Authenticator::new(options, self.auth)?;
        let mut metadata = ClientMetadata::new(options.app_name.as_deref(), &PROCESS)
            .map_err(|error| Error::configuration(error.to_string()))?;
        for driver_info in self.driver_info {
            metadata
                .append(driver_info)
                .map_err(|error| Error::configuration(error.to_string()))?;
        }
        let config = &self.config;
        Ok(ConnectionFactory {
            establisher: Establisher {
                transport,
                authenticator: Arc::new(authenticator),
                server,
                metadata: Arc::new(metadata.document()),
                server_api: options.server_api,
                connect_timeout: options.connect_timeout,
                command_timeout: config.command_timeout(options),
                drain_timeout: config.drain_timeout.unwrap_or(DEFAULT_DRAIN_TIMEOUT),
                times_idleness: config.max_idle_time(options).is_some()
                    || matches!(config.recycling_method, RecyclingMethod::VerifiedAfter(_)),
                load_balanced: options.load_balanced == Some(true),
                compression: Compression::from_options(options),
                events: self.events,
                generations: Generations::default(),
                phase: Mutex::new(Wait::Connect),
            },
            recycling_method: config.recycling_method,
            max_idle_time: config.max_idle_time(options),
            max_lifetime: config.max_lifetime.filter(|max| !max.is_zero()),
            next_id: AtomicU64::new(1),
            last_failure: Mutex::default(),
        })
    }

    /// The one server, if the options ask nothing that is not there yet.
    fn check_options(&self) -> Result<ServerAddress> {
        let options = &self.options;
        options.validate()?;
        if options.srv.is_some() && options.hosts.is_empty() {
            return Err(Error::configuration(
                "mongodb+srv: its hosts are still to be looked up, see `mongo_core::net::resolve`",
            ));
        }
        match options.hosts.first() {
            Some(host) => Ok(host.clone()),
            None => Err(Error::configuration("there is no host")),
        }
    }
}
