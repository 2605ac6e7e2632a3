//! The servers that get a credential, and the timeouts of its source.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mongo_core::auth::{AuthError, AuthMechanism, Credential};
use mongo_core::net::{AccessToken, Connector, OidcCallback, OidcRequest, Stream};
use mongo_core::pools::{Backend, Pools, PoolsBuilder, PoolsConfig};
use mongo_core::select::{ReadPreference, ReadPreferenceMode};
use mongo_core::{ClientOptions, Error, ErrorKind, Result, ServerAddress};
use mongo_testkit::ScriptedServer;
use tokio::time::{Instant, sleep};

use crate::support::{Tenants, ping, tenant_name, tenant_password};

on_both! {
    on a paused clock:
    a_token_goes_only_over_tls,
    a_discovered_server_outside_the_allowed_hosts_gets_no_credential,
    a_callback_has_a_minute_regardless_of_connect_timeout_ms,
    timeout_ms_and_connect_timeout_ms_together_bound_a_callback,
    the_wait_for_a_token_does_not_count_towards_connect_timeout_ms,
}

const TOKEN: &str = "good";

/// A callback that takes a while.
struct Slow {
    takes: Duration,
    calls: AtomicUsize,
}

#[async_trait]
impl OidcCallback for Slow {
    async fn token(&self, _: OidcRequest<'_>) -> Result<AccessToken> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        sleep(self.takes).await;
        Ok(AccessToken::new(TOKEN))
    }
}

/// A server without sockets.
struct InMemory(Arc<ScriptedServer>);

#[async_trait]
impl Connector for InMemory {
    async fn connect(&self, _: &ServerAddress) -> Result<Stream> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        self.0.serve(far).await;
        Ok(Stream::custom(near))
    }
}

async fn server() -> Arc<ScriptedServer> {
    let builder = ScriptedServer::builder().access_tokens(&[TOKEN]);
    Arc::new(builder.without_listener().start().await)
}

fn builder<B: Backend<Config: Default>>(
    server: &Arc<ScriptedServer>,
    callback: &Arc<Slow>,
    more: &str,
    permitted: bool,
) -> PoolsBuilder<B> {
    let uri = format!("mongodb://db.test/?directConnection=true&{more}");
    let mut options = ClientOptions::parse(&uri).expect("a connection string");
    options.credential = Some(Credential::from_mechanism(AuthMechanism::MongoDbOidc));
    options.allow_plain_without_tls = permitted;
    Pools::builder(options)
        .connector(Arc::new(InMemory(server.clone())))
        .oidc_callback(callback.clone())
}

/// The result of a check-out with a callback that takes `takes` seconds, and its duration.
async fn check_out<B: Backend<Config: Default>>(takes: u64, more: &str) -> (Result<()>, Duration) {
    let server = server().await;
    let callback = Arc::new(Slow {
        takes: Duration::from_secs(takes),
        calls: AtomicUsize::new(0),
    });
    let more = format!("serverSelectionTimeoutMS=120000&waitQueueTimeoutMS=120000&{more}");
    let pools = builder::<B>(&server, &callback, &more, true).build();
    let pools = pools.expect("pools");
    pools.connect().expect("a runtime");
    let begun = Instant::now();
    let outcome = ping(&pools).await.map(drop);
    let elapsed = begun.elapsed();
    assert_eq!(callback.calls.load(Ordering::SeqCst), 1);
    (outcome, elapsed)
}

fn is_timeout(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Timeout {
            wait: mongo_core::error::Wait::Credential,
            ..
        }
    )
}

async fn a_token_goes_only_over_tls<B: Backend<Config: Default>>() {
    let server = server().await;
    let callback = Arc::new(Slow {
        takes: Duration::ZERO,
        calls: AtomicUsize::new(0),
    });
    let refused = builder::<B>(&server, &callback, "", false).build();
    let error = refused.map(drop).expect_err("no TLS");
    assert!(
        matches!(error.kind(), ErrorKind::Configuration(_)),
        "{error}"
    );
    assert!(
        error.to_string().contains("allow_plain_without_tls"),
        "{error}"
    );
    let mut options = ClientOptions::parse("mongodb://db.test/").expect("a connection string");
    options.direct_connection = Some(true);
    let nobody = Pools::<B>::builder(options)
        .connector(Arc::new(InMemory(server.clone())))
        .oidc_callback(callback.clone())
        .build()
        .expect("pools");
    let oidc = Credential::from_mechanism(AuthMechanism::MongoDbOidc);
    let error = nobody.with_credential(oidc).map(drop).expect_err("no TLS");
    assert!(
        error.to_string().contains("allow_plain_without_tls"),
        "{error}"
    );
    assert_eq!(callback.calls.load(Ordering::SeqCst), 0);
}

