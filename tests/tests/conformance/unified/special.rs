//! The operations of the test runner itself.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document, doc};
use mongo_core::ServerAddress;
use mongo_core::pools::{Backend, Session};
use mongo_core::sdam::TopologyDescription;
use tokio::time::{sleep, timeout};

use super::case::Fields;
use super::client::Client;
use super::entities::{Entity, millis};
use super::operation::{Play, perform as perform_operation};
use super::sessions::{self, Held, SessionEntity};
use super::threads::Thread;
use crate::Outcome;

/// How long `waitForEvent` waits.
const LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn perform<B: Backend<Config: Default>>(
    play: &Arc<Play<B>>,
    name: &str,
    arguments: &Document,
    held: Option<Held<'_, B>>,
) -> Outcome {
    let known: &[&str] = match name {
        "createEntities" => &["entities"],
        "failPoint" => &["client", "failPoint"],
        "waitForEvent" | "assertEventCount" => &["client", "event", "count"],
        "assertNumberConnectionsCheckedOut" => &["client", "connections"],
        "runOnThread" => &["thread", "operation"],
        "waitForThread" => &["thread"],
        "wait" => &["ms"],
        "targetedFailPoint" => &["session", "failPoint"],
        "assertSessionTransactionState" => &["session", "state"],
        "assertSessionPinned"
        | "assertSessionUnpinned"
        | "assertSessionDirty"
        | "assertSessionNotDirty" => &["session"],
        "assertSameLsidOnLastTwoCommands" | "assertDifferentLsidOnLastTwoCommands" => &["client"],
        "recordTopologyDescription" => &["client", "id"],
        "assertTopologyType" => &["topologyDescription", "topologyType"],
        "waitForPrimaryChange" => &["client", "priorTopologyDescription", "timeoutMS"],
        "assertCollectionExists" | "assertCollectionNotExists" => {
            &["databaseName", "collectionName"]
        }
        "assertIndexExists" | "assertIndexNotExists" => {
            &["databaseName", "collectionName", "indexName"]
        }
        _ => return Err("the runner has no such operation".to_owned()),
    };
    let arguments = Fields::new(arguments, name, known)?;
    match name {
        "createEntities" => {
            for entity in arguments.list("entities")? {
                let entity = entity.as_document().ok_or("an entity is no document")?;
                create(play, entity).await?;
            }
            Ok(())
        }
        "failPoint" => fail_point(play, &arguments).await,
        "waitForEvent" | "assertEventCount" => events(play, name, &arguments).await,
        "assertNumberConnectionsCheckedOut" => {
            let client = play.entities.client(arguments.text("client")?)?;
            let expected = arguments.number("connections")?.ok_or("no number")?;
            let found = i64::try_from(client.checked_out()).unwrap_or(i64::MAX);
            crate::equal("connections", found, expected)
        }
        "runOnThread" => {
            let operation = arguments.document("operation")?.ok_or("no operation")?;
            let work = perform_operation(Arc::clone(play), operation.clone());
            play.entities.thread(arguments.text("thread")?)?.run(work)
        }
        "waitForThread" => {
            play.entities
                .thread(arguments.text("thread")?)?
                .join()
                .await
        }
        "assertSameLsidOnLastTwoCommands" | "assertDifferentLsidOnLastTwoCommands" => {
            let client = play.entities.client(arguments.text("client")?)?;
            let [last, former] = client.observed.last_lsids()?;
            crate::equal("the same lsid", last == former, name.contains("Same"))
        }
        _ if arguments.get("session").is_some() => on_session(play, name, &arguments, held).await,
        "wait" => {
            sleep(millis(arguments.number("ms")?.ok_or("no time")?)).await;
            Ok(())
        }
        "recordTopologyDescription" => {
            let client = play.entities.client(arguments.text("client")?)?;
            let description = client.pools.topology().description();
            let entity = Entity::Description(description);
            play.entities.add(arguments.text("id")?, entity)
        }
        "assertTopologyType" => {
            let name = arguments.text("topologyDescription")?;
            let found = play.entities.description(name)?.topology_type().to_string();
            crate::equal("type", &*found, arguments.text("topologyType")?)
        }
        "waitForPrimaryChange" => primary_change(play, &arguments).await,
        _ => exists(play, name, &arguments).await,
    }
}

/// Creates an entity.
pub(super) async fn create<B: Backend<Config: Default>>(
    play: &Arc<Play<B>>,
    entity: &Document,
) -> Outcome {
    let (kind, what) = entity.iter().next().ok_or("an empty entity")?;
    let what = what.as_document().ok_or("an entity without fields")?;
    let created = match kind.as_str() {
        "client" => {
            let client = Client::new(what, &play.stage).await?;
            Entity::Client(Arc::new(client))
        }
        "database" | "collection" => return play.entities.add_target(kind, what),
        "session" => {
            let fields = Fields::new(what, kind, &["id", "client", "sessionOptions"])?;
            let client = play.entities.client(fields.text("client")?)?;
            let options = sessions::options(fields.document("sessionOptions")?, play)?;
            Entity::Session(Arc::new(SessionEntity::start(&client, options)?))
        }
        "thread" => {
            Fields::new(what, kind, &["id"])?;
            Entity::Thread(Rc::new(Thread::start()))
        }
        _ => return Err(format!("the runner makes no {kind}")),
    };
    let id = what.get_str("id").map_err(|_| "an entity without id")?;
    play.entities.add(id, created)
}

