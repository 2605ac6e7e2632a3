//! Configurations in other forms: serialized, merged by figment, from conversions.

use std::time::Duration;

use mongo_core::ClientOptions;
use mongo_core::auth::{AuthMechanism, Credential};
use mongo_core::handshake::{ServerApi, ServerApiVersion};
use mongo_core::pools::{ManagerConfig, PoolsConfig, RecyclingMethod};

const SECRET: &str = "S3CRET";

/// Connection strings with secrets, and what is left of them.
const URLS: &[(&str, &str)] = &[
    ("mongodb://h", "mongodb://h:27017/"),
    (
        "mongodb://app:S3CRET@a:1,[::1]:2/db?w=majority",
        "mongodb://app@a:1,[::1]:2/db?w=majority",
    ),
    (
        "mongodb://us%40er:S3CRET%3A@h/?appname=a%26b",
        "mongodb://us%40er@h:27017/?appname=a%26b",
    ),
    (
        "mongodb+srv://u:S3CRET@c.example.net/?ssl=false",
        "mongodb+srv://u@c.example.net/?ssl=false",
    ),
    (
        "mongodb://u:S3CRET@%2Ftmp%2Fmongodb.sock/?MAXPOOLSIZE=7",
        "mongodb://u@%2Ftmp%2Fmongodb.sock/?maxPoolSize=7",
    ),
    (
        "mongodb://h/?proxyHost=p&proxyUsername=u&proxyPassword=S3CRET",
        "mongodb://h:27017/?proxyHost=p",
    ),
    // TLS is still used.
    (
        "mongodb://h/?tlsCertificateKeyFilePassword=S3CRET",
        "mongodb://h:27017/?tls=true",
    ),
    (
        "mongodb://h/?tlsInsecure=S3CRET",
        "mongodb://h:27017/?tls=true",
    ),
    (
        "mongodb://h/?authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:S3CRET",
        "mongodb://h:27017/?authMechanism=MONGODB-AWS",
    ),
    (
        "mongodb://u@h/?authMechanism=GSSAPI&authMechanismProperties=SERVICE_NAME:x,SERVICE_REALM:y",
        "mongodb://u@h:27017/?authMechanism=GSSAPI&authMechanismProperties=SERVICE_NAME:x,SERVICE_REALM:y",
    ),
    // What is ignored may be a part of a secret.
    (
        "mongodb://h/?nope=S3CRET&maxPoolSize=S3CRET&compressors=zlib,S3CRET",
        "mongodb://h:27017/?compressors=zlib",
    ),
    (
        "mongodb://h/?readPreference=nearest&readPreferenceTags=dc:ny,rack:1&readPreferenceTags=",
        "mongodb://h:27017/?readPreference=nearest&readPreferenceTags=dc:ny,rack:1&readPreferenceTags=",
    ),
];

/// Connection strings of which any part may be part of a password.
const UNUSABLE: &[&str] = &[
    "S3CRET",
    "mongodb://u:S3CRET@S3CRET@h",
    "mongodb://u:1?S3CRET=S3CRET@h",
    "mongodb://u:S3CRET",
];

/// Options with every kind of value, secrets among them.
fn options() -> ClientOptions {
    let uri = "mongodb://a:1,%2Ftmp%2Fm.sock/db?authSource=other&appname=x&compressors=zstd,zlib\
        &zlibCompressionLevel=3&connectTimeoutMS=0&socketTimeoutMS=7&timeoutMS=0\
        &heartbeatFrequencyMS=700&localThresholdMS=7&serverSelectionTimeoutMS=0\
        &serverSelectionTryOnce=false&serverMonitoringMode=poll&maxIdleTimeMS=7&maxPoolSize=0\
        &minPoolSize=7&maxConnecting=7&waitQueueTimeoutMS=7&readPreference=nearest\
        &readPreferenceTags=a:b,c:d&readPreferenceTags=&maxStalenessSeconds=90\
        &readConcernLevel=majority&w=2&journal=false&wTimeoutMS=9999999999&replicaSet=x\
        &retryReads=false&retryWrites=false&maxAdaptiveRetries=7&enableOverloadRetargeting=true\
        &tls=true&tlsAllowInvalidHostnames=true&tlsCAFile=%2Fa&tlsCertificateKeyFile=%2Fb\
        &tlsDisableCertificateRevocationCheck=true&proxyHost=p&proxyPort=7";
    let mut options = ClientOptions::parse(uri).expect("options");
    let credential = Credential::new("app", SECRET)
        .with_source("admin")
        .with_mechanism(AuthMechanism::ScramSha256)
        .with_allowed_hosts(["a"]);
    options.credential = Some(credential);
    options.allow_plain_without_tls = true;
    let mut api = ServerApi::new(ServerApiVersion::V1);
    api.strict = Some(true);
    options.server_api = Some(api);
    options.local_threshold = Duration::from_micros(1500);
    options
}

