//! The documents of a queue.

use std::time::{Duration, SystemTime};

use apalis_core::backend::TaskResult;
use apalis_core::backend::persistence::{Persistence, TaskEvent};
use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::status::Status;
use apalis_core::task::task_id::TaskId;
use apalis_core::worker::context::WorkerContext;
use serde::Deserialize;

use crate::backend::mongo_core::bson::oid::ObjectId;
use crate::backend::mongo_core::bson::{Bson, DateTime, Document, doc};
use crate::backend::{Error, OperationKind, OwnedReply, Pools};

/// The settings of a queue. The workers of a queue should have the same.
#[derive(Clone, Copy, Debug)]
pub struct QueueConfig {
    /// How long a claim lasts without a heartbeat. A heartbeat is due after a third of it. Default
    /// 30 s.
    pub lease: Duration,
    /// How often a job is tried. A lease that ends counts as a failure. Default 3.
    pub attempts: u32,
    /// The pause after a failure. Default 5 s.
    pub pause: Duration,
    /// How often an idle worker looks for jobs. Default 200 ms.
    pub poll: Duration,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            attempts: 3,
            pause: Duration::from_secs(5),
            poll: Duration::from_millis(200),
        }
    }
}

/// The jobs of a queue, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// To be claimed now or later.
    pub waiting: u64,
    /// Claimed.
    pub running: u64,
    /// Done.
    pub done: u64,
    /// Given up after the last attempt.
    pub failed: u64,
}

/// A queue: a collection with one document for each job.
#[derive(Clone, Debug)]
pub struct Queue {
    pools: Pools,
    database: String,
    collection: String,
    pub(crate) config: QueueConfig,
    /// Names the claims of one worker: the names of workers may be the same in several processes.
    holder: ObjectId,
}

impl Queue {
    /// A queue in a collection.
    pub fn new(pools: Pools, database: &str, collection: &str, config: QueueConfig) -> Self {
        Self {
            pools,
            database: database.to_owned(),
            collection: collection.to_owned(),
            config,
            holder: ObjectId::new(),
        }
    }

    /// The queue for a worker of its own.
    pub(crate) fn of_worker(&self) -> Self {
        Self {
            holder: ObjectId::new(),
            ..self.clone()
        }
    }

    /// Counts the jobs.
    ///
    /// # Errors
    /// The database failed.
    pub async fn counts(&self) -> Result<Counts, Error> {
        let [waiting, running, done, failed] = ["waiting", "running", "done", "failed"];
        Ok(Counts {
            waiting: self.count(waiting).await?,
            running: self.count(running).await?,
            done: self.count(done).await?,
            failed: self.count(failed).await?,
        })
    }

    async fn count(&self, state: &str) -> Result<u64, Error> {
        #[derive(Deserialize)]
        struct Count {
            n: u64,
        }
        let count = doc! { "count": &self.collection, "query": { "state": state } };
        let count = self.pools.command(&self.database, &count);
        let count: Count = count.kind(OperationKind::Read).await?.deserialize()?;
        Ok(count.n)
    }

    /// Runs a write on one document each, which may be sent again after a failover.
    async fn write(&self, command: Document) -> Result<OwnedReply, Error> {
        let command = self.pools.command(&self.database, &command);
        let reply = command.kind(OperationKind::Write).await?;
        reply.check_write()?;
        Ok(reply)
    }

    async fn update(&self, updates: Vec<Document>) -> Result<(), Error> {
        if updates.is_empty() {
            return Ok(());
        }
        let update = doc! { "update": &self.collection, "updates": updates, "ordered": false };
        self.write(update).await.map(drop)
    }
}

/// A claimed job.
#[derive(Deserialize)]
struct Job {
    #[serde(rename = "_id")]
    id: String,
    args: Bson,
    attempts: i64,
}

impl Queue {
    /// The filter of a job as this worker has claimed it. A worker whose lease has ended changes
    /// nothing.
    fn claimed(&self, id: &TaskId, attempt: usize) -> Document {
        doc! { "_id": id.to_string(), "holder": self.holder, "attempts": attempt as i64 }
    }

    fn ended(&self, result: TaskResult<Bson>) -> Document {
        let change = match result.result {
            Ok(value) => {
                doc! { "$set": { "state": "done", "result": value }, "$unset": { "due": "" } }
            }
            Err(error) if result.status == Status::Killed || result.attempt >= self.attempts() => {
                doc! { "$set": { "state": "failed", "error": error }, "$unset": { "due": "" } }
            }
            Err(error) => {
                let due = after(self.config.pause);
                doc! { "$set": { "state": "waiting", "error": error, "due": due } }
            }
        };
        doc! { "q": self.claimed(&result.task_id, result.attempt), "u": change }
    }

    fn attempts(&self) -> usize {
        self.config.attempts as usize
    }
}

