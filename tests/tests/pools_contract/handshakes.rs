//! The effect of failed and slow handshakes on the pools of their server.

use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use mongo_core::auth::Credential;
use mongo_core::bson::doc;
use mongo_core::event::{CmapEvent, PoolClearedEvent};
use mongo_core::net::{BlockingExecutor, KeyService};
use mongo_core::pools::{Backend, PoolState, PooledConnection, Pools};
use mongo_core::select::Criterion;
use mongo_core::{Deadline, Error, ErrorKind};
use mongo_testkit::{
    Action, Deployment, ErrorReply, Gate, Matcher, Rule, ScramAttack, SimNetwork, User,
};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    Kept, LIMIT, OverSim, Sim, builder, eventually, get_in_task, handshake, hold, observed, one,
    ping,
};

on_both! {
    on a paused clock:
    all_authentication_failures_but_refusals_clear_the_pool,
    a_refused_credential_clears_no_pool,
    a_callers_deadline_clears_no_pool,
    a_failed_authentication_clears_only_its_service,
    a_failure_before_the_hello_reply_clears_no_service,
    a_connection_belongs_to_the_generation_of_its_hello,
    a_cleared_pool_names_the_cause,
    a_cleared_server_pool_names_the_cause,
    a_network_error_during_reauthentication_clears_the_pool,
    an_unpolled_check_out_blocks_no_key_derivation,
}

fn cleared(kept: &Kept) -> Vec<PoolClearedEvent> {
    let cleared = kept.events().into_iter().filter_map(|event| match event {
        CmapEvent::PoolCleared(event) => Some(event),
        _ => None,
    });
    cleared.collect()
}

fn refusal(command: &str, code: i32, name: &str) -> Rule {
    let error = ErrorReply::new(code, name, "refused by the test");
    Matcher::command(command).once().then(Action::Error(error))
}

fn attack(attack: ScramAttack) -> Rule {
    Matcher::scram().once().then(Action::Scram(attack))
}

/// A deployment with one connection of user `one` in use. A rule makes the next check-out fail.
async fn fails_by<B: Backend<Config: Default>>(
    rule: Rule,
    options: &str,
) -> (Error, Kept, PooledConnection<B>, Pools<B>, Sim) {
    let sim = Sim::of(1).await;
    let (pools, kept) = observed(sim.builder::<B>(&format!("heartbeatFrequencyMS=500&{options}")));
    let pools = pools.with_credential(one());
    let pools = pools.expect("a handle");
    let held = pools.get().await.expect("a connection");
    sim.set.server(0).script().add(rule);
    let address = sim.set.address(0).parse().expect("an address");
    let pool = pools.for_server(&address).expect("a pool");
    let failed = pool.get(Deadline::after(LIMIT)).await;
    (
        failed.map(drop).expect_err("a failure"),
        kept,
        held,
        pools,
        sim,
    )
}

async fn all_authentication_failures_but_refusals_clear_the_pool<B: Backend<Config: Default>>() {
    let silent = || Matcher::command("saslContinue").once().never_answer();
    let hang_up = || Matcher::command("saslContinue").once().drop_connection();
    let garbled = Matcher::command("saslContinue").once();
    let garbled = garbled.then(Action::Remove("payload".to_owned()));
    for (what, rule) in [
        ("a time-out", silent()),
        ("a network error", hang_up()),
        (
            "shutdown",
            refusal("saslContinue", 91, "ShutdownInProgress"),
        ),
        (
            "shutdown",
            refusal("saslContinue", 11600, "InterruptedAtShutdown"),
        ),
        (
            "not primary",
            refusal("saslContinue", 10107, "NotWritablePrimary"),
        ),
        (
            "recovering",
            refusal("saslContinue", 13436, "NotPrimaryOrSecondary"),
        ),
        (
            "an internal error",
            refusal("saslContinue", 1, "InternalError"),
        ),
        ("no payload", garbled),
        ("a nonce of another", attack(ScramAttack::ForeignNonce)),
        ("a wrong signature", attack(ScramAttack::WrongSignature)),
        ("no end", attack(ScramAttack::NeverDone)),
    ] {
        let (error, kept, held, pools, _sim) = fails_by::<B>(rule, "connectTimeoutMS=300").await;
        assert!(held.is_stale(), "{what}: {error}");
        assert_eq!(cleared(&kept).len(), 1, "{what}: {error}");
        let told = cleared(&kept)[0].error.clone().expect("an error");
        assert_eq!(told.server(), Some(held.server()), "{what}");
        drop(held);
        let again = timeout(LIMIT, ping(&pools)).await.expect("in time");
        again.expect("found good again");
        pools.close().await;
    }
}

