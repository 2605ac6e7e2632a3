//! A real server, `secantusd-rs`, with a directory of its own.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bson::{Bson, Document, doc};
use rustls::ClientConfig;

use crate::client::{BlockingClient, ClientError};
use crate::temp::TempDir;
use crate::tls::{self, Authority, Identity};
use crate::tools;
use crate::user::User;

/// How long a real server may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Runs the server, and ends it as soon as this shell's input ends: when the fixture is dropped,
/// and when the test process is gone, whatever became of it.
const GUARDIAN: &str = r#"
directory=$1
shift
"$@" 2>"$directory/server.log" </dev/null &
server=$!
exec >/dev/null 2>&1
read -r _
kill -9 "$server"
wait "$server"
rm -rf "$directory"
"#;

/// The user that the kit makes for itself on a server with authentication.
const ADMINISTRATOR: (&str, &str) = ("mongo-testkit", "a password that only tests know");

/// How a [`RealServer`] is set up.
#[derive(Debug, Default)]
#[must_use]
pub struct RealServerBuilder {
    users: Vec<User>,
    standalone: bool,
    arguments: Vec<OsString>,
    tls: Option<RealTls>,
}

#[derive(Debug)]
struct RealTls {
    server: Identity,
    authority: String,
    /// The kit's own certificate, where clients are asked for one.
    client: Option<Identity>,
}

impl RealServerBuilder {
    /// Serves over TLS alone, with a certificate for loopback of this authority's.
    pub fn tls(mut self, authority: &Authority) -> Self {
        self.tls = Some(RealTls {
            server: authority.server(),
            authority: authority.pem(),
            client: None,
        });
        self
    }

    /// As [`tls`](Self::tls), for clients that have a certificate of this authority's.
    pub fn mutual_tls(mut self, authority: &Authority) -> Self {
        self = self.tls(authority);
        if let Some(tls) = &mut self.tls {
            tls.client = Some(authority.client("mongo-testkit"));
        }
        self
    }

    /// Adds a user with the role `root`. From the first one on the server runs with `--auth`.
    /// The user's salt and iteration count are the server's own.
    pub fn user(mut self, user: User) -> Self {
        self.users.push(user);
        self
    }

    /// Calls itself a standalone. Otherwise the server is the primary, and the only member, of a
    /// replica set `secantus`.
    pub fn standalone(mut self) -> Self {
        self.standalone = true;
        self
    }

    /// Adds an argument for the server, as its `--help` describes them.
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts the server, and waits until it answers and has its users. Blocks the thread for
    /// some tenths of a second.
    ///
    /// # Panics
    /// When the server is not installed, with the way to install it; when it does not start
    /// within 30 s, with what it has logged.
    pub fn start(self) -> RealServer {
        let program = tools::secantusd().unwrap_or_else(|error| panic!("{error}"));
        let directory = TempDir::new().expect("a temporary directory");
        let mut guardian = self.spawn(&program, directory.path());
        let stdin = guardian.stdin.take();
        let stdout = guardian
            .stdout
            .take()
            .expect("the guardian's output is piped");
        let mut server = RealServer {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            _guardian: Guardian {
                child: guardian,
                stdin,
            },
            directory,
            administrator: Mutex::new(None),
            tls: self
                .tls
                .map(|tls| tls::client_config(&tls.authority, tls.client.as_ref())),
            has_users: !self.users.is_empty(),
        };
        if let Err(error) = server.get_ready(stdout, &self.users) {
            let log = server.log();
            panic!(
                "{} did not start: {error}\nIts log:\n{log}",
                program.display()
            );
        }
        server
    }

