//! A real server: `secantusd-rs` or a `mongod` in a directory of the kit's, or a deployment of the
//! user's.

mod builder;
mod given;
mod listed;
mod names;
mod program;

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bson::{Bson, Document, doc};
use rustls::ClientConfig;
use tokio::net::TcpStream;

pub use self::builder::RealServerBuilder;
use self::given::{Given, given};
use self::listed::assert_listed;
use self::names::Names;
use self::program::Process;
use crate::client::{BlockingClient, ClientError, Credential, Endpoint};
use crate::server::escape;
use crate::temp::TempDir;
use crate::tools;
use crate::user::User;

/// How long a real server may take to start, or a deployment to have a primary.
const START_LIMIT: Duration = Duration::from_secs(30);
/// The database of a test's users on a deployment of the user's.
const USERS: &str = "users";

/// A real server, which the kit did not write. One of three:
///
/// - by default a `secantusd-rs`, in a process of its own;
/// - with `MONGO_TESTKIT_MONGOD` that `mongod`, in a process of its own;
/// - with `MONGO_TESTKIT_URI` the deployment at that URI: its primary, or one of its mongos.
///
/// Dropping it ends a process and removes its directory; so does the end of the test process, even
/// by a kill. On a deployment of the user's each `RealServer` has databases and users of its own,
/// which it removes when it is dropped: see [`database`](Self::database). It has to outlive the
/// test's use of them. The handle needs no runtime and may be shared between runtimes.
///
/// Each test that uses it is in the list `tests/real-server.txt`.
#[derive(Debug)]
pub struct RealServer {
    endpoint: Endpoint,
    /// The user for the kit's own commands, `None` without access control.
    credential: Option<Credential>,
    tls: Option<Arc<ClientConfig>>,
    names: Names,
    administrator: Mutex<Option<BlockingClient>>,
    /// Whether it has made users.
    made_users: AtomicBool,
    host: Host,
}

#[derive(Debug)]
enum Host {
    Own {
        // Dropped in this order: the server ends before its directory is removed.
        _process: Process,
        directory: TempDir,
    },
    Given(&'static Given),
}

impl RealServer {
    /// A server without authentication for this test alone.
    ///
    /// # Panics
    /// As [`RealServerBuilder::start`].
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Returns a builder.
    pub fn builder() -> RealServerBuilder {
        RealServerBuilder::default()
    }

    /// The server without authentication that all tests of a process share. Each test has to use
    /// databases of its own.
    ///
    /// # Panics
    /// As [`RealServerBuilder::start`].
    pub fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<RealServer>> = OnceLock::new();
        assert_listed();
        match given() {
            Some(given) => Arc::new(Self::on(given)),
            None => Arc::clone(SHARED.get_or_init(|| Arc::new(Self::start()))),
        }
    }

    /// The server with authentication that all tests of a process share. Its user is `app`, with
    /// the password `pencil`; [`create_user`](Self::create_user) creates others.
    ///
    /// # Panics
    /// As [`RealServerBuilder::start`].
    pub fn shared_with_auth() -> Arc<Self> {
        static SHARED: OnceLock<Arc<RealServer>> = OnceLock::new();
        assert_listed();
        let user = User::new("app", "pencil");
        match given() {
            Some(given) => {
                let server = Self::on(given);
                server.create_user(&user);
                Arc::new(server)
            }
            None => {
                let start = || Arc::new(Self::builder().user(user).start());
                Arc::clone(SHARED.get_or_init(start))
            }
        }
    }

    fn on(given: &'static Given) -> Self {
        Self {
            endpoint: given.endpoint.clone(),
            credential: given.credential.clone(),
            tls: given.tls.clone(),
            names: Names::unique(),
            administrator: Mutex::new(None),
            made_users: AtomicBool::new(false),
            host: Host::Given(given),
        }
    }

    /// Whether `MONGO_TESTKIT_URI` or `MONGO_TESTKIT_MONGOD` chooses the server, so that only tests
    /// on it are of interest.
    pub fn is_chosen() -> bool {
        given().is_some() || tools::mongod().is_some()
    }

    /// Whether the kit has started the server.
    pub fn is_own(&self) -> bool {
        matches!(self.host, Host::Own { .. })
    }

