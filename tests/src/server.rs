//! A server on loopback whose answers a test controls.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

use bson::Document;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use crate::connection::Connection;
use crate::observe::{Observer, Seen};
use crate::script::Script;
use crate::socket::{Listener, Place, Socket};
use crate::store::Store;
use crate::temp::TempDir;
use crate::user::User;

/// What the connections of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) script: Script,
    pub(crate) observer: Observer,
    pub(crate) store: Store,
    pub(crate) users: Vec<User>,
    pub(crate) long_scram: bool,
    pub(crate) record_bytes: bool,
    pub(crate) next_request_id: AtomicI32,
}

/// How a [`ScriptedServer`] is set up. Without users it asks for no authentication.
#[derive(Debug, Default)]
#[must_use]
pub struct ScriptedServerBuilder {
    script: Script,
    users: Vec<User>,
    long_scram: bool,
    record_bytes: bool,
    unix: bool,
}

impl ScriptedServerBuilder {
    /// Adds a user. From the first one on, commands other than the handshake's are refused with
    /// code 13 until a connection is authenticated.
    pub fn user(mut self, user: User) -> Self {
        self.users.push(user);
        self
    }

    /// Adds a rule, so that it is there before the first connection.
    pub fn rule(self, rule: crate::Rule) -> Self {
        self.script.add(rule);
        self
    }

    /// Leaves `skipEmptyExchange` unheeded, as servers before 4.4 do.
    pub fn long_scram(mut self) -> Self {
        self.long_scram = true;
        self
    }

    /// Keeps all bytes received in [`SeenConnection::received`](crate::SeenConnection::received).
    pub fn record_bytes(mut self) -> Self {
        self.record_bytes = true;
        self
    }

    /// Listens on a Unix socket in a directory of its own, which goes with the server.
    #[cfg(unix)]
    pub fn unix(mut self) -> Self {
        self.unix = true;
        self
    }

