//! Both adapters' configuration: from the environment, from a file, in part, and wrong.

use std::collections::HashMap;
use std::time::Duration;

use config::{Environment, File, FileFormat};
use mongo_core::handshake::{ServerApi, ServerApiVersion};
use mongo_core::pools::RecyclingMethod;
use serde::Deserialize;

const URL: &str =
    "mongodb://app:marked@db.example.com:27018/?maxPoolSize=7&waitQueueTimeoutMS=2500";

#[derive(Debug, Deserialize)]
struct App<C> {
    mongo: C,
}

fn from_environment<C: for<'de> Deserialize<'de>>(
    variables: &[(&str, &str)],
) -> Result<C, config::ConfigError> {
    let variables: HashMap<_, _> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let source = Environment::default()
        .separator("__")
        .source(Some(variables));
    let built = config::Config::builder().add_source(source).build()?;
    Ok(built.try_deserialize::<App<C>>()?.mongo)
}

fn from_toml<C: for<'de> Deserialize<'de>>(text: &str) -> Result<C, config::ConfigError> {
    let built = config::Config::builder()
        .add_source(File::from_str(text, FileFormat::Toml))
        .build()?;
    Ok(built.try_deserialize::<App<C>>()?.mongo)
}

/// Parts of a file that can't be read, and what the error names.
const WRONG: &[(&str, &[&str])] = &[
    ("mongo.pools = 5", &["mongo.pools"]),
    ("mongo.pools.max_connections = 5", &["`max_connections`"]),
    (
        "mongo.pools.max_connections_per_server = -1",
        &["max_connections_per_server", "-1"],
    ),
    (
        "mongo.pools.max_connections_per_server = 4294967296",
        &["max_connections_per_server", "4294967296"],
    ),
    (
        "mongo.pools.max_connections_per_server = \"many\"",
        &["max_connections_per_server", "many"],
    ),
    (
        "mongo.pools.max_connections_per_server = []",
        &["max_connections_per_server"],
    ),
    (
        "mongo.pools.unused_timeout = \"5 parsecs\"",
        &["unused_timeout", "parsecs"],
    ),
    (
        "mongo.pools.unused_timeout = \"-5s\"",
        &["unused_timeout", "-5s"],
    ),
    ("mongo.pools.unused_timeout = \"\"", &["unused_timeout"]),
    (
        "mongo.pools.unused_timeout = \"99999999999999999999s\"",
        &["unused_timeout"],
    ),
    (
        "mongo.pools.maintenance_interval = 10",
        &["maintenance_interval", "10"],
    ),
    (
        "mongo.pools.maintenance_interval = 1.5",
        &["maintenance_interval", "1.5"],
    ),
    (
        "mongo.pools.maintenance_interval = true",
        &["maintenance_interval", "true"],
    ),
    ("mongo.pools.wait_timeout = {}", &["wait_timeout", "secs"]),
    ("mongo.pools.wait_timeout = []", &["wait_timeout"]),
    (
        "mongo.pools.wait_timeout.minutes = 5",
        &["wait_timeout", "minutes"],
    ),
    (
        "mongo.pools.close_timeout.secs = -1",
        &["close_timeout", "secs", "-1"],
    ),
    (
        "mongo.pools.close_timeout.nanos = 4294967296",
        &["close_timeout", "nanos", "4294967296"],
    ),
    ("mongo.pool = \"large\"", &["mongo.pool"]),
    ("mongo.pool.max_size = -1", &["max_size", "-1"]),
    ("mongo.pool.max_size = {}", &["max_size"]),
    ("mongo.pool.min_size = 1", &["`min_size`"]),
    (
        "mongo.pool.queue_mode = \"Random\"",
        &["queue_mode", "Random"],
    ),
    ("mongo.pool.timeouts.connect = \"5s\"", &["`connect`"]),
    ("mongo.pool.timeouts.create = \"soon\"", &["create", "soon"]),
    (
        "mongo.manager.max_lifetime = \"-5s\"",
        &["max_lifetime", "-5s"],
    ),
    ("mongo.manager.max_life = \"5s\"", &["`max_life`"]),
    (
        "mongo.manager.recycling_method = { VerifiedAfter = \"soon\" }",
        &["recycling_method", "soon"],
    ),
    ("mongo.server_api.version = \"2\"", &["server_api", "2"]),
    ("mongo.options.minPoolSize = -1", &["minPoolSize"]),
    ("mongo.options.minPoolSize = \"few\"", &["minPoolSize"]),
    ("mongo.options.maxPoolSize = 4294967296", &["maxPoolSize"]),
    ("mongo.options.maxConnecting = 0", &["maxConnecting"]),
    ("mongo.options.maxIdleTime = 5", &["maxIdleTime"]),
    ("mongo.options.maxPoolSise = 5", &["maxPoolSise"]),
    (
        "mongo.options = { minPoolSize = 5, maxPoolSize = 3 }",
        &["minPoolSize"],
    ),
];

