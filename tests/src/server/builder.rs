//! The settings of a scripted server.

use std::sync::Arc;
use std::sync::atomic::AtomicI32;

use tokio::sync::mpsc;

use super::{ScriptedServer, Shared};
use crate::acceptor::Acceptor;
use crate::aws::AwsKey;
use crate::backend::Backend;
use crate::compression::Compressor;
use crate::connection::ExhaustReplies;
use crate::deployment::Seat;
use crate::external::External;
use crate::fail_point::FailPoint;
use crate::link::Link;
use crate::listener::Place;
use crate::observe::Observer;
use crate::script::Script;
use crate::store::Store;
use crate::temp::TempDir;
use crate::tls::ServerTls;
use crate::user::User;

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
