//! Renders the frames of a film, with several workers and a progress bar. Start it several times on
//! one database, and kill one of them: the others take over its frames. Ctrl-c finishes the frames
//! that are being rendered.
//!
//! ```sh
//! cargo run -p mongo-example-jobs
//! cargo run -p mongo-example-jobs --no-default-features --features bb8,embedded
//! MONGODB_URI=mongodb://localhost FRAMES=500 WORKERS=8 cargo run -p mongo-example-jobs
//! ```

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, io};

use apalis::prelude::*;
use futures_util::stream;
use indicatif::{ProgressBar, ProgressStyle};
use mongo_example_jobs::backend::Pools;
use mongo_example_jobs::{Counts, Queue, QueueConfig};
use serde::{Deserialize, Serialize};
use tokio::time::{interval, sleep};

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(100);
/// How long a stop waits for frames that are being rendered.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Deserialize, Serialize)]
struct Frame {
    number: u64,
    millis: u64,
}

/// The job. It may run again after a failure, or at the same time elsewhere after a lost lease, and
/// always renders the same picture.
async fn render(frame: Frame) -> Result<String, BoxDynError> {
    sleep(Duration::from_millis(frame.millis)).await;
    Ok(format!("frame-{:04}.png", frame.number))
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let url = env::var("MONGODB_URI").ok();
    #[cfg(feature = "embedded")]
    let (url, _embedded) = or_embedded(url).await;
    let pools = Pools::new(&url.ok_or("set MONGODB_URI to a connection string")?)?;
    let config = QueueConfig {
        lease: Duration::from_millis(setting("LEASE_MS", 5_000)?),
        ..QueueConfig::default()
    };
    let queue = Queue::new(pools.clone(), "film", "frames", config);

    let millis = setting("FRAME_MS", 50)?;
    let frames = (1..=setting("FRAMES", 100)?).map(|number| {
        // A frame that another process has added is not added again.
        let key = format!("frame {number}");
        let frame = TaskBuilder::new(Frame { number, millis });
        frame.idempotency_key(key).build()
    });
    let mut producer = queue.source();
    producer.push_all(stream::iter(frames)).await?;

    let mut monitor = Monitor::new()
        .shutdown_timeout(GRACE)
        // A worker ends if the database fails. The next one waits for the database.
        .should_restart(|_, _| true);
    for index in 0..setting("WORKERS", 4)? {
        let queue = queue.clone();
        monitor = monitor.register(move |_| {
            WorkerBuilder::new(format!("{}-{index}", std::process::id()))
                .backend(queue.source())
                .concurrency(1)
                .build(render)
        });
    }
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template(
        "{elapsed_precise} [{bar:40}] {pos}/{len} {msg}",
    )?);
    let watched = watch(queue.clone(), bar.clone());
    let stop = async move {
        tokio::select! {
            stopped = tokio::signal::ctrl_c() => stopped,
            ended = watched => ended,
        }
    };
    monitor.run_with_signal(stop).await?;
    let counts = show(&queue, &bar).await?;
    bar.abandon();
    if !bar.is_hidden() {
        println!();
    }
    println!(
        "{} done, {} failed, {} left",
        counts.done,
        counts.failed,
        counts.waiting + counts.running
    );
    pools.close().await;
    Ok(())
}

/// Shows the progress of all workers, also of those in other processes, until no job is left.
async fn watch(queue: Queue, bar: ProgressBar) -> io::Result<()> {
    let mut ticks = interval(TICK);
    loop {
        ticks.tick().await;
        let counts = show(&queue, &bar).await.map_err(io::Error::other)?;
        if counts.waiting + counts.running == 0 {
            return Ok(());
        }
    }
}

async fn show(
    queue: &Queue,
    bar: &ProgressBar,
) -> Result<Counts, mongo_example_jobs::backend::Error> {
    let counts = queue.counts().await?;
    let ended = counts.done + counts.failed;
    bar.set_length(ended + counts.waiting + counts.running);
    bar.set_position(ended);
    bar.set_message(format!(
        "{} running, {} failed",
        counts.running, counts.failed
    ));
    Ok(counts)
}

fn setting(name: &str, default: u64) -> Result<u64, Box<dyn Error>> {
    match env::var(name) {
        Ok(text) => text
            .parse()
            .map_err(|_| format!("{name} is not a number").into()),
        Err(_) => Ok(default),
    }
}

/// Starts the test kit's server unless a URL is configured.
#[cfg(feature = "embedded")]
async fn or_embedded(
    url: Option<String>,
) -> (Option<String>, Option<mongo_testkit::ScriptedServer>) {
    if url.is_some() {
        return (url, None);
    }
    let server = mongo_testkit::ScriptedServer::start().await;
    println!("started an embedded server at {}", server.address());
    (Some(server.uri()), Some(server))
}