/// Files whose parts do not go together, and what the error says.
const CONTRADICTING: &[(&str, &str)] = &[
    (
        "mongo.url = \"mongodb://localhost/?minPoolSize=5&maxPoolSize=3\"",
        "minPoolSize",
    ),
    (
        "mongo.url = \"mongodb://localhost/?minPoolSize=20\"\nmongo.pool.max_size = 10",
        "minPoolSize is 20, over the pool's largest size of 10",
    ),
    (
        "mongo.url = \"mongodb://localhost/?minPoolSize=20\"\n\
         mongo.pools.max_connections_per_server = 10",
        "minPoolSize is 20, over `max_connections_per_server`, which is 10",
    ),
    (
        "mongo.pools.max_connections_per_server = 0",
        "max_connections_per_server",
    ),
    ("mongo.pool.max_size = 0", "max_size"),
    ("mongo.pool.max_size = 100001", "max_size"),
    (
        "mongo.url = \"mongodb://localhost/?maxPoolSize=100001\"",
        "100001",
    ),
    ("mongo.pools.wait_timeout = \"0s\"", "wait time-out"),
    ("mongo.pool.timeouts.wait = \"0s\"", "wait"),
    (
        "mongo.url = \"mongodb://localhost\"\nmongo.options.maxPoolSize = 5",
        "both",
    ),
];

/// Files that are just about right.
const AT_THE_EDGE: &[&str] = &[
    "mongo.url = \"mongodb://localhost/?minPoolSize=3&maxPoolSize=3\"",
    "mongo.url = \"mongodb://localhost/?minPoolSize=3&maxPoolSize=0\"",
    "mongo.pool.max_size = 1",
    "mongo.pools.max_connections_per_server = 1",
    "mongo.pools.max_connections_per_server = 4294967295",
    "mongo.pools = { unused_timeout = \"0s\", maintenance_interval = \"0s\" }",
    "mongo.pools = { wait_timeout = \"1ms\", close_timeout = { secs = 0 } }",
    "mongo.pools.wait_timeout = { secs = 9223372036854775807, nanos = 4294967295 }",
];

/// A connection string leaves out what it can't use, and says so.
#[test]
fn what_a_connection_string_says_of_pools_is_used_or_warned_of() {
    let defaults = mongo_core::ClientOptions::parse("mongodb://localhost").expect("a URL");
    for option in [
        "maxPoolSize=-1",
        "maxPoolSize=many",
        "maxPoolSize=4294967296",
        "maxPoolSize=",
        "minPoolSize=-1",
        "minPoolSize=1.5",
        "maxConnecting=0",
        "maxConnecting=-2",
        "maxIdleTimeMS=-5",
        "maxIdleTimeMS=soon",
        "maxIdleTimeMS=99999999999999999999",
        "waitQueueTimeoutMS=-5",
        "waitQueueTimeoutMS=5s",
        "maxPoolSise=5",
    ] {
        let (name, _) = option.split_once('=').expect("a value");
        let url = format!("mongodb://localhost/?{option}");
        match mongo_core::ClientOptions::parse(&url) {
            Ok(options) => {
                let warnings = options.warnings();
                assert_eq!(warnings.len(), 1, "{option}: {warnings:?}");
                assert!(warnings[0].to_string().contains(name), "{warnings:?}");
                assert_eq!(options.max_pool_size, defaults.max_pool_size, "{option}");
                assert_eq!(options.min_pool_size, defaults.min_pool_size, "{option}");
                assert_eq!(options.max_connecting, defaults.max_connecting, "{option}");
                assert_eq!(options.max_idle_time, None, "{option}");
                assert_eq!(options.wait_queue_timeout, None, "{option}");
            }
            Err(error) => assert!(error.to_string().contains(name), "{option}: {error}"),
        }
    }
}

