//! A task that sends requests and often cancels them before the reply.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

use bson::{RawDocumentBuf, rawdoc};
use mongo_core::wire::Readiness;
use mongo_core::{Connection, Error, ErrorKind, Reply};
use tokio::time::timeout;

use crate::plain_pool::Backend;
use crate::random::Random;

/// The counts of all tasks.
pub(crate) struct Counts {
    wanted: u64,
    cancelled: AtomicU64,
    before: AtomicU64,
    half_written: AtomicU64,
    owed: AtomicU64,
    in_check_out: AtomicU64,
    own: AtomicU64,
    pub(crate) wrong: AtomicU64,
    /// Failed check-outs.
    pub(crate) failed: AtomicU64,
    longest_check_out: AtomicU64,
}

impl Counts {
    pub(crate) fn new(wanted: u64) -> Self {
        let zero = AtomicU64::default;
        Self {
            wanted,
            cancelled: zero(),
            before: zero(),
            half_written: zero(),
            owed: zero(),
            in_check_out: zero(),
            own: zero(),
            wrong: zero(),
            failed: zero(),
            longest_check_out: zero(),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.cancelled.load(Relaxed) >= self.wanted
    }

    fn cancelled(&self, at: &AtomicU64) {
        self.cancelled.fetch_add(1, Relaxed);
        at.fetch_add(1, Relaxed);
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |count: &AtomicU64| count.load(Relaxed);
        write!(
            f,
            "{} requests cancelled ({} with nothing sent, {} half written, {} with a reply owed, {} in \
             check-out or unseen), {} replies to the right request, {} to the wrong one, {} check-outs \
             failed, the longest took {} ms",
            count(&self.cancelled),
            count(&self.before),
            count(&self.half_written),
            count(&self.owed),
            count(&self.in_check_out),
            count(&self.own),
            count(&self.wrong),
            count(&self.failed),
            count(&self.longest_check_out),
        )
    }
}

/// A unique request.
struct Request {
    number: i64,
    reply: usize,
    command: RawDocumentBuf,
}

impl Request {
    fn new(random: &mut Random) -> Self {
        static LAST: AtomicI64 = AtomicI64::new(0);
        let number = LAST.fetch_add(1, Relaxed);
        // One in ten does not fit the socket's buffer.
        let length = |random: &mut Random| match random.one_in(10) {
            true => random.below(60_000) as usize,
            false => random.below(100) as usize,
        };
        let reply = length(random);
        let mut command = rawdoc! { "echo": number, "reply": reply as i32 };
        command.append(bson::raw::cstr!("pad"), "x".repeat(length(random)));
        // One in 1000 is too late for every drain; some replies come in two halves.
        let delay = match random.below(1000) {
            0 => Some(150),
            1..200 => Some(1 + random.below(3) as i32),
            200..300 => Some(0),
            _ => None,
        };
        if let Some(delay) = delay {
            command.append(bson::raw::cstr!("delay"), delay);
        }
        Self {
            number,
            reply,
            command,
        }
    }

    async fn run(
        &self,
        connection: &mut Connection,
        bound: Option<Duration>,
        counts: &Counts,
    ) -> Result<(), Error> {
        let reply = match bound {
            Some(bound) => connection.run_command_by(bound, "app", &self.command).await,
            None => connection.run_command("app", &self.command).await,
        };
        self.compare(&reply?, counts);
        Ok(())
    }

    fn compare(&self, reply: &Reply<'_>, counts: &Counts) {
        let number = reply.get_i64("echo").ok();
        let length = reply.get_str("pad").ok().map(str::len);
        let own = number == Some(self.number) && length == Some(self.reply);
        let count = if own { &counts.own } else { &counts.wrong };
        count.fetch_add(1, Relaxed);
    }
}

/// Runs one request to its end.
pub(crate) async fn check(connection: &mut Connection, counts: &Counts) {
    let mut random = Random::new(counts.own.load(Relaxed));
    let request = Request::new(&mut random);
    let outcome = request.run(connection, None, counts).await;
    outcome.expect("a connection from the pool answers");
}

/// Runs until enough requests are cancelled.
pub(crate) async fn work<B: Backend>(pool: B, counts: Arc<Counts>, seed: u64) {
    let mut random = Random::new(seed);
    while !counts.is_done() {
        if random.one_in(3) {
            // The check-out is part of the cancelled operation.
            let request = Request::new(&mut random);
            let both = async {
                let mut guard = get(&pool, &counts).await?;
                request.run(&mut guard, None, &counts).await.ok()
            };
            if cut(&mut random, both).await.is_none() {
                counts.cancelled(&counts.in_check_out);
            }
        } else if let Some(mut guard) = get(&pool, &counts).await {
            // Some requests continue on the same connection.
            for _ in 0..=random.below(3) {
                on_connection(&mut guard, &mut random, &counts).await;
            }
        }
    }
}

async fn get<B: Backend>(pool: &B, counts: &Counts) -> Option<B::Guard> {
    let began = Instant::now();
    let guard = pool.get().await;
    let took = began.elapsed().as_millis() as u64;
    counts.longest_check_out.fetch_max(took, Relaxed);
    guard
        .inspect_err(|error| {
            eprintln!("{error}");
            counts.failed.fetch_add(1, Relaxed);
        })
        .ok()
}

/// One request on a checked-out connection: completed, dropped, or timed out.
async fn on_connection(connection: &mut Connection, random: &mut Random, counts: &Counts) {
    let request = Request::new(random);
    let ended = match random.below(8) {
        0 => Some(request.run(connection, None, counts).await),
        1..4 => {
            let bound = Duration::from_micros(random.below(3000));
            Some(request.run(connection, Some(bound), counts).await)
        }
        _ => cut(random, request.run(connection, None, counts)).await,
    };
    let over = match &ended {
        Some(Ok(())) => true,
        // Closed by an earlier cancellation.
        Some(Err(error)) => matches!(error.kind(), ErrorKind::ConnectionClosed(_)),
        None => false,
    };
    if over {
        return;
    }
    counts.cancelled(match connection.readiness() {
        Readiness::Idle => &counts.before,
        Readiness::Owed => &counts.owed,
        Readiness::Closed(_) => &counts.half_written,
    });
}

/// Drops a future after some polls or some time, if it is still pending.
async fn cut<F: Future>(random: &mut Random, future: F) -> Option<F::Output> {
    if random.one_in(2) {
        let bound = Duration::from_micros(random.below(4000));
        return timeout(bound, future).await.ok();
    }
    let mut left = random.below(6);
    let mut future = pin!(future);
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
