//! Starts a real server, or takes the user's.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use bson::{Document, doc};

use super::given::given;
use super::listed::assert_listed;
use super::names::Names;
use super::program::{Program, SET};
use super::{Host, RealServer, START_LIMIT};
use crate::client::{BlockingClient, ClientError, Credential};
use crate::temp::TempDir;
use crate::tls::{self, Authority, Identity};
use crate::user::User;

/// The kit's own user on a server with authentication that it started.
const ADMINISTRATOR: (&str, &str) = ("mongo-testkit", "a password that only tests know");

/// Builds a [`RealServer`].
#[derive(Debug, Default)]
#[must_use]
pub struct RealServerBuilder {
    users: Vec<User>,
    sole_use: bool,
    pub(super) standalone: bool,
    pub(super) tls: Option<RealTls>,
}

#[derive(Debug)]
pub(super) struct RealTls {
    pub(super) server: Identity,
    pub(super) authority: String,
    /// The kit's own certificate, if the server requires client certificates.
    pub(super) client: Option<Identity>,
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
    /// replica set.
    pub fn standalone(mut self) -> Self {
        self.standalone = true;
        self
    }

    /// For a test whose databases have fixed names: it never runs on a deployment of the user's.
    pub fn sole_use(mut self) -> Self {
        self.sole_use = true;
        self
    }

    fn is_plain(&self) -> bool {
        !self.has_users() && !self.standalone && !self.sole_use && self.tls.is_none()
    }

    pub(super) fn has_users(&self) -> bool {
        !self.users.is_empty()
    }

    /// Starts the server, and waits until it answers and has its users. Blocks the thread for a few
    /// hundred milliseconds.
    ///
    /// # Panics
    /// If the server is not installed, with instructions; if it does not start within 30 s, with
    /// its log. On a deployment of the user's: if the test needs a server of its own, with users, TLS
    /// or another role.
    pub fn start(self) -> RealServer {
        assert_listed();
        if let Some(given) = given() {
            assert!(
                self.is_plain(),
                "MONGO_TESTKIT_URI: this test needs a server that the kit starts"
            );
            return RealServer::on(given);
        }
        let program = Program::find();
        let directory = TempDir::new().expect("a temporary directory");
        let mut process = program.spawn(&self, directory.path());
        let endpoint = process.endpoint();
        let (name, password) = ADMINISTRATOR;
        let server = RealServer {
            endpoint: endpoint.clone().unwrap_or_default(),
            credential: self.has_users().then(|| Credential {
                name: name.to_owned(),
                password: password.to_owned(),
                source: "admin".to_owned(),
            }),
            tls: self
                .tls
                .as_ref()
                .map(|tls| tls::client_config(&tls.authority, tls.client.as_ref())),
            names: Names::unchanged(),
            administrator: Mutex::new(None),
            made_users: AtomicBool::new(false),
            host: Host::Own {
                _process: process,
                directory,
            },
        };
        if let Err(error) = endpoint.and_then(|_| self.get_ready(&server, &program)) {
            let (program, log) = (program.path().display(), server.log());
            panic!("{program} did not start: {error}\nIts log:\n{log}");
        }
        server
    }

    fn get_ready(&self, server: &RealServer, program: &Program) -> Result<(), String> {
        let hello = |is_ready: fn(&Document) -> bool| {
            let deadline = Instant::now() + START_LIMIT;
            loop {
                let reply = server
                    .connect()
                    .and_then(|mut client| client.run("admin", doc! {"hello": 1}));
                match reply {
                    Ok(reply) if is_ready(&reply) => return Ok(reply),
                    outcome if Instant::now() > deadline => {
                        return Err(format!("not ready within {START_LIMIT:?}: {outcome:?}"));
                    }
                    Ok(_) | Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        };
        let reply = hello(|_| true)?;
        let is_new_set = matches!(program, Program::Mongod(_))
            && !self.standalone
            && !reply.contains_key("setName");
        if is_new_set {
            let member = doc! {"_id": 0, "host": server.address()};
            let config = doc! {"_id": SET, "members": [member]};
            server
                .connect()
                .and_then(|mut client| client.run("admin", doc! {"replSetInitiate": config}))
                .map_err(|error| error.to_string())?;
            hello(|reply| reply.get_bool("isWritablePrimary").unwrap_or(false))?;
        }
        self.create_users(server).map_err(|error| error.to_string())
    }

    /// Creates the administrator by the localhost exception, and then the other users as the
    /// administrator.
    fn create_users(&self, server: &RealServer) -> Result<(), ClientError> {
        let Some(own) = &server.credential else {
            return Ok(());
        };
        let create = doc! {"createUser": &own.name, "pwd": &own.password, "roles": ["root"]};
        let mut client: BlockingClient = server.connect()?;
        client.run("admin", create)?;
        self.users
            .iter()
            .try_for_each(|user| server.add_user(user).map(drop))
    }
}