/// Sets a fail point through a client, unless the case observes nothing of that client.
async fn fail_point<B: Backend<Config: Default>>(
    play: &Arc<Play<B>>,
    arguments: &Fields<'_>,
) -> Outcome {
    let client = play.entities.client(arguments.text("client")?)?;
    let command = arguments.document("failPoint")?.ok_or("no fail point")?;
    if !client.observed.is_watching() && play.stage.set_fail_point(command) {
        return Ok(());
    }
    let told = |error: mongo_core::Error| error.to_string();
    let mut connection = client.pools.get().await.map_err(told)?;
    let set = connection.run_command("admin", command).await;
    set.map(drop).map_err(told)
}

/// Looks at a session, or sets a fail point on the mongos that it is pinned to.
async fn on_session<B: Backend<Config: Default>>(
    play: &Arc<Play<B>>,
    name: &str,
    arguments: &Fields<'_>,
    held: Option<Held<'_, B>>,
) -> Outcome {
    let session_name = arguments.text("session")?;
    let entity;
    let slot;
    let session: &Session<B> = match held {
        Some(held) if held.name == session_name => held.session,
        _ => {
            entity = play.entities.session(session_name)?;
            slot = entity.session.lock().await;
            slot.as_ref().ok_or("the session has ended")?
        }
    };
    if name != "targetedFailPoint" {
        let state = arguments.get("state").and_then(Bson::as_str);
        return sessions::check(session, name, state);
    }
    let server = session.pinned_server().ok_or("the session is not pinned")?;
    let command = arguments.document("failPoint")?.ok_or("no fail point")?;
    play.stage.set_fail_point_at(server, command)
}

async fn events<B: Backend<Config: Default>>(
    play: &Arc<Play<B>>,
    name: &str,
    arguments: &Fields<'_>,
) -> Outcome {
    let client = play.entities.client(arguments.text("client")?)?;
    let event = arguments.document("event")?.ok_or("no event")?;
    let count = arguments.number("count")?.ok_or("no count")?;
    let count = usize::try_from(count).map_err(|_| "a negative count")?;
    if name == "assertEventCount" {
        let found = client.observed.count(event, &play.entities)?;
        return crate::equal(&event.to_string(), found, count);
    }
    let arrival = client.observed.wait_for(event, count, &play.entities);
    match timeout(LIMIT, arrival).await {
        Ok(arrived) => arrived,
        Err(_) => {
            let all: Vec<&str> = client
                .observed
                .so_far()
                .iter()
                .map(|one| one.name)
                .collect();
            Err(format!("{count} of {event} did not arrive: {all:?}"))
        }
    }
}

async fn primary_change<B: Backend<Config: Default>>(
    play: &Arc<Play<B>>,
    arguments: &Fields<'_>,
) -> Outcome {
    let client = play.entities.client(arguments.text("client")?)?;
    let prior = play
        .entities
        .description(arguments.text("priorTopologyDescription")?)?;
    let limit = arguments.number("timeoutMS")?.map_or(LIMIT, millis);
    let primary = |of: &TopologyDescription| -> Option<ServerAddress> {
        of.primary().map(|server| server.address.clone())
    };
    let prior = primary(&prior);
    let mut topology = client.pools.topology().subscribe();
    let changed = topology.wait_for(|now| {
        let now = primary(now);
        now.is_some() && now != prior
    });
    let changed: Result<_, _> = timeout(limit, changed).await;
    match changed {
        Ok(changed) => changed.map(drop).map_err(|error| error.to_string()),
        Err(_) => Err(format!("the primary is still {prior:?}")),
    }
}

/// Looks for a collection or an index, with a client of the runner's own.
async fn exists<B: Backend<Config: Default>>(
    play: &Arc<Play<B>>,
    name: &str,
    arguments: &Fields<'_>,
) -> Outcome {
    let database = arguments.text("databaseName")?;
    let collection = arguments.text("collectionName")?;
    let (command, wanted) = match name.contains("Index") {
        true => (
            doc! { "listIndexes": collection },
            arguments.text("indexName")?,
        ),
        false => (doc! { "listCollections": 1 }, collection),
    };
    let told = |error: mongo_core::Error| error.to_string();
    let client = Client::<B>::new(&doc! { "id": "runner" }, &play.stage).await?;
    let mut connection = client.pools.get().await.map_err(told)?;
    let listed = match connection.run_command(database, &command).await {
        Ok(reply) => reply.to_document().map_err(told)?,
        // There is no such collection.
        Err(error) if error.code() == Some(26) => Document::new(),
        Err(error) => return Err(told(error)),
    };
    drop(connection);
    client.pools.close().await;
    let cursor = listed.get_document("cursor");
    let all = cursor.and_then(|cursor| cursor.get_array("firstBatch"));
    let is_it = |one: &Bson| {
        let one = one.as_document();
        one.is_some_and(|one| one.get_str("name").ok() == Some(wanted))
    };
    let exists = all.is_ok_and(|all| all.iter().any(is_it));
    crate::equal(wanted, exists, !name.contains("Not"))
}
