//! Both backends report the same error: kind, wait, server, user, labels, causes and time.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mongo_core::auth::Credential;
use mongo_core::bson::doc;
use mongo_core::error::{CertificateProblem, TlsError, Wait};
use mongo_core::net::{Connector, CredentialProvider, Stream};
use mongo_core::pools::{Backend, PinReason, PoolState, Pools};
use mongo_core::select::{ReadPreference, ReadPreferenceMode};
use mongo_core::{Error, ErrorKind, ServerAddress};
use mongo_testkit::{Action, ErrorReply, Matcher, Rule};
use tokio::time::{Instant, sleep};

use crate::support::{OverSim, Sim, builder, eventually, handshake, hold, ping, settled};

/// The expected error.
struct Row {
    kind: &'static str,
    wait: Option<Wait>,
    /// The text of its cause, if it has one.
    cause: Option<&'static str>,
    labels: &'static [&'static str],
    names_server: bool,
    names_user: bool,
    /// The least and the most milliseconds until it is returned.
    after: (u64, u64),
}

/// An error that is returned at once, with server and user.
const AT_ONCE: Row = Row {
    kind: "",
    wait: None,
    cause: None,
    labels: &[],
    names_server: true,
    names_user: true,
    after: (0, 50),
};

/// A timeout, with server and user.
const fn late(wait: Wait, after: u64) -> Row {
    Row {
        kind: "Timeout",
        wait: Some(wait),
        after: (after, after + 50),
        ..AT_ONCE
    }
}

const fn kind(kind: &'static str) -> Row {
    Row { kind, ..AT_ONCE }
}

const OVERLOADED: &[&str] = &[
    "RetryableWriteError",
    "SystemOverloadedError",
    "RetryableError",
];

impl Row {
    fn check(&self, backend: &str, (error, took): &(Error, Duration)) {
        let told = format!("{backend}: {error:?}");
        let shown = format!("{:?}", error.kind());
        let shown = shown.split(['(', ' ']).next();
        assert_eq!(shown, Some(self.kind), "{told}");
        let wait = match error.kind() {
            ErrorKind::Timeout { wait, after } => {
                assert!(took.abs_diff(*after) < Duration::from_millis(5), "{told}");
                Some(*wait)
            }
            _ => None,
        };
        assert_eq!(wait, self.wait, "{told}");
        let cause = error.cause().map(ToString::to_string);
        match (self.cause, &cause) {
            (None, None) => {}
            (Some(wanted), Some(cause)) => assert!(cause.contains(wanted), "{told}"),
            _ => panic!("{told}"),
        }
        assert_eq!(error.labels().collect::<Vec<_>>(), self.labels, "{told}");
        assert_eq!(error.server().is_some(), self.names_server, "{told}");
        let user = self.names_user.then_some("one");
        assert_eq!(error.user(), user, "{told}");
        let (least, most) = self.after;
        let took = u64::try_from(took.as_millis()).expect("a short time");
        assert!((least..=most).contains(&took), "after {took} ms: {told}");
        for secret in ["first", "mistaken"] {
            assert!(!told.contains(secret), "{told}");
        }
    }
}

/// A set of two, and pools of user `one`.
struct Scene<B: Backend> {
    sim: Sim,
    faults: Arc<Faults>,
    pools: Pools<B>,
}

impl<B: Backend<Config: Default>> Scene<B> {
    /// A scene with connected monitors and no other connection.
    async fn new(options: &str) -> Self {
        let sim = Sim::of(2).await;
        let faults = Arc::new(Faults {
            network: OverSim(sim.network.clone()),
            next: Mutex::default(),
        });
        let own: Pools<B> = builder(&format!("{}&{options}", sim.set.uri()))
            .connector(faults.clone())
            .build()
            .expect("pools");
        own.connect().expect("connected");
        for server in 0..2 {
            settled(sim.set.server(server), 0).await;
        }
        let one = Credential::new("one", "first").with_source("admin");
        let pools = own.with_credential(one).expect("a handle");
        Self { sim, faults, pools }
    }
}

/// The network in memory, with a fault for the next connection.
struct Faults {
    network: OverSim,
    next: Mutex<Option<Fault>>,
}

enum Fault {
    Fails(ErrorKind),
    Hangs,
}

impl Faults {
    fn next(&self, fault: Fault) {
        *self.next.lock().expect("no panic") = Some(fault);
    }
}

#[async_trait]
impl Connector for Faults {
    async fn connect(&self, address: &ServerAddress) -> Result<Stream, Error> {
        let fault = self.next.lock().expect("no panic").take();
        match fault {
            None => self.network.connect(address).await,
            Some(Fault::Fails(kind)) => Err(kind.into()),
            Some(Fault::Hangs) => std::future::pending().await,
        }
    }
}

struct NoCredential;

