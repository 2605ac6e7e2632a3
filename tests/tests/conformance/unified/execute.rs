//! Runs the commands of an operation on the product.

use bson::Document;
use mongo_core::error::{Error, ErrorKind};
use mongo_core::operation::OperationKind;
use mongo_core::operation::Command;
use mongo_core::pools::{Backend, OnPools, Session};

use super::client::Client;
use super::crud::{Finish, Kind, Step, Translated};
use super::entities::Options;
use super::results::{Answer, Found, bulk, result};

/// The failure of an operation.
#[derive(Debug)]
pub(super) enum Failure {
    /// The product's error, with the result so far of a bulk of writes.
    Product {
        error: Error,
        result: Option<Document>,
    },
    /// The runner can't run the operation.
    Runner(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Runner(text)
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self::Runner(text.to_owned())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Product {
            error,
            result: None,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Product { error, .. } => write!(f, "{error} ({error:?})"),
            Self::Runner(text) => f.write_str(text),
        }
    }
}

/// An operation's commands, and what they run with.
pub(super) struct Job<'a, B: Backend> {
    pub(super) client: &'a Client<B>,
    pub(super) translated: &'a Translated,
    pub(super) options: &'a Options,
}

impl<B: Backend> Job<'_, B> {
    /// Runs all commands.
    pub(super) async fn run(
        &self,
        mut session: Option<&mut Session<B>>,
    ) -> Result<Found, Failure> {
        let mut answers = Vec::new();
        let mut first_error = None;
        for step in &self.translated.steps {
            let ran = self.run_step(step, session.as_deref_mut()).await;
            let error = match ran {
                Ok((answer, None)) => {
                    answers.push(answer);
                    continue;
                }
                Ok((answer, Some(error))) => {
                    answers.push(answer);
                    error
                }
                Err(error) => error,
            };
            let goes_on = !self.translated.ordered && matches!(error.kind(), ErrorKind::Command(_));
            first_error.get_or_insert(error);
            if !goes_on {
                break;
            }
        }
        match first_error {
            None => result(&self.translated.finish, &answers).map_err(Failure::Runner),
            Some(error) => Err(Failure::Product {
                error,
                result: matches!(self.translated.finish, Finish::Bulk).then(|| bulk(&answers)),
            }),
        }
    }

    /// Runs one command. A reply with write errors is one, with the error.
    async fn run_step(
        &self,
        step: &Step,
        session: Option<&mut Session<B>>,
    ) -> Result<(Answer, Option<Error>), Error> {
        let mut answer = Answer {
            command: step.command.clone(),
            reply: Document::new(),
            documents: Vec::new(),
        };
        if self.translated.finish.is_of_cursor() {
            let mut session = session;
            let reply = self.prepare(step, session.as_deref_mut()).await?.to_document()?;
            let cursor = reply.get_document("cursor").cloned().unwrap_or_default();
            answer.documents = cursor.get_array("firstBatch").cloned().unwrap_or_default();
            let mut id = cursor.get_i64("id").unwrap_or(0);
            let namespace = cursor.get_str("ns").unwrap_or_default().to_owned();
            let (database, collection) = namespace.split_once('.').unwrap_or(("", ""));
            while id != 0 {
                let more = Step {
                    database: database.to_owned(),
                    command: bson::doc! { "getMore": id, "collection": collection },
                    kind: Kind::Command,
                };
                let reply = self.prepare(&more, session.as_deref_mut()).await?.to_document()?;
                let cursor = reply.get_document("cursor").cloned().unwrap_or_default();
                answer.documents.extend(cursor.get_array("nextBatch").cloned().unwrap_or_default());
                id = cursor.get_i64("id").unwrap_or(0);
            }
            return Ok((answer, None));
        }
        let reply = self.prepare(step, session).await?;
        let error = reply.check_write().err();
        answer.reply = reply.to_document()?;
        Ok((answer, error))
    }

    fn prepare<'s>(
        &'s self,
        step: &Step,
        session: Option<&'s mut Session<B>>,
    ) -> Command<OnPools<'s, B>> {
        let mut command = self.client.pools.command(&step.database, &step.command);
        command = match step.kind {
            Kind::Command => command,
            Kind::Read => command.kind(OperationKind::Read),
            Kind::Write { retryable: true } => command.kind(OperationKind::Write),
            Kind::Write { retryable: false } => {
                command.kind(OperationKind::Write).not_retryable()
            }
        };
        let options = self.options;
        if let Some(preference) = &options.preference {
            command = command.read_preference(preference.clone());
        }
        let is_raw = step.kind == Kind::Command;
        let reads = step.kind == Kind::Read || step.command.contains_key("aggregate");
        if let (true, Some(concern)) = (reads || is_raw, &options.read_concern) {
            command = command.read_concern(concern.clone());
        }
        let writes = matches!(step.kind, Kind::Write { .. });
        if let (true, Some(concern)) = (writes || is_raw, &options.write_concern) {
            command = command.write_concern(concern.clone());
        }
        if let Some(timeout) = options.timeout {
            command = command.timeout(timeout);
        }
        if let Some(comment) = &self.translated.comment {
            command = command.comment(comment.clone());
        }
        match session {
            Some(session) => command.session(session),
            None => command,
        }
    }
}

