//! `mongodb+srv` end to end: both adapters' `Config`, a name server and TLS.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use config::Environment;
use mongo_core::auth::Credential;
use mongo_core::error::Wait;
use mongo_core::net::{Connector, CredentialProvider, HickoryResolver, SocketConnector, Stream};
use mongo_core::pools::{Backend, Pools, PoolsBuilder, PoolsConfig};
use mongo_core::{ClientOptions, Error, ErrorKind, ServerAddress};
use mongo_testkit::{Authority, NameServer, NameServerConduct, ScriptedServer, ServerTls, User};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use crate::support::{LIMIT, driven_runtime, eventually, get_in_task, on_a_runtime, ping};

on_both! {
    a_connection_string_in_the_environment_is_enough,
    credentials_without_a_source_use_that_of_the_txt_record,
    srv_records_behind_a_cname_record_are_found,
    a_cname_record_that_points_to_itself_does_not_loop,
    a_failed_lookup_is_reported_and_repeated,
    a_hung_lookup_ends_with_its_check_out,
    close_does_not_wait_for_a_lookup,
    a_plain_pool_refers_to_pools,
}

on_both! {
    on runtimes of their own:
    a_lookup_outlives_the_runtime_that_it_began_on,
}

const HOST: &str = "cluster0.db.example.net";
const RECORD: &str = "_mongodb._tcp.cluster0.db.example.net";
const SHARD: &str = "shard0.db.example.net";

/// A backend with its adapter's `Config`.
trait Configured: Backend<Config: Default> {
    type Config: DeserializeOwned;

    fn pools(config: &<Self as Configured>::Config) -> Result<PoolsBuilder<Self>, Error>;

    /// The error of a plain pool.
    fn pool_error(config: &<Self as Configured>::Config) -> String;
}

impl Configured for mongo_deadpool::Pool {
    type Config = mongo_deadpool::Config;

    fn pools(config: &mongo_deadpool::Config) -> Result<PoolsBuilder<Self>, Error> {
        config.pools_builder()
    }

    fn pool_error(config: &mongo_deadpool::Config) -> String {
        config.create_pool(None).expect_err("no host").to_string()
    }
}

impl Configured for mongo_bb8::Pool {
    type Config = mongo_bb8::Config;

    fn pools(config: &mongo_bb8::Config) -> Result<PoolsBuilder<Self>, Error> {
        config.pools_builder()
    }

    fn pool_error(config: &mongo_bb8::Config) -> String {
        config.create_pool(None).expect_err("no host").to_string()
    }
}

#[derive(Deserialize)]
struct App<C> {
    mongo: C,
}

/// The configuration of an application with this URL in its environment.
fn config_of<B: Configured>(url: &str) -> <B as Configured>::Config {
    let variables = [("MONGO__URL".to_owned(), url.to_owned())];
    let source = Environment::default().separator("__");
    let source = source.source(Some(variables.into_iter().collect()));
    let built = config::Config::builder().add_source(source).build();
    let app = built.expect("an environment").try_deserialize::<App<_>>();
    app.expect("a configuration").mongo
}

/// Every host is on loopback.
struct Loopback(SocketConnector);

#[async_trait]
impl Connector for Loopback {
    async fn connect(&self, address: &ServerAddress) -> Result<Stream, Error> {
        let port = address.port().unwrap_or_default();
        let there = ServerAddress::tcp("127.0.0.1", port);
        self.0.connect(&there).await
    }
}

/// A server with TLS, and the name server that knows it.
struct Cloud {
    dns: NameServer,
    server: ScriptedServer,
    authority: Authority,
}

impl Cloud {
    async fn start() -> Self {
        let authority = Authority::new();
        let certificate = authority.issue(&[SHARD], |_| ());
        let user = |name, password| {
            let user = User::new(name, password).iterations(4096);
            user.database("people")
        };
        let server = ScriptedServer::builder()
            .user(user("app", "secret"))
            .user(user("other", "hidden"))
            .tls(ServerTls::new(certificate))
            .start()
            .await;
        let dns = NameServer::start().await;
        dns.set_hosts(RECORD, [(SHARD, server.port().expect("a port"))]);
        dns.set_texts(HOST, ["authSource=people"]);
        Self {
            dns,
            server,
            authority,
        }
    }