#[async_trait]
impl CredentialProvider for NoCredential {
    async fn credential(&self) -> Result<Arc<Credential>, Error> {
        Err(Error::credential("the vault is sealed"))
    }
}

/// The error, and the time until it was returned.
async fn timed<T>(failing: impl Future<Output = Result<T, Error>>) -> (Error, Duration) {
    let begun = Instant::now();
    match failing.await {
        Ok(_) => panic!("it did not fail"),
        Err(error) => (error, begun.elapsed()),
    }
}

/// Makes a test for each row. The function of the same name provokes the error.
macro_rules! told_alike {
    ($($name:ident: $row:expr;)*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                let row: Row = $row;
                let deadpool = provoke::$name::<mongo_deadpool::Pool>().await;
                row.check("deadpool", &deadpool);
                let bb8 = provoke::$name::<mongo_bb8::Pool>().await;
                row.check("bb8", &bb8);
                assert_eq!(without_times(&deadpool.0), without_times(&bb8.0));
            }
        )*
    };
}

fn without_times(error: &Error) -> String {
    let mut text = error.to_string();
    text.retain(|own| !own.is_ascii_digit() && own != '.');
    text
}

told_alike! {
    no_suitable_server: Row {
        kind: "ServerSelection",
        names_server: false,
        after: (500, 550),
        ..AT_ONCE
    };
    all_connections_in_use: Row {
        cause: Some(
            "maxPoolSize: 3, connections in use by cursors: 1, connections in use by \
             transactions: 1, connections in use by other operations: 1",
        ),
        ..late(Wait::WaitQueue, 150)
    };
    a_cleared_pool: Row {
        labels: &["RetryableWriteError"], cause: Some("network: the server closed"), ..kind("PoolCleared")
    };
    a_closed_pool: Row { names_server: false, ..kind("PoolClosed") };
    a_refused_credential: kind("Authentication");
    a_failing_credential_provider: Row { names_user: false, ..kind("Credential") };
    a_host_without_an_address: kind("Dns");
    a_failed_tls_handshake: kind("Tls");
    a_refused_connection: Row { labels: OVERLOADED, ..kind("Connect") };
    a_silent_network: Row { labels: OVERLOADED, ..late(Wait::Connect, 300) };
    a_connection_closed_during_the_handshake: Row { labels: OVERLOADED, ..kind("Network") };
    a_silent_handshake: Row { labels: OVERLOADED, ..late(Wait::Handshake, 300) };
    a_connection_closed_during_a_command: kind("Network");
    a_silent_command: late(Wait::Command, 200);
    a_reply_to_another_request: kind("Protocol");
    a_failed_command: Row { labels: &["TransientTransactionError"], ..kind("Command") };
    a_server_that_is_no_longer_writable: kind("NotWritable");
    a_closed_connection: kind("ConnectionClosed");
}

mod provoke {
    use super::*;

    pub(super) async fn no_suitable_server<B: Backend<Config: Default>>() -> (Error, Duration) {
        let scene = Scene::<B>::new("serverSelectionTimeoutMS=500").await;
        scene.sim.set.step_down(0);
        sleep(Duration::from_millis(100)).await;
        timed(scene.pools.get()).await
    }

    pub(super) async fn all_connections_in_use<B: Backend<Config: Default>>() -> (Error, Duration) {
        let scene = Scene::<B>::new("maxPoolSize=3&waitQueueTimeoutMS=150").await;
        let mut held = hold(&scene.pools, 3).await;
        held[0].pin(PinReason::Cursor);
        held[1].pin(PinReason::Transaction);
        timed(scene.pools.get()).await
    }

    pub(super) async fn a_cleared_pool<B: Backend<Config: Default>>() -> (Error, Duration) {
        let scene = Scene::<B>::new("").await;
        let address = scene.sim.set.address(0).parse().expect("an address");
        let pool = scene.pools.for_server(&address).expect("a pool");
        scene.sim.set.kill(0).await;
        let is_paused = || pool.status().state == PoolState::Paused;
        eventually("it is cleared", is_paused).await;
        timed(pool.get(Duration::from_secs(5).into())).await
    }

    pub(super) async fn a_closed_pool<B: Backend<Config: Default>>() -> (Error, Duration) {
        let scene = Scene::<B>::new("").await;
        ping(&scene.pools).await.expect("a ping");
        scene.pools.close().await;
        timed(scene.pools.get()).await
    }

    pub(super) async fn a_refused_credential<B: Backend<Config: Default>>() -> (Error, Duration) {
        let scene = Scene::<B>::new("").await;
        let wrong = Credential::new("one", "mistaken").with_source("admin");
        let pools = scene.pools.with_credential(wrong).expect("a handle");
        timed(pools.get()).await
    }

