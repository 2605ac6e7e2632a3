//! A server on loopback whose replies a test controls.

use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::time::Duration;

use bson::Document;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::ServerConfig;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::acceptor::{Acceptor, Order};
use crate::aws::AwsKey;
use crate::backend::Backend;
use crate::commands::Outcome;
use crate::compression::Compressor;
use crate::connection::ExhaustReplies;
use crate::deployment::Seat;
use crate::external::External;
use crate::fail_point::FailPoint;
use crate::link::Link;
use crate::listener::Place;
use crate::observe::{Observer, Seen};
use crate::script::Script;
use crate::socket::{ByteStream, Socket};
use crate::store::Store;
use crate::temp::TempDir;
use crate::tls::ServerTls;
use crate::user::User;

/// State that the connections of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) script: Script,
    pub(crate) observer: Observer,
    pub(crate) store: Store,
    pub(crate) users: Vec<User>,
    pub(crate) external: External,
    pub(crate) long_scram: bool,
    pub(crate) compressors: Vec<Compressor>,
    pub(crate) record_bytes: bool,
    pub(crate) next_request_id: AtomicI32,
    pub(crate) fail_point: FailPoint,
    pub(crate) link: Link,
    pub(crate) exhaust: ExhaustReplies,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// The server's place in a deployment. `None`: a standalone without a topology version.
    pub(crate) seat: Option<Seat>,
    /// The real server behind this one. If set, the store is unused.
    pub(crate) backend: Option<Backend>,
}

/// Builds a [`ScriptedServer`]. Without users it requires no authentication.
#[derive(Debug, Default)]
#[must_use]
pub struct ScriptedServerBuilder {
    script: Script,
    users: Vec<User>,
    external: External,
    long_scram: bool,
    compressors: Vec<Compressor>,
    record_bytes: bool,
    unix: bool,
    exhaust: ExhaustReplies,
    tls: Option<ServerTls>,
    place: Option<Place>,
    seat: Option<Seat>,
    store: Store,
    backend: Option<Backend>,
}

impl ScriptedServerBuilder {
    /// Adds a user. With at least one user, commands other than the handshake's are refused with
    /// code 13 until the connection is authenticated.
    pub fn user(mut self, user: User) -> Self {
        self.users.push(user);
        self
    }

    /// Sets the subject that the server assumes for every client certificate, for MONGODB-X509
    /// without TLS. Authentication is required as with [`user`](Self::user).
    pub fn certificate_subject(mut self, subject: &str) -> Self {
        self.external.subject = Some(subject.to_owned());
        self
    }

    /// Adds a user of `$external` for PLAIN. Authentication is required as with
    /// [`user`](Self::user).
    pub fn plain_user(mut self, name: &str, password: &str) -> Self {
        let user = (name.to_owned(), password.to_owned());
        self.external.plain.push(user);
        self
    }

    /// Adds an AWS access key, for MONGODB-AWS; a temporary one has a session token. Authentication
    /// is required as with [`user`](Self::user).
    pub fn aws_key(mut self, id: &str, secret: &str, token: Option<&str>) -> Self {
        self.external.aws.push(AwsKey {
            id: id.to_owned(),
            secret: secret.to_owned(),
            token: token.map(str::to_owned),
        });
        self
    }

    /// Sets the accepted access tokens, for MONGODB-OIDC. Authentication is required as with
    /// [`user`](Self::user).
    pub fn access_tokens(mut self, tokens: &[&str]) -> Self {
        self.external.tokens = Some(Default::default());
        self.external.accept_tokens(tokens);
        self
    }

    /// Adds a rule before the first connection.
    pub fn rule(self, rule: crate::Rule) -> Self {
        self.script.add(rule);
        self
    }

    /// Ignores `skipEmptyExchange`, as servers before 4.4 do.
    pub fn long_scram(mut self) -> Self {
        self.long_scram = true;
        self
    }

    /// Sets the compressors that the server supports. The default is none.
    pub fn compressors(mut self, compressors: impl IntoIterator<Item = Compressor>) -> Self {
        self.compressors.extend(compressors);
        self
    }

    /// Records all received bytes in [`SeenConnection::received`](crate::SeenConnection::received).
    pub fn record_bytes(mut self) -> Self {
        self.record_bytes = true;
        self
    }

    /// Listens on a Unix socket in a directory of its own, which is removed with the server.
    #[cfg(unix)]
    pub fn unix(mut self) -> Self {
        self.unix = true;
        self
    }

    /// Accepts only TLS. A failed handshake is recorded in
    /// [`SeenConnection::tls_failure`](crate::SeenConnection::tls_failure).
    /// [Recorded](Self::record_bytes) bytes are the decrypted ones.
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Does not listen. Connections come only through [`ScriptedServer::serve`].
    pub fn without_listener(self) -> Self {
        self.place(Place::Nowhere)
    }

    /// Sets which message each reply of a streaming hello names in `responseTo`.
    pub fn exhaust_replies(mut self, exhaust: ExhaustReplies) -> Self {
        self.exhaust = exhaust;
        self
    }

