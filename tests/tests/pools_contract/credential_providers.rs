//! Credential providers that fail: their failures do not count as failures of the MongoDB server.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mongo_core::auth::Credential;
use mongo_core::bson::doc;
use mongo_core::net::CredentialProvider;
use mongo_core::pools::{Backend, Pools};
use mongo_core::{Error, ErrorKind};
use mongo_testkit::{Action, ErrorReply, Matcher};
use tokio::time::Instant;

use crate::support::{Kept, Sim, one};

on_both! {
    on a paused clock:
    a_network_failure_of_a_provider_does_not_mark_the_server_unknown,
    a_network_failure_of_a_provider_in_a_reauthentication_does_not_mark_the_server_unknown,
}

/// A vault that the provider reaches over its own network.
struct Vault {
    is_down: AtomicBool,
    error: fn() -> ErrorKind,
}

fn refused() -> ErrorKind {
    ErrorKind::Connect(Arc::new(io::ErrorKind::ConnectionRefused.into()))
}

fn reset() -> ErrorKind {
    ErrorKind::Network(Arc::new(io::ErrorKind::ConnectionReset.into()))
}

#[async_trait]
impl CredentialProvider for Vault {
    async fn credential(&self) -> Result<Arc<Credential>, Error> {
        match self.is_down.load(Ordering::SeqCst) {
            true => Err((self.error)().into()),
            false => Ok(Arc::new(one())),
        }
    }
}

async fn vault<B: Backend<Config: Default>>(
    error: fn() -> ErrorKind,
) -> (Sim, Arc<Vault>, Kept, Pools<B>) {
    let sim = Sim::of(1).await;
    let (kept, is_down) = (Kept::default(), AtomicBool::new(false));
    let vault = Arc::new(Vault { is_down, error });
    let pools = sim
        .builder::<B>("")
        .event_handlers(kept.handlers())
        .credential_provider(vault.clone())
        .build()
        .expect("pools");
    (sim, vault, kept, pools)
}

/// Checks that an error concerns only the credential.
fn is_of_the_vault<B: Backend>(error: &Error, pools: &Pools<B>, kept: &Kept) {
    assert!(matches!(error.kind(), ErrorKind::Credential(_)), "{error}");
    let known = pools.topology().description();
    assert!(known.primary().is_some(), "{error}: {known:?}");
    assert_eq!(kept.count("PoolCleared"), 0, "{error}");
    assert_eq!(error.labels().count(), 0, "{error}");
}

async fn a_network_failure_of_a_provider_does_not_mark_the_server_unknown<
    B: Backend<Config: Default>,
>() {
    for error in [refused, reset] {
        let (_sim, vault, kept, pools) = vault::<B>(error).await;
        vault.is_down.store(true, Ordering::SeqCst);
        let begun = Instant::now();
        let error = pools.get().await.map(drop).expect_err("the vault is down");
        is_of_the_vault(&error, &pools, &kept);
        assert!(begun.elapsed() < Duration::from_secs(1), "{error}");
        pools.close().await;
    }
}

async fn a_network_failure_of_a_provider_in_a_reauthentication_does_not_mark_the_server_unknown<
    B: Backend<Config: Default>,
>() {
    for error in [refused, reset] {
        let (sim, vault, kept, pools) = vault::<B>(error).await;
        let mut connection = pools.get().await.expect("a connection");
        vault.is_down.store(true, Ordering::SeqCst);
        let required = ErrorReply::new(391, "ReauthenticationRequired", "expired");
        let expired = Matcher::command("find").once();
        let script = sim.set.server(0).script();
        script.add(expired.then(Action::Error(required)));
        let ran = connection.run_command("db", &doc! {"find": "c"}).await;
        let error = ran.map(drop).expect_err("the vault is down");
        is_of_the_vault(&error, &pools, &kept);
        drop(connection);
        pools.close().await;
    }
}
