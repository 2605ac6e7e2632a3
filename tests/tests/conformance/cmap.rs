//! The suite connection-monitoring-and-pooling: operations and events of a pool, step by step.
//!
//! By default a case runs on a network in memory with a paused clock, once for each of a few seeds,
//! which choose the latencies. With `CMAP_REPETITIONS=200` it runs 200 times on loopback instead,
//! with the real clock and on several threads, to find races. The machine should be busy for that.
//! Running many cases at a time makes it so:
//!
//! ```sh
//! CMAP_REPETITIONS=200 cargo test --test conformance -- cmap/ --test-threads 16
//! ```

mod events;
mod scene;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{env, thread};

use mongo_core::error::Wait;
use mongo_core::pools::{Backend, PooledConnection, Pools, ServerPool};
use mongo_core::uri::ClientOptions;
use mongo_core::{Deadline, Error, ErrorKind};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::{Outcome, known_keys, text};
use events::{Watched, check, fits};
use scene::{Scene, of_round};

/// The time limit of a case.
const LIMIT: Duration = Duration::from_secs(60);

/// The default pause between two rounds of maintenance.
const BACKGROUND_INTERVAL: Duration = Duration::from_millis(50);

/// The default timeout of a check-out.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// How many rounds of a repeated case run concurrently.
const ROUNDS_AT_A_TIME: usize = 4;

/// The seeds of the networks in memory.
const SEEDS: std::ops::Range<u64> = 0..8;

/// Runs one case on deadpool.
pub(crate) fn run_on_deadpool(case: &Value) -> Outcome {
    run::<mongo_deadpool::Pool>(case)
}

/// Runs one case on bb8.
pub(crate) fn run_on_bb8(case: &Value) -> Outcome {
    run::<mongo_bb8::Pool>(case)
}

fn run<B: Backend<Config: Default>>(case: &Value) -> Outcome {
    let known = [
        "version",
        "style",
        "description",
        "runOn",
        "failPoint",
        "poolOptions",
        "operations",
        "error",
        "events",
        "ignore",
    ];
    known_keys("case", case, &known)?;
    let run_once = |scene: Scene| {
        let told = scene.to_string();
        let outcome = scene.run(|scene| async move {
            match timeout(LIMIT, play::<B>(case, &scene)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("not over after {LIMIT:?}")),
            }
        });
        outcome.map_err(|message| format!("{told}: {message}"))
    };
    match env::var("CMAP_REPETITIONS") {
        Ok(count) => {
            let count: u32 = count.parse().map_err(|_| "CMAP_REPETITIONS: no number")?;
            repeat(count, |round| run_once(of_round(case, round)))
        }
        Err(_) => SEEDS
            .into_iter()
            .try_for_each(|seed| run_once(Scene::Memory { seed })),
    }
}

/// Runs rounds until one fails, several at a time, since they mostly wait.
fn repeat(count: u32, run_round: impl Fn(u32) -> Outcome + Sync) -> Outcome {
    let next = AtomicU32::new(1);
    let work = || {
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                round if round > count => return Ok(()),
                // Printed at once: all rounds together take minutes.
                round => run_round(round).inspect_err(|message| eprintln!("{message}"))?,
            }
        }
    };
    thread::scope(|scope| {
        let workers = [(); ROUNDS_AT_A_TIME].map(|()| scope.spawn(work));
        workers.into_iter().try_for_each(|worker| {
            let outcome = worker.join();
            outcome.unwrap_or_else(|_| Err("panicked".to_owned()))
        })
    })
}

/// Runs one case, and compares its result.
async fn play<B: Backend<Config: Default>>(case: &Value, scene: &Scene) -> Outcome {
    let stage = scene.set_up(case.get("failPoint")).await?;
    let watched = Watched::default();
    let settings = Settings::read(stage.options()?, &case["poolOptions"], scene)?;
    let pool = Pools::<B>::builder(settings.options)
        .connector(stage.connector())
        .event_handlers(watched.handlers(scene.stretch()))
        .build_server_pool()
        .map_err(|error| error.to_string())?;
    let mut play = Play {
        shared: Arc::new(Shared {
            pool: pool.clone(),
            wait_timeout: settings.wait_timeout,
            checked_out: Mutex::default(),
        }),
        watched: watched.clone(),
        threads: HashMap::new(),
        stretch: scene.stretch(),
    };
    let background = settings.background.map(|interval| {
        tokio::spawn(async move {
            loop {
                sleep(interval).await;
                pool.maintain().await;
            }
        })
    });
    let outcome = play.perform(case).await;
    let events = watched.so_far();
    if let Some(background) = background {
        background.abort();
    }
    check_error(outcome, case.get("error"))
        .and_then(|()| check(&events, &case["events"], &case["ignore"]))
        .map_err(|message| format!("{message}\nevents: {events:#?}"))
}