/// The options without their secrets.
fn public(mut options: ClientOptions) -> ClientOptions {
    let source = options.credential.take();
    let source = source.as_ref().and_then(|own| own.source());
    let credential = Credential::from_mechanism(AuthMechanism::ScramSha256)
        .with_username("app")
        .with_source(source.unwrap_or_default())
        .with_allowed_hosts(["a"]);
    options.credential = Some(credential);
    options
}

fn again<T: serde::Serialize + for<'de> serde::Deserialize<'de>>(value: &T) -> (T, String) {
    let json = serde_json::to_string(value).expect("a serialized form");
    assert!(!json.contains(SECRET), "{json}");
    (serde_json::from_str(&json).expect(&json), json)
}

#[test]
fn options_are_equal_after_a_round_trip_except_for_secrets() {
    let (read, json) = again(&options());
    assert_eq!(read, public(options()), "{json}");
    let (read, json) = again(&ClientOptions::default());
    assert_eq!(read, ClientOptions::default());
    assert_eq!(json, r#"{"hosts":["localhost:27017"]}"#);
    let srv = "mongodb+srv://c.example.net/?srvServiceName=x&srvMaxHosts=3&loadBalanced=false";
    let srv = ClientOptions::parse(srv).expect("options");
    assert_eq!(again(&srv).0, srv);
}

/// Each option of the table, alone.
#[test]
fn no_option_is_forgotten() {
    for option in [
        "appname=x",
        "authSource=x",
        "compressors=snappy",
        "zlibCompressionLevel=-1",
        "zlibCompressionLevel=0",
        "connectTimeoutMS=7",
        "socketTimeoutMS=0",
        "timeoutMS=1500",
        "serverMonitoringMode=stream",
        "readPreference=secondaryPreferred",
        "w=majority",
        "w=0",
        "journal=true",
        "wTimeoutMS=0",
        "directConnection=true",
        "directConnection=false",
        "loadBalanced=true",
        "ssl=true",
        "tls=false",
        "tlsInsecure=true",
        "tlsAllowInvalidCertificates=false",
        "tlsDisableOCSPEndpointCheck=true",
        "proxyHost=p",
    ] {
        let options = ClientOptions::parse(&format!("mongodb://h/?{option}")).expect(option);
        let (read, json) = again(&options);
        assert_eq!(read, options, "{json}");
    }
}

#[test]
fn secrets_of_options_are_left_out() {
    let mut options = ClientOptions::parse(
        "mongodb://h/?proxyHost=p&proxyUsername=u&proxyPassword=S3CRET\
         &tlsCertificateKeyFilePassword=S3CRET",
    )
    .expect("options");
    let aws = Credential::from_mechanism(AuthMechanism::MongoDbAws);
    let aws = aws.with_mechanism_property("AWS_SESSION_TOKEN", SECRET);
    options.credential = Some(aws);
    let (read, json) = again(&options);
    assert!(read.uses_tls(), "{json}");
    assert_eq!(read.proxy.expect("a proxy").credential, None);
    let credential = read.credential.expect("a credential");
    assert_eq!(credential.mechanism_properties().count(), 0, "{json}");
}

macro_rules! for_backend {
    ($backend:ident, $adapter:ident) => {
        mod $backend {
            use figment::Figment;
            use figment::providers::{Env, Serialized};
            use $adapter::{Config, PoolConfig};

            use super::*;

            /// Every part set.
            fn whole() -> Config {
                let mut manager = ManagerConfig::default();
                let after = Duration::from_millis(1500);
                manager.recycling_method = RecyclingMethod::VerifiedAfter(after);
                manager.max_idle_time = Some(Duration::from_secs(600));
                manager.max_lifetime = Some(Duration::from_secs(3600));
                let mut pool = PoolConfig::new(16);
                pool.timeouts.wait = Some(Duration::from_secs(5));
                pool.timeouts.create = Some(Duration::from_millis(250));
                Config {
                    url: Some("mongodb://app:S3CRET@a,b/?replicaSet=rs".to_owned()),
                    options: None,
                    server_api: Some(ServerApi::new(ServerApiVersion::V1)),
                    manager: Some(manager),
                    pool: Some(pool),
                    pools: Some(PoolsConfig::default().with_min_idle(2)),
                }
            }

            #[test]
            fn a_config_is_equal_after_a_round_trip_except_for_secrets() {
                let (read, json) = again(&whole());
                let mut wanted = whole();
                wanted.url = Some("mongodb://app@a:27017,b:27017/?replicaSet=rs".to_owned());
                assert_eq!(format!("{read:?}"), format!("{wanted:?}"), "{json}");
                assert_eq!(read.url, wanted.url);
                assert_eq!(again(&read).1, json);
                let (read, json) = again(&Config::default());
                assert_eq!(json, "{}");
                assert_eq!(format!("{read:?}"), format!("{:?}", Config::default()));
                let (read, _) = again(&Config::from(options()));
                assert_eq!(read.options, Some(public(options())));
                // Without its password it can't be used by mistake.
                let read = again(&Config::from_url("mongodb://app:S3CRET@h")).0;
                let error = read.create_pools().map(drop).expect_err("no password");
                assert!(error.to_string().contains("password"), "{error}");
            }

            #[test]
            fn urls_are_serialized_without_secrets() {
                for (url, wanted) in URLS {
                    let config = Config::from_url(*url);
                    let (read, json) = again(&config);
                    assert_eq!(read.url.as_deref(), Some(*wanted), "{json}");
                    // Once more.
                    assert_eq!(again(&read).1, json);
                    let uses_tls = |url: &str| {
                        let options = ClientOptions::parse(url);
                        options.map(|options| options.uses_tls()).ok()
                    };
                    if let Some(before) = uses_tls(url) {
                        assert_eq!(uses_tls(wanted), Some(before), "{url}");
                    }
                }
            }

            #[test]
            fn a_url_that_may_hide_a_secret_is_not_serialized() {
                for url in UNUSABLE {
                    let config = Config::from_url(*url);
                    let error = serde_json::to_string(&config).expect_err(url).to_string();
                    assert!(error.contains("`url`"), "{error}");
                    assert!(!error.contains(SECRET), "{error}");
                }
            }

            #[test]
            fn other_formats_take_the_form() {
                let built = config::Config::try_from(&whole()).expect("the config crate");
                let read: Config = built.try_deserialize().expect("the config crate");
                assert_eq!(again(&read).1, again(&whole()).1);
            }

            #[test]
            fn figment_merges_defaults_and_the_environment() {
                figment::Jail::expect_with(|jail| {
                    jail.set_env("APP_MONGO__URL", "mongodb://app:S3CRET@db/?maxPoolSize=7");
                    jail.set_env("APP_MONGO__POOL__MAX_SIZE", "20");
                    jail.set_env("APP_MONGO__POOL__QUEUE_MODE", "FIFO");
                    jail.set_env("APP_MONGO__POOLS__MIN_IDLE", "3");
                    jail.set_env("APP_MONGO__MANAGER__RECYCLING_METHOD", "verified");
                    jail.set_env("APP_MONGO__MANAGER__MAX_LIFETIME", "1h");
                    let figment = Figment::from(Serialized::default("mongo", whole()))
                        .merge(Env::prefixed("APP_").split("__"));
                    let read: Config = figment.extract_inner("mongo")?;
                    let url = "mongodb://app:S3CRET@db/?maxPoolSize=7";
                    assert_eq!(read.url.as_deref(), Some(url));
                    let pool = read.pool.expect("a table");
                    assert_eq!(pool.timeouts.create, Some(Duration::from_millis(250)));
                    assert_eq!(format!("{:?}", pool.queue_mode), "Fifo");
                    assert_eq!(read.pools.and_then(|pools| pools.min_idle), Some(3));
                    let manager = read.manager.expect("a table");
                    assert_eq!(manager.recycling_method, RecyclingMethod::Verified);
                    assert_eq!(manager.max_lifetime, Some(Duration::from_secs(3600)));
                    assert_eq!(manager.max_idle_time, Some(Duration::from_secs(600)));
                    Ok(())
                });
            }

            #[test]
            fn figment_names_the_key_and_no_value() {
                for (key, value, wanted) in [
                    ("POOL__MAX_SIZ", SECRET, "max_siz"),
                    ("POOL__MAX_SIZE", SECRET, "`pool.max_size`"),
                    (
                        "MANAGER",
                        "mongodb://app:S3CRET@h",
                        "`manager` must be a table",
                    ),
                    ("POOL__IDLE_TIMEOUT", "10s", "manager.max_idle_time"),
                    ("URI", "mongodb://app:S3CRET@h", "set `url`"),
                    ("POOLS__CLOSE_TIMEOUT", "10", "a duration such as"),
                ] {
                    figment::Jail::expect_with(|jail| {
                        jail.set_env(format!("APP_MONGO__{key}"), value);
                        let figment = Figment::from(Env::prefixed("APP_").split("__"));
                        let error = figment.extract_inner::<Config>("mongo");
                        let error = error.expect_err(key);
                        let shown = format!("{error} {error:?}");
                        assert!(shown.contains(wanted), "{key}: {shown}");
                        assert!(!error.to_string().contains(SECRET), "{key}: {shown}");
                        Ok(())
                    });
                }
            }

            #[test]
            fn conversions_check_the_connection_string() {
                let config = Config::try_from("mongodb://app:S3CRET@h/?maxPoolSize=7");
                let config = config.expect("a URL");
                let url = config.url.as_deref();
                assert_eq!(url, Some("mongodb://app:S3CRET@h/?maxPoolSize=7"));
                for url in [
                    "S3CRET",
                    "mongodb://u:S3CRET@h/?tls=S3CRET",
                    "mongodb://h:S3CRET",
                ] {
                    let error = Config::try_from(url).map(drop).expect_err(url);
                    assert!(
                        matches!(error.kind(), mongo_core::ErrorKind::Uri(_)),
                        "{error}"
                    );
                    assert!(!error.to_string().contains(SECRET), "{error}");
                }
                let config: Config = ClientOptions::default().into();
                assert_eq!(config.options, Some(ClientOptions::default()));
            }

            /// Names that other pools and drivers have, in each table.
            #[test]
            fn names_of_other_pools_lead_to_the_setting() {
                for (text, wanted) in [
                    ("pool.idle_timeout = \"5m\"", "set `manager.max_idle_time`"),
                    ("pool.max_lifetime = \"5m\"", "set `manager.max_lifetime`"),
                    (
                        "pool.connection_timeout = \"5s\"",
                        "set `pool.timeouts.wait`",
                    ),
                    ("pool.max_connections = 5", "set `pool.max_size`"),
                    ("max_size = 5", "set `pool.max_size`"),
                    ("pool.queueStrategy = \"Lifo\"", "set `pool.queue_mode`"),
                    ("pool.min_connections = 5", "`pools.min_idle`"),
                    ("manager.min_idle = 5", "set `pools.min_idle`"),
                    ("connection_string = \"S3CRET\"", "set `url`"),
                    ("password = \"S3CRET\"", "set `url` or `options`"),
                ] {
                    let error = crate::from_toml::<Config>(&format!("mongo.{text}"));
                    let error = error.map(drop).expect_err(text).to_string();
                    assert!(error.contains(wanted), "{text}: {error}");
                    assert!(error.contains("known keys"), "{text}: {error}");
                    assert!(!error.contains(SECRET), "{text}: {error}");
                }
            }

            #[test]
            fn a_url_in_place_of_a_table_is_named() {
                for (key, wanted) in [
                    ("mongo", "a connection string belongs in its `url`"),
                    ("mongo.pool", "max_size"),
                    ("mongo.pool.timeouts", "create"),
                    ("mongo.manager", "recycling_method"),
                    ("mongo.pools", "min_idle"),
                ] {
                    let text = format!("{key} = \"mongodb://app:S3CRET@h\"");
                    let error = crate::from_toml::<Config>(&text).map(drop);
                    let error = error.expect_err(key).to_string();
                    assert!(error.contains(wanted), "{key}: {error}");
                    assert!(error.contains("must be a table"), "{key}: {error}");
                    assert!(!error.contains(SECRET), "{key}: {error}");
                }
            }
        }
    };
}

for_backend!(deadpool, mongo_deadpool);
for_backend!(bb8, mongo_bb8);

/// bb8's own `min_idle` is for a bare pool.
#[tokio::test]
async fn min_idle_of_bb8_names_the_other_one() {
    let config: mongo_bb8::Config =
        crate::from_toml("mongo.pool.min_idle = 2").expect("a configuration");
    for error in [
        config.create_pools().map(drop),
        config.create_pool(None).map(drop),
    ] {
        let error = error.expect_err("not for this pool").to_string();
        assert!(error.contains("`pools.min_idle`"), "{error}");
    }
    let error = crate::from_toml::<mongo_deadpool::Config>("mongo.pool.min_idle = 2");
    let error = error.map(drop).expect_err("no such key").to_string();
    assert!(error.contains("set `pools.min_idle`"), "{error}");
}
