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
    assert!(error.to_string().contains("tokio"), "{error}");
}
