//! The operations of a case.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bson::{Bson, Document};
use mongo_core::Error;
use mongo_core::handshake::DriverInfo;
use mongo_core::pools::Backend;

use super::case::Fields;
use super::client::Client;
use super::crud::{Arguments, CursorOptions, Finish, Kind, Place, Step, Translated};
use super::crud::{misuse, translate};
use super::cursors::{self, CursorEntity};
use super::entities::{Entities, Entity, Options, Target, millis, parse, preference};
use super::errors::check_error;
use super::execute::{Failure, Job};
use super::matching::{Lookup, matches_root, matches_roots};
use super::results::Found;
use super::sessions::{self, Held};
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
) -> Pin<Box<dyn Future<Output = Outcome>>> {
    Box::pin(async move { perform_for(play, operation, None).await.map(drop) })
}

/// Like [`perform`], with a session that the caller holds. Also returns the product's error, whether
/// the test expects it or not.
pub(super) fn perform_for<B: Backend<Config: Default>>(
    play: Arc<Play<B>>,
    operation: Document,
    held: Option<Held<'_, B>>,
) -> Pin<Box<dyn Future<Output = Result<mongo_core::Result<()>, String>> + '_>> {
    Box::pin(async move {
        let name = operation.get_str("name").unwrap_or_default().to_owned();
        let outcome = perform_named(&play, &operation, held).await;
        outcome.map_err(|message| format!("{name}: {message}"))
    })
}

async fn perform_named<B: Backend<Config: Default>>(
    play: &Arc<Play<B>>,
    operation: &Document,
    held: Option<Held<'_, B>>,
) -> Result<mongo_core::Result<()>, String> {
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
            (false, true) => special::perform(play, name, arguments, held).await.map(Ok),
            _ => Err("an operation of the runner has no result".to_owned()),
        };
    }
    let outcome = on_entity(play, name, object, arguments, held).await;
    let lookup = &play.entities;
    match (outcome, operation.document("expectError")?) {
        (Err(Failure::Runner(text)), _) => Err(text),
        (Ok(_), None) if ignores => Ok(Ok(())),
        (Err(Failure::Product { error, .. }), None) if ignores => Ok(Err(error)),
        (Ok(found), None) => {
            compare(operation.get("expectResult"), &found, lookup)?;
            match operation.get("saveResultAsEntity").and_then(Bson::as_str) {
                None => Ok(Ok(())),
                Some(name) => save(play, name, found).map(Ok),
            }
        }
        (Err(failure), Some(expected)) => {
            check_error(expected, &failure, lookup)?;
            match failure {
                Failure::Product { error, .. } => Ok(Err(error)),
                Failure::Runner(text) => Err(text),
            }
        }
        (Ok(found), Some(expected)) => Err(format!("{found:?}, expected the error {expected}")),
        (Err(failure), None) => Err(failure.to_string()),
    }
}

/// The result of an operation.
enum Obtained<B: Backend> {
    Found(Found),
    Collection(Arc<Target<B>>),
    Cursor(Arc<CursorEntity<B>>),
}

impl<B: Backend> std::fmt::Debug for Obtained<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Found(found) => found.fmt(f),
            Self::Collection(_) => f.write_str("a collection"),
            Self::Cursor(_) => f.write_str("a cursor"),
        }
    }
}

fn compare<B: Backend>(
    expected: Option<&Bson>,
    found: &Obtained<B>,
    lookup: &dyn Lookup,
) -> Outcome {
    let Some(expected) = expected else {
        return Ok(());
    };
    match found {
        Obtained::Found(Found::Value(found)) => {
            matches_root(expected, Some(found), "result", lookup)
        }
        Obtained::Found(Found::Documents(found)) => {
            matches_roots(expected, found, "result", lookup)
        }
        Obtained::Found(Found::Nothing) => matches_root(expected, None, "result", lookup),
        Obtained::Collection(_) | Obtained::Cursor(_) => {
            Err("a cursor or a collection can't be compared".to_owned())
        }
    }
}

fn save<B: Backend>(play: &Play<B>, name: &str, found: Obtained<B>) -> Outcome {
    let entity = match found {
        Obtained::Found(Found::Value(value)) => Entity::Value(value),
        Obtained::Found(Found::Documents(documents)) => Entity::Value(documents.into()),
        Obtained::Found(Found::Nothing) => return Err("there is no result to save".to_owned()),
        Obtained::Collection(target) => Entity::Target(target),
        Obtained::Cursor(cursor) => Entity::Cursor(cursor),
    };
    play.entities.add(name, entity)
}

