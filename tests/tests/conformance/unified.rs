//! Unified tests: versioned-api on the real server, and MONGODB-OIDC on the scripted one, through
//! `mongo_deadpool::Pools`.
//!
//! The runner translates operations into commands ([`commands`]), as a framework on top of these
//! crates would. The tests compare the parts that these crates provide: the fields of the stable
//! API, events, authentication and reauthentication, and errors.

mod commands;
mod entities;
mod matching;

use std::sync::{Mutex, PoisonError};

use bson::{Bson, Document, doc};
use mongo_core::auth::AuthError;
use mongo_core::{Connection, Error, ErrorKind};
use serde_json::Value;

use crate::{Outcome, known_keys};
use commands::{Batches, Context};
use entities::{Entities, Place};
use matching::matches;

/// A case: a test, with the common parts of its file.
pub(crate) fn of_file(file: &Value, test: &Value) -> Value {
    let mut test = test.clone();
    for key in ["createEntities", "initialData"] {
        test[key] = file[key].clone();
    }
    let wanted = [file, &test].map(|what| what["runOnRequirements"].clone());
    test["runOnRequirements"] = Value::from(wanted.to_vec());
    test
}

pub(crate) fn run(case: &Value) -> Outcome {
    let keys = [
        "description",
        "runOnRequirements",
        "createEntities",
        "initialData",
        "operations",
        "expectEvents",
    ];
    known_keys("test", case, &keys)?;
    let place = Place::meeting(&case["runOnRequirements"])?;
    // The tests use the same collections.
    static REAL: Mutex<()> = Mutex::new(());
    let _turn = match place {
        Place::Real => Some(REAL.lock().unwrap_or_else(PoisonError::into_inner)),
        Place::Oidc => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(play(place, case))
}

async fn play(place: Place, case: &Value) -> Outcome {
    let mut entities = Entities::create(place, &case["createEntities"]).await?;
    entities.set_up(&case["initialData"]).await?;
    for operation in list(&case["operations"])? {
        perform(&mut entities, operation)
            .await
            .map_err(|error| format!("{}: {error}", operation["name"]))?;
    }
    let compared = match &case["expectEvents"] {
        Value::Null => Ok(()),
        expected => compare_events(&entities, list(expected)?),
    };
    entities.close().await;
    compared
}

fn list(value: &Value) -> Result<&Vec<Value>, String> {
    value.as_array().ok_or_else(|| "no array".to_owned())
}

async fn perform(entities: &mut Entities, operation: &Value) -> Outcome {
    let keys = ["name", "object", "arguments", "expectResult", "expectError"];
    known_keys("operation", operation, &keys)?;
    let name = crate::text(operation, "name")?;
    let arguments = entities::document(&operation["arguments"])?;
    let (client, context) = entities.context(crate::text(operation, "object")?, &arguments)?;
    let batches = match (name, context) {
        ("startTransaction", Context::Session(session)) => {
            session.start_transaction();
            return Ok(());
        }
        ("failPoint", Context::Runner) => {
            let point = arguments.get_document("failPoint");
            let point = point.map_err(|error| error.to_string())?;
            return entities.fail_point(point).await;
        }
        (_, context) => commands::translate(name, &arguments, context)?,
    };
    let outcome = run_batches(&mut entities.client(&client)?.get().await, batches).await;
    let expected = entities::document(&operation["expectError"])?;
    match (outcome, expected.is_empty()) {
        (Ok(found), true) => expect_result(&operation["expectResult"], &found),
        (Err(Failure::Ours(error)), false) => expect_error(&expected, &error),
        (Ok(found), false) => Err(format!("succeeded, with {found}")),
        (Err(failure), _) => Err(failure.to_string()),
    }
}

enum Failure {
    Ours(Error),
    Else(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ours(error) => error.fmt(f),
            Self::Else(text) => f.write_str(text),
        }
    }
}

/// Runs the commands of an operation on one connection, and exhausts its cursor.
async fn run_batches(
    connection: &mut Result<mongo_deadpool::PoolsConnection, Error>,
    batches: Batches,
) -> Result<Bson, Failure> {
    let connection = connection
        .as_mut()
        .map_err(|error| Failure::Ours(error.clone()))?;
    let mut found = Bson::Null;
    for command in &batches.commands {
        let reply = reply(connection, &batches.database, command).await?;
        if let Ok(errors) = reply.get_array("writeErrors") {
            return Err(Failure::Else(format!("write errors: {errors:?}")));
        }
        found = match reply.get_document("cursor") {
            Ok(cursor) if batches.is_cursor => {
                let all = exhaust(connection, &batches, command, cursor).await?;
                Bson::Array(all)
            }
            _ => Bson::Document(reply),
        };
    }
    Ok(found)
}

