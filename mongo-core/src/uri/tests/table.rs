//! Options by serde.

use bson::{Document, doc};

use super::*;

fn read(table: Document) -> Result<ClientOptions, String> {
    bson::deserialize_from_document(table).map_err(|error| error.to_string())
}

fn taken(table: Document) -> ClientOptions {
    read(table).expect("options")
}

#[test]
fn a_text_is_a_connection_string() {
    #[derive(serde::Deserialize)]
    struct Config {
        mongo: ClientOptions,
    }
    let config: Config =
        bson::deserialize_from_document(doc! { "mongo": "mongodb://a,b/?replicaSet=rs" })
            .expect("a config");
    assert_eq!(config.mongo, parse("mongodb://a,b/?replicaSet=rs"));
}

#[test]
fn a_table_says_the_same_as_a_connection_string() {
    let table = doc! {
        "hosts": ["a:1", "[::1]"],
        "username": "u",
        "password": "p",
        "database": "db",
        "app_name": "x",
        "compressors": ["zlib", "zstd"],
        "connectTimeoutMS": 500,
        "max_pool_size": "7",
        "retry_reads": "false",
        "readPreference": "nearest",
        "read_preference_tags": [{ "dc": "ny" }, {}],
        "w": 2,
        "journal": true,
        "tls_ca_file": "ca.pem",
        "proxyHost": "p",
    };
    let uri = "mongodb://u:p@a:1,[::1]/db?appname=x&compressors=zlib,zstd&connectTimeoutMS=500\
               &maxPoolSize=7&retryReads=false&readPreference=nearest&readPreferenceTags=dc:ny\
               &readPreferenceTags=&w=2&journal=true&tlsCAFile=ca.pem&proxyHost=p";
    assert_eq!(taken(table), parse(uri));
    assert_eq!(taken(doc! {}), ClientOptions::default());
    assert_eq!(taken(doc! { "appname": null }), ClientOptions::default());
    assert_eq!(taken(doc! { "hosts": "a,b:2" }), parse("mongodb://a,b:2"));
    let srv = taken(doc! { "srv_host": "a.b.c", "srv_max_hosts": 2 });
    assert_eq!(srv, parse("mongodb+srv://a.b.c/?srvMaxHosts=2"));
}

#[test]
fn times_can_have_a_unit() {
    let timeout = |value: bson::Bson| {
        let mut table = Document::new();
        table.insert("connect_timeout", value);
        read(table).map(|options| options.connect_timeout)
    };
    assert_eq!(
        timeout("250ms".into()),
        Ok(Some(Duration::from_millis(250)))
    );
    assert_eq!(timeout("5s".into()), Ok(Some(Duration::from_secs(5))));
    assert_eq!(timeout("2m".into()), Ok(Some(Duration::from_secs(120))));
    assert_eq!(timeout("0s".into()), Ok(None));
    let fields = doc! { "secs": 1, "nanos": 500_000_000 };
    assert_eq!(
        timeout(fields.into()),
        Ok(Some(Duration::from_millis(1500)))
    );
    for bad in ["5 s", "-5s", "s", "5d", "99999999999999999999s", "30000h"] {
        assert!(timeout(bad.into()).is_err(), "{bad}");
    }
    let unnamed = timeout(5.into()).expect_err("a number without a unit");
    assert!(unnamed.contains("unit"), "{unnamed}");
    let stale = taken(doc! { "readPreference": "nearest", "max_staleness": "2m" });
    let limit = stale.read_preference.max_staleness;
    assert_eq!(limit, Some(Duration::from_secs(120)));
}

#[test]
fn a_credential_can_be_a_table() {
    let options = taken(doc! {
        "database": "db",
        "credential": {
            "username": "u",
            "mechanism": "MONGODB-OIDC",
            "mechanism_properties": { "environment": "azure", "TOKEN_RESOURCE": "a,b" },
        },
    });
    let credential = options.credential.expect("a credential");
    assert_eq!(credential.mechanism_property("TOKEN_RESOURCE"), Some("a,b"));
    assert_eq!(credential.source(), Some("$external"));
    let scram =
        taken(doc! { "database": "db", "credential": { "username": "u", "password": "p" } });
    assert_eq!(scram, parse("mongodb://u:p@localhost/db"));
    let properties = taken(doc! {
        "authMechanism": "MONGODB-OIDC",
        "authMechanismProperties": { "ENVIRONMENT": "gcp", "TOKEN_RESOURCE": "a,b" },
    });
    let credential = properties.credential.expect("a credential");
    assert_eq!(credential.mechanism_property("token_resource"), Some("a,b"));
}

#[test]
fn a_warning_of_a_connection_string_is_an_error_in_a_table() {
    for (table, named) in [
        (doc! { "maxPoolSzie": 5 }, "maxPoolSzie"),
        (doc! { "maxPoolSize": -1 }, "maxPoolSize"),
        (doc! { "maxPoolSize": [5] }, "maxPoolSize"),
        (doc! { "maxPoolSize": 5.5 }, ""),
        (doc! { "tls": "maybe" }, "tls"),
        (doc! { "wtimeout": "x" }, "wTimeoutMS"),
        (doc! { "compressors": ["zlib", "snoopy"] }, "compressors"),
        (doc! { "readPreferenceTags": [[]] }, "readPreferenceTags"),
        (doc! { "min_pool_size": 101 }, "minPoolSize"),
        (
            doc! { "heartbeat_frequency": "499ms" },
            "heartbeatFrequencyMS",
        ),
        (doc! { "hosts": [] }, "no host"),
        (doc! { "hosts": ["a:0"] }, "port"),
        (doc! { "hosts": ["a"], "srvHost": "a.b.c" }, "srvHost"),
        (doc! { "srvHost": "a.b.c:1" }, "port"),
        (doc! { "srvMaxHosts": 1 }, "srvMaxHosts"),
        (doc! { "tls": true, "ssl": false }, "ssl"),
        (doc! { "credential": {}, "username": "u" }, "credential"),
        (doc! { "credential": { "nope": 1 } }, "nope"),
        (doc! { "password": "p" }, "user name"),
    ] {
        let error = read(table.clone()).expect_err("an error");
        assert!(error.contains(named), "{table}: {error}");
    }
}