    /// Listens, and serves on tasks of the current runtime.
    ///
    /// # Panics
    /// When the machine gives no loopback port or Unix socket, or outside a tokio runtime.
    pub async fn start(self) -> ScriptedServer {
        let directory = self
            .unix
            .then(|| TempDir::new().expect("a temporary directory"));
        let asked = match &directory {
            Some(directory) => Place::Unix(directory.path().join("mongodb.sock")),
            None => Place::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        };
        let listener = Listener::bind(&asked).await.expect("listen on loopback");
        let place = listener.place(&asked).expect("the address of the listener");
        let shared = Arc::new(Shared {
            script: self.script,
            observer: Observer::default(),
            store: Store::default(),
            users: self.users,
            long_scram: self.long_scram,
            record_bytes: self.record_bytes,
            next_request_id: AtomicI32::new(1),
        });
        let (orders, received) = mpsc::channel(1);
        let acceptor = Acceptor {
            shared: Arc::clone(&shared),
            place: place.clone(),
            listener: Some(listener),
            connections: JoinSet::new(),
        };
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
/// answers out of the ordinary where its [`Script`] says so.
///
/// It is a standalone of wire version 25 that knows the handshake, SCRAM, `ping`, `buildInfo`,
/// inserting, finding with cursors, updating, deleting and a little more; other commands give
/// code 59. The command `{echo: <anything>, delayMS: <n>}` replies `{ok: 1, echo: <anything>}`
/// after so many milliseconds.
///
/// Dropping it aborts all its tasks; [`shutdown`](Self::shutdown) waits for their end too.
#[derive(Debug)]
pub struct ScriptedServer {
    shared: Arc<Shared>,
    place: Place,
    orders: mpsc::Sender<(Order, oneshot::Sender<()>)>,
    task: JoinHandle<()>,
    _directory: Option<TempDir>,
}

impl ScriptedServer {
    /// A server without users or rules.
    ///
    /// # Panics
    /// As [`ScriptedServerBuilder::start`].
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Sets a server up.
    pub fn builder() -> ScriptedServerBuilder {
        ScriptedServerBuilder::default()
    }

    /// `127.0.0.1:port`, or the path of the Unix socket.
    pub fn address(&self) -> String {
        match &self.place {
            Place::Tcp(address) => address.to_string(),
            Place::Unix(path) => path.display().to_string(),
        }
    }

    /// The TCP port; `None` for a Unix socket.
    pub fn port(&self) -> Option<u16> {
        match &self.place {
            Place::Tcp(address) => Some(address.port()),
            Place::Unix(_) => None,
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
        match &self.place {
            Place::Tcp(address) => address.to_string(),
            Place::Unix(path) => escape(&path.to_string_lossy()),
        }
    }

    /// The rules, which may change at any time.
    pub fn script(&self) -> &Script {
        &self.shared.script
    }

    /// Looks at what the server has seen up to now. The server stands still meanwhile.
    pub fn look<R>(&self, look: impl FnOnce(&Seen) -> R) -> R {
        self.shared.observer.look(look)
    }

    /// Waits until the condition holds, and no longer than [`WAIT_LIMIT`](crate::WAIT_LIMIT).
    ///
    /// # Panics
    /// When that time has passed: with `what` was waited for, and what was seen.
    pub async fn wait_for(&self, what: &str, condition: impl Fn(&Seen) -> bool) {
        self.shared.observer.wait_for(what, condition).await;
    }

    /// The documents of a collection, named `database.collection`, in the order of insertion.
    pub fn documents(&self, namespace: &str) -> Vec<Document> {
        self.shared.store.documents(namespace)
    }

    /// Puts documents into a collection without a client.
    pub fn insert(&self, namespace: &str, documents: impl IntoIterator<Item = Document>) {
        self.shared.store.put(namespace, documents);
    }

    /// How many cursors are open.
    pub fn open_cursors(&self) -> usize {
        self.shared.store.open_cursors()
    }

    /// Closes the listener, so that the system refuses new connections. Open ones go on.
    pub async fn refuse_connections(&self) {
        self.order(Order::CloseListener).await;
    }

    /// Listens again at the same address.
    ///
    /// # Panics
    /// When someone else listens there by now.
    pub async fn accept_connections(&self) {
        self.order(Order::OpenListener).await;
    }

    /// Closes all open connections. New ones are accepted still.
    pub async fn close_connections(&self) {
        self.order(Order::CloseConnections).await;
    }

    /// Ends all tasks and waits for them: afterwards no socket of the server is open.
    pub async fn shutdown(self) {
        self.order(Order::End).await;
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

/// All but the unreserved characters of RFC 3986: clients want to see a socket's `.sock`.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

pub(crate) fn escape(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[derive(Clone, Copy, Debug)]
enum Order {
    CloseListener,
    OpenListener,
    CloseConnections,
    End,
}

struct Acceptor {
    shared: Arc<Shared>,
    place: Place,
    listener: Option<Listener>,
    connections: JoinSet<()>,
}

impl Acceptor {
    async fn run(mut self, mut orders: mpsc::Receiver<(Order, oneshot::Sender<()>)>) {
        loop {
            // Every branch may be dropped without a loss: accepting, joining and receiving are
            // all cancellation safe.
            tokio::select! {
                biased;
                order = orders.recv() => {
                    let Some((order, done)) = order else { return };
                    self.obey(order).await;
                    // Nobody may be waiting any more, which is as well.
                    let _ = done.send(());
                    if matches!(order, Order::End) {
                        return;
                    }
                }
                socket = accept(self.listener.as_ref()) => {
                    // What ended before it was accepted is no connection.
                    if let Ok(socket) = socket {
                        let connection = Connection::serve(Arc::clone(&self.shared), socket);
                        self.connections.spawn(connection);
                    }
                }
                Some(_) = self.connections.join_next() => {}
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::CloseListener => self.listener = None,
            Order::OpenListener => {
                if self.listener.is_none() {
                    let listener = Listener::bind(&self.place).await;
                    self.listener = Some(listener.expect("listen at the same address again"));
                }
            }
            Order::CloseConnections => self.connections.shutdown().await,
            Order::End => {
                self.listener = None;
                self.connections.shutdown().await;
            }
        }
    }
}

async fn accept(listener: Option<&Listener>) -> io::Result<Socket> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}
