//! Cursors, over whatever runs their commands.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bson::{RawDocument, RawDocumentBuf};
use futures_core::Stream;
use serde::de::DeserializeOwned;

use super::Limits;
use crate::error::{Error, ErrorKind, Result};
use crate::net::OwnedReply;
use crate::operation::{
    Batch, CursorState, CursorType, Request, TimeoutMode, get_more_time, only_empty,
};

/// The most batches in a row that may be empty: no server has a reason for more, and they would go on
/// for ever.
const MAX_EMPTY_BATCHES: u32 = 1000;

/// Runs a cursor's commands. When it is dropped, it closes the server's cursor by the request that
/// was set last.
pub trait CursorSource: Sized + Send {
    /// Runs `getMore`.
    fn get_more(
        &mut self,
        request: Box<Request>,
        limits: Limits,
    ) -> impl Future<Output = Result<OwnedReply>> + Send;

    /// Closes the server's cursor.
    fn kill(&mut self, limits: Limits) -> impl Future<Output = ()> + Send;

    /// Sets the request that closes the server's cursor; `None` once the server has closed it.
    fn set_kill(&mut self, kill: Option<Box<Request>>);

    /// The server's minimum round trip time.
    fn min_round_trip_time(&self) -> Duration;
}

/// The time limits of a cursor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CursorLimits {
    opened: Limits,
    /// Whether they are those of all batches together; else each call has them anew.
    is_lifetime: bool,
}

impl CursorLimits {
    /// Checks the options of a request that opens a cursor, and sets what its command gets of the
    /// limits.
    ///
    /// # Errors
    /// The options contradict each other.
    pub(crate) fn of(request: &mut Request, timeout: Option<Duration>) -> Result<Self> {
        let options = &request.cursor;
        let (mode, cursor_type) = (options.timeout_mode, options.cursor_type);
        let is_tailable = cursor_type != CursorType::NonTailable;
        let is_awaiting = cursor_type == CursorType::TailableAwait;
        let limit = timeout.filter(|limit| !limit.is_zero());
        let text = match (mode, timeout, options.max_await_time) {
            (Some(_), None, _) => "timeout_mode needs a time limit: set timeout",
            (Some(TimeoutMode::CursorLifetime), _, _) if is_tailable => {
                "the time limit of a tailable cursor can only be for each iteration"
            }
            (_, Some(_), Some(_)) if !is_awaiting => {
                "max_await_time and a time limit exclude each other, except for a tailable cursor \
                 that waits"
            }
            (_, Some(_), Some(time)) if limit.is_some_and(|limit| time >= limit) => {
                "max_await_time must be less than the time limit"
            }
            _ => {
                let is_lifetime = !is_tailable && mode != Some(TimeoutMode::Iteration);
                request.limits_server = is_lifetime || is_awaiting;
                return Ok(Self {
                    opened: Limits::new(timeout),
                    is_lifetime,
                });
            }
        };
        Err(Error::configuration(text))
    }

    /// Those of the command that opens the cursor.
    pub(crate) fn of_command(&self) -> Limits {
        self.opened
    }
}

enum Stage<'s, S> {
    Idle(S),
    Fetching(Pin<Box<dyn Future<Output = (S, Result<OwnedReply>)> + Send + 's>>),
    /// The server has closed the cursor.
    Over,
}

/// The results of a command, in batches that are fetched as they are needed. A [`Stream`] of raw
/// documents.
///
/// `getMore` runs on the server of the command, and behind a load balancer on its connection, with
/// the same session. It is not retried, except if an overloaded server refused it. Dropping a cursor
/// before its end leaves it to the background to close it on the server; [`close`](Self::close)
/// waits for that. The session of a cursor without one goes back as soon as the server has no more
/// batches.
///
/// # Cancellation
/// The futures of its methods may be dropped at any time: nothing is lost, and the next call goes
/// on. Each call of a method has its own time limit; polls of the stream can't tell a call that was
/// dropped, so that its time goes on.
///
/// Specifications: run-command ("runCursorCommand"), find, getMore and killCursors commands.
#[must_use = "it fetches nothing unless it is polled"]
pub struct BatchCursor<'s, S: CursorSource> {
    state: CursorState,
    stage: Stage<'s, S>,
    limits: CursorLimits,
    /// The limits of the current call, if each has its own.
    call: Option<Limits>,
    /// Empty batches in a row.
    empty: u32,
}

