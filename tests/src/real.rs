//! A real server, `secantusd-rs`, with its own directory.

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

/// Runs the server, and ends it as soon as this shell's input ends: when the fixture is dropped, or
/// when the test process ends in any way.
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

/// The kit's own user on a server with authentication.
const ADMINISTRATOR: (&str, &str) = ("mongo-testkit", "a password that only tests know");

/// Builds a [`RealServer`].
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
    /// The kit's own certificate, if the server requires client certificates.
    client: Option<Identity>,
}

impl RealServerBuilder {
    /// Accepts only TLS, with a certificate for loopback issued by this authority.
    pub fn tls(mut self, authority: &Authority) -> Self {
        self.tls = Some(RealTls {
            server: authority.server(),
            authority: authority.pem(),
            client: None,
        });
        self
    }

    /// Like [`tls`](Self::tls), and requires client certificates issued by this authority.
    pub fn mutual_tls(mut self, authority: &Authority) -> Self {
        self = self.tls(authority);
        if let Some(tls) = &mut self.tls {
            tls.client = Some(authority.client("mongo-testkit"));
        }
        self
    }

    /// Adds a user with the role `root`. With at least one user the server runs with `--auth`. The
    /// server chooses the user's salt and iteration count.
    pub fn user(mut self, user: User) -> Self {
        self.users.push(user);
        self
    }

    /// Makes the server a standalone. By default it is the primary, and the only member, of a
    /// replica set `secantus`.
    pub fn standalone(mut self) -> Self {
        self.standalone = true;
        self
    }

    /// Adds a command-line argument for the server; see its `--help`.
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts the server, and waits until it answers and has its users. Blocks the thread for a few
    /// hundred milliseconds.
    ///
    /// # Panics
    /// If the server is not installed, with instructions; if it does not start within 30 s, with
    /// its log.
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
        // An explicit file keeps the server from reading the machine's configuration.
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
        // Ctrl-C goes only to the test process; the guardian then sees its input end.
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

/// A running `secantusd-rs`: an independent MongoDB-compatible server with its own storage engine.
/// Dropping it ends the server and removes its directory; so does the end of the test process, even
/// by a kill. The handle needs no runtime and may be shared between runtimes.
#[derive(Debug)]
pub struct RealServer {
    address: SocketAddr,
    // Dropped in this order: the server ends before its directory is removed.
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
        // The guardian kills the server at once, so this wait is short.
        let _ = self.child.wait();
    }
}

impl RealServer {
    /// Starts a server without authentication for this test alone.
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

    /// The server without authentication that all tests of a process share. Each test should use
    /// its own database.
    ///
    /// # Panics
    /// As [`RealServerBuilder::start`].
    pub fn shared() -> &'static Arc<Self> {
        static SHARED: OnceLock<Arc<RealServer>> = OnceLock::new();
        SHARED.get_or_init(|| Arc::new(Self::start()))
    }

    /// The server with authentication that all tests of a process share. Its user is `app`, with
    /// the password `pencil`; [`run_command`](Self::run_command) can create others.
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

    /// The server's log at the level of a warning or above.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.directory.path().join("server.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The server's directory, which is removed with the server.
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

    /// Creates the administrator by the localhost exception, and then the other users as the
    /// administrator.
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
        // A connection that failed within a message can't be reused.
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

/// Reads the line in which the server announces its port, and continues to read on its own thread,
/// so that the server never blocks on its output.
fn announced_address(stdout: ChildStdout) -> Result<SocketAddr, String> {
    let (lines, received) = mpsc::sync_channel(1);
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let address = line.rsplit(' ').next().and_then(|word| word.parse().ok());
            if let (true, Some(address)) = (line.contains("listening on"), address) {
                // Only the first address has a receiver.
                let _ = lines.try_send(address);
            }
        }
    });
    received
        .recv_timeout(START_LIMIT)
        .map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("it announced no port within {START_LIMIT:?}"),
            RecvTimeoutError::Disconnected => "it ended at once".to_owned(),
        })
}
