//! Users without a name: only a server knows whom their credentials are for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use mongo_core::auth::{AuthMechanism, Credential};
use mongo_core::bson::spec::BinarySubtype;
use mongo_core::bson::{Binary, doc};
use mongo_core::net::{AccessToken, OidcCallback, OidcRequest};
use mongo_core::pools::{Backend, Pools, PoolsBuilder};
use mongo_core::{ClientOptions, Result};
use mongo_testkit::{Action, Deployment, Matcher, SimNetwork};

use crate::principals::{Vault, changes_during_a_write, rotates_during_a_write, written};
use crate::support::{Commands, OverSim, World, begun_by, insert};

on_both! {
    a_retryable_write_is_not_repeated_as_another_nameless_user,
    a_write_is_not_repeated_as_another_nameless_user_of_a_provider,
    a_transaction_of_a_nameless_user_is_not_continued_by_another,
}

struct Tokens(AtomicUsize);

#[async_trait]
impl OidcCallback for Tokens {
    async fn token(&self, _: OidcRequest<'_>) -> Result<AccessToken> {
        let call = self.0.fetch_add(1, Ordering::SeqCst);
        Ok(AccessToken::new(format!("token-{call}")))
    }
}

fn nameless(hosts: &[&str]) -> Credential {
    let credential = Credential::from_mechanism(AuthMechanism::MongoDbOidc);
    credential.with_allowed_hosts(hosts.iter().copied())
}

/// A member that accepts any access token, and pools without a credential.
async fn with_tokens<B: Backend<Config: Default>>() -> (World<B>, String) {
    let network = SimNetwork::new(5);
    let set = Deployment::replica_set("rs").members(1).network(&network);
    let set = set.start().await;
    let payload = Binary {
        subtype: BinarySubtype::Generic,
        bytes: Vec::new(),
    };
    let accepted = doc! { "ok": 1, "conversationId": 1, "done": true, "payload": payload };
    let start = Matcher::command("saslStart");
    set.server(0)
        .script()
        .add(start.then(Action::Reply(accepted)));
    let commands = Commands::default();
    let mut options = ClientOptions::parse(&set.uri()).expect("a connection string");
    options.allow_plain_without_tls = true;
    let builder: PoolsBuilder<B> = Pools::builder(options);
    let pools = builder
        .connector(Arc::new(OverSim(network.clone())))
        .event_handlers(commands.handlers())
        .oidc_callback(Arc::new(Tokens(AtomicUsize::new(0))))
        .build()
        .expect("pools");
    set.insert("db.c", [doc! { "x": 0 }]);
    let address = set.address(0);
    let host = address.rsplit_once(':').map_or(&*address, |(host, _)| host);
    let host = host.to_owned();
    let world = World {
        set,
        pools,
        commands,
        network,
    };
    (world, host)
}

/// Another user than `nameless(&[host])`, for all that a client knows.
fn other(host: &str) -> Credential {
    nameless(&[host, "other.example.net"])
}

async fn a_retryable_write_is_not_repeated_as_another_nameless_user<B: Backend<Config: Default>>() {
    for in_session in [false, true] {
        let (world, host) = with_tokens::<B>().await;
        let one = world.pools.with_credential(nameless(&[&host]));
        let one = one.expect("a handle");
        rotates_during_a_write(&world, &one, other(&host), in_session).await;
        written(&one).await.expect("a write of the new user");
        world.pools.close().await;
    }
}

async fn a_write_is_not_repeated_as_another_nameless_user_of_a_provider<
    B: Backend<Config: Default>,
>() {
    let (world, host) = with_tokens::<B>().await;
    let vault = Vault::new(nameless(&[&host]));
    let pools = world.pools.with_credential_provider(vault.clone());
    let pools = pools.expect("a handle");
    changes_during_a_write(&world, &pools, &vault, other(&host)).await;
    world.pools.close().await;
}

async fn a_transaction_of_a_nameless_user_is_not_continued_by_another<
    B: Backend<Config: Default>,
>() {
    let (world, host) = with_tokens::<B>().await;
    let one = world.pools.with_credential(nameless(&[&host]));
    let one = one.expect("a handle");
    let mut session = begun_by(&one).await;
    one.rotate(other(&host)).expect("another credential");
    let error = insert(&one, &mut session).await.expect_err("another user");
    assert!(error.has_label("TransientTransactionError"), "{error:?}");
    assert_eq!(world.commands.of("insert").len(), 1);
    drop(session);
    world.pools.close().await;
}
