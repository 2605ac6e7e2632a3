//! Sessions whose credential provider changes its user, also to another one of the same name, and
//! retryable writes across a rotation.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mongo_core::Result;
use mongo_core::auth::Credential;
use mongo_core::bson::{Document, doc};
use mongo_core::net::CredentialProvider;
use mongo_core::operation::{OperationKind, SessionOptions, TransactionOptions};
use mongo_core::pools::{Backend, Pools, PoolsConfig, Session};
use mongo_testkit::{Action, Deployment, Matcher, User};

use crate::rotation::{names_the_rotation, nothing_is_left};
use crate::support::{World, begun_by, credential, eventually, insert, with_users_of};

on_both! {
    a_transaction_does_not_mix_the_users_of_a_provider,
    a_transaction_does_not_mix_users_of_one_name,
    a_committed_transaction_is_not_run_again_as_another_user_of_one_name,
    a_retryable_write_is_not_repeated_as_another_user,
    a_retryable_write_in_a_session_is_not_repeated_as_another_user,
    a_retryable_write_is_not_repeated_as_another_user_of_a_provider,
    a_retried_write_follows_no_user_of_one_name,
}

/// Gives the user that is set.
pub(crate) struct Vault(Mutex<Credential>);

impl Vault {
    pub(crate) fn new(user: Credential) -> Arc<Self> {
        Arc::new(Self(Mutex::new(user)))
    }

    pub(crate) fn set(&self, user: Credential) {
        *self.0.lock().expect("no panic") = user;
    }
}

#[async_trait]
impl CredentialProvider for Vault {
    async fn credential(&self) -> Result<Arc<Credential>> {
        Ok(Arc::new(self.0.lock().expect("no panic").clone()))
    }
}

fn first() -> Credential {
    credential("one", "first")
}

fn second() -> Credential {
    credential("two", "second")
}

/// A user of another database, with the first one's name and password.
fn namesake() -> Credential {
    Credential::new("one", "first").with_source("tenants")
}

async fn with_vault<B: Backend<Config: Default>>() -> (World<B>, Arc<Vault>, Pools<B>) {
    let one = Deployment::replica_set("rs").members(1);
    let one = one.user(User::new("one", "first").database("tenants"));
    let (world, _) = with_users_of::<B>(one, "", PoolsConfig::default()).await;
    world.set.insert("db.c", [doc! { "x": 0 }]);
    let vault = Vault::new(first());
    let pools = world.pools.with_credential_provider(vault.clone());
    let pools = pools.expect("a handle");
    (world, vault, pools)
}

/// Loses the reply to a command and its connection, a second after the command has arrived.
fn lose<B: Backend>(world: &World<B>, command: &str) {
    let lost = Matcher::command(command).times(1);
    let lost = lost.then(Action::Delay(Duration::from_secs(1)));
    let lost = lost.then(Action::NoReply).then(Action::Close);
    world.set.server(0).script().add(lost);
}

async fn arrived<B: Backend>(world: &World<B>, command: &str) {
    let count = || world.set.server(0).look(|seen| seen.count(command));
    eventually(command, || count() == 1).await;
}

pub(crate) async fn written<B: Backend>(pools: &Pools<B>) -> Result<()> {
    let write = doc! { "insert": "c", "documents": [{ "x": 1 }] };
    let write = pools.command("db", &write).kind(OperationKind::Write);
    write.await.map(drop)
}

/// One insert was sent, whatever its outcome.
fn is_sent_once<B: Backend>(world: &World<B>, outcome: &Result<()>) {
    let inserts = world.set.server(0).look(|seen| {
        let inserts = seen.commands("insert").map(|own| {
            let user = seen.connections[&own.connection].user.clone();
            let lsid = own.command.get_document("lsid").ok().cloned();
            (user, lsid, own.command.get_i64("txnNumber").ok())
        });
        Vec::<(Option<String>, Option<Document>, Option<i64>)>::from_iter(inserts)
    });
    assert_eq!(inserts.len(), 1, "{inserts:?}: {outcome:?}");
}

