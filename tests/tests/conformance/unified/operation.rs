//! The operations of a case.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bson::{Bson, Document};
use mongo_core::handshake::DriverInfo;
use mongo_core::pools::Backend;

use super::case::Fields;
use super::crud::{Arguments, Finish, Kind, Place, Step, Translated, translate};
use super::entities::{Entities, Entity, Options, Target, millis};
use super::errors::check_error;
use super::execute::{Failure, run};
use super::matching::{Lookup, matches_root, matches_roots};
use super::results::Found;
use super::special;
use super::stage::Stage;
use crate::Outcome;

/// A case that runs.
pub(super) struct Play<B: Backend> {
    pub(super) stage: Stage,
    pub(super) entities: Entities<B>,
}

/// Runs an operation and compares its result. Boxed, since operations can contain operations.
pub(super) fn perform<B: Backend<Config: Default>>(
    play: Arc<Play<B>>,
    operation: Document,
) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
    Box::pin(async move {
        let name = operation.get_str("name").unwrap_or_default().to_owned();
        let outcome = perform_named(&play, &operation).await;
        outcome.map_err(|message| format!("{name}: {message}"))
    })
}

async fn perform_named<B: Backend<Config: Default>>(
    play: &Arc<Play<B>>,
    operation: &Document,
) -> Outcome {
    let known = [
        "name",
        "object",
        "arguments",
        "expectResult",
        "expectError",
        "ignoreResultAndError",
        "saveResultAsEntity",
    ];
    let operation = Fields::new(operation, "operation", &known)?;
    let (name, object) = (operation.text("name")?, operation.text("object")?);
    let none = Document::new();
    let arguments = operation.document("arguments")?.unwrap_or(&none);
    let ignores = operation.flag("ignoreResultAndError")?;
    let expects = ["expectResult", "expectError", "saveResultAsEntity"]
        .into_iter()
        .filter(|key| operation.get(key).is_some())
        .collect::<Vec<_>>();
    if ignores && !expects.is_empty() || expects.len() > 1 && expects.contains(&"expectError") {
        return Err(format!("{expects:?} exclude each other"));
    }
    if object == "testRunner" {
        return match (ignores, expects.is_empty()) {
            (false, true) => special::perform(play, name, arguments).await,
            _ => Err("an operation of the runner has no result".to_owned()),
        };
    }
    let outcome = on_entity(play, name, object, arguments).await;
    let lookup = &play.entities;
    match (outcome, operation.document("expectError")?) {
        (Err(Failure::Runner(text)), _) => Err(text),
        (_, _) if ignores => Ok(()),
        (Ok(found), None) => {
            compare(operation.get("expectResult"), &found, lookup)?;
            match operation.get("saveResultAsEntity").and_then(Bson::as_str) {
                None => Ok(()),
                Some(name) => save(play, name, found),
            }
        }
        (Err(failure), Some(expected)) => check_error(expected, &failure, lookup),
        (Ok(found), Some(expected)) => Err(format!("{found:?}, expected the error {expected}")),
        (Err(failure), None) => Err(failure.to_string()),
    }
}

fn compare(expected: Option<&Bson>, found: &Found, lookup: &dyn Lookup) -> Outcome {
    match (expected, found) {
        (None, _) => Ok(()),
        (Some(expected), Found::Value(found)) => {
            matches_root(expected, Some(found), "result", lookup)
        }
        (Some(expected), Found::Documents(found)) => {
            matches_roots(expected, found, "result", lookup)
        }
        (Some(expected), Found::Nothing) => matches_root(expected, None, "result", lookup),
    }
}

fn save<B: Backend>(play: &Play<B>, name: &str, found: Found) -> Outcome {
    let value = match found {
        Found::Value(value) => value,
        Found::Documents(documents) => Bson::Array(documents),
        Found::Nothing => return Err("there is no result to save".to_owned()),
    };
    play.entities.add(name, Entity::Value(value))
}

async fn on_entity<B: Backend<Config: Default>>(
    play: &Arc<Play<B>>,
    name: &str,
    object: &str,
    arguments: &Document,
) -> Result<Found, Failure> {
    let arguments = Arguments::new(arguments);
    match play.entities.get(object)? {
        Entity::Client(client) => match name {
            "close" => {
                arguments.finish(name)?;
                client.pools.close().await;
                Ok(Found::Nothing)
            }
            "appendMetadata" => {
                let info = arguments.document("driverInfoOptions")?;
                let info = info.ok_or("driverInfoOptions is missing")?;
                let info = Fields::new(info, name, &["name", "version", "platform"])?;
                let mut driver = DriverInfo::new(info.text("name")?);
                if info.get("version").is_some() {
                    driver = driver.with_version(info.text("version")?);
                }
                if info.get("platform").is_some() {
                    driver = driver.with_platform(info.text("platform")?);
                }
                client.pools.append_metadata(driver)?;
                Ok(Found::Nothing)
            }
            _ => {
                let target = Target {
                    client,
                    database: "admin".to_owned(),
                    collection: None,
                    options: Options::default(),
                };
                on_target(&target, name, &arguments).await
            }
        },
        Entity::Target(target) => on_target(&target, name, &arguments).await,
        Entity::Thread(_) | Entity::Description(_) | Entity::Value(_) => {
            Err(format!("{object} has no operation {name}").into())
        }
    }
}

async fn on_target<B: Backend>(
    target: &Target<B>,
    name: &str,
    arguments: &Arguments<'_>,
) -> Result<Found, Failure> {
    let mut options = target.options.clone();
    let translated = match (name, &target.collection) {
        ("runCommand", None) => {
            options = Options::default();
            run_command(target, arguments)?
        }
        _ => {
            let place = Place {
                database: &target.database,
                collection: target.collection.as_deref(),
            };
            translate(name, arguments, place)?
        }
    };
    if let Some(timeout) = arguments.number("timeoutMS")? {
        options.timeout = Some(millis(timeout));
    }
    if let Some(preference) = arguments.document("readPreference")? {
        options.preference = Some(super::entities::preference(preference)?);
    }
    arguments.finish(name)?;
    run(&target.client, &translated, &options).await
}

fn run_command<B: Backend>(
    target: &Target<B>,
    arguments: &Arguments<'_>,
) -> Result<Translated, String> {
    let command = arguments.document("command")?;
    let command = command.ok_or("command is missing")?.clone();
    if let Some(name) = arguments.text("commandName")? {
        crate::equal("commandName", command.keys().next().map(String::as_str), Some(name))?;
    }
    Ok(Translated {
        steps: vec![Step {
            database: target.database.clone(),
            command,
            kind: Kind::Command,
        }],
        finish: Finish::Reply,
        batch_size: None,
        ordered: true,
    })
}