    /// `host:port` of the server, of the primary or of a mongos.
    pub fn address(&self) -> String {
        self.endpoint.to_string()
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.endpoint.port
    }

    /// The connection string, with options, so that `&name=value` can follow. It contains the user
    /// of `MONGO_TESTKIT_URI`, and never one that a test made.
    pub fn uri(&self) -> String {
        match self.host {
            Host::Own { .. } => self.uri_with(""),
            Host::Given(given) => given.uri(),
        }
    }

    /// The connection string for the users that tests make, without a user.
    pub fn uri_without_user(&self) -> String {
        self.uri_with("")
    }

    /// The connection string of a user that a test made.
    pub fn uri_for(&self, name: &str, password: &str) -> String {
        self.uri_with(&format!("{}:{}@", escape(name), escape(password)))
    }

    fn uri_with(&self, user: &str) -> String {
        match self.host {
            Host::Own { .. } => {
                format!("mongodb://{user}{}/?directConnection=true", self.endpoint)
            }
            Host::Given(given) => given.uri_of(user, &self.names.real(USERS)),
        }
    }

    /// The name of a test's database, to be used in commands: on a deployment of the user's a
    /// unique one. It is dropped with this server.
    pub fn database(&self, name: &str) -> String {
        self.names.real(name).into_owned()
    }

    /// Creates a user with the role `root`, by default in `admin`. On a deployment of the user's it
    /// is in a database of this test's.
    ///
    /// # Panics
    /// If the command fails.
    pub fn create_user(&self, user: &User) {
        self.add_user(user)
            .unwrap_or_else(|error| panic!("{error}"));
    }

    fn add_user(&self, user: &User) -> Result<Document, ClientError> {
        let database = match self.host {
            Host::Own { .. } => Cow::Borrowed(&*user.database),
            Host::Given(_) => self.names.real(USERS),
        };
        let roles = vec![Bson::from(doc! {"role": "root", "db": "admin"})];
        let create = doc! {
            "createUser": &user.name,
            "pwd": &user.password,
            "roles": roles,
            "mechanisms": user.mechanism_names(),
        };
        self.made_users.store(true, Ordering::Relaxed);
        self.try_run(&database, create)
    }