async fn reply(
    connection: &mut Connection,
    database: &str,
    command: &Document,
) -> Result<Document, Failure> {
    let reply = connection.run_command(database, command).await;
    reply
        .and_then(|reply| reply.to_document())
        .map_err(Failure::Ours)
}

async fn exhaust(
    connection: &mut Connection,
    batches: &Batches,
    command: &Document,
    cursor: &Document,
) -> Result<Vec<Bson>, Failure> {
    let unreadable = |error| Failure::Else(format!("no cursor: {error:?}"));
    let mut all = cursor.get_array("firstBatch").map_err(unreadable)?.clone();
    let id = cursor.get_i64("id").map_err(unreadable)?;
    let collection = command.values().next().cloned().unwrap_or(Bson::Null);
    let mut open = id != 0;
    while open {
        let more = doc! { "getMore": id, "collection": collection.clone() };
        let reply = reply(connection, &batches.database, &more).await?;
        let cursor = reply.get_document("cursor").map_err(unreadable)?;
        all.extend(cursor.get_array("nextBatch").map_err(unreadable)?.clone());
        open = cursor.get_i64("id").map_err(unreadable)? != 0;
    }
    Ok(all)
}

fn expect_result(expected: &Value, found: &Bson) -> Outcome {
    match (entities::value(expected)?, found) {
        (Bson::Null, _) => Ok(()),
        (Bson::Array(expected), Bson::Array(_)) => {
            matches(&Bson::Array(expected), Some(found), "result")
        }
        // Results of driver helpers, which do not exist here.
        (Bson::Document(expected), _) if expected.contains_key("$$unsetOrMatches") => Ok(()),
        (expected, _) => Err(format!("the runner makes no such result: {expected}")),
    }
}

fn expect_error(expected: &Document, error: &Error) -> Outcome {
    for (key, value) in expected {
        let is_so = match (key.as_str(), value) {
            ("isError", Bson::Boolean(true)) => true,
            // A driver error or a network error.
            ("isClientError", Bson::Boolean(expected)) => {
                *expected != matches!(error.kind(), ErrorKind::Command(_))
            }
            ("errorContains", Bson::String(text)) => error.to_string().contains(text.as_str()),
            ("errorCode", Bson::Int64(code)) => code_of(error).map(i64::from) == Some(*code),
            ("errorCodeName", Bson::String(name)) => match error.kind() {
                ErrorKind::Command(error) => *error.code_name == **name,
                _ => false,
            },
            (key, _) => return Err(format!("the runner does not know {key}")),
        };
        if !is_so {
            return Err(format!("{error:?} is not as {key}: {value} says"));
        }
    }
    Ok(())
}

/// The server's error code, also if it refused the credential.
fn code_of(error: &Error) -> Option<i32> {
    match error.kind() {
        ErrorKind::Authentication(AuthError::Refused { code, .. }) => Some(*code),
        _ => error.code(),
    }
}

fn compare_events(entities: &Entities, expected: &[Value]) -> Outcome {
    for of_client in expected {
        known_keys("expectEvents", of_client, &["client", "events"])?;
        let client = crate::text(of_client, "client")?;
        let seen = entities.client(client)?.events();
        let expected = list(&of_client["events"])?;
        if seen.len() != expected.len() {
            return Err(format!(
                "{} events, not {}: {seen:?}",
                seen.len(),
                expected.len()
            ));
        }
        for (index, (expected, (name, fields))) in expected.iter().zip(&seen).enumerate() {
            let expected = entities::document(expected)?;
            let (expected_name, expected_fields) = expected.iter().next().ok_or("no event")?;
            crate::equal("event", name.as_str(), expected_name)?;
            let expected_fields = entities.resolve(expected_fields);
            let fields = Bson::Document(fields.clone());
            matches(&expected_fields, Some(&fields), &format!("event {index}"))?;
        }
    }
    Ok(())
}
