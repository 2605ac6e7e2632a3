//! A server on loopback whose replies a test controls.

mod builder;

use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::time::Duration;

use bson::Document;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::ServerConfig;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::acceptor::Order;
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
use crate::user::User;
pub use builder::ScriptedServerBuilder;

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
