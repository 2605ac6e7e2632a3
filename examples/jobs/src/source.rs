//! The queue as a backend of apalis.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use apalis_core::backend::codec::Codec;
use apalis_core::backend::finalize::Durable;
use apalis_core::backend::persistence::{Persisted, State, TaskPersistLayer};
use apalis_core::backend::{Backend, BackendConfig, WireFormatBackend};
use apalis_core::task::Task;
use apalis_core::worker::context::WorkerContext;
use futures_util::Sink;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Sleep, sleep};

use crate::backend::Error;
use crate::backend::mongo_core::bson::{self, Bson};
use crate::{Queue, QueueConfig};

/// Arguments and results as BSON, which can be queried.
#[derive(Clone, Copy, Debug)]
pub struct BsonCodec;

impl<T: Serialize + DeserializeOwned> Codec<T> for BsonCodec {
    type Error = bson::error::Error;
    type Compact = Bson;

    fn encode(&self, value: &T) -> Result<Bson, Self::Error> {
        bson::serialize_to_bson(value)
    }

    fn decode(&self, value: &Bson) -> Result<T, Self::Error> {
        bson::deserialize_from_bson(value.clone())
    }
}

/// The backend of one worker, or of a producer. Limit the worker's concurrency, else it claims all
/// jobs that are due.
#[derive(Debug)]
pub struct Source<Args> {
    persisted: Persisted<Queue>,
    /// Until it looks for jobs again.
    idle: Option<Pin<Box<Sleep>>>,
    codec: BsonCodec,
    args: PhantomData<fn() -> Args>,
}

impl Queue {
    /// A backend for jobs with these arguments, with claims of its own.
    pub fn source<Args>(&self) -> Source<Args> {
        Source {
            persisted: Persisted::new(self.of_worker()),
            idle: None,
            codec: BsonCodec,
            args: PhantomData,
        }
    }
}

impl<Args> Backend for Source<Args> {
    type Task = Task<Bson>;
    type Error = Error;

    fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Result<(), Error>> {
        let heartbeat = self.persisted.config.lease / 3;
        self.persisted.poll_ready(cx, worker, heartbeat)
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<Task<Bson>, Error>>> {
        let next = self.persisted.poll_next(cx, worker);
        // No job is due. (apalis' own `poll_with_interval` may lose the wake-up: if its timer fires
        // in the poll in which the claim ends, the next timer is not polled.)
        if next.is_pending() && matches!(self.persisted.state(), State::Ready) {
            let mut idle = Box::pin(sleep(self.persisted.config.poll));
            if idle.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            self.idle = Some(idle);
        }
        next
    }

    fn poll_close(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Result<(), Error>> {
        // `Persisted` would drop a claim that is under way, and its job would wait for the lease to
        // end. This returns the job at once.
        if let State::Fetch(claim) = self.persisted.state_mut() {
            let claimed = VecDeque::from(ready!(claim.poll_unpin(cx))?);
            *self.persisted.state_mut() = State::Buffered(claimed);
        }
        self.persisted.poll_close(cx, worker)
    }
}

impl<Args> BackendConfig for Source<Args> {
    type Args = Args;
    type Id = String;
    type Kind = Durable;
    type Config = QueueConfig;
    type Layer = TaskPersistLayer<BsonCodec, Bson>;

    fn config(&self) -> &QueueConfig {
        &self.persisted.config
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Self::Layer {
        self.persisted.layer(self.codec, 1).persist_results(true)
    }
}

impl<Args> WireFormatBackend for Source<Args> {
    type Codec = BsonCodec;
    type Compact = Bson;

    fn codec(&self) -> &BsonCodec {
        &self.codec
    }
}

/// For [`TaskSink`](apalis_core::backend::TaskSink), whose methods push jobs.
impl<Args> Sink<Task<Bson>> for Source<Args> {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Sink::poll_ready(Pin::new(&mut self.persisted), cx)
    }

    fn start_send(mut self: Pin<&mut Self>, task: Task<Bson>) -> Result<(), Error> {
        Sink::start_send(Pin::new(&mut self.persisted), task)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Sink::poll_flush(Pin::new(&mut self.persisted), cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Sink::poll_close(Pin::new(&mut self.persisted), cx)
    }
}