    /// Runs a command with all privileges over the kit's own connection, independent of the code
    /// under test. Blocks the thread.
    ///
    /// # Panics
    /// If the command fails or takes over 10 s.
    pub fn run_command(&self, database: &str, command: Document) -> Document {
        self.try_run(database, command)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// The documents of a collection, named `database.collection`. Blocks the thread.
    ///
    /// # Panics
    /// As [`run_command`](Self::run_command), and if they do not fit into one reply.
    pub fn documents(&self, namespace: &str) -> Vec<Document> {
        let (database, collection) = split(namespace);
        let reply = self.run_command(database, doc! {"find": collection, "batchSize": i32::MAX});
        let cursor = reply.get_document("cursor").expect("a cursor");
        let rest = cursor.get_i64("id").expect("a cursor's id");
        assert_eq!(rest, 0, "{namespace} does not fit into one reply");
        let batch = cursor.get_array("firstBatch").expect("a first batch");
        batch
            .iter()
            .filter_map(|document| document.as_document().cloned())
            .collect()
    }

    /// Inserts documents into a collection. Blocks the thread.
    ///
    /// # Panics
    /// As [`run_command`](Self::run_command), and if the server refuses one of them.
    pub fn insert(&self, namespace: &str, documents: impl IntoIterator<Item = Document>) {
        let (database, collection) = split(namespace);
        let documents: Vec<Document> = documents.into_iter().collect();
        let insert = doc! {"insert": collection, "documents": documents};
        let reply = self.run_command(database, insert);
        assert!(!reply.contains_key("writeErrors"), "{reply}");
    }

    /// How many sessions the server knows, without the kit's own.
    pub(crate) fn sessions(&self) -> usize {
        let list = Bson::from(doc! {"$listLocalSessions": {"allUsers": true}});
        let command = doc! {"aggregate": 1, "pipeline": [list], "cursor": {"batchSize": i32::MAX}};
        let reply = self.run_command("admin", command);
        let cursor = reply.get_document("cursor").expect("a cursor");
        cursor.get_array("firstBatch").expect("a first batch").len()
    }

    /// `minWireVersion` and `maxWireVersion`.
    pub(crate) fn wire_versions(&self) -> (i32, i32) {
        let hello = self.run_command("admin", doc! {"hello": 1});
        let version = |name| hello.get_i32(name).expect("a wire version");
        (version("minWireVersion"), version("maxWireVersion"))
    }

    /// The server's log at the level of a warning or above; empty on a deployment of the user's.
    pub fn log(&self) -> String {
        let bytes = match &self.host {
            Host::Own { directory, .. } => fs::read(directory.path().join("server.log")),
            Host::Given(_) => Ok(Vec::new()),
        };
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }

    /// The server's directory, which is removed with the server.
    ///
    /// # Panics
    /// On a deployment of the user's.
    pub fn directory(&self) -> &Path {
        match &self.host {
            Host::Own { directory, .. } => directory.path(),
            Host::Given(_) => panic!("MONGO_TESTKIT_URI: the kit did not start this server"),
        }
    }

    /// A proxy's connection, with the user of `MONGO_TESTKIT_URI` if it has one.
    pub(crate) async fn open(&self) -> io::Result<TcpStream> {
        let (endpoint, tls) = (self.endpoint.clone(), self.tls.clone());
        let credential = match self.host {
            // The proxy's client authenticates.
            Host::Own { .. } => None,
            Host::Given(_) => self.credential.clone(),
        };
        let Some(credential) = credential else {
            return TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await;
        };
        let opened = tokio::task::spawn_blocking(move || {
            let mut client = BlockingClient::connect(&endpoint, tls).map_err(io::Error::other)?;
            client.authenticate(&credential).map_err(io::Error::other)?;
            let socket = client.into_socket()?;
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(socket)
        });
        TcpStream::from_std(opened.await.map_err(io::Error::other)??)
    }

    /// A proxy's message, with the real name of its database.
    pub(crate) fn renamed<'a>(&self, message: &'a [u8]) -> io::Result<Cow<'a, [u8]>> {
        self.names.request(message)
    }

    /// Undoes [`renamed`](Self::renamed) in the reply.
    pub(crate) fn restore_names(&self, reply: &mut Document) {
        self.names.reply(reply);
    }

    fn connect(&self) -> Result<BlockingClient, ClientError> {
        BlockingClient::connect(&self.endpoint, self.tls.clone())
    }

    fn try_run(&self, database: &str, command: Document) -> Result<Document, ClientError> {
        let mut slot = self
            .administrator
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut client = match slot.take() {
            Some(client) => client,
            None => {
                let mut client = self.connect()?;
                if let Some(credential) = &self.credential {
                    client.authenticate(credential)?;
                }
                client
            }
        };
        let mut reply = client.run(&self.names.real(database), command);
        if let Ok(reply) = &mut reply {
            self.names.reply(reply);
        }
        // A connection that failed within a message can't be reused.
        if matches!(reply, Ok(_) | Err(ClientError::Command { .. })) {
            *slot = Some(client);
        }
        reply
    }

    /// Drops what this test made on a deployment of the user's.
    fn clean_up(&self) -> Result<(), ClientError> {
        let reply = self.try_run("admin", doc! {"listDatabases": 1, "nameOnly": true})?;
        let databases = reply.get_array("databases").map(Vec::as_slice);
        let names = databases.unwrap_or_default().iter();
        let names = names.filter_map(|database| database.as_document()?.get_str("name").ok());
        for database in names.filter(|name| self.names.is_own(name)) {
            self.try_run(database, doc! {"dropDatabase": 1})?;
        }
        if self.made_users.load(Ordering::Relaxed) {
            self.try_run(USERS, doc! {"dropAllUsersFromDatabase": 1})?;
        }
        Ok(())
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        if let Host::Given(_) = self.host
            && let Err(error) = self.clean_up()
        {
            // The sweep of `tests/run` tries again.
            eprintln!("mongo-testkit: the databases of a test were not dropped: {error}");
        }
    }
}

fn split(namespace: &str) -> (&str, &str) {
    let parts = namespace.split_once('.');
    parts.unwrap_or_else(|| panic!("{namespace} has no database"))
}