impl Persistence for Queue {
    type Compact = Bson;
    type Response = Bson;
    type Error = Error;

    async fn register(&mut self, worker: &WorkerContext) -> Result<(), Error> {
        // Finished jobs are not in the index.
        let index = doc! {
            "key": { "due": 1 }, "name": "due",
            "partialFilterExpression": { "due": { "$exists": true } },
        };
        let create = doc! { "createIndexes": &self.collection, "indexes": [index] };
        let create = self.pools.command(&self.database, &create);
        create.await?.check_write()?;
        self.heartbeat(worker).await
    }

    /// Renews the leases of this worker, and gives up jobs whose last lease has ended.
    async fn heartbeat(&mut self, _: &WorkerContext) -> Result<(), Error> {
        let renew = doc! {
            "q": { "holder": self.holder, "state": "running" },
            "u": { "$set": { "due": after(self.config.lease) } }, "multi": true,
        };
        let attempts = i64::from(self.config.attempts);
        let error = "the last worker did not finish it";
        let give_up = doc! {
            "q": { "due": { "$lte": DateTime::now() }, "attempts": { "$gte": attempts } },
            "u": { "$set": { "state": "failed", "error": error }, "$unset": { "due": "" } },
            "multi": true,
        };
        let update = doc! { "update": &self.collection, "updates": [renew, give_up] };
        let update = self.pools.command(&self.database, &update);
        // The server can't recognize updates of many documents when they are sent again.
        let update = update.kind(OperationKind::Write).not_retryable();
        update.await?.check_write()
    }

    async fn fetch_next(&mut self, worker: &WorkerContext) -> Result<Vec<Task<Bson>>, Error> {
        #[derive(Deserialize)]
        struct Claimed {
            value: Option<Job>,
        }
        let attempts = i64::from(self.config.attempts);
        let due = after(self.config.lease);
        let claim = doc! {
            "findAndModify": &self.collection,
            "query": { "due": { "$lte": DateTime::now() }, "attempts": { "$lt": attempts } },
            "sort": { "due": 1 },
            "update": {
                "$set": {
                    "state": "running", "due": due, "holder": self.holder, "worker": worker.name()
                },
                "$inc": { "attempts": 1_i64 },
            },
            "new": true,
        };
        let claimed: Claimed = self.write(claim).await?.deserialize()?;
        let tasks = claimed.value.map(|job| {
            // apalis counts this attempt when the task starts.
            let before = usize::try_from(job.attempts - 1).unwrap_or_default();
            TaskBuilder::new(job.args)
                .task_id(TaskId::from_string(job.id))
                .attempt(before)
                .max_attempts(self.attempts())
                .build()
        });
        Ok(tasks.into_iter().collect())
    }

    /// Returns jobs that were claimed and not started.
    async fn reenqueue_abandoned(
        &mut self,
        tasks: Vec<Task<Bson>>,
        _: &WorkerContext,
    ) -> Result<u64, Error> {
        let returned = tasks.len() as u64;
        let updates = tasks.iter().filter_map(|task| {
            let change = doc! {
                "$set": { "state": "waiting", "due": DateTime::now() },
                "$inc": { "attempts": -1_i64 }, "$unset": { "holder": "" },
            };
            let claimed = self.claimed(task.task_id()?, task.attempt() + 1);
            Some(doc! { "q": claimed, "u": change })
        });
        self.update(updates.collect()).await?;
        Ok(returned)
    }

    async fn handle_events(
        &mut self,
        events: Vec<TaskEvent<Bson>>,
        _: &WorkerContext,
    ) -> Result<(), Error> {
        let updates = events.into_iter().filter_map(|event| match event {
            TaskEvent::Complete(result) => Some(self.ended(result)),
            // Not sent: a claim is the lock.
            _ => None,
        });
        self.update(updates.collect()).await
    }

    /// Adds jobs. One with an idempotency key, or an id, that exists is not added again.
    async fn push_tasks(&mut self, tasks: Vec<Task<Bson>>) -> Result<(), Error> {
        let upserts = tasks.into_iter().map(|task| {
            let id = task.idempotency_key().map(str::to_owned);
            let id = id.or_else(|| task.task_id().map(TaskId::to_string));
            let id = id.unwrap_or_else(|| ObjectId::new().to_hex());
            let due = task.run_at().map_or_else(DateTime::now, |seconds| {
                let due = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
                due.map_or(DateTime::MAX, DateTime::from_system_time)
            });
            let (args, _) = task.take();
            let job = doc! { "args": args, "state": "waiting", "attempts": 0_i64, "due": due };
            doc! { "q": { "_id": id }, "u": { "$setOnInsert": job }, "upsert": true }
        });
        self.update(upserts.collect()).await
    }
}

fn after(duration: Duration) -> DateTime {
    DateTime::from_system_time(SystemTime::now() + duration)
}
