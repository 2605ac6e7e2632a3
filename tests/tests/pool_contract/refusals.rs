//! Invalid pools are refused at build. The error names the option and shows no secret.

use mongo_testkit::ScriptedServer;

const SECRET: &str = "m4rked";

/// URIs from which a pool can't be built, and a part of the error.
const URIS: [(&str, &str); 13] = [
    (
        "mongodb://u:m4rked@h/?tls=true&tlsCAFile=%2Fno%2Ffile",
        "tlsCAFile",
    ),
    (
        "mongodb://u:m4rked@h/?tlsCertificateKeyFilePassword=m4rked",
        "tlsCertificateKeyFilePassword",
    ),
    (
        "mongodb+srv://u:m4rked@cluster.example.com/?tls=false",
        "mongodb+srv",
    ),
    ("mongodb://u:m4rked@h/?authMechanism=PLAIN", "allow_plain"),
    ("mongodb://u@h/?authMechanism=GSSAPI", "GSSAPI"),
    ("mongodb://u@h/?authMechanism=MONGODB-X509", "tls=true"),
    (
        "mongodb://k:m4rked@h/?authMechanism=MONGODB-AWS",
        "takes no user name",
    ),
    ("mongodb://u@h/?authMechanism=SCRAM-SHA-256", "password"),
    (
        "mongodb://u:m4rked@h/?authSource=",
        "authentication database",
    ),
    ("mongodb://u:m4rked@", "host"),
    ("mongodb://u:m4r%ked@h", "percent"),
    ("mongodb://u:m4rked@h:0", "port"),
    ("http://u:m4rked@h", "mongodb://"),
];

macro_rules! on_backend {
    ($name:ident, $backend:ident) => {
        mod $name {
            use std::time::Duration;

            use $backend::{Config, ErrorKind, PoolConfig, Runtime};

            use super::*;

            fn refusal(config: &Config) -> String {
                let built = config.create_pool(Some(Runtime::Tokio1)).map(drop);
                let error = built.expect_err("refused");
                let texts = format!("{error} {error:?} {config:?}");
                assert!(!texts.contains(SECRET), "{texts}");
                error.to_string()
            }

            #[tokio::test]
            async fn invalid_uris_are_refused() {
                for (uri, expected) in URIS {
                    let text = refusal(&Config::from_url(uri));
                    assert!(text.contains(expected), "{uri}: {text}");
                }
            }

            #[tokio::test]
            async fn invalid_sizes_are_refused() {
                let mut config = Config::from_url("mongodb://u:m4rked@h");
                for size in [0, 100_001, u32::MAX] {
                    config.pool = Some(PoolConfig::new(size.try_into().expect("a size")));
                    let text = refusal(&config);
                    assert!(text.contains("max_size"), "{text}");
                    assert!(text.contains(&size.to_string()), "{text}");
                }
                // "No limit" has to be a size that can be allocated.
                let config = Config::from_url("mongodb://h/?maxPoolSize=0");
                let pool = config.create_pool(None).expect("a pool");
                assert_eq!(pool.status().max_size, 10_000);
            }

            /// An unknown option is a warning in a URI, and an error in a configuration.
            #[tokio::test]
            async fn unknown_keys_are_refused() {
                let config = Config::from_url("mongodb://h/?noSuchOption=1");
                assert!(config.create_pool(None).is_ok());
                for unknown in [
                    r#"{ "uri": "mongodb://h" }"#,
                    r#"{ "pool": { "maxSize": 1 } }"#,
                    r#"{ "pool": { "timeouts": { "wiat": "1s" } } }"#,
                    r#"{ "manager": { "recycling": "Fast" } }"#,
                    r#"{ "manager": { "recycling_method": "Sometimes" } }"#,
                ] {
                    let error = serde_json::from_str::<Config>(unknown).expect_err(unknown);
                    assert!(error.to_string().contains("unknown"), "{error}");
                }
            }

            /// Nothing that a program might log contains the password.
            #[tokio::test]
            async fn debug_hides_secrets() {
                let server = ScriptedServer::builder()
                    .user(mongo_testkit::User::new("mallory", SECRET))
                    .start()
                    .await;
                let mut config = Config::from_url(server.uri_for("mallory", SECRET));
                let pool = config.create_pool(None).expect("a pool");
                let connection = pool.get().await.expect("a connection");
                let manager = pool.manager();
                let shown = format!("{config:?} {pool:?} {manager:?} {connection:?}");
                assert!(shown.contains("mallory"), "{shown}");
                assert!(!shown.contains(SECRET), "{shown}");
                let options = mongo_core::ClientOptions::parse(&server.uri_for("mallory", SECRET));
                config = Config::from_options(options.expect("options"));
                let shown = format!("{config:?}");
                assert!(
                    shown.contains("mallory") && !shown.contains(SECRET),
                    "{shown}"
                );
            }

            /// An unused pool builds without a server, and does not wait for one.
            #[tokio::test]
            async fn a_pool_builds_without_a_server() {
                let mut config = Config::from_url("mongodb://192.0.2.1/?connectTimeoutMS=50");
                config.pool = Some(PoolConfig::new(1));
                let pool = config.create_pool(None).expect("a pool");
                let error = tokio::time::timeout(Duration::from_secs(20), pool.get()).await;
                let error = error
                    .expect("in time")
                    .map(drop)
                    .expect_err("no server there");
                let told = matches!(
                    error.kind(),
                    ErrorKind::Connect(_) | ErrorKind::Timeout { .. }
                );
                assert!(told, "{error}");
            }
        }
    };
}

on_backend!(deadpool, mongo_deadpool);
on_backend!(bb8, mongo_bb8);

#[test]
fn a_bb8_pool_outside_of_a_runtime_is_refused() {
    let config = mongo_bb8::Config::from_url("mongodb://h");
    let error = config.create_pool(None).map(drop).expect_err("no runtime");
    assert!(error.to_string().contains("Tokio"), "{error}");
}

#[test]
fn a_deadpool_pool_builds_without_a_runtime() {
    let config = mongo_deadpool::Config::from_url("mongodb://h");
    assert!(config.create_pool(None).is_ok());
}

#[tokio::test]
async fn bb8_min_idle_above_max_size_is_refused() {
    let mut config = mongo_bb8::Config::from_url("mongodb://h");
    let mut pool = mongo_bb8::PoolConfig::new(4);
    pool.min_idle = Some(5);
    config.pool = Some(pool);
    let error = config.create_pool(None).map(drop).expect_err("5 of 4");
    assert!(error.to_string().contains("min_idle"), "{error}");
}
