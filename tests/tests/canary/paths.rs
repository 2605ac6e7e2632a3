//! Scenarios for a connection and its pools.

use std::fmt;
use std::time::Duration;

use bson::doc;
use mongo_core::auth::Credential;
use mongo_core::event::EventHandlers;
use mongo_core::net::SingleClient;
use mongo_core::pools::{Backend, Pools};
use mongo_core::{Connection, Result};
use mongo_testkit::{Action, ErrorReply, Matcher, Rule, ScramAttack, payload};

use crate::capture::Capture;
use crate::secrets::{NEW, PAYLOAD};
use crate::setup::{Client, Setup};
use crate::ways::Way;

/// The timeout of commands that are never answered.
const PATIENCE: Duration = Duration::from_millis(50);
/// The number of turns until each attack has run.
const TURNS: usize = 8;

/// Successes and failures of one credential, by one way, with the attacks of this turn.
pub(crate) async fn walk<W: Way>(
    setup: &Setup,
    (good, bad): &(Credential, Credential),
    turn: usize,
    capture: &'static Capture,
) {
    let client = setup.client(good, true);
    capture.see_debug("a credential", good);
    capture.see_debug("options", &client.options);
    let way = W::build(&client, handlers(capture), capture).expect("built");
    let mut connection = way.get().await.expect("a connection");
    capture.see_debug("a way", &way);
    succeed(&mut connection, capture).await;
    authenticate_again(setup, &mut connection, capture).await;
    drop(connection);
    panics::<W>(&client, way, capture).await;

    let way = W::build(&setup.client(bad, false), handlers(capture), capture).expect("built");
    let error = way.get().await.expect_err("a bad credential");
    assert!(error.is_authentication(), "{error}");
    capture.see_error("a bad credential", &error);
    way.end().await;
    for rule in attacks().into_iter().skip(turn % TURNS).step_by(TURNS) {
        attacked::<W>(setup, &client, rule, capture).await;
    }
}

fn handlers(capture: &'static Capture) -> EventHandlers {
    EventHandlers::new()
        .on_command(move |event| {
            capture.see_command("an event of a command", &format!("{event:?}"));
        })
        .on_cmap(move |event| capture.see("an event of a connection", &format!("{event:?}")))
        .with_metrics()
}

async fn succeed(connection: &mut Connection, capture: &'static Capture) {
    let find = doc! { "find": "things", "filter": { "name": PAYLOAD } };
    let create = doc! { "createUser": "new", "pwd": NEW, "roles": [] };
    let refused = doc! { "createUser": "new", "pwd": NEW, "roles": [], "refused": true };
    let update = doc! { "updateUser": "new", "pwd": NEW };
    for command in [find, create, refused, update] {
        // The error quotes the server only to the caller of the command.
        let _ = connection.run_command("shop", &command).await;
        capture.see_debug("a connection", &connection);
    }
}

/// Reauthenticates, first successfully and then not.
async fn authenticate_again(setup: &Setup, connection: &mut Connection, capture: &'static Capture) {
    let required = ErrorReply::new(391, "ReauthenticationRequired", "expired");
    let required = Matcher::command("find")
        .once()
        .then(Action::Error(required));
    let refused = ErrorReply::new(18, "AuthenticationFailed", "no more");
    setup.server.script().add(required.clone());
    let find = doc! { "find": "things" };
    let again = connection.run_command("shop", &find).await.map(drop);
    again.expect("run again");
    for name in ["saslStart", "authenticate"] {
        let rule = Matcher::command(name).then(Action::Error(refused.clone()));
        setup.server.script().add(rule);
    }
    setup.server.script().add(required);
    let error = connection.run_command("shop", &find).await.map(drop);
    let error = error.expect_err("not a second time");
    capture.see_error("refused again", &error);
    setup.server.script().clear();
}

/// A task that panics while it holds a connection, and a handler that panics at an event.
async fn panics<W: Way>(client: &Client, way: W, capture: &'static Capture) {
    let task = tokio::spawn(async move {
        let connection = way.get().await.expect("a connection");
        panic!("{way:?} {connection:#?}");
    });
    capture.see_debug("a panic of a task", &task.await.expect_err("a panic"));
    let handlers = EventHandlers::new()
        .on_cmap(panic_with)
        .on_command(panic_with);
    let way = W::build(client, handlers, capture).expect("built");
    let task = tokio::spawn(async move {
        let connection = tokio::time::timeout(PATIENCE, way.get()).await;
        if let Ok(Ok(mut connection)) = connection {
            let create = doc! { "createUser": "new", "pwd": NEW, "roles": [] };
            let _ = connection.run_command("shop", &create).await;
        }
    });
    if let Err(error) = task.await {
        capture.see_debug("a panic of a handler", &error);
    }
}

