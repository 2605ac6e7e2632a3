//! Tests without a server: connection strings, configurations and state machines; and a proxy.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bson::{Binary, rawdoc, spec::BinarySubtype};
use mongo_core::auth::{
    AuthMechanism, AuthNeed, AuthStep, AwsCredentials, Conversation, Credential, Evidence, Nonce,
    Secret,
};
use mongo_core::pools::{ConnectionFactory, RedactedUrl};
use mongo_core::socks5::Negotiation;
use mongo_core::uri::{ConnectionString, ProxyOptions};
use mongo_core::{ClientOptions, Deadline};
use mongo_testkit::{Identity, ScriptedServer, Socks5Proxy};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::capture::Capture;
use crate::secrets::{
    AWS_ID, AWS_SECRET, AWS_TOKEN, KEY_PASSWORD, PASSWORD, PROXY, SALT, TOKEN, USER, WRONG,
    encrypted,
};

/// With the raw and the percent-encoded password. Most can't be parsed and give an error.
const URLS: [&str; 16] = [
    "mongodb://USER:SECRET@localhost/?maxPoolSize=many",
    "mongodb://USER:SECRET@localhost:port/db",
    "mongodb://USER:SECRET@:/db",
    "mongodb://USER:SECRET@localhost,/db?x",
    "mongodb://USER:SECRET@localhost/?authMechanism=SECRET",
    "mongodb://USER:SECRET@localhost/?authSource=",
    "mongodb://USER:SECRET@localhost/?authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:SECRET",
    "mongodb://USER:SECRET@localhost/?authMechanism=MONGODB-OIDC",
    "mongodb://USER:SECRET@localhost/?authMechanism=GSSAPI",
    "mongodb://USER:SECRET@localhost/?tlsCertificateKeyFilePassword=SECRET",
    "mongodb://USER:SECRET@localhost/?tls=true&tlsCertificateKeyFile=%2Fnone&tlsCertificateKeyFilePassword=SECRET",
    "mongodb://USER:SECRET@localhost/?proxyPassword=SECRET",
    "mongodb://USER:SECRET@localhost/?proxyHost=h&proxyUsername=u&proxyPassword=SECRET",
    "mongodb+srv://USER:SECRET@localhost:1/",
    "mongodb:/USER:SECRET@localhost",
    "USER:SECRET@localhost",
];

pub(crate) fn of_no_server(client: &Identity, capture: &Capture) {
    let encoded = PASSWORD
        .replace('/', "%2F")
        .replace('@', "%40")
        .replace(':', "%3A");
    for password in [&encoded, PASSWORD, "c4n4ryB1rd%ZZ", "c4n4ryB1rd@%00"] {
        for url in URLS {
            url_of(
                &url.replace("USER", USER).replace("SECRET", password),
                capture,
            );
        }
    }
    key_files(client, capture);
    tables(capture);
    for mechanism in [
        AuthMechanism::ScramSha1,
        AuthMechanism::ScramSha256,
        AuthMechanism::Plain,
        AuthMechanism::MongoDbX509,
        AuthMechanism::MongoDbOidc,
        AuthMechanism::MongoDbAws,
    ] {
        converse(mechanism, capture);
    }
    let credential = (USER.to_owned(), Secret::new(PROXY));
    let mut negotiation = Negotiation::new("db", 1, Some(&credential)).expect("begun");
    capture.see_debug("a negotiation", &negotiation);
    let asked = negotiation.handle(&[5, 2]);
    capture.see_debug("a negotiation", &(negotiation, asked));
}

fn url_of(url: &str, capture: &Capture) {
    capture.see_debug("a URL", &RedactedUrl(url));
    match ConnectionString::parse(url) {
        Ok(parsed) => capture.see_debug("a parsed URL", &parsed),
        Err(error) => capture.see_error("a URL", &error),
    }
    let deadpool = mongo_deadpool::Config::from_url(url);
    let bb8 = mongo_bb8::Config::from_url(url);
    capture.see_debug("configurations", &(&deadpool, &bb8));
    if let Err(error) = deadpool.create_pool(None) {
        capture.see_error("a configuration", &error);
    }
    if let Err(error) = bb8.create_pool(None) {
        capture.see_error("a configuration", &error);
    }
    if let Err(error) = deadpool.create_pools() {
        capture.see_error("a configuration", &error);
    }
    match ClientOptions::parse(url) {
        Ok(options) => {
            capture.see_debug("options", &options);
            let built = ConnectionFactory::builder(options).build();
            if let Err(error) = built {
                capture.see_error("options", &error);
            }
        }
        Err(error) => capture.see_error("a URL", &error),
    }
}