async fn a_refused_credential_clears_no_pool<B: Backend<Config: Default>>() {
    for (code, name) in [
        (18, "AuthenticationFailed"),
        (11, "UserNotFound"),
        (13, "Unauthorized"),
        (334, "MechanismUnavailable"),
        (8000, "AtlasError"),
    ] {
        for command in ["saslStart", "saslContinue"] {
            let sim = Sim::of(1).await;
            let (pools, kept) = observed(sim.builder::<B>(""));
            let pools = pools
                .with_credential(one().with_mechanism(mongo_core::auth::AuthMechanism::ScramSha1));
            let pools = pools.expect("a handle");
            let held = pools.get().await.expect("a connection");
            let server = sim.set.server(0);
            let speculative = Matcher::hello().once();
            let speculative =
                speculative.then(Action::Remove("speculativeAuthenticate".to_owned()));
            server.script().add(speculative);
            server.script().add(refusal(command, code, name));
            let failed = pools.get().await.expect_err("refused");
            assert!(failed.is_authentication(), "{failed}");
            assert!(!held.is_stale(), "{failed}");
            assert_eq!(kept.count("PoolCleared"), 0, "{failed}");
            let known = pools.topology().description();
            assert!(known.primary().is_some(), "{failed}");
            drop(held);
            pools.close().await;
        }
    }
}

async fn a_callers_deadline_clears_no_pool<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let (pools, kept) = observed(sim.builder::<B>("connectTimeoutMS=2000"));
    let pools = pools.with_credential(one());
    let pools = pools.expect("a handle");
    let held = pools.get().await.expect("a connection");
    let gate = Gate::new();
    let slow = Matcher::command("saslContinue").once();
    let slow = slow.then(Action::WaitFor(gate.clone()));
    sim.set.server(0).script().add(slow);
    let bound = Duration::from_millis(100);
    let late = pools.get_by(bound, &Criterion::write(), &[]).await;
    assert!(late.expect_err("too short").is_timeout());
    gate.open();
    sleep(Duration::from_secs(1)).await;
    assert!(!held.is_stale());
    assert_eq!(kept.count("PoolCleared"), 0);
    drop(held);
    pools.close().await;
}

/// Mongoses behind a load balancer, with user `one`, on a network in memory.
struct Balanced<B: Backend> {
    set: Deployment,
    kept: Kept,
    pools: Pools<B>,
}

impl<B: Backend<Config: Default>> Balanced<B> {
    async fn of(mongoses: usize, options: &str) -> Self {
        let network = SimNetwork::new(17);
        let set = Deployment::load_balanced(mongoses)
            .user(User::new("one", "first").iterations(4096))
            .network(&network);
        let set = set.start().await;
        let kept = Kept::default();
        let pools = builder(&format!("{}&{options}", set.uri_for("one", "first")))
            .connector(Arc::new(OverSim(network.clone())))
            .event_handlers(kept.handlers());
        let pools = pools.build().expect("pools");
        Self { set, kept, pools }
    }

    fn all(&self, rule: impl Fn() -> Rule) {
        for server in 0..self.set.len() {
            self.set.server(server).script().add(rule());
        }
    }

    fn clear_script(&self) {
        for server in 0..self.set.len() {
            self.set.server(server).script().clear();
        }
    }
}

async fn a_failed_authentication_clears_only_its_service<B: Backend<Config: Default>>() {
    type Make = fn() -> Rule;
    let rules: [(&str, Make); 4] = [
        ("a network error", || {
            Matcher::command("saslContinue").drop_connection()
        }),
        ("a time-out", || {
            Matcher::command("saslContinue").never_answer()
        }),
        ("shutdown", || {
            refusal("saslContinue", 91, "ShutdownInProgress")
        }),
        ("a protocol fault", || attack(ScramAttack::ForeignNonce)),
    ];
    for (what, rule) in rules {
        let balanced = Balanced::<B>::of(2, "connectTimeoutMS=300").await;
        // Enough for both services to have some.
        let held = hold(&balanced.pools, 6).await;
        balanced.all(rule);
        let bound = Deadline::after(Duration::from_secs(2));
        let address = balanced.set.address(0).parse().expect("an address");
        let pool = balanced.pools.for_server(&address).expect("a pool");
        let failed = pool.get(bound).await.map(drop).expect_err("a failure");
        let events = cleared(&balanced.kept);
        let [event] = &events[..] else {
            panic!("{what}: {failed}: {events:?}");
        };
        let service = event.service_id.expect("a service");
        let told = event.error.as_ref().expect("the cause of the clear");
        assert_eq!(told.to_string(), failed.to_string(), "{what}");
        let stale = held.iter().filter(|own| own.is_stale());
        let stale: Vec<_> = stale.map(|own| own.description().service_id).collect();
        assert!((1..6).contains(&stale.len()), "{what}: {}", stale.len());
        for connection in &held {
            let of_service = connection.description().service_id == Some(service);
            assert_eq!(connection.is_stale(), of_service, "{what}");
        }
        assert_eq!(pool.status().state, PoolState::Ready, "{what}");
        balanced.clear_script();
        drop(held);
        ping(&balanced.pools)
            .await
            .expect("the load balancer is unchanged");
        balanced.pools.close().await;
    }
}