impl<'s, S: CursorSource + 's> BatchCursor<'s, S> {
    /// A cursor; without a source the server has closed it.
    pub(crate) fn new(state: CursorState, source: Option<S>, limits: CursorLimits) -> Self {
        Self {
            state,
            stage: source.map_or(Stage::Over, Stage::Idle),
            limits,
            call: None,
            empty: 0,
        }
    }

    /// The cursor's id on the server; 0 once the server has closed it.
    pub fn id(&self) -> i64 {
        self.state.id
    }

    /// The database and the collection.
    pub fn namespace(&self) -> &str {
        &self.state.namespace
    }

    /// Runs its commands; `None` while it does, and once the server has closed the cursor.
    pub(crate) fn source(&self) -> Option<&S> {
        match &self.stage {
            Stage::Idle(source) => Some(source),
            Stage::Fetching(_) | Stage::Over => None,
        }
    }

    /// Whether no document is left and none follows: the server has closed it, or the reply to a
    /// command was lost, and with it a batch.
    pub fn is_exhausted(&self) -> bool {
        self.state.is_over() && !self.state.has_documents() && self.state.unseen.is_none()
    }

    /// Sets the number of documents of further batches; 0 leaves it to the server.
    pub fn set_batch_size(&mut self, size: u32) {
        self.state.options.batch_size = Some(size);
    }

    /// The next document, deserialised; fetches as many batches as it takes. `None` at the end, and
    /// with [`CursorType::Tailable`] if there is none now ([`is_exhausted`](Self::is_exhausted)
    /// tells the two apart).
    ///
    /// # Errors
    /// The next batch could not be fetched: if the server may have sent it, and after any time-out of
    /// its `getMore`, the cursor ends with this error, and no batch is skipped; else the next call
    /// tries again. The document is not a `T`
    /// ([`ErrorKind::Deserialization`](crate::ErrorKind::Deserialization)), and is skipped.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let Some(document) = self.next_document().await? else {
            return Ok(None);
        };
        let value = bson::deserialize_from_slice(document.as_bytes());
        value
            .map(Some)
            .map_err(|error| ErrorKind::Deserialization(Arc::new(error)).into())
    }

    /// [`next`](Self::next), as a raw document of the batch.
    ///
    /// # Errors
    /// As there.
    pub async fn next_document(&mut self) -> Result<Option<&RawDocument>> {
        self.call = None;
        let outcome = poll_fn(|context| self.poll_document(context)).await;
        match outcome? {
            true => self.state.next().transpose(),
            false => Ok(None),
        }
    }

    /// The next document, deserialised. Closes the cursor; after an error in the background.
    pub(crate) async fn only<T: DeserializeOwned>(mut self) -> Result<Option<T>> {
        let first = self.next().await?;
        self.close().await;
        Ok(first)
    }

    /// What is left of the current batch, else the next batch: one `getMore` at most. It may be
    /// empty. `None` at the end.
    ///
    /// # Errors
    /// The next batch could not be fetched.
    pub async fn next_batch(&mut self) -> Result<Option<Batch<'_>>> {
        if let Some(error) = self.state.unseen.take() {
            return Err(error);
        }
        self.call = None;
        if !self.state.has_documents() && !self.state.is_over() {
            let outcome = poll_fn(|context| self.poll_fetch(context)).await;
            self.call = None;
            outcome?;
        }
        match self.is_exhausted() {
            true => Ok(None),
            false => Ok(Some(self.state.take_batch())),
        }
    }

    /// Closes the cursor on the server, unless it is exhausted, and returns its session and
    /// connection. Waits for a batch that is being fetched. Errors are ignored. A time limit counts
    /// anew.
    pub async fn close(self) {
        let limits = self.limits.opened.renewed();
        if let Some((_, Some(mut source), _)) = limits.bound(self.into_parts()).await {
            source.kill(limits).await;
            source.set_kill(None);
        }
    }

    /// The state and the source, once no fetch is in progress.
    pub(crate) async fn into_parts(mut self) -> (CursorState, Option<S>, CursorLimits) {
        if let Stage::Fetching(_) = self.stage {
            let fetched = poll_fn(|context| self.poll_fetch(context)).await;
            self.state.unseen = fetched.err();
        }
        match self.stage {
            Stage::Idle(source) => (self.state, Some(source), self.limits),
            Stage::Fetching(_) | Stage::Over => (self.state, None, self.limits),
        }
    }

    /// Ready with whether there is a document.
    fn poll_document(&mut self, context: &mut Context<'_>) -> Poll<Result<bool>> {
        while !self.state.has_documents() {
            if let Some(error) = self.state.unseen.take() {
                return Poll::Ready(Err(error));
            }
            if self.state.is_over() {
                return Poll::Ready(Ok(false));
            }
            if let Err(error) = ready!(self.poll_fetch(context)) {
                return Poll::Ready(Err(error));
            }
            if self.state.has_documents() {
                break;
            }
            match self.state.options.cursor_type {
                CursorType::TailableAwait => {}
                CursorType::Tailable => {
                    self.call = None;
                    return Poll::Ready(Ok(false));
                }
                CursorType::NonTailable if self.empty < MAX_EMPTY_BATCHES => {}
                CursorType::NonTailable => {
                    return Poll::Ready(Err(only_empty(&self.state, self.empty)));
                }
            }
        }
        self.call = None;
        Poll::Ready(Ok(true))
    }

    /// Fetches the next batch.
    fn poll_fetch(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        if let Stage::Idle(_) = self.stage
            && let Stage::Idle(source) = std::mem::replace(&mut self.stage, Stage::Over)
        {
            self.stage = Stage::Fetching(self.fetch(source));
        }
        let Stage::Fetching(fetching) = &mut self.stage else {
            return Poll::Ready(Ok(()));
        };
        let (mut source, outcome) = ready!(fetching.as_mut().poll(context));
        let id = self.state.id;
        let outcome = outcome.and_then(|reply| self.state.accept(reply.into_raw()));
        match &outcome {
            Ok(()) if self.state.has_documents() => self.empty = 0,
            Ok(()) => self.empty += 1,
            Err(error) => {
                self.state.failed(error);
                self.call = None;
            }
        }
        if self.state.id != id {
            source.set_kill(self.state.kill());
        }
        self.stage = match self.state.id {
            0 => Stage::Over,
            _ => Stage::Idle(source),
        };
        Poll::Ready(outcome)
    }

    fn fetch(
        &mut self,
        mut source: S,
    ) -> Pin<Box<dyn Future<Output = (S, Result<OwnedReply>)> + Send + 's>> {
        let opened = self.limits.opened;
        let limits = match self.limits.is_lifetime {
            true => opened,
            false => *self.call.get_or_insert_with(|| opened.renewed()),
        };
        let min_rtt = source.min_round_trip_time();
        let max_time = get_more_time(&self.state.options, limits.remaining(), min_rtt);
        let request = self.state.get_more(max_time);
        Box::pin(async move {
            let outcome = source.get_more(request, limits).await;
            (source, outcome)
        })
    }
}

// The source is never pinned in place.
impl<S: CursorSource> Unpin for BatchCursor<'_, S> {}

impl<'s, S: CursorSource + 's> Stream for BatchCursor<'s, S> {
    type Item = Result<RawDocumentBuf>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let next = match ready!(this.poll_document(context)) {
            Ok(true) => this.state.next(),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        };
        Poll::Ready(next.map(|next| next.map(RawDocument::to_owned)))
    }
}

impl<S: CursorSource> fmt::Debug for BatchCursor<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor")
            .field("id", &self.state.id)
            .field("namespace", &self.state.namespace)
            .finish_non_exhaustive()
    }
}
