//! The cursors of a case, and their operations.

use std::collections::VecDeque;

use bson::{Bson, Document};
use mongo_core::Error;
use mongo_core::pools::{Backend, Cursor, SuspendedCursor};
use tokio::sync::Mutex;

use super::crud::CursorOptions;
use super::entities::Entities;
use super::execute::Failure;
use super::results::Found;

/// A cursor entity.
pub(super) struct CursorEntity<B: Backend>(Mutex<State<B>>);

struct State<B: Backend> {
    /// `None` once it is closed.
    cursor: Option<Kept<B>>,
    /// Documents of the last batch that were not returned yet.
    buffered: VecDeque<Bson>,
    is_exhausted: bool,
}

/// A cursor between two operations.
pub(super) enum Kept<B: Backend> {
    Alone(Cursor<'static, B>),
    /// A cursor of an explicit session, and the session's name.
    InSession(SuspendedCursor<B>, String),
}

impl<B: Backend> CursorEntity<B> {
    pub(super) fn new(cursor: Kept<B>) -> Self {
        Self(Mutex::new(State {
            cursor: Some(cursor),
            buffered: VecDeque::new(),
            is_exhausted: false,
        }))
    }

    /// Runs an operation of a cursor.
    pub(super) async fn perform(
        &self,
        name: &str,
        entities: &Entities<B>,
    ) -> Result<Found, Failure> {
        let mut state = self.0.lock().await;
        match name {
            "iterateOnce" => {
                let document = state.iterate(entities).await?;
                Ok(document.map_or(Found::Nothing, Found::Value))
            }
            "iterateUntilDocumentOrError" => loop {
                if let Some(document) = state.iterate(entities).await? {
                    return Ok(Found::Value(document));
                }
                if state.is_exhausted {
                    return Err("the cursor has no more documents".into());
                }
            },
            "close" => {
                match state.cursor.take() {
                    None => {}
                    Some(Kept::Alone(cursor)) => cursor.close().await,
                    Some(Kept::InSession(cursor, session)) => {
                        let entity = entities.session(&session)?;
                        match &mut *entity.session.lock().await {
                            Some(session) => cursor.resume(session)?.close().await,
                            None => drop(cursor),
                        }
                    }
                }
                Ok(Found::Nothing)
            }
            _ => Err(format!("a cursor has no operation {name}").into()),
        }
    }
}

impl<B: Backend> State<B> {
    /// Returns the next document, with at most one `getMore`.
    async fn iterate(&mut self, entities: &Entities<B>) -> Result<Option<Bson>, Failure> {
        if let Some(document) = self.buffered.pop_front() {
            return Ok(Some(document));
        }
        let cursor = self.cursor.take().ok_or("the cursor is closed")?;
        let (kept, batch) = match cursor {
            Kept::Alone(mut cursor) => {
                let batch = next_batch(&mut cursor).await;
                self.is_exhausted = cursor.is_exhausted();
                (Kept::Alone(cursor), batch)
            }
            Kept::InSession(cursor, name) => {
                let entity = entities.session(&name)?;
                let mut slot = entity.session.lock().await;
                let session = slot.as_mut().ok_or("the session has ended")?;
                let mut cursor = cursor.resume(session)?;
                let batch = next_batch(&mut cursor).await;
                self.is_exhausted = cursor.is_exhausted();
                (Kept::InSession(cursor.suspend().await, name), batch)
            }
        };
        self.cursor = Some(kept);
        self.buffered.extend(batch?);
        Ok(self.buffered.pop_front())
    }
}

async fn next_batch<B: Backend>(cursor: &mut Cursor<'_, B>) -> Result<Vec<Bson>, Error> {
    let Some(batch) = cursor.next_batch().await? else {
        return Ok(Vec::new());
    };
    let mut documents = Vec::new();
    for document in batch {
        let document = Document::try_from(document?);
        documents.push(Bson::Document(document.map_err(|error| {
            Error::configuration(format!("a malformed document: {error}"))
        })?));
    }
    Ok(documents)
}

/// Returns all documents of a cursor, which is closed in any case.
pub(super) async fn exhaust<B: Backend>(
    mut cursor: Cursor<'_, B>,
    options: &CursorOptions,
) -> Result<Vec<Bson>, Error> {
    let mut all = Vec::new();
    while !cursor.is_exhausted() {
        if let (Some(size), Some(limit)) = (options.batch_size, options.limit)
            && !all.is_empty()
        {
            let left = limit - i64::try_from(all.len()).unwrap_or(i64::MAX);
            cursor.set_batch_size(u32::try_from(size.min(left)).unwrap_or(u32::MAX));
        }
        match next_batch(&mut cursor).await {
            Ok(batch) => all.extend(batch),
            Err(error) => {
                cursor.close().await;
                return Err(error);
            }
        }
    }
    Ok(all)
}

/// Keeps a cursor for later operations.
pub(super) async fn keep<B: Backend>(
    cursor: Cursor<'_, B>,
    session: Option<&str>,
) -> Result<CursorEntity<B>, Error> {
    let suspended = cursor.suspend().await;
    Ok(CursorEntity::new(match session {
        Some(session) => Kept::InSession(suspended, session.to_owned()),
        None => Kept::Alone(suspended.resume_alone()?),
    }))
}