    pub(crate) fn place(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    pub(crate) fn seat(mut self, seat: Seat, store: Store) -> Self {
        self.seat = Some(seat);
        self.store = store;
        self
    }

    pub(crate) fn backend(mut self, backend: Option<Backend>) -> Self {
        self.backend = backend;
        self
    }

    /// Starts to listen, and serves on tasks of the current runtime.
    ///
    /// # Panics
    /// If no loopback port or Unix socket is available, or outside a tokio runtime.
    pub async fn start(self) -> ScriptedServer {
        self.start_now()
    }

    pub(crate) fn start_now(self) -> ScriptedServer {
        let directory = self
            .unix
            .then(|| TempDir::new().expect("a temporary directory"));
        let place = match (&directory, self.place) {
            (Some(directory), _) => Place::Unix(directory.path().join("mongodb.sock")),
            (None, Some(place)) => place,
            (None, None) => Place::loopback().expect("a port on loopback"),
        };
        let place = Arc::new(place);
        let listener = place.listen().expect("listen on loopback");
        let shared = Arc::new(Shared {
            script: self.script,
            observer: Observer::default(),
            store: self.store,
            users: self.users,
            external: self.external,
            long_scram: self.long_scram,
            compressors: self.compressors,
            record_bytes: self.record_bytes,
            next_request_id: AtomicI32::new(1),
            fail_point: FailPoint::default(),
            link: Link::default(),
            exhaust: self.exhaust,
            tls: self.tls.as_ref().map(ServerTls::config),
            seat: self.seat,
            backend: self.backend,
        });
        let (orders, received) = mpsc::channel(1);
        let acceptor = Acceptor::new(Arc::clone(&shared), Arc::clone(&place), listener);
        let task = tokio::spawn(acceptor.run(received));
        ScriptedServer {
            shared,
            place,
            orders,
            task,
            _directory: directory,
        }
    }
}

/// A server on loopback that speaks MongoDB's wire protocol, keeps documents in memory, and
/// deviates from its usual replies as its [`Script`] says.
///
/// By default it is a standalone of wire version 25; a [`Deployment`](crate::Deployment) gives it
/// another role. It supports the handshake, SCRAM, sessions, cursors (also tailable ones),
/// `ping`, `buildInfo`, `find`, `count`, `distinct`, `insert`, `update`, `delete`,
/// `findAndModify`, a small part of `aggregate`, the commands about collections and indexes, and
/// those about sessions; other commands fail with code 59. Retryable writes and transactions
/// work in a deployment.
///
/// `configureFailPoint` makes it fail commands as `failCommand` does, with all options that
/// drivers' tests use except `activationProbability`, and retryable writes as
/// `onPrimaryTransactionalWrite` does. The parameter `externalClientBaseBackoffMS` adds
/// `baseBackoffMS` to the overload errors of `failCommand`. The command `{echo: <anything>, delayMS:
/// <n>}` replies `{ok: 1, echo: <anything>}` after `n` milliseconds.
///
/// Dropping it aborts all its tasks. [`shutdown`](Self::shutdown) also waits until they have ended.
#[derive(Debug)]
pub struct ScriptedServer {
    shared: Arc<Shared>,
    place: Arc<Place>,
    orders: mpsc::Sender<(Order, oneshot::Sender<()>)>,
    task: JoinHandle<()>,
    _directory: Option<TempDir>,
}

impl ScriptedServer {
    /// Starts a server without users or rules.
    ///
    /// # Panics
    /// As [`ScriptedServerBuilder::start`].
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Returns a builder.
    pub fn builder() -> ScriptedServerBuilder {
        ScriptedServerBuilder::default()
    }

    /// `127.0.0.1:port`, the path of the Unix socket, or the name in a simulated network.
    pub fn address(&self) -> String {
        self.place.address()
    }

    /// The TCP port, if the server has one.
    pub fn port(&self) -> Option<u16> {
        match &*self.place {
            Place::Tcp { address, .. } => Some(address.port()),
            Place::Unix(_) | Place::Sim(..) | Place::Nowhere => None,
        }
    }

    /// `mongodb://…/?directConnection=true`, without a user.
    pub fn uri(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.uri_host())
    }

    /// `mongodb://name:password@…/?directConnection=true`.
    pub fn uri_for(&self, name: &str, password: &str) -> String {
        let (name, password) = (escape(name), escape(password));
        format!(
            "mongodb://{name}:{password}@{}/?directConnection=true",
            self.uri_host()
        )
    }

    fn uri_host(&self) -> String {
        match &*self.place {
            Place::Unix(path) => escape(&path.to_string_lossy()),
            Place::Tcp { .. } | Place::Sim(..) | Place::Nowhere => self.address(),
        }
    }

    /// The server's rules. They may change at any time.
    pub fn script(&self) -> &Script {
        &self.shared.script
    }

    /// Accepts only these access tokens from now on. Connections that are authenticated stay
    /// authenticated.
    ///
    /// # Panics
    /// If the server was not set up with [access tokens](ScriptedServerBuilder::access_tokens).
    pub fn accept_tokens(&self, tokens: &[&str]) {
        self.shared.external.accept_tokens(tokens);
    }

