//! The `Debug` output of a credential, and the rule behind each error.

use super::*;

#[test]
fn a_given_source_beats_the_default() {
    assert_eq!(Credential::default().source_or_default(), "admin");
    let given = Credential::new("u", "p").with_source("accounts");
    assert_eq!(given.source_or_default(), "accounts");
}

#[test]
fn debug_hides_the_password_and_the_token() {
    let credential = Credential::new("alice", "MARKED")
        .with_mechanism_property("aws_session_token", "MARKED")
        .with_mechanism_property("service_name", "shown");
    let debug = format!("{credential:?}");
    assert!(!debug.contains("MARKED"), "{debug}");
    assert!(debug.contains("alice") && debug.contains("shown"));
    assert!(debug.contains("AWS_SESSION_TOKEN"));
}

#[test]
fn each_rule_has_its_error() {
    use super::AuthMechanism::*;
    use super::CredentialError::*;
    let of = Credential::from_mechanism;
    let env = |name: &str| of(MongoDbOidc).with_mechanism_property("ENVIRONMENT", name);
    let cases: [(Credential, CredentialError); 12] = [
        (Credential::default(), UsernameMissing(None)),
        (Credential::new("", "p"), UsernameEmpty),
        (
            of(ScramSha256).with_username("u"),
            PasswordMissing(Some(ScramSha256)),
        ),
        (of(Plain), UsernameMissing(Some(Plain))),
        (
            Credential::new("u\0", "p").with_mechanism(Plain),
            Nul(Plain),
        ),
        (
            Credential::new("u", "p\0q").with_mechanism(Plain),
            Nul(Plain),
        ),
        (
            of(MongoDbX509).with_password("p"),
            PasswordNotAllowed(MongoDbX509),
        ),
        (
            of(MongoDbAws).with_username("key"),
            UsernameNotAllowed(MongoDbAws),
        ),
        (
            env("k8s").with_username("u"),
            UsernameNotAllowed(MongoDbOidc),
        ),
        (Credential::new("u", "p").with_source(""), SourceEmpty),
        (
            of(Gssapi).with_username("u").with_source("db"),
            Source {
                mechanism: Gssapi,
                needed: EXTERNAL,
            },
        ),
        (
            Credential::new("u", "p").with_mechanism_property("x", "y"),
            UnknownProperty {
                mechanism: None,
                property: Some("X".to_owned()),
            },
        ),
    ];
    for (credential, expected) in cases {
        assert_eq!(credential.validate(), Err(expected), "{credential:?}");
    }
    for good in [
        Credential::new("u", ""),
        of(MongoDbX509),
        of(MongoDbAws).with_source("$external"),
        of(Gssapi).with_username("u"),
        env("test"),
        of(MongoDbOidc).with_username("u"),
    ] {
        assert_eq!(good.validate(), Ok(()), "{good:?}");
    }
}
