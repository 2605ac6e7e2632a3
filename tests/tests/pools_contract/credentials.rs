//! Credentials in use: verification, rotation, logout, and unused credentials.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongo_core::auth::Credential;
use mongo_core::bson::doc;
use mongo_core::net::CredentialProvider;
use mongo_core::pools::{Backend, PooledConnection, Pools, PoolsConfig};
use mongo_core::select::{ReadPreference, ReadPreferenceMode};
use mongo_core::{Error, ErrorKind};
use mongo_testkit::{Action, ErrorReply, Gate, Matcher};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{LIMIT, Sim, eventually, get_in_task, hold, one, ping, settled, two};

on_both! {
    on a paused clock:
    a_rotation_under_load_loses_no_request,
    a_waiter_gets_a_connection_of_the_new_credential_after_a_rotation,
    a_wrong_new_credential_fails_only_new_connections,
    invalid_rotations_are_refused,
    pools_of_unused_credentials_close,
    pools_with_connections_in_use_are_not_unused,
    a_verification_asks_the_server,
    a_verification_after_a_change_of_user_takes_a_new_connection,
    a_verification_stays_within_max_pool_size,
    a_detached_connection_leaves_its_pool,
}

fn wrong() -> Credential {
    Credential::new("two", "wrong").with_source("admin")
}

/// A handle for user `one`.
pub(crate) fn as_one<B: Backend>(pools: &Pools<B>) -> Pools<B> {
    pools.with_credential(one()).expect("a handle")
}

/// How many pools a user has.
pub(crate) fn pools_of<B: Backend>(pools: &Pools<B>, user: &str) -> usize {
    let status = pools.status().into_iter();
    status
        .filter(|pool| pool.user.as_deref() == Some(user))
        .count()
}

/// The connections of a user that a server has open.
pub(crate) fn open_for(sim: &Sim, server: usize, user: &str) -> usize {
    let user = format!("admin.{user}");
    sim.set.server(server).look(|seen| {
        let open = seen.connections.values().filter(|one| one.open);
        open.filter(|one| one.user.as_ref() == Some(&user)).count()
    })
}

pub(crate) async fn echo<B: Backend>(
    connection: &mut PooledConnection<B>,
    number: i64,
) -> Result<bool, Error> {
    let reply = connection.run_command("db", &doc! {"echo": number}).await?;
    Ok(reply.to_document()?.get_i64("echo").ok() == Some(number))
}

async fn a_rotation_under_load_loses_no_request<B: Backend<Config: Default>>() {
    let sim = Sim::of(3).await;
    let pools = as_one(&sim.pools::<B>("maxPoolSize=4"));
    let (stop, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let nearest = ReadPreference::new(ReadPreferenceMode::Nearest);
    let tasks: Vec<_> = (0..24_i64)
        .map(|task| {
            let (pools, stop, done) = (pools.clone(), stop.clone(), done.clone());
            let nearest = nearest.clone();
            tokio::spawn(async move {
                let mut number = task << 32;
                while !stop.load(Ordering::SeqCst) {
                    number += 1;
                    let mut connection = pools.read(nearest.clone()).await?;
                    assert!(echo(&mut connection, number).await?, "its own reply");
                    done.fetch_add(1, Ordering::SeqCst);
                }
                Ok::<_, Error>(())
            })
        })
        .collect();
    for round in 0..6 {
        let before = done.load(Ordering::SeqCst);
        eventually("work is done", || {
            done.load(Ordering::SeqCst) > before + 200
        })
        .await;
        let (new, old) = match round % 2 {
            0 => (two(), "one"),
            _ => (one(), "two"),
        };
        pools.rotate(new).expect("a rotation");
        assert_eq!(pools_of(&pools, old), 0);
        eventually("the old ones are gone", || {
            (0..3).all(|server| open_for(&sim, server, old) == 0)
        })
        .await;
    }
    stop.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.expect("no panic").expect("no request is lost");
    }
    assert_eq!((pools_of(&pools, "one"), pools_of(&pools, "two")), (3, 0));
    pools.close().await;
}

async fn a_waiter_gets_a_connection_of_the_new_credential_after_a_rotation<
    B: Backend<Config: Default>,
>() {
    let sim = Sim::of(1).await;
    let pools = as_one(&sim.pools::<B>("maxPoolSize=1"));
    let mut held = pools.get().await.expect("a connection");
    let waiting = get_in_task(&pools);
    eventually("it waits", || pools.status()[0].waiting == 1).await;
    // A request is in flight.
    let gate = Gate::new();
    let find = Matcher::command("find").once();
    let find = find.then(Action::WaitFor(gate.clone()));
    let find = sim.set.server(0).script().add(find);
    let flying = tokio::spawn(async move {
        let found = held.run_command("db", &doc! {"find": "c"}).await.map(drop);
        (held, found)
    });
    eventually("it is asked", || {
        sim.set.server(0).script().applied(find) == 1
    })
    .await;
    pools.rotate(two()).expect("a rotation");
    let served = waiting.await.expect("no panic").expect("a connection");
    assert_eq!(
        (served.user(), pools.user().as_deref()),
        (Some("two"), Some("two"))
    );
    gate.open();
    let (held, found) = flying.await.expect("no panic");
    found.expect("the request in flight completes");
    assert_eq!(held.user(), Some("one"));
    drop(held);
    eventually("it is closed", || open_for(&sim, 0, "one") == 0).await;
    drop(served);
    pools.close().await;
}