async fn a_transaction_does_not_mix_the_users_of_a_provider<B: Backend<Config: Default>>() {
    let (world, vault, pools) = with_vault::<B>().await;
    let mut session = begun_by(&pools).await;
    // The next connection is the other user's.
    let held = pools.get().await.expect("the first connection");
    assert_eq!(held.user(), Some("one"));
    vault.set(second());
    let error = insert(&pools, &mut session).await;
    names_the_rotation(&error.expect_err("another user"));
    assert_eq!(world.commands.of("insert").len(), 1);
    // The transaction is still the first user's, who can end it.
    drop(held);
    session.abort_transaction().await.expect("an abort");
    assert_eq!(world.set.server(0).open_transactions(), 0);
    session
        .start_transaction(TransactionOptions::default())
        .expect("a transaction");
    insert(&pools, &mut session).await.expect("a write");
    session.commit_transaction().await.expect("a commit");
    drop(session);
    nothing_is_left(world, &pools).await;
}

async fn a_transaction_does_not_mix_users_of_one_name<B: Backend<Config: Default>>() {
    let (world, vault, pools) = with_vault::<B>().await;
    let mut session = begun_by(&pools).await;
    let held = pools.get().await.expect("the first connection");
    vault.set(namesake());
    let outcome = insert(&pools, &mut session).await;
    is_sent_once(&world, &outcome);
    outcome.expect_err("another user");
    drop((held, session));
    world.pools.close().await;
}

async fn a_committed_transaction_is_not_run_again_as_another_user_of_one_name<
    B: Backend<Config: Default>,
>() {
    let (world, vault, pools) = with_vault::<B>().await;
    lose(&world, "commitTransaction");
    let session = pools.start_session(SessionOptions::default());
    let mut session = session.expect("a session");
    let mut runs = 0;
    let (own, count) = (&pools, &mut runs);
    let run = async |session: &mut Session<B>| {
        *count += 1;
        insert(own, session).await
    };
    let transaction = session.with_transaction(TransactionOptions::default(), run);
    let changes = async {
        arrived(&world, "commitTransaction").await;
        vault.set(namesake());
    };
    let (done, ()) = tokio::join!(transaction, changes);
    let documents = world.set.documents("db.c").len() - 1;
    assert_eq!((runs, documents), (1, 1), "{done:?}");
    drop(session);
    world.pools.close().await;
}

/// A write whose reply is lost, in or without a session, and a rotation before it is repeated.
pub(crate) async fn rotates_during_a_write<B: Backend>(
    world: &World<B>,
    pools: &Pools<B>,
    other: Credential,
    in_session: bool,
) {
    lose(world, "insert");
    let session = pools.start_session(SessionOptions::default());
    let mut session = session.expect("a session");
    let write = async {
        match in_session {
            true => insert(pools, &mut session).await,
            false => written(pools).await,
        }
    };
    let rotates = async {
        arrived(world, "insert").await;
        pools.rotate(other).expect("another credential");
    };
    let (outcome, ()) = tokio::join!(write, rotates);
    is_sent_once(world, &outcome);
}

/// The same, with a provider that gives another user.
pub(crate) async fn changes_during_a_write<B: Backend>(
    world: &World<B>,
    pools: &Pools<B>,
    vault: &Vault,
    other: Credential,
) {
    lose(world, "insert");
    let changes = async {
        arrived(world, "insert").await;
        vault.set(other);
    };
    let (outcome, ()) = tokio::join!(written(pools), changes);
    is_sent_once(world, &outcome);
}

async fn repeated_after_a_rotation<B: Backend<Config: Default>>(in_session: bool) {
    let one = Deployment::replica_set("rs").members(1);
    let (world, pools) = with_users_of::<B>(one, "", PoolsConfig::default()).await;
    world.set.insert("db.c", [doc! { "x": 0 }]);
    rotates_during_a_write(&world, &pools, second(), in_session).await;
    world.pools.close().await;
}

async fn a_retryable_write_is_not_repeated_as_another_user<B: Backend<Config: Default>>() {
    repeated_after_a_rotation::<B>(false).await;
}

async fn a_retryable_write_in_a_session_is_not_repeated_as_another_user<
    B: Backend<Config: Default>,
>() {
    repeated_after_a_rotation::<B>(true).await;
}

async fn repeated_by_a_provider<B: Backend<Config: Default>>(other: Credential) {
    let (world, vault, pools) = with_vault::<B>().await;
    changes_during_a_write(&world, &pools, &vault, other).await;
    world.pools.close().await;
}

async fn a_retryable_write_is_not_repeated_as_another_user_of_a_provider<
    B: Backend<Config: Default>,
>() {
    repeated_by_a_provider::<B>(second()).await;
}

async fn a_retried_write_follows_no_user_of_one_name<B: Backend<Config: Default>>() {
    repeated_by_a_provider::<B>(namesake()).await;
}