    fn url(&self, options: &str) -> String {
        let file = self.authority.file();
        let file = file.to_str().expect("UTF-8").replace('/', "%2F");
        let own = format!("retryWrites=true&w=majority&tlsCAFile={file}");
        format!("mongodb+srv://app:secret@{HOST}/?{own}{options}")
    }

    fn builder<B: Configured>(&self, options: &str) -> PoolsBuilder<B> {
        let config = config_of::<B>(&self.url(options));
        let resolver = HickoryResolver::with_name_servers(&[self.dns.address()]);
        B::pools(&config)
            .expect("a builder")
            .resolver(Arc::new(resolver.expect("a resolver")))
            .connector(Arc::new(Loopback(SocketConnector::new())))
    }

    fn pools<B: Configured>(&self) -> Pools<B> {
        self.builder("").build().expect("pools")
    }
}

async fn a_connection_string_in_the_environment_is_enough<B: Configured>() {
    let cloud = Cloud::start().await;
    // The first method that is used begins the lookup.
    for begin in 0..3 {
        let pools = cloud.pools::<B>();
        match begin {
            0 => {}
            1 => pools.connect().expect("connected"),
            _ => pools.warm_up().await.expect("connections"),
        }
        let server = ping(&pools).await.expect("a reply");
        assert_eq!(server.host(), Some(SHARD));
        let connection = pools.get().await.expect("a connection");
        assert!(connection.description().authenticated.is_some());
        drop(connection);
        let options = pools.topology().options();
        assert_eq!(options.auth_source.as_deref(), Some("people"));
        assert!(options.uses_tls());
        pools.close().await;
    }
    assert_eq!(cloud.dns.asked().len(), 6, "SRV and TXT, each once");
}

/// Supplies the other user, without a source.
struct Other;

#[async_trait]
impl CredentialProvider for Other {
    async fn credential(&self) -> Result<Arc<Credential>, Error> {
        Ok(Arc::new(Credential::new("other", "hidden")))
    }
}

async fn credentials_without_a_source_use_that_of_the_txt_record<B: Configured>() {
    let cloud = Cloud::start().await;
    let pools = cloud.pools::<B>();
    ping(&pools).await.expect("a reply");
    let provided = pools.with_credential_provider(Arc::new(Other));
    ping(&provided.expect("a handle")).await.expect("a reply");
    pools
        .rotate(Credential::new("other", "hidden"))
        .expect("a rotation");
    ping(&pools).await.expect("a reply");
    let with_source = Credential::new("app", "secret").with_source("admin");
    let elsewhere = pools.with_credential(with_source).expect("a handle");
    let error = ping(&elsewhere).await.expect_err("no such user");
    let refused = matches!(error.kind(), ErrorKind::Authentication(_));
    assert!(refused, "its own source counts: {error}");
    pools.close().await;
}

async fn srv_records_behind_a_cname_record_are_found<B: Configured>() {
    let cloud = Cloud::start().await;
    let target = "_mongodb._tcp.elsewhere.example.org";
    let port = cloud.server.port().expect("a port");
    cloud.dns.set_hosts(RECORD, []);
    cloud.dns.set_hosts(target, [(SHARD, port)]);
    cloud.dns.set_alias(RECORD, "alias.example.org");
    cloud.dns.set_alias("alias.example.org", target);
    let pools = cloud.pools::<B>();
    ping(&pools).await.expect("a reply");
    pools.close().await;
}