async fn a_failure_before_the_hello_reply_clears_no_service<B: Backend<Config: Default>>() {
    let balanced = Balanced::<B>::of(2, "connectTimeoutMS=300").await;
    let held = hold(&balanced.pools, 4).await;
    for rule in [
        || handshake().once().drop_connection(),
        || handshake().once().never_answer(),
    ] {
        balanced.all(rule);
        let failed = balanced.pools.get().await.map(drop);
        failed.expect_err("a failure");
        balanced.clear_script();
    }
    // Nor does a credential that the server refuses.
    balanced.all(|| refusal("saslContinue", 18, "AuthenticationFailed"));
    let refused = balanced.pools.get().await.map(drop).expect_err("refused");
    assert!(refused.is_authentication(), "{refused}");
    assert_eq!(cleared(&balanced.kept).len(), 0);
    assert!(held.iter().all(|own| !own.is_stale()));
    drop(held);
    balanced.pools.close().await;
}

async fn a_connection_belongs_to_the_generation_of_its_hello<B: Backend<Config: Default>>() {
    let balanced = Balanced::<B>::of(1, "").await;
    let mut held = balanced.pools.get().await.expect("a connection");
    let gate = Gate::new();
    let slow = Matcher::command("saslContinue").once();
    let slow = slow.then(Action::WaitFor(gate.clone()));
    let server = balanced.set.server(0);
    let slow = server.script().add(slow);
    let waiting = get_in_task(&balanced.pools);
    eventually("it authenticates", || server.script().applied(slow) == 1).await;
    // Its service is cleared between its hello and the end of its handshake.
    let find = Matcher::command("find").once();
    server.script().add(find.drop_connection());
    let failed = held.run_command("db", &doc! {"find": "c"}).await.map(drop);
    failed.expect_err("hung up");
    assert!(held.is_stale());
    gate.open();
    let served = timeout(LIMIT, waiting).await.expect("in time");
    let served = served.expect("no panic").expect("a connection");
    assert!(!served.is_stale());
    assert_eq!(
        (served.id(), served.generation()),
        (3, 1),
        "the second one is stale"
    );
    drop((served, held));
    balanced.pools.close().await;
}

fn assert_cleared_for(error: &Error, cause: &str) {
    assert!(matches!(error.kind(), ErrorKind::PoolCleared), "{error}");
    let found = error.cause().unwrap_or_else(|| panic!("no cause: {error}"));
    assert!(found.to_string().contains(cause), "{found}");
    assert!(error.to_string().contains(cause), "{error}");
}