/// A case's settings of its pool.
struct Settings {
    options: ClientOptions,
    wait_timeout: Duration,
    background: Option<Duration>,
}

impl Settings {
    fn read(mut options: ClientOptions, asked: &Value, scene: &Scene) -> Result<Self, String> {
        let mut background = Some(BACKGROUND_INTERVAL);
        for (name, value) in asked.as_object().into_iter().flatten() {
            let number = value.as_i64().unwrap_or(-1);
            let size = u32::try_from(number).ok();
            let time = u64::try_from(number).ok().map(Duration::from_millis);
            let time = time.map(|time| time * scene.stretch());
            let bad = || format!("poolOptions: {name}: {value}");
            match name.as_str() {
                "appName" => options.app_name = value.as_str().map(Into::into),
                "maxPoolSize" => options.max_pool_size = size.ok_or_else(bad)?,
                "minPoolSize" => options.min_pool_size = size.ok_or_else(bad)?,
                "maxConnecting" => options.max_connecting = size.ok_or_else(bad)?,
                "maxIdleTimeMS" => options.max_idle_time = Some(time.ok_or_else(bad)?),
                "waitQueueTimeoutMS" => options.wait_queue_timeout = Some(time.ok_or_else(bad)?),
                "backgroundThreadIntervalMS" => background = time,
                _ => return Err(bad()),
            }
        }
        Ok(Self {
            wait_timeout: options.wait_queue_timeout.unwrap_or(WAIT_TIMEOUT),
            options,
            background,
        })
    }
}

/// An error that ends the main thread of a case early.
enum Fault {
    /// The pool's error, which a case may expect.
    Pool(Error),
    /// The case could not be run.
    Play(String),
}

impl From<String> for Fault {
    fn from(message: String) -> Self {
        Self::Play(message)
    }
}

/// State that all threads of a case share.
struct Shared<B: Backend> {
    pool: ServerPool<B>,
    wait_timeout: Duration,
    /// Connections with their labels.
    checked_out: Mutex<Vec<(Option<String>, PooledConnection<B>)>>,
}

impl<B: Backend> Shared<B> {
    async fn check_out(&self, operation: &Value) -> Result<(), Error> {
        let connection = self.pool.get(Deadline::after(self.wait_timeout)).await?;
        let label = operation["label"].as_str().map(str::to_owned);
        let mut checked_out = self.checked_out.lock().expect("no panic");
        checked_out.push((label, connection));
        Ok(())
    }

    fn check_in(&self, operation: &Value) -> Outcome {
        let label = text(operation, "connection")?;
        let mut checked_out = self.checked_out.lock().expect("no panic");
        let place = checked_out
            .iter()
            .position(|(own, _)| own.as_deref() == Some(label));
        let place = place.ok_or_else(|| format!("no connection is {label:?}"))?;
        let (_, connection) = checked_out.swap_remove(place);
        drop(checked_out);
        drop(connection);
        Ok(())
    }

    /// Performs an operation that any thread may have.
    async fn perform(&self, operation: &Value) -> Result<(), Fault> {
        match text(operation, "name")? {
            "checkOut" => self.check_out(operation).await.map_err(Fault::Pool)?,
            "checkIn" => self.check_in(operation)?,
            "ready" => self.pool.ready(),
            "close" => self.pool.close(),
            "clear" => {
                let interrupt = operation["interruptInUseConnections"].as_bool();
                self.pool.clear(interrupt.unwrap_or(false));
            }
            other => return Err(format!("the runner does not know {other:?}").into()),
        }
        Ok(())
    }
}

/// A thread of a case: its operations and its result.
struct Thread {
    operations: mpsc::Sender<Value>,
    end: JoinHandle<Result<(), Fault>>,
}

impl Thread {
    fn start<B: Backend>(shared: Arc<Shared<B>>) -> Self {
        let (operations, mut received) = mpsc::channel::<Value>(16);
        let end = tokio::spawn(async move {
            while let Some(operation) = received.recv().await {
                shared.perform(&operation).await?;
            }
            Ok(())
        });
        Self { operations, end }
    }
}