async fn a_wrong_new_credential_fails_only_new_connections<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let own = sim.pools::<B>("");
    let pools = as_one(&own);
    let mut held = pools.get().await.expect("a connection");
    pools.rotate(wrong()).expect("no server has checked it yet");
    for _ in 0..2 {
        let refused = pools.get().await.expect_err("a wrong password");
        assert!(refused.is_authentication(), "{refused}");
        assert_eq!(refused.user(), Some("two"));
    }
    assert!(echo(&mut held, 1).await.expect("it still works"));
    ping(&own).await.expect("others still work");
    pools.rotate(two()).expect("a rotation");
    ping(&pools).await.expect("good again");
    assert!(echo(&mut held, 2).await.expect("it still works"));
    drop(held);
    own.close().await;
}

async fn invalid_rotations_are_refused<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let own = sim.pools::<B>("");
    let (first, second) = (as_one(&own), own.with_credential(two()).expect("a handle"));
    let id = first.get().await.expect("a connection").id();
    let taken = first.rotate(two()).expect_err("there is a handle for it");
    assert!(
        matches!(taken.kind(), ErrorKind::Configuration(_)),
        "{taken}"
    );
    first
        .rotate(one())
        .expect("rotating to the same credential does nothing");
    assert_eq!(first.get().await.expect("a connection").id(), id);
    let unusable = Credential::new("", "");
    first.rotate(unusable).expect_err("no such credential");
    assert_eq!(first.get().await.expect("a connection").id(), id);
    // A logged-out handle can't rotate to another credential, and does not log that one out.
    second.logout().await;
    let refused = second.rotate(wrong()).expect_err("logged out");
    assert!(matches!(refused.kind(), ErrorKind::PoolClosed), "{refused}");
    first.rotate(two()).expect("it is free now");
    ping(&first).await.expect("a ping");
    own.close().await;
    let closed = first.rotate(one()).expect_err("closed");
    assert!(matches!(closed.kind(), ErrorKind::PoolClosed), "{closed}");
}

async fn pools_of_unused_credentials_close<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let config = PoolsConfig::default().with_unused_timeout(Duration::from_secs(60));
    let own = sim.builder::<B>("minPoolSize=1");
    let own = own.config(config).build().expect("pools");
    ping(&own).await.expect("a ping");
    let (first, second) = (as_one(&own), own.with_credential(two()).expect("a handle"));
    for pools in [&first, &second] {
        ping(pools).await.expect("a ping");
    }
    for _ in 0..10 {
        sleep(Duration::from_secs(10)).await;
        ping(&second).await.expect("a ping");
    }
    // The pools of the options' own credential stay, used or not.
    let left = (
        pools_of(&own, "one"),
        pools_of(&own, "two"),
        own.status().len(),
    );
    assert_eq!(left, (0, 1, 2));
    assert_eq!(open_for(&sim, 0, "one"), 0);
    assert!(open_for(&sim, 0, "two") >= 1);
    ping(&first).await.expect("its handle is still usable");
    assert_eq!(pools_of(&own, "one"), 1);
    drop((first, second));
    sleep(Duration::from_secs(100)).await;
    assert_eq!(own.status().len(), 1);
    settled(sim.set.server(0), 1).await;
    own.close().await;
}

async fn pools_with_connections_in_use_are_not_unused<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let config = PoolsConfig::default().with_unused_timeout(Duration::from_secs(60));
    let own = sim.builder::<B>("maxPoolSize=1");
    let own = own.config(config).build().expect("pools");
    let pools = as_one(&own);
    let mut held = pools.get().await.expect("a connection");
    sleep(Duration::from_secs(600)).await;
    assert_eq!(pools_of(&own, "one"), 1);
    assert!(echo(&mut held, 1).await.expect("it still works"));
    drop(held);
    sleep(Duration::from_secs(50)).await;
    assert_eq!(pools_of(&own, "one"), 1, "it counts from the last use");
    sleep(Duration::from_secs(30)).await;
    assert_eq!(pools_of(&own, "one"), 0);
    own.close().await;
}

