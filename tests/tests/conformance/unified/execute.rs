//! Runs the commands of an operation on the product.

use bson::Document;
use mongo_core::error::{Error, ErrorKind};
use mongo_core::operation::{Command, CursorType, OperationKind, TimeoutMode};
use mongo_core::pools::{Backend, Cursor, OnPools, Session};

use super::client::Client;
use super::crud::{CursorOptions, Finish, Kind, Step, Translated};
use super::cursors::exhaust;
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
    pub(super) async fn run(&self, mut session: Option<&mut Session<B>>) -> Result<Found, Failure> {
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
            let cursor = self.open(step, session).await?;
            answer.documents = exhaust(cursor, &self.translated.cursor).await?;
            return Ok((answer, None));
        }
        let reply = self.prepare(step, session).await?;
        let error = reply.check_write().err();
        answer.reply = reply.to_document()?;
        Ok((answer, error))
    }

    /// Opens the cursor of the first command.
    pub(super) async fn open_first<'s>(
        &'s self,
        session: Option<&'s mut Session<B>>,
    ) -> Result<Cursor<'s, B>, Failure> {
        let step = self.translated.steps.first().ok_or("no command")?;
        Ok(self.open(step, session).await?)
    }

    async fn open<'s>(
        &'s self,
        step: &Step,
        session: Option<&'s mut Session<B>>,
    ) -> Result<Cursor<'s, B>, Error> {
        let mut command = self.prepare(step, session);
        let CursorOptions {
            batch_size,
            limit: _,
            max_await_time,
            get_more_comment,
            cursor_type,
            timeout_mode,
        } = &self.translated.cursor;
        if let Some(size) = batch_size {
            command = command.batch_size(u32::try_from(*size).unwrap_or(u32::MAX));
        }
        if let Some(time) = max_await_time {
            command = command.max_await_time(*time);
        }
        if let Some(comment) = get_more_comment {
            command = command.get_more_comment(comment.clone());
        }
        match cursor_type.as_deref() {
            Some("tailable") => command = command.cursor_type(CursorType::Tailable),
            Some("tailableAwait") => command = command.cursor_type(CursorType::TailableAwait),
            _ => {}
        }
        match timeout_mode.as_deref() {
            Some("iteration") => command = command.timeout_mode(TimeoutMode::Iteration),
            Some("cursorLifetime") => command = command.timeout_mode(TimeoutMode::CursorLifetime),
            _ => {}
        }
        command.cursor().await
    }

    fn prepare<'s>(
        &'s self,
        step: &Step,
        session: Option<&'s mut Session<B>>,
    ) -> Command<OnPools<'s, 's, B>> {
        let mut command = self.client.pools.command(&step.database, &step.command);
        command = match step.kind {
            Kind::Command => command,
            Kind::Read => command.kind(OperationKind::Read),
            Kind::Write { retryable: true } => command.kind(OperationKind::Write),
            Kind::Write { retryable: false } => command.kind(OperationKind::Write).not_retryable(),
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