/// Key files that can't be read, and wrong passwords.
fn key_files(client: &Identity, capture: &Capture) {
    let whole = encrypted(client);
    let texts = [
        whole.clone(),
        whole.replace("MII", "MIIx"),
        client.key().to_owned(),
        client.key().replace("PRIVATE KEY", "RSA PRIVATE KEY"),
        format!("{}{}", client.certificate(), client.key().replace('=', "!")),
        format!("{}{}{whole}", client.certificate(), client.key()),
    ];
    for text in texts {
        let file = client
            .file_of(&text)
            .display()
            .to_string()
            .replace('/', "%2F");
        for password in [
            "",
            &format!("&tlsCertificateKeyFilePassword={KEY_PASSWORD}x"),
        ] {
            let url =
                format!("mongodb://localhost/?tls=true&tlsCertificateKeyFile={file}{password}");
            url_of(&url, capture);
        }
    }
}

/// Deserialization of tables with secrets in the wrong places.
fn tables(capture: &Capture) {
    for text in [
        format!(r#"{{ "username": "{USER}", "password": "{PASSWORD}" }}"#),
        format!(r#"{{ "username": "{USER}", "password": ["{PASSWORD}"] }}"#),
        format!(r#"{{ "password": "{PASSWORD}", "mechanism": "{PASSWORD}" }}"#),
        format!(r#"{{ "mechanism_properties": {{ "AWS_SESSION_TOKEN": "{AWS_TOKEN}" }} }}"#),
        format!(r#"{{ "mechanism_properties": {{ "other": ["{AWS_TOKEN}"] }} }}"#),
    ] {
        match serde_json::from_str::<Credential>(&text) {
            Ok(credential) => {
                capture.see_debug("a table", &credential);
                capture.see_debug("a table's check", &credential.validate());
            }
            Err(error) => capture.see_error("a table", &error),
        }
    }
    for text in slips() {
        slip::<mongo_deadpool::Config>(&text, capture, |config| config.create_pools().map(drop));
        slip::<mongo_bb8::Config>(&text, capture, |config| config.create_pools().map(drop));
    }
}

/// The fields of a configuration, as key paths. File paths are left out: an error about a file
/// names them.
const FIELDS: &str = "url options server_api manager pool pools options.hosts options.srvHost \
    options.username options.password options.database options.credential options.server_api \
    options.allow_plain_without_tls options.maxPoolSize options.appname options.compressors \
    options.tls options.connectTimeoutMS options.readPreference options.w \
    options.readPreferenceTags options.authMechanism options.authMechanismProperties \
    options.authSource options.proxyHost options.proxyPort options.proxyPassword \
    options.credential.username options.credential.password options.credential.source \
    options.credential.mechanism options.credential.mechanism_properties \
    options.credential.mechanism_properties.TOKEN_RESOURCE options.credential.NAME options.NAME NAME \
    options.authMechanismProperties.NAME server_api.version server_api.strict server_api.NAME \
    manager.recycling_method manager.recycling_method.verified_after manager.command_timeout \
    manager.max_lifetime.secs manager.NAME pool.max_size pool.queue_mode pool.timeouts \
    pool.timeouts.wait pool.timeouts.create.nanos pool.timeouts.NAME pool.NAME \
    pools.max_connections_per_server pools.unused_timeout pools.NAME";

/// Configurations with a secret in each wrong place: as text, in a list, as a key, in a connection
/// string. Numeric secrets have a fraction, which no field accepts.
fn slips() -> Vec<String> {
    let url = format!("mongodb://{USER}:{PASSWORD}@h");
    let values = [
        json!(PASSWORD),
        json!(url),
        json!(format!("{USER}:{PASSWORD}")),
        json!([PASSWORD]),
        json!([[url]]),
        json!({ PASSWORD: 1 }),
        json!({ "a": { url: PASSWORD } }),
    ];
    let mut slips: Vec<_> = values.iter().map(ToString::to_string).collect();
    for field in FIELDS.split_whitespace() {
        for value in &values {
            let keys = field.rsplit('.');
            let slip = keys.fold(value.clone(), |value, key| match key {
                "NAME" => json!({ PASSWORD: value }),
                key => json!({ key: value }),
            });
            slips.push(slip.to_string());
        }
    }
    slips
}

fn slip<C: DeserializeOwned>(
    text: &str,
    capture: &Capture,
    build: impl Fn(&C) -> Result<(), mongo_core::Error>,
) {
    match serde_json::from_str::<C>(text) {
        // Names of users, applications and databases may be any text, and are shown.
        Ok(config) => {
            if let Err(error) = build(&config) {
                capture.see_error("a configuration", &error);
            }
        }
        Err(error) => capture.see_error("a configuration", &error),
    }
    let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
    if let Err(error) = serde_json::from_value::<C>(value) {
        capture.see_error("a configuration", &error);
    }
}

/// A conversation, step by step, with a server that answers like one for SCRAM.
fn converse(mechanism: AuthMechanism, capture: &Capture) {
    let credential = match mechanism {
        AuthMechanism::MongoDbX509 | AuthMechanism::MongoDbOidc | AuthMechanism::MongoDbAws => {
            Credential::from_mechanism(mechanism)
        }
        _ => Credential::new(USER, PASSWORD).with_mechanism(mechanism),
    };
    let nonce = Nonce::from_random([1; Nonce::RANDOM_BYTES]);
    capture.see_debug("a nonce", &nonce);
    let text = STANDARD.encode([1; Nonce::RANDOM_BYTES]);
    let conversation = Conversation::new(mechanism, credential.into(), nonce);
    let mut conversation = conversation.expect("begun");
    let mut step = conversation.begin();
    for _ in 0..5 {
        capture.see_debug("a step", &step);
        capture.see_debug("a conversation", &conversation);
        let payload = format!("r={text}server,s={},i=4096", STANDARD.encode(SALT));
        let payload = Binary {
            subtype: BinarySubtype::Generic,
            bytes: payload.into_bytes(),
        };
        step = match step {
            Ok(AuthStep::Send(_)) => conversation.handle_reply(&rawdoc! {
                "ok": 1, "conversationId": 1, "done": false, "payload": payload,
            }),
            Ok(AuthStep::Need(need)) => {
                let evidence = evidence(need);
                capture.see_debug("evidence", &evidence);
                conversation.handle_evidence(evidence)
            }
            Ok(AuthStep::Done) => break,
            Err(error) => {
                capture.see_error("a conversation", &error);
                break;
            }
        };
    }
}

fn evidence(need: AuthNeed) -> Evidence {
    match need {
        AuthNeed::ScramKeys(derivation) => Evidence::ScramKeys(derivation.run()),
        AuthNeed::AccessToken { .. } => Evidence::AccessToken {
            token: Secret::new(TOKEN),
            is_cached: true,
        },
        AuthNeed::AwsCredentials => Evidence::AwsCredentials {
            credentials: AwsCredentials::new(AWS_ID, AWS_SECRET).with_session_token(AWS_TOKEN),
            now: SystemTime::now(),
        },
        other => panic!("{other:?}"),
    }
}

/// A proxy that accepts the password, one that expects another, and one that is not a proxy.
pub(crate) async fn behind_a_proxy(capture: &Capture) {
    let server = ScriptedServer::start().await;
    let served = Socks5Proxy::start(Some((USER, PROXY)), []).await;
    let refusing = Socks5Proxy::start(Some((USER, WRONG)), []).await;
    let lying = Socks5Proxy::that_answers([vec![5, 2], PROXY.into()]).await;
    for (proxy, is_good) in [(served, true), (refusing, false), (lying, false)] {
        let mut options = ClientOptions::parse(&server.uri()).expect("a connection string");
        let mut through = ProxyOptions::new("localhost");
        through.port = proxy.address().port();
        through.credential = Some((USER.to_owned(), Secret::new(PROXY)));
        options.proxy = Some(through);
        capture.see_debug("options with a proxy", &options);
        let factory = ConnectionFactory::builder(options).build().expect("built");
        match factory.establish(Deadline::never()).await {
            Ok(connection) => {
                assert!(is_good);
                capture.see_debug("a connection through a proxy", &connection);
            }
            Err(error) => {
                assert!(!is_good, "{error}");
                capture.see_error("a proxy", &error);
            }
        }
        capture.see_debug("a factory with a proxy", &factory);
    }
}