    /// Looks at what the server has seen so far. The server waits until `look` returns.
    pub fn look<R>(&self, look: impl FnOnce(&Seen) -> R) -> R {
        self.shared.observer.look(look)
    }

    /// Waits until the condition holds, for at most [`WAIT_LIMIT`](crate::WAIT_LIMIT).
    ///
    /// # Panics
    /// After that time, with `what` and what the server has seen.
    pub async fn wait_for(&self, what: &str, condition: impl Fn(&Seen) -> bool) {
        self.shared.observer.wait_for(what, condition).await;
    }

    /// The documents of a collection, named `database.collection`, in the order of insertion. An
    /// isolated member of a replica set has its own.
    pub fn documents(&self, namespace: &str) -> Vec<Document> {
        match &self.shared.backend {
            Some(backend) => backend.real.documents(namespace),
            None => {
                let member = self.shared.seat.as_ref().map(|seat| seat.server);
                self.shared.store.documents(namespace, member)
            }
        }
    }

    /// Inserts documents into a collection without a client.
    pub fn insert(&self, namespace: &str, documents: impl IntoIterator<Item = Document>) {
        match &self.shared.backend {
            Some(backend) => backend.real.insert(namespace, documents),
            None => self.shared.store.put(namespace, documents),
        }
    }

    /// How many cursors are open.
    pub fn open_cursors(&self) -> usize {
        match &self.shared.backend {
            Some(backend) => backend.open_cursors(),
            None => self.shared.store.open_cursors(),
        }
    }

    /// How many transactions are open on the servers that share the server's documents.
    pub fn open_transactions(&self) -> usize {
        match &self.shared.backend {
            Some(backend) => backend.transactions.open(),
            None => self
                .shared
                .store
                .open_transactions(self.shared.seat.as_ref()),
        }
    }

    /// How many sessions the servers that share the server's documents know: those that commands
    /// named, until `endSessions`.
    pub fn sessions(&self) -> usize {
        match &self.shared.backend {
            Some(backend) => backend.real.sessions(),
            None => self.shared.store.sessions(),
        }
    }

    /// Serves one connection over any stream, as if the listener had accepted it.
    pub async fn serve(&self, stream: impl ByteStream) {
        self.hand_over(Socket::custom(stream)).await;
    }

    pub(crate) async fn hand_over(&self, socket: Socket) {
        self.order(Order::Serve(socket)).await;
    }

    /// Freezes the server, like a process stopped by the system: connections are accepted, but no
    /// command is executed or answered.
    pub fn freeze(&self) {
        self.shared.link.freeze(true);
    }

    /// Ends [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.shared.link.freeze(false);
    }

    /// Waits `delay` before each write. `Duration::ZERO` ends it.
    pub fn slow(&self, delay: Duration) {
        self.shared.link.slow(delay);
    }

    /// Drops all bytes between the server and its clients, like a network that loses everything:
    /// connection attempts hang, open connections stay silent.
    pub async fn partition(&self) {
        self.shared.link.cut(true);
        self.order(Order::Partition).await;
    }

    /// Ends [`partition`](Self::partition). Bytes sent during the partition arrive. The system
    /// repeats connection attempts after 1 s and then less and less often.
    pub async fn heal(&self) {
        self.order(Order::Heal).await;
        self.shared.link.cut(false);
    }

    /// Closes the listener and all open connections, as when a process ends.
    pub(crate) async fn stop(&self) {
        self.order(Order::Stop).await;
        self.shared.store.forget_cursors();
        if let Some(backend) = &self.shared.backend {
            backend.forget_cursors();
        }
    }

    /// Closes the listener, so that the system refuses new connections. Open ones stay open.
    pub async fn refuse_connections(&self) {
        self.order(Order::CloseListener).await;
    }

    /// Listens again at the same address.
    ///
    /// # Panics
    /// If another socket listens there now.
    pub async fn accept_connections(&self) {
        self.order(Order::OpenListener).await;
    }

    /// Closes all open connections. New ones are still accepted.
    pub async fn close_connections(&self) {
        self.order(Order::CloseConnections).await;
    }

    /// Ends all tasks and waits for them. Afterwards no socket of the server is open.
    pub async fn shutdown(self) {
        self.end().await;
    }

    pub(crate) async fn end(&self) {
        self.order(Order::End).await;
    }

    pub(crate) fn is_proxy(&self) -> bool {
        self.shared.backend.is_some()
    }

    pub(crate) fn configure_fail_point(&self, command: &Document) -> Outcome {
        self.shared.configure_fail_point(command)
    }

    async fn order(&self, order: Order) {
        let (done, is_done) = oneshot::channel();
        let sent = self.orders.send((order, done)).await;
        assert!(
            sent.is_ok() && is_done.await.is_ok(),
            "the server's task has ended"
        );
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        // The acceptor owns the connections' tasks, which its drop aborts.
        self.task.abort();
    }
}

/// All but the unreserved characters of RFC 3986: clients look for `.sock` at the end of a socket's
/// path.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

pub(crate) fn escape(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}