async fn on_entity<B: Backend<Config: Default>>(
    play: &Arc<Play<B>>,
    name: &str,
    object: &str,
    arguments: &Document,
    held: Option<Held<'_, B>>,
) -> Result<Obtained<B>, Failure> {
    let arguments = Arguments::new(arguments);
    let found = match play.entities.get(object)? {
        Entity::Client(client) => match name {
            "close" => {
                arguments.finish(name)?;
                client.pools.close().await;
                Found::Nothing
            }
            "appendMetadata" => append_metadata(&client, &arguments)?,
            _ => {
                let target = Target {
                    client,
                    database: "admin".to_owned(),
                    collection: None,
                    is_client: true,
                    options: Options::default(),
                };
                return on_target(play, &target, name, &arguments, held).await;
            }
        },
        Entity::Target(target) => return on_target(play, &target, name, &arguments, held).await,
        Entity::Session(session) => {
            sessions::perform(play, &session, (object, name), &arguments).await?
        }
        Entity::Cursor(cursor) => {
            arguments.finish(name)?;
            cursor.perform(name, &play.entities).await?
        }
        Entity::Thread(_) | Entity::Description(_) | Entity::Value(_) => {
            return Err(format!("{object} has no operation {name}").into());
        }
    };
    Ok(Obtained::Found(found))
}

fn append_metadata<B: Backend>(
    client: &Client<B>,
    arguments: &Arguments<'_>,
) -> Result<Found, Failure> {
    let info = arguments.document("driverInfoOptions")?;
    let info = info.ok_or("driverInfoOptions is missing")?;
    let info = Fields::new(info, "driverInfo", &["name", "version", "platform"])?;
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

async fn on_target<B: Backend>(
    play: &Arc<Play<B>>,
    target: &Target<B>,
    name: &str,
    arguments: &Arguments<'_>,
    held: Option<Held<'_, B>>,
) -> Result<Obtained<B>, Failure> {
    let is_raw = matches!(
        name,
        "runCommand" | "runCursorCommand" | "createCommandCursor"
    );
    let translated = match (is_raw, &target.collection) {
        (true, None) => run_command(target, name, arguments)?,
        _ => {
            let place = Place {
                database: &target.database,
                collection: target.collection.as_deref(),
                is_client: target.is_client,
            };
            let helper = match name {
                "createFindCursor" => "find",
                _ => name,
            };
            if let Some(text) = misuse(name, arguments) {
                return Err(Error::configuration(text).into());
            }
            translate(helper, arguments, place)?
        }
    };
    let session_name = arguments.text("session")?;
    let entity;
    let mut slot;
    let session = match (session_name, held) {
        (None, _) => None,
        (Some(name), Some(held)) if held.name == name => Some(held.session),
        (Some(name), _) => {
            entity = play.entities.session(name)?;
            slot = entity.session.lock().await;
            Some(slot.as_mut().ok_or("the session has ended")?)
        }
    };
    let own = Options {
        preference: arguments
            .document("readPreference")?
            .map(preference)
            .transpose()?,
        read_concern: parse(arguments.get("readConcern"))?,
        write_concern: parse(arguments.get("writeConcern"))?,
        timeout: arguments.number("timeoutMS")?.map(millis),
    };
    arguments.finish(name)?;
    let in_transaction = session
        .as_ref()
        .is_some_and(|session| session.is_in_transaction());
    let inherited = match is_raw || in_transaction {
        // A transaction has its own concerns and read preference, and a raw command inherits none.
        true => Options {
            timeout: target.options.timeout,
            ..Options::default()
        },
        false => target.options.clone(),
    };
    let job = Job {
        client: &target.client,
        translated: &translated,
        options: &own.within(&inherited),
    };
    match name {
        "createFindCursor" | "createCommandCursor" | "createChangeStream" => {
            let cursor = job.open_first(session).await?;
            let cursor = cursors::keep(cursor, session_name).await?;
            Ok(Obtained::Cursor(Arc::new(cursor)))
        }
        "createCollection" => {
            job.run(session).await?;
            let command = translated.steps.first().map(|step| &step.command);
            let name = command.and_then(|command| command.get_str("create").ok());
            Ok(Obtained::Collection(Arc::new(Target {
                client: Arc::clone(&target.client),
                database: target.database.clone(),
                collection: name.map(str::to_owned),
                is_client: false,
                options: target.options.clone(),
            })))
        }
        _ => Ok(Obtained::Found(job.run(session).await?)),
    }
}

fn run_command<B: Backend>(
    target: &Target<B>,
    name: &str,
    arguments: &Arguments<'_>,
) -> Result<Translated, String> {
    let command = arguments.document("command")?;
    let command = command.ok_or("command is missing")?.clone();
    if let Some(named) = arguments.text("commandName")? {
        let own = command.keys().next().map(String::as_str);
        crate::equal("commandName", own, Some(named))?;
    }
    let mut cursor = CursorOptions::default();
    if name != "runCommand" {
        cursor.batch_size = arguments.number("batchSize")?;
        cursor.max_await_time = arguments.number("maxTimeMS")?.map(millis);
        cursor.get_more_comment = arguments.get("comment").cloned();
        cursor.cursor_type = arguments.text("cursorType")?.map(str::to_owned);
        cursor.timeout_mode = arguments.text("timeoutMode")?.map(str::to_owned);
    }
    Ok(Translated {
        steps: vec![Step {
            database: target.database.clone(),
            command,
            kind: Kind::Command,
        }],
        finish: match name {
            "runCommand" => Finish::Reply,
            _ => Finish::Documents,
        },
        cursor,
        comment: None,
        ordered: true,
    })
}