async fn a_discovered_server_outside_the_allowed_hosts_gets_no_credential<
    B: Backend<Config: Default>,
>() {
    let tenants = Tenants::of(2, 1).await;
    let pools = tenants.builder::<B>("", PoolsConfig::default()).build();
    let pools = pools.expect("pools");
    let of_tenant = || {
        let credential = Credential::new(tenant_name(0), tenant_password(0));
        credential.with_mechanism(AuthMechanism::Plain)
    };
    let secondary = ReadPreference::new(ReadPreferenceMode::Secondary);
    let limited = of_tenant().with_allowed_hosts(["m0.test"]);
    let limited = pools.with_credential(limited).expect("a handle");
    ping(&limited).await.expect("allowed");
    let error = limited
        .read(secondary.clone())
        .await
        .map(drop)
        .expect_err("not allowed");
    let is_not_allowed = matches!(
        error.kind(),
        ErrorKind::Authentication(AuthError::HostNotAllowed)
    );
    assert!(is_not_allowed, "{error}");
    assert_eq!(
        error.server().map(ToString::to_string).as_deref(),
        Some("m1.test:27017")
    );
    assert_eq!(
        tenants.set.server(1).look(|seen| seen.count("saslStart")),
        0
    );
    // The server is still usable for others.
    let known = pools.topology().description();
    assert!(
        known
            .servers()
            .iter()
            .all(|server| server.server_type.is_data_bearing()),
        "{known:?}"
    );
    let every = of_tenant().with_allowed_hosts(["*.test"]);
    let every = pools.with_credential(every).expect("a handle");
    let _connection = every.read(secondary).await.expect("allowed");
}

async fn a_callback_has_a_minute_regardless_of_connect_timeout_ms<B: Backend<Config: Default>>() {
    for more in ["", "connectTimeoutMS=500"] {
        let (outcome, elapsed) = check_out::<B>(40, more).await;
        outcome.expect("a token in time");
        assert!((40..41).contains(&elapsed.as_secs()), "{elapsed:?}");
        let (outcome, elapsed) = check_out::<B>(61, more).await;
        let error = outcome.expect_err("too late");
        assert!(is_timeout(&error), "{error}");
        assert!((60..61).contains(&elapsed.as_secs()), "{elapsed:?}");
    }
}

async fn timeout_ms_and_connect_timeout_ms_together_bound_a_callback<
    B: Backend<Config: Default>,
>() {
    for (more, seconds) in [
        ("timeoutMS=30000&connectTimeoutMS=5000", 5),
        ("timeoutMS=8000", 8),
        ("timeoutMS=0&connectTimeoutMS=5000", 5),
    ] {
        let (outcome, elapsed) = check_out::<B>(40, more).await;
        let error = outcome.expect_err("too late");
        assert!(error.is_timeout(), "{more}: {error}");
        assert_eq!(elapsed.as_secs(), seconds, "{more}: {elapsed:?}");
    }
}

/// The token comes after 40 s, and then the server is silent for the 10 s of `connectTimeoutMS`. The
/// next attempt has the token from the cache.
async fn the_wait_for_a_token_does_not_count_towards_connect_timeout_ms<
    B: Backend<Config: Default>,
>() {
    let server = server().await;
    let silent = mongo_testkit::Matcher::command("saslStart").never_answer();
    server.script().add(silent);
    let callback = Arc::new(Slow {
        takes: Duration::from_secs(40),
        calls: AtomicUsize::new(0),
    });
    let pools = builder::<B>(&server, &callback, "waitQueueTimeoutMS=120000", true).build();
    let pools = pools.expect("pools");
    pools.connect().expect("a runtime");
    let begun = Instant::now();
    ping(&pools).await.expect("the next attempt");
    let elapsed = begun.elapsed();
    assert!((50..51).contains(&elapsed.as_secs()), "{elapsed:?}");
}