/// The main thread of a case.
struct Play<B: Backend> {
    shared: Arc<Shared<B>>,
    watched: Watched,
    threads: HashMap<String, Thread>,
    stretch: u32,
}

impl<B: Backend> Play<B> {
    async fn perform(&mut self, case: &Value) -> Result<(), Fault> {
        let operations = case["operations"]
            .as_array()
            .ok_or_else(|| "no operations".to_owned())?;
        for operation in operations {
            let known = [
                "name",
                "thread",
                "target",
                "ms",
                "event",
                "count",
                "timeout",
                "label",
                "connection",
                "interruptInUseConnections",
            ];
            known_keys("operation", operation, &known)?;
            match operation["thread"].as_str() {
                None => self.step(operation).await?,
                Some(thread) => {
                    let thread = self.threads.get(thread);
                    let thread = thread.ok_or_else(|| format!("not started: {operation}"))?;
                    let sent = thread.operations.send(operation.clone()).await;
                    sent.map_err(|_| format!("its thread is over: {operation}"))?;
                }
            }
        }
        Ok(())
    }

    async fn step(&mut self, operation: &Value) -> Result<(), Fault> {
        match text(operation, "name")? {
            "start" => {
                let thread = Thread::start(self.shared.clone());
                self.threads
                    .insert(text(operation, "target")?.to_owned(), thread);
                Ok(())
            }
            "wait" => {
                sleep(self.time(operation, "ms")?).await;
                Ok(())
            }
            "waitForThread" => self.wait_for_thread(text(operation, "target")?).await,
            "waitForEvent" => self.wait_for_event(operation).await,
            _ => self.shared.perform(operation).await,
        }
    }

    async fn wait_for_thread(&mut self, name: &str) -> Result<(), Fault> {
        let thread = self.threads.remove(name);
        let Thread { operations, end } = thread.ok_or_else(|| format!("no thread {name:?}"))?;
        drop(operations);
        end.await.map_err(|panic| Fault::Play(panic.to_string()))?
    }

    async fn wait_for_event(&self, operation: &Value) -> Result<(), Fault> {
        let name = text(operation, "event")?;
        let count = operation["count"].as_u64().unwrap_or(1);
        let bound = match operation.get("timeout") {
            Some(_) => self.time(operation, "timeout")?,
            None => LIMIT,
        };
        let arrived = timeout(bound, self.watched.wait_for(name, count)).await;
        arrived.map_err(|_| Fault::Play(format!("{count} {name}: not within {bound:?}")))
    }

    fn time(&self, operation: &Value, key: &str) -> Result<Duration, String> {
        let millis = operation[key].as_u64();
        let millis = millis.ok_or_else(|| format!("{key} is no number"))?;
        Ok(Duration::from_millis(millis) * self.stretch)
    }
}

impl<B: Backend> Drop for Play<B> {
    fn drop(&mut self) {
        self.threads.values().for_each(|thread| thread.end.abort());
    }
}

/// Compares the main thread's error with the expected one.
fn check_error(outcome: Result<(), Fault>, expected: Option<&Value>) -> Outcome {
    match (outcome, expected) {
        (Err(Fault::Play(message)), _) => Err(message),
        (Ok(()), None) => Ok(()),
        (Err(Fault::Pool(error)), None) => Err(format!("unexpected: {error}")),
        (Ok(()), Some(expected)) => Err(format!("no error, expected {expected}")),
        (Err(Fault::Pool(error)), Some(expected)) => fits("error", &shown(&error), expected),
    }
}

/// An error in the notation of the cases.
fn shown(error: &Error) -> Value {
    let (kind, message) = match error.kind() {
        ErrorKind::PoolClosed => ("PoolClosedError", error.kind().to_string()),
        ErrorKind::PoolCleared => ("PoolClearedError", error.kind().to_string()),
        // The error also states the time, and the phase of an attempt that it began shortly before.
        ErrorKind::Timeout { .. } => (
            "WaitQueueTimeoutError",
            format!("timed out {}", Wait::WaitQueue),
        ),
        _ => ("another error", error.to_string()),
    };
    // The cases capitalize it.
    let message = message[..1].to_uppercase() + &message[1..];
    json!({
        "type": kind,
        "message": message,
        "address": error.server().map(ToString::to_string),
    })
}