    fn spawn(&self, program: &Path, directory: &Path) -> Child {
        // An explicit file keeps the server away from configurations that the machine may have.
        let configuration = directory.join("secantusd.toml");
        fs::write(&configuration, "").expect("write into a temporary directory");
        let mut command = Command::new("sh");
        command
            .args(["-c", GUARDIAN, "mongo-testkit"])
            .arg(directory)
            .arg(program);
        command.arg("--config").arg(&configuration);
        command.arg("--storage-path").arg(directory.join("data"));
        command.args([
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--log-level",
            "WARNING",
        ]);
        command.args(["--cache-size", "64M", "--log-file-max", "1MB"]);
        if !self.users.is_empty() {
            command.arg("--auth");
        }
        if self.standalone {
            command.arg("--standalone");
        }
        if let Some(tls) = &self.tls {
            self.add_tls(&mut command, directory, tls);
        }
        command.args(&self.arguments).current_dir(directory);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        // Ctrl-C is for the test process; the guardian then sees its input end.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.spawn().expect("start sh")
    }

    fn add_tls(&self, command: &mut Command, directory: &Path, tls: &RealTls) {
        let (certificate, key) = (directory.join("server.crt"), directory.join("server.key"));
        let authority = directory.join("ca.crt");
        for (path, text) in [
            (&certificate, tls.server.certificate()),
            (&key, tls.server.key()),
            (&authority, &tls.authority),
        ] {
            fs::write(path, text).expect("write into a temporary directory");
        }
        command.arg("--tls-cert-file").arg(certificate);
        command.arg("--tls-key-file").arg(key);
        if tls.client.is_some() {
            command.arg("--tls-ca-file").arg(authority);
            command.arg("--tls-require-client-cert");
        }
    }
}

/// A running `secantusd-rs`: a MongoDB-compatible server on a storage engine of its own, that
/// nobody of this workspace wrote. Its drop ends it and removes its directory; so does the end of
/// the test process, even by a kill. The handle needs no runtime and may be shared by several.
#[derive(Debug)]
pub struct RealServer {
    address: SocketAddr,
    // Dropped in this order: the server is gone before its directory is.
    _guardian: Guardian,
    directory: TempDir,
    administrator: Mutex<Option<BlockingClient>>,
    tls: Option<Arc<ClientConfig>>,
    has_users: bool,
}

#[derive(Debug)]
struct Guardian {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.stdin = None;
        // It kills the server at once, so that this wait is a short one.
        let _ = self.child.wait();
    }
}

impl RealServer {
    /// A server without authentication of this test's own.
    ///
    /// # Panics
    /// As [`RealServerBuilder::start`].
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Sets a server up.
    pub fn builder() -> RealServerBuilder {
        RealServerBuilder::default()
    }

