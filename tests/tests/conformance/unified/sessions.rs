//! The sessions of a case, and their operations.

use std::cell::RefCell;
use std::sync::Arc;

use bson::{Bson, Document};
use mongo_core::Error;
use mongo_core::operation::{SessionOptions, TransactionOptions, TransactionState};
use mongo_core::pools::{Backend, Session};
use tokio::sync::Mutex;

use super::case::Fields;
use super::client::Client;
use super::crud::Arguments;
use super::entities::{Entity, millis, parse, preference};
use super::execute::Failure;
use super::operation::{Play, perform_for};
use super::results::Found;
use crate::Outcome;

/// A session entity.
pub(super) struct SessionEntity<B: Backend> {
    /// Its id, also after its end.
    pub(super) id: Document,
    /// `None` once it has ended.
    pub(super) session: Mutex<Option<Session<B>>>,
}

/// A session that the caller has borrowed, with its name.
pub(super) struct Held<'a, B: Backend> {
    pub(super) name: &'a str,
    pub(super) session: &'a mut Session<B>,
}

impl<B: Backend> SessionEntity<B> {
    pub(super) fn start(client: &Client<B>, options: SessionOptions) -> Result<Self, String> {
        let session = client.pools.start_session(options);
        let session = session.map_err(|error| error.to_string())?;
        Ok(Self {
            id: Document::try_from(session.id()).map_err(|error| error.to_string())?,
            session: Mutex::new(Some(session)),
        })
    }
}

/// Reads the options of a session entity.
pub(super) fn options<B: Backend>(
    options: Option<&Document>,
    play: &Play<B>,
) -> Result<SessionOptions, String> {
    let known = [
        "causalConsistency",
        "snapshot",
        "snapshotTime",
        "defaultTransactionOptions",
        "defaultTimeoutMS",
    ];
    let none = Document::new();
    let fields = Fields::new(options.unwrap_or(&none), "sessionOptions", &known)?;
    let mut options = SessionOptions::default();
    options.causal_consistency = fields.get("causalConsistency").and_then(Bson::as_bool);
    options.snapshot = fields.flag("snapshot")?;
    if fields.get("snapshotTime").is_some() {
        let name = fields.text("snapshotTime")?;
        options.snapshot_time = match play.entities.get(name)? {
            Entity::Value(Bson::Timestamp(time)) => Some(time),
            _ => return Err(format!("{name} is no time")),
        };
    }
    if let Some(transaction) = fields.document("defaultTransactionOptions")? {
        let arguments = Arguments::new(transaction);
        options.default_transaction = transaction_options(&arguments)?;
        arguments.finish("defaultTransactionOptions")?;
    }
    options.default_timeout = fields.number("defaultTimeoutMS")?.map(millis);
    Ok(options)
}

fn transaction_options(arguments: &Arguments<'_>) -> Result<TransactionOptions, String> {
    let mut options = TransactionOptions::default();
    options.read_concern = parse(arguments.get("readConcern"))?;
    options.write_concern = parse(arguments.get("writeConcern"))?;
    let preferred = arguments.document("readPreference")?;
    options.read_preference = preferred.map(preference).transpose()?;
    options.max_commit_time = arguments.number("maxCommitTimeMS")?.map(millis);
    Ok(options)
}

/// Runs an operation of a session.
pub(super) async fn perform<B: Backend<Config: Default>>(
    play: &Arc<Play<B>>,
    entity: &SessionEntity<B>,
    name: (&str, &str),
    arguments: &Arguments<'_>,
) -> Result<Found, Failure> {
    let (entity_name, name) = name;
    let timeout = arguments.number("timeoutMS")?.map(millis);
    let mut slot = entity.session.lock().await;
    if name == "endSession" {
        arguments.finish(name)?;
        if let Some(session) = slot.take() {
            session.end().await;
        }
        return Ok(Found::Nothing);
    }
    let session = slot.as_mut().ok_or("the session has ended")?;
    match name {
        "startTransaction" => {
            let options = transaction_options(arguments)?;
            arguments.finish(name)?;
            session.start_transaction(options)?;
        }
        "commitTransaction" => {
            arguments.finish(name)?;
            match timeout {
                None => session.commit_transaction().await?,
                Some(timeout) => session.commit_transaction_by(timeout).await?,
            }
        }
        "abortTransaction" => {
            arguments.finish(name)?;
            match timeout {
                None => session.abort_transaction().await?,
                Some(timeout) => session.abort_transaction_by(timeout).await?,
            }
        }
        "getSnapshotTime" => {
            arguments.finish(name)?;
            let time = session.snapshot_time().ok_or("no snapshot time")?;
            return Ok(Found::Value(Bson::Timestamp(time)));
        }
        "withTransaction" => {
            let options = transaction_options(arguments)?;
            let callback = arguments.list("callback")?;
            arguments.finish(name)?;
            return with_transaction(play, (entity_name, session), options, callback).await;
        }
        _ => return Err(format!("a session has no operation {name}").into()),
    }
    Ok(Found::Nothing)
}

/// Runs operations in a transaction. Their errors end it, whether the test expects them or not.
async fn with_transaction<B: Backend<Config: Default>>(
    play: &Arc<Play<B>>,
    (name, session): (&str, &mut Session<B>),
    options: TransactionOptions,
    callback: &[Bson],
) -> Result<Found, Failure> {
    let fault = RefCell::new(None);
    let done = session.with_transaction(options, async |session: &mut Session<B>| {
        for operation in callback {
            let held = Held {
                name,
                session: &mut *session,
            };
            let operation = operation.as_document().cloned().unwrap_or_default();
            match perform_for(Arc::clone(play), operation, Some(held)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error),
                Err(text) => {
                    *fault.borrow_mut() = Some(text);
                    return Err(Error::configuration("the test failed"));
                }
            }
        }
        Ok(())
    });
    let done = done.await;
    match fault.into_inner() {
        Some(text) => Err(Failure::Runner(text)),
        None => Ok(done.map(|()| Found::Nothing)?),
    }
}

/// Compares what a session is.
pub(super) fn check<B: Backend>(session: &Session<B>, name: &str, state: Option<&str>) -> Outcome {
    match name {
        "assertSessionDirty" => crate::equal(name, session.is_dirty(), true),
        "assertSessionNotDirty" => crate::equal(name, session.is_dirty(), false),
        "assertSessionPinned" => crate::equal(name, session.is_pinned(), true),
        "assertSessionUnpinned" => crate::equal(name, session.is_pinned(), false),
        _ => {
            let own = match session.transaction_state() {
                TransactionState::None => "none",
                TransactionState::Starting => "starting",
                TransactionState::InProgress => "in_progress",
                TransactionState::Committed { .. } => "committed",
                TransactionState::Aborted => "aborted",
            };
            crate::equal(name, Some(own), state)
        }
    }
}