/// A handler that panics, except at events during a panic: that would abort the process.
fn panic_with(event: &impl fmt::Debug) {
    if !std::thread::panicking() {
        panic!("{event:?}");
    }
}

/// A server's attacks during authentication.
fn attacks() -> Vec<Rule> {
    let proof = |action: fn() -> Action| {
        ["hello", "saslStart", "saslContinue", "authenticate"].map(|name| {
            let matcher = match name {
                "hello" => Matcher::hello(),
                name => Matcher::command(name),
            };
            matcher.then(action())
        })
    };
    let scram = |attack| Matcher::scram().then(Action::Scram(attack));
    let mut attacks: Vec<_> = [
        proof(|| Action::Close),
        proof(|| Action::Reset),
        proof(|| Action::Body(payload::deep_document(500))),
        proof(|| Action::Raw(payload::random_bytes(7, 4096))),
        proof(|| Action::ResponseTo(77)),
        proof(|| Action::Reply(doc! { "ok": 1 })),
        proof(|| Action::Error(ErrorReply::new(18, "AuthenticationFailed", "no"))),
        proof(|| Action::Merge(doc! { "conversationId": 77, "payload": "none" })),
    ]
    .into_iter()
    .flatten()
    .collect();
    attacks.push(Matcher::accept().then(Action::Hang));
    attacks.push(Matcher::command("saslStart").never_answer());
    attacks.extend([
        scram(ScramAttack::ShortNonce),
        scram(ScramAttack::Iterations(u32::MAX.into())),
        scram(ScramAttack::WrongSignature),
        scram(ScramAttack::DoneTooEarly),
        scram(ScramAttack::NeverDone),
        scram(ScramAttack::LastMessage("e=other-error".to_owned())),
    ]);
    attacks
}

/// An attack on another mechanism has no effect. The output is checked in any case.
async fn attacked<W: Way>(setup: &Setup, client: &Client, rule: Rule, capture: &'static Capture) {
    let mut client = client.clone();
    client.options.connect_timeout = Some(PATIENCE);
    client.options.server_selection_timeout = PATIENCE;
    setup.server.script().add(rule);
    let way = W::build(&client, handlers(capture), capture).expect("built");
    match way.get().await {
        Ok(connection) => capture.see_debug("a connection", &connection),
        Err(error) => capture.see_error("an attack", &error),
    }
    capture.see_debug("a way after an attack", &way);
    way.end().await;
    setup.server.script().clear();
}

/// Operations of a deployment's pools alone: further credentials, rotation and logout.
pub(crate) async fn change_credentials<B: Backend<Config: Default>>(
    setup: &Setup,
    (good, bad): &(Credential, Credential),
    capture: &'static Capture,
) -> Result<()> {
    let client = setup.client(good, true);
    let pools: Pools<B> = client.pools(handlers(capture), capture).build()?;
    pools.verify().await?;
    let other = pools.with_credential(bad.clone())?;
    for pools in [&pools, &other] {
        if let Err(error) = pools.verify().await {
            capture.see_error("a credential to be verified", &error);
        }
        capture.see_debug("pools", pools);
        capture.see_debug("a topology", pools.topology());
        capture.see_debug("a topology's options", &pools.topology().options());
    }
    if good != bad {
        // To the other credential, to a refused one, and back.
        if let Err(error) = other.rotate(good.clone()) {
            capture.see_error("a rotation", &error);
        }
        other.logout().await;
        pools.rotate(bad.clone())?;
        let error = pools.get().await.expect_err("rotated");
        capture.see_error("a rotated credential", &error);
        pools.rotate(good.clone())?;
    }
    drop(pools.get().await?);
    capture.see_debug("statuses", &pools.status());
    let error = other.get().await.map(drop);
    if let Err(error) = error {
        capture.see_error("a credential that was logged out", &error);
    }
    capture.see_debug("pools", &pools);
    pools.close().await;
    Ok(())
}

/// A client without monitors or pools.
pub(crate) async fn alone(
    setup: &Setup,
    credentials: &(Credential, Credential),
    capture: &'static Capture,
) {
    for (credential, is_good) in [(&credentials.0, true), (&credentials.1, false)] {
        let client = setup.client(credential, is_good);
        match SingleClient::new(client.options) {
            Ok(mut alone) => {
                let find = doc! { "find": "things", "filter": { "name": PAYLOAD } };
                if let Err(error) = alone.run_command("shop", &find).await.map(drop) {
                    capture.see_error("alone", &error);
                }
                capture.see_debug("alone", &alone);
            }
            Err(error) => capture.see_error("alone", &error),
        }
    }
}