    pub(super) async fn a_failing_credential_provider<B: Backend<Config: Default>>()
    -> (Error, Duration) {
        let scene = Scene::<B>::new("").await;
        let pools = scene.pools.with_credential_provider(Arc::new(NoCredential));
        timed(pools.expect("a handle").get()).await
    }

    async fn of_fault<B: Backend<Config: Default>>(fault: Fault) -> (Error, Duration) {
        let scene = Scene::<B>::new("connectTimeoutMS=300").await;
        scene.faults.next(fault);
        timed(scene.pools.get()).await
    }

    pub(super) async fn a_host_without_an_address<B: Backend<Config: Default>>() -> (Error, Duration)
    {
        let error = io::Error::other("no such host");
        of_fault::<B>(Fault::Fails(ErrorKind::Dns(Arc::new(error)))).await
    }

    pub(super) async fn a_failed_tls_handshake<B: Backend<Config: Default>>() -> (Error, Duration) {
        let expired = TlsError::Certificate(CertificateProblem::Expired);
        of_fault::<B>(Fault::Fails(ErrorKind::Tls(expired))).await
    }

    pub(super) async fn a_refused_connection<B: Backend<Config: Default>>() -> (Error, Duration) {
        let error = io::Error::from(io::ErrorKind::ConnectionRefused);
        of_fault::<B>(Fault::Fails(ErrorKind::Connect(Arc::new(error)))).await
    }

    pub(super) async fn a_silent_network<B: Backend<Config: Default>>() -> (Error, Duration) {
        of_fault::<B>(Fault::Hangs).await
    }

    pub(super) async fn a_connection_closed_during_the_handshake<B: Backend<Config: Default>>()
    -> (Error, Duration) {
        let scene = Scene::<B>::new("").await;
        let hang_up = handshake().once().drop_connection();
        scene.sim.set.server(0).script().add(hang_up);
        timed(scene.pools.get()).await
    }

    pub(super) async fn a_silent_handshake<B: Backend<Config: Default>>() -> (Error, Duration) {
        let scene = Scene::<B>::new("connectTimeoutMS=300").await;
        let silent = handshake().once().never_answer();
        scene.sim.set.server(0).script().add(silent);
        timed(scene.pools.get()).await
    }

    /// The error of a `find` with this rule.
    async fn of_find<B: Backend<Config: Default>>(rule: Rule) -> (Error, Duration) {
        let scene = Scene::<B>::new("").await;
        let mut held = scene.pools.get().await.expect("a connection");
        scene.sim.set.server(0).script().add(rule);
        let (bound, find) = (Duration::from_millis(200), doc! {"find": "c"});
        timed(held.run_command_by(bound, "db", &find)).await
    }

    fn find() -> Matcher {
        Matcher::command("find").once()
    }

    pub(super) async fn a_connection_closed_during_a_command<B: Backend<Config: Default>>()
    -> (Error, Duration) {
        of_find::<B>(find().drop_connection()).await
    }

    pub(super) async fn a_silent_command<B: Backend<Config: Default>>() -> (Error, Duration) {
        of_find::<B>(find().never_answer()).await
    }

    pub(super) async fn a_reply_to_another_request<B: Backend<Config: Default>>()
    -> (Error, Duration) {
        of_find::<B>(find().then(Action::ResponseTo(77_777))).await
    }

    pub(super) async fn a_failed_command<B: Backend<Config: Default>>() -> (Error, Duration) {
        let conflict = ErrorReply::new(112, "WriteConflict", "another write was faster");
        let conflict = conflict.label("TransientTransactionError");
        of_find::<B>(find().then(Action::Error(conflict))).await
    }

    pub(super) async fn a_server_that_is_no_longer_writable<B: Backend<Config: Default>>()
    -> (Error, Duration) {
        let scene = Scene::<B>::new("").await;
        let mut held = scene.pools.get().await.expect("a connection");
        scene.sim.set.elect(1);
        let new = scene.sim.set.address(1);
        let mut known = scene.pools.topology().subscribe();
        let primary = || ping(&scene.pools);
        while primary().await.expect("a primary").to_string() != new {
            known.changed().await.expect("another update");
        }
        timed(held.run_command("db", &doc! {"ping": 1})).await
    }

    pub(super) async fn a_closed_connection<B: Backend<Config: Default>>() -> (Error, Duration) {
        let scene = Scene::<B>::new("").await;
        let primary = ReadPreference::new(ReadPreferenceMode::Primary);
        let mut held = scene.pools.read(primary).await.expect("a connection");
        scene
            .sim
            .set
            .server(0)
            .script()
            .add(find().drop_connection());
        let find = doc! {"find": "c"};
        let failed = held.run_command("db", &find).await.map(drop);
        failed.expect_err("the server hung up");
        timed(held.run_command("db", &find)).await
    }
}