async fn a_cleared_pool_names_the_cause<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let (pools, kept) = observed(sim.builder::<B>("maxPoolSize=1"));
    let address = sim.set.address(0).parse().expect("an address");
    let mut held = pools.get().await.expect("a connection");
    let pool = pools.for_server(&address).expect("a pool");
    let theirs = pool.clone();
    let waiting = tokio::spawn(async move { theirs.get(Deadline::after(LIMIT)).await.map(drop) });
    eventually("it waits", || pool.status().waiting == 1).await;
    let shutdown = ErrorReply::new(91, "ShutdownInProgress", "it goes down for repairs");
    let shutdown = Matcher::command("find")
        .once()
        .then(Action::Error(shutdown));
    sim.set.server(0).script().add(shutdown);
    let failed = held.run_command("db", &doc! {"find": "c"}).await.map(drop);
    failed.expect_err("it shuts down");
    let later = pool.get(Deadline::after(LIMIT)).await.map(drop);
    assert_cleared_for(&later.expect_err("cleared"), "goes down for repairs");
    let waited = timeout(LIMIT, waiting).await.expect("in time");
    let waited = waited.expect("no panic").expect_err("cleared");
    assert_cleared_for(&waited, "goes down for repairs");
    // The events of the check-outs have the same cause.
    let told = kept.events().into_iter().filter_map(|event| match event {
        CmapEvent::ConnectionCheckOutFailed(event) => event.error,
        _ => None,
    });
    let told: Vec<_> = told.collect();
    assert_eq!(told.len(), 2);
    told.iter()
        .for_each(|error| assert_cleared_for(error, "goes down for repairs"));
    drop(held);
    // The monitor makes the pool ready.
    ping(&pools).await.expect("found good again");
    sim.set.kill(0).await;
    eventually("it is cleared", || pool.status().state == PoolState::Paused).await;
    let later = pool.get(Deadline::after(LIMIT)).await.map(drop);
    assert_cleared_for(&later.expect_err("cleared"), "network: ");
    pools.close().await;
}

async fn a_cleared_server_pool_names_the_cause<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pool = sim.builder::<B>("").build_server_pool().expect("a pool");
    let paused = pool.get(Deadline::after(LIMIT)).await.map(drop);
    let paused = paused.expect_err("not ready yet");
    assert!(matches!(paused.kind(), ErrorKind::PoolCleared), "{paused}");
    assert!(paused.cause().is_none(), "{paused}");
    pool.ready();
    let mut held = pool
        .get(Deadline::after(LIMIT))
        .await
        .expect("a connection");
    let find = Matcher::command("find").once();
    sim.set.server(0).script().add(find.drop_connection());
    let failed = held.run_command("db", &doc! {"find": "c"}).await.map(drop);
    failed.expect_err("hung up");
    let later = pool.get(Deadline::after(LIMIT)).await.map(drop);
    assert_cleared_for(
        &later.expect_err("cleared"),
        "the server closed the connection",
    );
    drop(held);
    // A manual clear has no error.
    pool.ready();
    pool.clear(false);
    let later = pool.get(Deadline::after(LIMIT)).await.map(drop);
    assert!(later.expect_err("cleared").cause().is_none());
    pool.close();
}

async fn a_network_error_during_reauthentication_clears_the_pool<B: Backend<Config: Default>>() {
    let (error, kept, mut held, pools, sim) =
        fails_by::<B>(refusal("saslContinue", 18, "AuthenticationFailed"), "").await;
    assert!(error.is_authentication(), "{error}");
    assert_eq!(kept.count("PoolCleared"), 0);
    let finish = Matcher::command("saslContinue").once();
    sim.set.server(0).script().add(finish.drop_connection());
    let failed = held.reauthenticate(Deadline::after(LIMIT)).await;
    let failed = failed.expect_err("hung up");
    assert!(matches!(failed.kind(), ErrorKind::Network(_)), "{failed}");
    assert_eq!(kept.count("PoolCleared"), 1);
    drop(held);
    pools.close().await;
}

type Work = Box<dyn FnOnce() + Send>;

/// Keeps the work until the test runs it.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<Vec<Work>>>);

impl BlockingExecutor for Held {
    fn execute(&self, work: Work) {
        self.0.lock().expect("no panic").push(work);
    }
}

async fn an_unpolled_check_out_blocks_no_key_derivation<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let executor = Held::default();
    let keys = Arc::new(KeyService::new(Arc::new(executor.clone())));
    let pools = sim.builder::<B>("").keys(keys).build().expect("pools");
    ping(&pools).await.expect("a ping");
    let one = Credential::new("one", "first").with_source("admin");
    let one = pools.with_credential(one).expect("a handle");
    let asked = || executor.0.lock().expect("no panic").len();
    let mut unpolled = Box::pin(one.get());
    let begun = Instant::now();
    while asked() == 0 {
        assert!(begun.elapsed() < LIMIT);
        let mut context = Context::from_waker(Waker::noop());
        assert!(unpolled.as_mut().poll(&mut context).is_pending());
        sleep(Duration::from_millis(1)).await;
    }
    let other = get_in_task(&one);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(asked(), 1, "one derivation serves both");
    let work = std::mem::take(&mut *executor.0.lock().expect("no panic"));
    work.into_iter().for_each(|work| work());
    let served = timeout(LIMIT, other).await.expect("not held up");
    drop(served.expect("no panic").expect("a connection"));
    drop(unpolled);
    pools.close().await;
}