    /// The one server without authentication that all tests of a process share. Each should use a
    /// database of its own.
    ///
    /// # Panics
    /// As [`RealServerBuilder::start`].
    pub fn shared() -> &'static Arc<Self> {
        static SHARED: OnceLock<Arc<RealServer>> = OnceLock::new();
        SHARED.get_or_init(|| Arc::new(Self::start()))
    }

    /// The one server with authentication that all tests of a process share. Its user is
    /// `app`, with the password `pencil`; [`run_command`](Self::run_command) makes others.
    ///
    /// # Panics
    /// As [`RealServerBuilder::start`].
    pub fn shared_with_auth() -> &'static Arc<Self> {
        static SHARED: OnceLock<Arc<RealServer>> = OnceLock::new();
        SHARED.get_or_init(|| {
            let user = User::new("app", "pencil");
            Arc::new(Self::builder().user(user).start())
        })
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `mongodb://…/?directConnection=true`, without a user.
    pub fn uri(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.address)
    }

    /// `mongodb://name:password@…/?directConnection=true`.
    pub fn uri_for(&self, name: &str, password: &str) -> String {
        let (name, password) = (crate::server::escape(name), crate::server::escape(password));
        format!(
            "mongodb://{name}:{password}@{}/?directConnection=true",
            self.address
        )
    }

    /// Runs a command with all rights over the kit's own connection, apart from the code under
    /// test. Blocks the thread.
    ///
    /// # Panics
    /// When the command fails, or takes over 10 s.
    pub fn run_command(&self, database: &str, command: Document) -> Document {
        self.try_run(database, command)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// The documents of a collection, named `database.collection`. Blocks the thread.
    ///
    /// # Panics
    /// As [`run_command`](Self::run_command), and when they do not fit into one reply.
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

    /// Puts documents into a collection. Blocks the thread.
    ///
    /// # Panics
    /// As [`run_command`](Self::run_command), and when the server refuses one of them.
    pub fn insert(&self, namespace: &str, documents: impl IntoIterator<Item = Document>) {
        let (database, collection) = split(namespace);
        let documents: Vec<Document> = documents.into_iter().collect();
        let insert = doc! {"insert": collection, "documents": documents};
        let reply = self.run_command(database, insert);
        assert!(!reply.contains_key("writeErrors"), "{reply}");
    }

    /// `minWireVersion` and `maxWireVersion`.
    pub(crate) fn wire_versions(&self) -> (i32, i32) {
        let hello = self.run_command("admin", doc! {"hello": 1});
        let version = |name| hello.get_i32(name).expect("a wire version");
        (version("minWireVersion"), version("maxWireVersion"))
    }

    /// What the server has logged at the level of a warning or above.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.directory.path().join("server.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The server's directory, which is gone when the server is.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn get_ready(&mut self, stdout: ChildStdout, users: &[User]) -> Result<(), String> {
        let deadline = Instant::now() + START_LIMIT;
        self.address = announced_address(stdout)?;
        while let Err(error) = self
            .connect()
            .and_then(|mut client| client.run("admin", doc! {"hello": 1}))
        {
            if Instant::now() > deadline {
                return Err(format!("no hello within {START_LIMIT:?}: {error}"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.create_users(users).map_err(|error| error.to_string())
    }

    fn connect(&self) -> Result<BlockingClient, ClientError> {
        BlockingClient::connect(self.address, self.tls.clone())
    }

    /// The first user is made by the exception for a server that has none, as the administrator,
    /// who then makes the others.
    fn create_users(&self, users: &[User]) -> Result<(), ClientError> {
        if users.is_empty() {
            return Ok(());
        }
        let (name, password) = ADMINISTRATOR;
        self.connect()?.run(
            "admin",
            doc! {"createUser": name, "pwd": password, "roles": ["root"]},
        )?;
        for user in users {
            let roles = vec![Bson::from(doc! {"role": "root", "db": "admin"})];
            self.try_run(
                &user.database,
                doc! {
                    "createUser": &user.name,
                    "pwd": &user.password,
                    "roles": roles,
                    "mechanisms": user.mechanism_names(),
                },
            )?;
        }
        Ok(())
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
                if self.has_users {
                    client.authenticate(ADMINISTRATOR.0, ADMINISTRATOR.1)?;
                }
                client
            }
        };
        let reply = client.run(database, command);
        // A connection that failed in the middle of a message is of no more use.
        if matches!(reply, Ok(_) | Err(ClientError::Command { .. })) {
            *slot = Some(client);
        }
        reply
    }
}

fn split(namespace: &str) -> (&str, &str) {
    let parts = namespace.split_once('.');
    parts.unwrap_or_else(|| panic!("{namespace} has no database"))
}

/// Reads the line by which the server tells its port, and goes on reading on a thread of its own,
/// so that the server never waits for a reader.
fn announced_address(stdout: ChildStdout) -> Result<SocketAddr, String> {
    let (lines, received) = mpsc::sync_channel(1);
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let address = line.rsplit(' ').next().and_then(|word| word.parse().ok());
            if let (true, Some(address)) = (line.contains("listening on"), address) {
                // Only the first one is waited for.
                let _ = lines.try_send(address);
            }
        }
    });
    received
        .recv_timeout(START_LIMIT)
        .map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("it told no port within {START_LIMIT:?}"),
            RecvTimeoutError::Disconnected => "it ended at once".to_owned(),
        })
}
