//! The unified test format: a runner over the kit's deployments, for any backend.
//!
//! Files by what they do: [`case`] reads a test, [`plan`] and [`stage`] set up its servers,
//! [`client`] and [`entities`] what it names, [`operation`] and [`special`] run its operations,
//! [`sessions`] and [`cursors`] those of their entities. [`crud`] and [`results`] translate a driver's helpers into commands and back, [`execute`] runs
//! commands on the product. [`events`], [`logs`], [`messages`] and [`errors`] are what a test
//! compares, by [`matching`].

mod case;
mod client;
mod crud;
mod cursors;
mod entities;
mod errors;
mod events;
mod execute;
mod json;
mod logs;
mod matching;
mod messages;
mod operation;
mod plan;
mod results;
mod sessions;
mod special;
mod stage;
mod threads;

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use mongo_core::pools::Backend;
use serde_json::Value;
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::Outcome;
use case::{Case, Fields};
use entities::Entities;
use events::Kind;
use logs::Capture;
use operation::{Play, perform};
use plan::Plan;
use stage::Stage;

pub(crate) use case::of_file;
pub(crate) use logs::install;

/// The time limit of a case, by its own clock.
const LIMIT: Duration = Duration::from_secs(120);

/// The time limit of a case, by the real clock.
const WALL_LIMIT: Duration = Duration::from_secs(120);

/// Runs one case on deadpool.
pub(crate) fn run_on_deadpool(case: &Value) -> Outcome {
    run::<mongo_deadpool::Pool>(case)
}

/// Runs one case on bb8.
pub(crate) fn run_on_bb8(case: &Value) -> Outcome {
    run::<mongo_bb8::Pool>(case)
}

/// What a case needs of the real server, for which `tests/run` may have a reason to skip it: see
/// `tests/real-server.txt`. `None` for a case in memory.
pub(crate) fn needs(case: &Value) -> Option<&'static [&'static str]> {
    let case = Case::read(case).ok()?;
    let plan = Plan::of(&case).ok()?;
    match plan.topology {
        _ if !plan.real || plan.oidc => None,
        // It would see what other tests do.
        _ if case.watches_the_cluster() => Some(&["own"]),
        plan::Topology::Single => Some(&["proxies"]),
        _ => Some(&["proxies", "set"]),
    }
}

/// Runs one case that the runner must refuse or see fail.
pub(crate) fn run_invalid(case: &Value) -> Outcome {
    match run::<mongo_deadpool::Pool>(case) {
        Err(_) => Ok(()),
        Ok(()) => Err("the runner accepts it".to_owned()),
    }
}

/// Runs a case on a thread of its own: one that never yields has no time-out on its own thread.
fn run<B: Backend<Config: Default>>(case: &Value) -> Outcome {
    let case = case.clone();
    let (sender, ended) = mpsc::sync_channel(1);
    thread::spawn(move || {
        // The receiver may have given up.
        let _ = sender.send(run_here::<B>(&case));
    });
    ended
        .recv_timeout(WALL_LIMIT)
        .unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => Err(format!("still runs after {WALL_LIMIT:?}")),
            RecvTimeoutError::Disconnected => Err("panicked".to_owned()),
        })
}

fn run_here<B: Backend<Config: Default>>(case: &Value) -> Outcome {
    let case = Case::read(case)?;
    let plan = Plan::of(&case)?;
    let runtime = Stage::runtime(&plan)?;
    let outcome = LocalSet::new().block_on(&runtime, async {
        let played = timeout(LIMIT, play::<B>(&case, plan)).await;
        played.unwrap_or_else(|_| Err(format!("not over after {LIMIT:?}")))
    });
    outcome.map_err(|message| format!("{message}\non {plan:?}"))
}

async fn play<B: Backend<Config: Default>>(case: &Case, plan: Plan) -> Outcome {
    let capture = Capture::start();
    let stage = Stage::start(plan).await;
    stage.set_up(&case.initial_data)?;
    let play = Arc::new(Play::<B> {
        stage,
        entities: Entities::new(),
    });
    let outcome = act(case, &play, &capture).await;
    let outcome = outcome.map_err(|message| format!("{message}\n{}", play.stage.seen()));
    play.entities.end().await;
    for client in play.entities.clients() {
        client.pools.close().await;
    }
    drop(capture);
    // A thread of a failed case may hold the stage.
    if let Ok(play) = Arc::try_unwrap(play).map_err(drop) {
        play.stage.end().await;
    }
    outcome
}

/// Runs the operations, and compares what was observed.
async fn act<B: Backend<Config: Default>>(
    case: &Case,
    play: &Arc<Play<B>>,
    capture: &Capture,
) -> Outcome {
    for entity in &case.entities {
        special::create(play, entity).await?;
    }
    for operation in &case.operations {
        perform(Arc::clone(play), operation.clone()).await?;
    }
    let lookup = &play.entities;
    let observed = case.expect_events.iter().map(|expected| {
        let expected = Fields::new(
            expected,
            "expectEvents",
            &["client", "eventType", "events", "ignoreExtraEvents"],
        )?;
        let client = play.entities.client(expected.text("client")?)?;
        Ok((expected, client.observed.so_far()))
    });
    // All at once: other events follow.
    let observed = observed.collect::<Result<Vec<_>, String>>()?;
    let (lines, spans) = (capture.lines(), capture.spans());
    for (expected, found) in observed {
        let kind = match expected.get("eventType").and_then(bson::Bson::as_str) {
            None | Some("command") => Kind::Command,
            Some("cmap") => Kind::Cmap,
            Some("sdam") => Kind::Sdam,
            Some(other) => return Err(format!("no type of events: {other}")),
        };
        let ignores = expected.flag("ignoreExtraEvents")?;
        events::compare(&found, kind, expected.list("events")?, ignores, lookup)?;
    }
    for expected in &case.expect_logs {
        messages::compare(expected, &lines, &play.entities)?;
    }
    for expected in &case.expect_spans {
        messages::compare_spans(expected, &spans, lookup)?;
    }
    play.stage.check_outcome(&case.outcome, lookup)
}