async fn a_verification_asks_the_server<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let own = sim.pools::<B>("");
    let good = as_one(&own);
    good.verify().await.expect("a good credential");
    let id = good.get().await.expect("a connection").id();
    good.verify().await.expect("still good");
    assert_eq!(pools_of(&own, "one"), 1);
    let nobody = Credential::new("nobody", "first").with_source("admin");
    let unknown = own.with_credential(nobody).expect("a handle");
    let wrong = own.with_credential(wrong()).expect("a handle");
    for (pools, user) in [(&unknown, "nobody"), (&wrong, "two")] {
        let refused = timeout(LIMIT, pools.verify()).await.expect("at once");
        let refused = refused.expect_err("refused");
        assert!(refused.is_authentication(), "{refused}");
        let server = refused.server().map(ToString::to_string);
        assert_eq!(
            (refused.user(), server),
            (Some(user), Some(sim.set.address(0)))
        );
    }
    // Idle connections do not show that the password was changed on the server.
    let refusal = ErrorReply::new(18, "AuthenticationFailed", "Authentication failed.");
    let refusal = Matcher::command("saslStart")
        .once()
        .then(Action::Error(refusal));
    sim.set.server(0).script().add(refusal);
    assert!(
        good.verify()
            .await
            .expect_err("no longer accepted")
            .is_authentication()
    );
    let again = good.get().await.expect("a connection");
    assert_ne!(again.id(), id, "a refused connection is not handed out");
    drop(again);
    own.verify().await.expect("without a credential");
    own.close().await;
}

/// Supplies the credential that was set last.
struct Told(Mutex<Credential>);

#[async_trait::async_trait]
impl CredentialProvider for Told {
    async fn credential(&self) -> Result<Arc<Credential>, Error> {
        Ok(Arc::new(self.0.lock().expect("no panic").clone()))
    }
}

async fn a_verification_after_a_change_of_user_takes_a_new_connection<
    B: Backend<Config: Default>,
>() {
    let sim = Sim::of(1).await;
    let own = sim.pools::<B>("");
    let provider = Arc::new(Told(Mutex::new(one())));
    let pools = own.with_credential_provider(provider.clone());
    let pools = pools.expect("a handle");
    drop(hold(&pools, 5).await);
    sleep(Duration::from_secs(1)).await;
    *provider.0.lock().expect("no panic") = two();
    for _ in 0..5 {
        pools.verify().await.expect("a good credential");
    }
    assert!(open_for(&sim, 0, "two") > 0);
    // A bad credential of another user is reported as well.
    *provider.0.lock().expect("no panic") = Credential::new("one", "bad").with_source("admin");
    sleep(Duration::from_secs(1)).await;
    for _ in 0..10 {
        let refused = pools.verify().await.expect_err("a wrong password");
        assert!(refused.is_authentication(), "{refused}");
        assert!(refused.to_string().contains("refused"), "{refused}");
    }
    own.close().await;
}

async fn a_verification_stays_within_max_pool_size<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let own = sim.pools::<B>("maxPoolSize=3&maxConnecting=1");
    let provider = Arc::new(Told(Mutex::new(one())));
    let pools = own.with_credential_provider(provider.clone());
    let pools = pools.expect("a handle");
    let mut held = hold(&pools, 3).await;
    drop(held.split_off(1));
    sleep(Duration::from_secs(1)).await;
    *provider.0.lock().expect("no panic") = two();
    // Connections of the former user take all slots; two of them are idle.
    for _ in 0..3 {
        let verified = timeout(LIMIT, pools.verify()).await.expect("in time");
        verified.expect("a good credential");
        let open = open_for(&sim, 0, "one") + open_for(&sim, 0, "two");
        assert!(open <= 3, "{open} open");
    }
    assert!(echo(&mut held[0], 1).await.expect("it still works"));
    // Without a free slot, it waits like any check-out.
    let more = hold(&pools, 2).await;
    let verifying = pools.clone();
    let verifying = tokio::spawn(async move { verifying.verify().await });
    sleep(Duration::from_secs(1)).await;
    assert!(!verifying.is_finished());
    drop(more);
    let verified = timeout(LIMIT, verifying).await.expect("in time");
    verified.expect("no panic").expect("a good credential");
    drop(held);
    own.close().await;
}

async fn a_detached_connection_leaves_its_pool<B: Backend<Config: Default>>() {
    let sim = Sim::of(1).await;
    let pools = sim.pools::<B>("maxPoolSize=1");
    let held = pools.get().await.expect("a connection");
    let waiting = get_in_task(&pools);
    eventually("it waits", || pools.status()[0].waiting == 1).await;
    let mut detached = PooledConnection::detach(held);
    let served = waiting.await.expect("no panic").expect("its slot is free");
    assert_ne!(served.id(), detached.id());
    drop(served);
    let status = &pools.status()[0];
    assert_eq!(
        (status.size, status.idle, status.in_use),
        (1, 1, 0),
        "{status:?}"
    );
    // A close neither waits for it nor closes it.
    let begun = Instant::now();
    pools.close().await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    let answered = detached.run_command("db", &doc! {"ping": 1}).await;
    answered.map(drop).expect("it still works");
    let server = sim.set.server(0);
    assert_eq!(server.look(|seen| seen.open), 1);
    drop(detached);
    server
        .wait_for("no connection", |seen| seen.open == 0)
        .await;
}