async fn a_cname_record_that_points_to_itself_does_not_loop<B: Configured>() {
    let cloud = Cloud::start().await;
    cloud.dns.set_hosts(RECORD, []);
    cloud.dns.set_alias(RECORD, RECORD);
    let pools = cloud.pools::<B>();
    let error = timeout(LIMIT, ping(&pools)).await.expect("in time");
    let error = error.expect_err("no host");
    assert!(error.to_string().contains(RECORD), "{error}");
    assert!(cloud.dns.asked().len() < 100, "{}", cloud.dns.asked().len());
    pools.close().await;
}

async fn a_failed_lookup_is_reported_and_repeated<B: Configured>() {
    let cloud = Cloud::start().await;
    cloud.dns.conduct(NameServerConduct::Fails);
    let pools = cloud.pools::<B>();
    for _ in 0..2 {
        let error = ping(&pools).await.expect_err("no host");
        assert!(matches!(error.kind(), ErrorKind::Srv(_)), "{error}");
    }
    cloud.dns.conduct(NameServerConduct::Answers);
    ping(&pools).await.expect("a reply");
    pools.close().await;
}

async fn a_hung_lookup_ends_with_its_check_out<B: Configured>() {
    let cloud = Cloud::start().await;
    let wait = Duration::from_millis(300);
    let silences = [
        (NameServerConduct::Silent, "SRV records of _mongodb._tcp"),
        (NameServerConduct::SilentOnText, "TXT records of cluster0"),
    ];
    for (silence, wanted) in silences {
        cloud.dns.conduct(silence);
        let config = PoolsConfig::default().with_wait_timeout(wait);
        let pools = cloud.builder::<B>("").config(config).build();
        let pools = pools.expect("pools");
        let begun = Instant::now();
        let error = ping(&pools).await.expect_err("no host");
        assert!(begun.elapsed() < LIMIT / 2, "{:?}", begun.elapsed());
        let text = error.to_string();
        let is_dns = matches!(
            error.kind(),
            ErrorKind::Timeout {
                wait: Wait::Dns,
                ..
            }
        );
        assert!(is_dns && text.contains(wanted), "{text}");
        assert!(!error.has_label("SystemOverloadedError"));
        pools.close().await;
    }
}

async fn close_does_not_wait_for_a_lookup<B: Configured>() {
    let cloud = Cloud::start().await;
    cloud.dns.conduct(NameServerConduct::Silent);
    let pools = cloud.pools::<B>();
    let waits = get_in_task(&pools);
    eventually("a query", || !cloud.dns.asked().is_empty()).await;
    let begun = Instant::now();
    pools.close().await;
    assert!(begun.elapsed() < LIMIT / 4, "{:?}", begun.elapsed());
    let error = waits.await.expect("no panic").expect_err("closed");
    assert!(matches!(error.kind(), ErrorKind::PoolClosed), "{error}");
}

async fn a_plain_pool_refers_to_pools<B: Configured>() {
    let url = format!("mongodb+srv://app:marked@{HOST}/");
    let error = B::pool_error(&config_of::<B>(&url));
    let options = ClientOptions::parse(&url).expect("options");
    let alone = Pools::<B>::builder(options).build_server_pool();
    let alone = alone.expect_err("no host").to_string();
    for text in [error, alone] {
        assert!(text.contains("`mongodb+srv`"), "{text}");
        assert!(text.contains("`Pools` (`create_pools`"), "{text}");
        assert!(!text.contains("marked"), "{text}");
    }
}

fn a_lookup_outlives_the_runtime_that_it_began_on<B: Configured>() {
    let elsewhere = driven_runtime();
    let cloud = elsewhere.block_on(Cloud::start());
    cloud.dns.conduct(NameServerConduct::Silent);
    let pools = cloud.pools::<B>();
    let begun = on_a_runtime(async {
        let began = async { eventually("a query", || !cloud.dns.asked().is_empty()).await };
        tokio::select! {
            _ = pools.get() => false,
            () = began => true,
        }
    });
    assert!(begun);
    cloud.dns.conduct(NameServerConduct::Answers);
    on_a_runtime(async {
        ping(&pools).await.expect("a reply");
        pools.close().await;
    });
}
