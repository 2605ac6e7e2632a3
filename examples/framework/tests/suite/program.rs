//! The application, run as a program.

use std::process::{Command, Output};

use crate::postgres::Postgres;
use crate::{Server, mongo};

fn run(environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_framework"))
        .env_remove("DATABASE__URL")
        .envs(environment.iter().copied())
        .output()
        .expect("the program")
}

/// Asserts that the program has done the same as on every other database.
fn assert_same(output: &Output, database: &str) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "{text}{errors}"
    );
    let first = format!("{database}: visit 1, health Up");
    let closed = format!(
        "closed: {}: ",
        database.split(' ').next().unwrap_or_default()
    );
    let mut rest = &*text;
    for part in [
        &*first,
        "within: Some(\"0\")",
        "rolled back: Some(\"1\")",
        "row: visit 1 = noted",
        "row: visits = 1",
        &closed,
    ] {
        let at = rest.find(part);
        let at = at.unwrap_or_else(|| panic!("{part:?} is missing, or too early, in:\n{text}"));
        rest = &rest[at + part.len()..];
    }
}

/// The one line of a program that must fail.
fn fails(environment: &[(&str, &str)]) -> String {
    let output = run(environment);
    assert!(!output.status.success(), "{}", output.status);
    let errors = String::from_utf8(output.stderr).expect("text");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    errors
}

#[test]
fn it_has_an_embedded_database() {
    assert_same(&run(&[]), "MongoDB ReplicaSetWithPrimary");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_in_its_environment_chooses_the_database() {
    let (mongo, postgres) = (mongo::Mongo::start().await, Postgres::start().await);
    for (url, database) in [
        (mongo.url("pencil"), "MongoDB ReplicaSetWithPrimary"),
        (postgres.url("pencil"), "PostgreSQL"),
    ] {
        let size = ("DATABASE__POOL__MAX_SIZE", "2");
        let wait = ("DATABASE__POOL__TIMEOUTS__WAIT", "10s");
        assert_same(&run(&[("DATABASE__URL", &url), size, wait]), database);
    }
}

#[test]
fn an_error_names_the_key_and_no_password() {
    let (mongo, postgres) = ("mongodb://app:s3cret@h", "postgres://app:s3cret@h");
    let url = |url| ("DATABASE__URL", url);
    for (environment, wanted) in [
        (vec![url("mysql://app:s3cret@h")], "mysql"),
        (
            vec![url("mongodb://app:s3cret@host:0/")],
            "its port is not a number",
        ),
        (
            vec![url("postgres://app:s3cret@host:0x/")],
            "invalid connection string",
        ),
        (vec![url(mongo), ("DATABASE__POOL__SIZE", "5")], "`size`"),
        (vec![url(postgres), ("DATABASE__POOL__SIZE", "5")], "`size`"),
        (
            vec![url(postgres), ("DATABASE__POOL", "5")],
            "database.pool",
        ),
        (
            vec![url(postgres), ("DATABASE__POOL__TIMEOUTS__WAIT", "soon")],
            "wait",
        ),
        (
            vec![url(mongo), ("DATABASE__POOL__TIMEOUTS__CONNECT", "5s")],
            "`connect`",
        ),
        (
            vec![url(postgres), ("DATABASE__POOL__TIMEOUTS__CONNECT", "5s")],
            "`connect`",
        ),
        (vec![url(mongo), ("DATABASE__POOL__MAX_SIZE", "0")], "size"),
    ] {
        let error = fails(&environment);
        assert!(error.contains(wanted), "{wanted}: {error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
}
