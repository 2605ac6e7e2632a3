use serde::Deserialize;

use super::*;
use crate::ServerAddress;
use crate::auth::{AuthMechanism, Credential};
use crate::concern::{ReadConcern, WriteConcern};
use crate::handshake::{ServerApi, ServerApiVersion};
use crate::uri::ClientOptions;

const SECRET: &str = "S3CRET";

/// The errors of two formats for an invalid text.
fn refused<T: for<'de> Deserialize<'de>>(json: &str) -> String {
    let Err(by_json) = serde_json::from_str::<T>(json) else {
        panic!("{json} was taken");
    };
    let value: serde_json::Value = serde_json::from_str(json).expect("JSON");
    let Err(by_value) = serde_json::from_value::<T>(value) else {
        panic!("{json} was taken");
    };
    let shown = format!("{by_json} {by_json:?} {by_value} {by_value:?}");
    assert!(!shown.contains(SECRET), "{json}: {shown}");
    assert!(!shown.contains("12345678"), "{json}: {shown}");
    by_json.to_string()
}

/// Values of every type, each of which may be a misplaced secret.
const VALUES: [&str; 11] = [
    r#""mongodb://app:S3CRET@h""#,
    r#""app:S3CRET""#,
    r#""S3CRET""#,
    "12345678.5",
    "123456789012345678901234567890",
    "-12345678",
    r#"["S3CRET"]"#,
    r#"[["app:S3CRET@db"]]"#,
    r#"{"mongodb://app:S3CRET@h": 1}"#,
    r#"{"S3CRET": "S3CRET"}"#,
    r#"{"a": {"b": "S3CRET"}}"#,
];

fn each_value_is_refused<T: for<'de> Deserialize<'de>>(keys: &[&str]) {
    for key in keys {
        for value in VALUES {
            let json = format!(r#"{{"{key}":{value}}}"#);
            if serde_json::from_str::<T>(&json).is_err() {
                let shown = refused::<T>(&json);
                assert!(is_in(&shown, key), "{json}: {shown}");
            }
        }
    }
}

/// Whether an error names a key, in any spelling.
fn is_in(shown: &str, key: &str) -> bool {
    normalised(shown).contains(&normalised(key))
}

#[test]
fn no_value_of_a_field_is_quoted_and_its_key_is_named() {
    each_value_is_refused::<Credential>(Credential::KEYS);
    each_value_is_refused::<ServerApi>(&["version", "strict", "deprecation_errors"]);
    each_value_is_refused::<WriteConcern>(&["journal"]);
    each_value_is_refused::<ReadConcern>(&["level"]);
    each_value_is_refused::<ClientOptions>(&[
        "username",
        "database",
        "credential",
        "allow_plain_without_tls",
        "server_api",
        "maxPoolSize",
        "compressors",
        "readPreference",
        "serverMonitoringMode",
        "tlsCAFile",
        "connectTimeoutMS",
        "proxyPort",
        "authMechanismProperties",
    ]);
}

#[test]
fn errors_without_a_key_quote_no_value() {
    for value in VALUES {
        for read in [
            refused::<Credential>,
            refused::<ServerApi>,
            refused::<WriteConcern>,
            refused::<ReadConcern>,
            refused::<AuthMechanism>,
            refused::<ServerApiVersion>,
        ] {
            read(value);
        }
    }
    for hosts in [
        r#"{"hosts": ["app:S3CRET@db"]}"#,
        r#"{"hosts": "a,S3CRET@db"}"#,
        r#"{"hosts": ["mongodb://app:S3CRET@h"]}"#,
        r#"{"srvHost": "S3CRET@db"}"#,
        r#"{"srvHost": "app:S3CRET@db"}"#,
        r#"{"srvHost": "mongodb+srv://app:S3CRET@h"}"#,
        r#"{"mongodb://app:S3CRET@h": 1}"#,
        r#"{"S3CRET": 1}"#,
        r#"{"credential": "app:S3CRET"}"#,
        r#"{"credential": {"username": "u", "app:S3CRET": 1}}"#,
        r#"{"credential": {"mechanism": "PLAIN", "mechanism_properties": {"S3CRET": "x"}}}"#,
        r#"{"username": "u", "password": 12345678.5}"#,
        r#"{"authMechanism": "S3CRET"}"#,
        r#"{"authMechanismProperties": "S3CRET"}"#,
        r#"{"username": "u", "password": "p", "authMechanismProperties": {"S3CRET": "x"}}"#,
    ] {
        refused::<ClientOptions>(hosts);
    }
    refused::<ServerAddress>(r#""app:S3CRET@db""#);
}

#[test]
fn types_and_choices_are_named() {
    let shown = refused::<Credential>(r#"{"password": 12345678.5}"#);
    assert!(
        shown.starts_with(
            "`password` must be a secret in quotes: a text; it is a number with a fraction"
        ),
        "{shown}"
    );
    let shown = refused::<Credential>(r#"{"mechanism": "scram"}"#);
    assert!(
        shown.contains("SCRAM-SHA-256") && shown.contains("GSSAPI"),
        "{shown}"
    );
    let shown = refused::<Credential>(r#"{"pasword": "x"}"#);
    assert!(
        shown.contains("`pasword`") && shown.contains("password"),
        "{shown}"
    );
    let shown = refused::<ServerApi>(r#"{"strict": true}"#);
    assert!(shown.starts_with("`version`: it is missing"), "{shown}");
    let twice = serde_json::from_str::<Credential>(r#"{"source": "a", "source": "b"}"#);
    let shown = twice.expect_err("given twice").to_string();
    assert!(
        shown.starts_with("`source`: it is given more than once"),
        "{shown}"
    );
}

#[test]
fn choices_are_read_in_any_usual_case() {
    for mechanism in [
        "SCRAM-SHA-256",
        "scram-sha-256",
        "Scram_Sha_256",
        "scramSha256",
    ] {
        let json = format!(r#"{{"mechanism": "{mechanism}", "mechanism_properties": {{}}}}"#);
        let credential: Credential = serde_json::from_str(&json).expect(mechanism);
        assert_eq!(credential.mechanism(), Some(AuthMechanism::ScramSha256));
    }
    for version in [r#""1""#, "1", r#""v1""#, r#""V1""#] {
        let version = serde_json::from_str::<ServerApiVersion>(version);
        assert_eq!(version.expect("a version"), ServerApiVersion::V1);
    }
    let options = |json: &str| serde_json::from_str::<ClientOptions>(json).expect(json);
    let options = options(r#"{"read_preference": "secondary_preferred", "compressors": ["ZLIB"]}"#);
    let mode = options.read_preference.mode;
    assert_eq!(mode.as_str(), "secondaryPreferred");
    assert_eq!(options.compressors.len(), 1);
}

#[test]
fn texts_stand_in_for_numbers_and_truth_values() {
    let read = |text: &str| Value::Text(text.to_owned());
    assert_eq!(read("16").read(), Ok(16_u32));
    assert_eq!(read("On").read(), Ok(true));
    assert_eq!(Value::Number(5).read(), Ok("5".to_owned()));
    for bad in ["", "-1", "+1", " 1", "1.0", "4294967296", "S3CRET"] {
        let shown = read(bad).read::<u32>().expect_err(bad).to_string();
        assert!(
            shown.starts_with("must be a whole number from 0 to 4294967295; it is "),
            "{shown}"
        );
        assert!(!shown.contains(SECRET), "{shown}");
    }
    assert_eq!(Value::Null.read(), Ok(None::<u32>));
    assert_eq!(format!("{:?}", read(SECRET)), "a text");
}
