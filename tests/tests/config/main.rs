//! Both adapters' configuration: from the environment, from a file, partial, and invalid.

use std::collections::HashMap;
use std::time::Duration;

use config::{Environment, File, FileFormat};
use mongo_core::handshake::{ServerApi, ServerApiVersion};
use mongo_core::pools::RecyclingMethod;
use serde::Deserialize;
use warnings::Warned;
use wrong::{AT_THE_EDGE, CONTRADICTING, WRONG};

mod forms;
mod warnings;
mod wrong;

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
            fn a_file_may_set_some_fields() {
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
            async fn omitted_fields_come_from_the_url() {
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
                nothing.close();
                let error = nothing.get().await.expect_err("a closed pool");
                let server = error.server().expect("one").to_string();
                assert_eq!(server, "localhost:27017");
            }

            #[test]
            fn invalid_fields_are_named() {
                for (name, value, wanted) in [
                    ("MONGO__POOL__MAX_SIZ", "marked", "max_siz"),
                    ("MONGO__POOL__MAX_SIZE", "many", "a whole number"),
                    ("MONGO__POOL__TIMEOUTS__WAIT", "5 parsecs", "a duration"),
                    ("MONGO__POOL__TIMEOUTS__WAIT__MINUTES", "marked", "minutes"),
                    (
                        "MONGO__MANAGER__RECYCLING_METHOD",
                        "Never",
                        "verified_after",
                    ),
                    ("MONGO__PASSWORD", "marked", "password"),
                ] {
                    let error = from_environment::<Config>(&[(name, value)]).expect_err(name);
                    let text = error.to_string();
                    assert!(text.contains(wanted), "{name}: {text}");
                    assert!(!text.contains(value), "{name}: {text}");
                }
            }

            /// Each value is a secret in the wrong place. The error names the key and the type, and
            /// never quotes the value.
            #[test]
            fn no_value_is_quoted() {
                for key in [
                    "",
                    "__URL",
                    "__URL__X",
                    "__OPTIONS",
                    "__OPTIONS__HOSTS",
                    "__OPTIONS__SRV_HOST",
                    "__OPTIONS__CREDENTIAL",
                    "__OPTIONS__CREDENTIAL__MECHANISM",
                    "__OPTIONS__PASSWORD__X",
                    "__OPTIONS__MAX_POOL_SIZE",
                    "__OPTIONS__TLS",
                    "__OPTIONS__AUTH_MECHANISM",
                    "__OPTIONS__AUTH_MECHANISM_PROPERTIES__X__Y",
                    "__OPTIONS__MAX_IDLE_TIME",
                    "__OPTIONS__READ_PREFERENCE",
                    "__OPTIONS__ALLOW_PLAIN_WITHOUT_TLS",
                    "__SERVER_API",
                    "__SERVER_API__VERSION",
                    "__MANAGER",
                    "__MANAGER__COMMAND_TIMEOUT",
                    "__MANAGER__RECYCLING_METHOD",
                    "__MANAGER__RECYCLING_METHOD__VERIFIED_AFTER",
                    "__POOL",
                    "__POOL__MAX_SIZE",
                    "__POOL__QUEUE_MODE",
                    "__POOL__TIMEOUTS",
                    "__POOL__TIMEOUTS__WAIT",
                    "__POOL__TIMEOUTS__CREATE__SECS",
                    "__POOLS",
                    "__POOLS__MAX_CONNECTIONS_PER_SERVER",
                    "__POOLS__CLOSE_TIMEOUT",
                ] {
                    for value in ["mongodb://app:S3CRET@h:x", "app:S3CRET@db", "S3CRET"] {
                        let name = format!("MONGO{key}");
                        // This is a valid host name.
                        if key.contains("HOST") && value == "S3CRET" {
                            continue;
                        }
                        let shown = match from_environment::<Config>(&[(&name, value)]) {
                            Err(error) => format!("{error} {error:?}"),
                            Ok(config) => {
                                let error = config.create_pools().map(drop).expect_err(&name);
                                format!("{error} {error:?} {config:?}")
                            }
                        };
                        let shown = shown.to_lowercase();
                        assert!(!shown.contains("s3cret"), "{name}: {shown}");
                        let part = key.rsplit("__").next().unwrap_or_default();
                        let part = part.to_lowercase().replace('_', "");
                        let is_shown = part.len() < 2 || part.contains("s3cret") || part == "url";
                        let found = shown.replace('_', "").contains(&part);
                        assert!(is_shown || found, "{name}: {shown}");
                    }
                }
            }

            #[test]
            fn enum_values_are_read_in_any_usual_case() {
                let after = RecyclingMethod::VerifiedAfter(Duration::from_secs(30));
                for (variables, wanted) in [
                    (
                        vec![("MONGO__MANAGER__RECYCLING_METHOD", "verified")],
                        RecyclingMethod::Verified,
                    ),
                    (
                        vec![("MONGO__MANAGER__RECYCLING_METHOD", "FAST")],
                        RecyclingMethod::Fast,
                    ),
                    (
                        vec![("MONGO__MANAGER__RECYCLING_METHOD__VERIFIED_AFTER", "30s")],
                        after,
                    ),
                    (
                        vec![("MONGO__MANAGER__RECYCLING_METHOD__VERIFIEDAFTER", "30s")],
                        after,
                    ),
                ] {
                    let config: Config = from_environment(&variables).expect("a configuration");
                    let manager = config.manager.expect("a table");
                    assert_eq!(manager.recycling_method, wanted, "{variables:?}");
                }
                for mode in ["fifo", "Fifo", "FIFO"] {
                    let variable = ("MONGO__POOL__QUEUE_MODE", mode);
                    let config: Config = from_environment(&[variable]).expect("a configuration");
                    let mode = config.pool.expect("a table").queue_mode;
                    assert!(matches!(mode, $fifo));
                }
            }

            /// A `PoolConfig` overrides the URI, and fields it does not set come from the URI.
            /// deadpool's default used to be twice the number of processors, silently.
            #[tokio::test]
            async fn unset_pool_config_fields_come_from_the_uri() {
                let size = |url: &str, pool| {
                    let mut config = Config::from_url(url);
                    config.pool = Some(pool);
                    let pools = config.pools_builder().expect("a builder");
                    drop(pools);
                    let pool = config.create_pool(None).expect("a pool");
                    pool.status().max_size
                };
                let url = "mongodb://localhost/?maxPoolSize=7";
                assert_eq!(size(url, PoolConfig::default()), 7);
                assert_eq!(size(url, PoolConfig::new(1003)), 1003);
                assert_eq!(
                    size("mongodb://localhost/?maxPoolSize=0", PoolConfig::default()),
                    10_000
                );
                assert_eq!(size("mongodb://localhost", PoolConfig::new(1003)), 1003);
            }

            #[tokio::test]
            async fn a_pool_config_that_differs_from_the_uri_logs_a_warning() {
                let warnings = |url: &str, pool: Option<PoolConfig>| {
                    let mut config = Config::from_url(url);
                    config.pool = pool;
                    let warned = Warned::default();
                    tracing::subscriber::with_default(warned.clone(), || {
                        config.create_pool(None).expect("a pool");
                    });
                    warned.0.lock().expect("no panic").join("; ")
                };
                let url = "mongodb://localhost/?maxPoolSize=7&waitQueueTimeoutMS=2000";
                let differs = warnings(url, Some(PoolConfig::new(1003)));
                assert!(differs.contains("`pool.max_size` is 1003"), "{differs}");
                assert!(
                    differs.contains("maxPoolSize is 7: 1003 is used"),
                    "{differs}"
                );
                let mut waits = PoolConfig::new(7);
                waits.timeouts.wait = Some(Duration::from_secs(5));
                let differs = warnings(url, Some(waits));
                assert!(
                    differs.contains("`pool.timeouts.wait` is 5.0 s"),
                    "{differs}"
                );
                assert!(differs.contains("2.0 s"), "{differs}");
                for alike in [Some(PoolConfig::new(7)), None] {
                    assert_eq!(warnings(url, alike), "");
                }
                assert_eq!(
                    warnings("mongodb://localhost", Some(PoolConfig::new(1003))),
                    ""
                );
            }

            #[test]
            fn errors_do_not_repeat_their_sources() {
                let error = Config::from_url("mongodb://localhost/?authMechanism=x");
                let error = error.create_pool(None).expect_err("no such mechanism");
                let shown = error.to_string();
                assert_eq!(shown.matches("mechanism").count(), 1, "{shown}");
                assert!(std::error::Error::source(&error).is_none(), "{shown}");
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
            async fn an_invalid_size_is_refused() {
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

            /// Each error names its key.
            #[test]
            fn invalid_pools_fields_are_named() {
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

            /// Each part is valid by itself, but the combination is not.
            #[tokio::test]
            async fn contradictory_pools_are_refused() {
                for (text, wanted) in CONTRADICTING {
                    let config: Config = from_toml(text).expect(text);
                    let error = config.create_pools().expect_err(text).to_string();
                    assert!(error.contains(wanted), "{text}: {error}");
                }
            }

            #[tokio::test]
            async fn pools_accept_boundary_values() {
                for text in AT_THE_EDGE {
                    let config: Config = from_toml(text).expect(text);
                    config.create_pools().expect(text);
                }
            }

            /// Names the type: each adapter has its own `QueueMode`.
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