macro_rules! for_backend {
    ($backend:ident, $adapter:ident, $max_size:ident, $lifo:pat, $fifo:pat) => {
        mod $backend {
            use $adapter::{Config, PoolConfig, QueueMode};

            use super::*;

            #[test]
            fn the_environment_sets_every_part() {
                let config: Config = from_environment(&[
                    ("MONGO__URL", URL),
                    ("MONGO__POOL__MAX_SIZE", "16"),
                    ("MONGO__POOL__TIMEOUTS__WAIT", "5s"),
                    ("MONGO__POOL__TIMEOUTS__CREATE__SECS", "2"),
                    ("MONGO__POOL__TIMEOUTS__CREATE__NANOS", "500000000"),
                    ("MONGO__POOL__QUEUE_MODE", "Fifo"),
                    ("MONGO__MANAGER__RECYCLING_METHOD", "Verified"),
                    ("MONGO__MANAGER__COMMAND_TIMEOUT", "1m 30s"),
                    ("MONGO__SERVER_API__VERSION", "1"),
                    ("MONGO__SERVER_API__STRICT", "true"),
                ])
                .expect("a configuration");
                assert_eq!(config.url.as_deref(), Some(URL));
                let mut api = ServerApi::new(ServerApiVersion::V1);
                api.strict = Some(true);
                assert_eq!(config.server_api, Some(api));
                let pool = config.pool.expect("a table");
                assert_eq!($max_size(&pool), Some(16));
                assert_eq!(pool.timeouts.wait, Some(Duration::from_secs(5)));
                assert_eq!(pool.timeouts.create, Some(Duration::from_millis(2500)));
                assert_eq!(pool.timeouts.recycle, None);
                assert!(matches!(pool.queue_mode, $fifo));
                let manager = config.manager.expect("a table");
                assert_eq!(manager.recycling_method, RecyclingMethod::Verified);
                assert_eq!(manager.command_timeout, Some(Duration::from_secs(90)));
            }

            #[test]
            fn a_file_gives_what_it_wants() {
                let config: Config = from_toml(
                    r#"
                    [mongo]
                    url = "mongodb://localhost"
                    [mongo.pool.timeouts]
                    wait = { secs = 3, nanos = 0 }
                    [mongo.manager]
                    max_idle_time = "10m"
                    drain_timeout = "20ms"
                    recycling_method = { VerifiedAfter = "30s" }
                    "#,
                )
                .expect("a configuration");
                let pool = config.pool.expect("a table");
                assert_eq!(pool.timeouts.wait, Some(Duration::from_secs(3)));
                assert!(matches!(pool.queue_mode, $lifo));
                let manager = config.manager.expect("a table");
                assert_eq!(manager.max_idle_time, Some(Duration::from_secs(600)));
                assert_eq!(manager.drain_timeout, Some(Duration::from_millis(20)));
                let method = RecyclingMethod::VerifiedAfter(Duration::from_secs(30));
                assert_eq!(manager.recycling_method, method);
            }

            #[tokio::test]
            async fn what_is_left_out_comes_from_the_url() {
                for config in [
                    from_environment::<Config>(&[("MONGO__URL", URL)]),
                    from_environment(&[("MONGO__URL", URL), ("MONGO__POOL__QUEUE_MODE", "Lifo")]),
                ] {
                    let pool = config.expect("a configuration").create_pool(None);
                    assert_eq!(pool.expect("a pool").status().max_size, 7);
                }
                let unlimited = Config::from_url("mongodb://localhost/?maxPoolSize=0");
                let pool = unlimited.create_pool(None).expect("a pool");
                assert_eq!(pool.status().max_size, 10_000);
                let nothing = Config::default().create_pool(None).expect("a pool");
                assert_eq!(nothing.status().max_size, 100);
                let server = nothing
                    .manager()
                    .factory()
                    .server()
                    .expect("one")
                    .to_string();
                assert_eq!(server, "localhost:27017");
            }

            #[test]
            fn what_is_wrong_is_named() {
                for (name, value, wanted) in [
                    ("MONGO__POOL__MAX_SIZ", "16", "max_siz"),
                    ("MONGO__POOL__MAX_SIZE", "many", "many"),
                    ("MONGO__POOL__TIMEOUTS__WAIT", "5 parsecs", "parsecs"),
                    ("MONGO__POOL__TIMEOUTS__WAIT__MINUTES", "5", "minutes"),
                    ("MONGO__MANAGER__RECYCLING_METHOD", "Never", "Never"),
                    ("MONGO__PASSWORD", "marked", "password"),
                ] {
                    let error = from_environment::<Config>(&[(name, value)]).expect_err(name);
                    let text = error.to_string();
                    assert!(text.contains(wanted), "{name}: {text}");
                    assert!(!text.contains("marked"), "{name}: {text}");
                }
            }

            #[test]
            fn debug_shows_hosts_and_no_secret() {
                let shown = format!("{:?}", Config::from_url(URL));
                assert!(shown.contains("db.example.com"), "{shown}");
                assert!(!shown.contains("marked"), "{shown}");
                let options = mongo_core::ClientOptions::parse(URL).expect("a URL");
                let shown = format!("{:?}", Config::from_options(options));
                assert!(!shown.contains("marked"), "{shown}");
            }

            #[tokio::test]
            async fn a_size_that_can_not_be_is_refused() {
                for max_size in [0, 100_001] {
                    let mut config = Config::from_url("mongodb://localhost");
                    config.pool = Some(PoolConfig::new(max_size));
                    let error = config.create_pool(None).expect_err("no such size");
                    assert!(error.to_string().contains("max_size"), "{error}");
                }
                let mut both = Config::from_url("mongodb://localhost");
                both.options = Some(mongo_core::ClientOptions::default());
                let error = both.create_pool(None).expect_err("two sources").to_string();
                assert!(error.contains("both"), "{error}");
            }

            /// Each says which key it is about, whatever is wrong with it.
            #[test]
            fn what_is_wrong_with_pools_is_named() {
                let mut missed = Vec::new();
                for (text, wanted) in WRONG {
                    let error = from_toml::<Config>(text).err();
                    let shown = error.map_or("nothing".to_owned(), |error| error.to_string());
                    if !wanted.iter().all(|wanted| shown.contains(wanted)) {
                        missed.push(format!("{text}: {shown}"));
                    }
                }
                assert!(missed.is_empty(), "{missed:#?}");
            }

            /// What no part is wrong by itself in, and can't be all the same.
            #[tokio::test]
            async fn pools_that_can_not_be_are_refused() {
                for (text, wanted) in CONTRADICTING {
                    let config: Config = from_toml(text).expect(text);
                    let error = config.create_pools().expect_err(text).to_string();
                    assert!(error.contains(wanted), "{text}: {error}");
                }
            }

            #[tokio::test]
            async fn pools_take_what_is_at_the_edge() {
                for text in AT_THE_EDGE {
                    let config: Config = from_toml(text).expect(text);
                    config.create_pools().expect(text);
                }
            }

            /// Only to name the type: a `QueueMode` is the adapter's own.
            #[test]
            fn the_queue_is_last_in_first_out_by_default() {
                let mode: Option<QueueMode> = from_toml::<Config>("[mongo.pool]\nmax_size = 1")
                    .expect("a configuration")
                    .pool
                    .map(|pool| pool.queue_mode);
                assert!(matches!(mode, Some($lifo)));
            }
        }
    };
}

fn deadpool_size(pool: &mongo_deadpool::PoolConfig) -> Option<u32> {
    u32::try_from(pool.max_size).ok()
}

fn bb8_size(pool: &mongo_bb8::PoolConfig) -> Option<u32> {
    pool.max_size
}

for_backend!(
    deadpool,
    mongo_deadpool,
    deadpool_size,
    QueueMode::Lifo,
    QueueMode::Fifo
);
for_backend!(bb8, mongo_bb8, bb8_size, QueueMode::Lifo, QueueMode::Fifo);

#[test]
fn a_bb8_pool_outside_a_runtime_is_an_error_and_no_panic() {
    let error = mongo_bb8::Config::default()
        .create_pool(None)
        .expect_err("no runtime");
    assert!(error.to_string().contains("Tokio"), "{error}");
}
