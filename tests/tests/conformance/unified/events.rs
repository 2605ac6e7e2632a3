//! The events of a client, in the notation of the unified test format.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use mongo_core::event::{CmapEvent, CommandEvent, EventHandlers, SdamEvent};
use mongo_core::sdam::{ServerDescription, TopologyDescription};
use tokio::sync::Notify;

use super::case::Fields;
use super::matching::{Lookup, matches_exactly, matches_root};
use crate::Outcome;

/// Commands whose events are ignored, because they are sensitive.
const SENSITIVE: [&str; 9] = [
    "authenticate",
    "saslStart",
    "saslContinue",
    "getnonce",
    "createUser",
    "updateUser",
    "copydbgetnonce",
    "copydbsaslstart",
    "copydb",
];

/// The kind of an event, by which a test lists its expectations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Command,
    Cmap,
    Sdam,
}

/// An event: its name and the fields that tests compare.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) kind: Kind,
    pub(super) name: &'static str,
    pub(super) fields: Document,
}

/// The events of a client that a test observes, in order.
#[derive(Default)]
pub(super) struct Observed {
    events: Mutex<Vec<Event>>,
    arrived: Notify,
    names: Vec<String>,
    ignored_commands: Vec<String>,
    sees_sensitive: bool,
}

impl Observed {
    pub(super) fn new(
        names: Vec<String>,
        ignored_commands: Vec<String>,
        sees_sensitive: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            names,
            ignored_commands,
            sees_sensitive,
            ..Self::default()
        })
    }

    /// The handlers of command and pool events.
    pub(super) fn handlers(self: &Arc<Self>) -> EventHandlers {
        let (commands, pools) = (Arc::clone(self), Arc::clone(self));
        EventHandlers::new()
            .on_command(move |event| commands.add_command(event))
            .on_cmap(move |event| pools.add(cmap(event)))
    }

    /// Records an event of the topology.
    pub(super) fn add_sdam(&self, event: &SdamEvent) {
        self.add(sdam(event));
    }

    fn add_command(&self, event: &CommandEvent) {
        let name = event.command_name();
        let same = |one: &str| one.eq_ignore_ascii_case(name);
        let is_ignored = same("configureFailPoint")
            || self.ignored_commands.iter().any(|one| same(one))
            || !self.sees_sensitive
                && (SENSITIVE.iter().any(|one| same(one)) || is_redacted(event));
        if !is_ignored {
            self.add(command(event));
        }
    }

    fn add(&self, event: Option<Event>) {
        let Some(event) = event else { return };
        if self.names.iter().any(|name| name == event.name) {
            self.lock().push(event);
            self.arrived.notify_waiters();
        }
    }

    pub(super) fn so_far(&self) -> Vec<Event> {
        self.lock().clone()
    }

    /// The session ids of the last two commands.
    pub(super) fn last_lsids(&self) -> Result<[Bson; 2], String> {
        let events = self.so_far();
        let commands = events
            .iter()
            .rev()
            .filter(|one| one.name == "commandStartedEvent");
        let lsids = commands.filter_map(|one| one.fields.get_document("command").ok());
        let lsids: Vec<Bson> = lsids
            .take(2)
            .map(|command| command.get("lsid").cloned().unwrap_or(Bson::Null))
            .collect();
        let lsids: Result<[Bson; 2], _> = lsids.try_into();
        lsids.map_err(|_| "there are no two commands".to_owned())
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// Whether the test observes any event.
    pub(super) fn is_watching(&self) -> bool {
        !self.names.is_empty()
    }

    /// How many events match an expectation of the form `{name: fields}`.
    pub(super) fn count(&self, expected: &Document, lookup: &dyn Lookup) -> Result<usize, String> {
        // A malformed expectation is an error, not a mismatch.
        check_form(expected)?;
        let events = self.so_far();
        let fits = |event: &&Event| fit(expected, event, "event", lookup).is_ok();
        Ok(events.iter().filter(fits).count())
    }

    /// Waits until so many events match an expectation.
    pub(super) async fn wait_for(
        &self,
        expected: &Document,
        count: usize,
        lookup: &dyn Lookup,
    ) -> Outcome {
        loop {
            let mut arrived = std::pin::pin!(self.arrived.notified());
            // Enabled before the check, so that no event between the two is missed.
            arrived.as_mut().enable();
            if self.count(expected, lookup)? >= count {
                return Ok(());
            }
            arrived.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compares all events of a kind with those that a test expects, in order.
pub(super) fn compare(
    found: &[Event],
    kind: Kind,
    expected: &[Bson],
    ignores_extra: bool,
    lookup: &dyn Lookup,
) -> Outcome {
    let found: Vec<&Event> = found.iter().filter(|event| event.kind == kind).collect();
    let shown = || {
        let shown = found.iter().map(|event| match kind {
            Kind::Command => format!("{} {}", event.name, event.fields),
            Kind::Cmap | Kind::Sdam => event.name.to_owned(),
        });
        shown.collect::<Vec<_>>()
    };
    for (index, expected) in expected.iter().enumerate() {
        let expected = expected.as_document().ok_or("an event is no document")?;
        let Some(event) = found.get(index) else {
            return Err(format!("no event {index} {expected}: {:#?}", shown()));
        };
        fit(expected, event, &format!("event {index}"), lookup)
            .map_err(|message| format!("{message}; all: {:#?}", shown()))?;
    }
    match ignores_extra || found.len() == expected.len() {
        true => Ok(()),
        false => Err(format!(
            "{} events, expected {}: {:#?}",
            found.len(),
            expected.len(),
            shown()
        )),
    }
}

fn check_form(expected: &Document) -> Result<(&str, Fields<'_>), String> {
    let (name, fields) = expected.iter().next().ok_or("an event without a name")?;
    let fields = fields.as_document().ok_or("an event without fields")?;
    let known: &[&str] = match name.as_str() {
        "commandStartedEvent" => &[
            "command",
            "commandName",
            "databaseName",
            "hasServiceId",
            "hasServerConnectionId",
        ],
        "commandSucceededEvent" => &[
            "reply",
            "commandName",
            "databaseName",
            "hasServiceId",
            "hasServerConnectionId",
        ],
        "commandFailedEvent" => &[
            "commandName",
            "databaseName",
            "hasServiceId",
            "hasServerConnectionId",
        ],
        "poolClearedEvent" => &["hasServiceId", "interruptInUseConnections"],
        "connectionClosedEvent" | "connectionCheckOutFailedEvent" => &["reason"],
        "poolCreatedEvent"
        | "poolReadyEvent"
        | "poolClosedEvent"
        | "connectionCreatedEvent"
        | "connectionReadyEvent"
        | "connectionCheckOutStartedEvent"
        | "connectionCheckedOutEvent"
        | "connectionCheckedInEvent"
        | "topologyOpeningEvent"
        | "topologyClosedEvent" => &[],
        "serverDescriptionChangedEvent" | "topologyDescriptionChangedEvent" => {
            &["previousDescription", "newDescription"]
        }
        "serverHeartbeatStartedEvent"
        | "serverHeartbeatSucceededEvent"
        | "serverHeartbeatFailedEvent" => &["awaited"],
        _ => return Err(format!("the runner does not know {name}")),
    };
    if expected.len() != 1 {
        return Err(format!("an event with more than one name: {expected}"));
    }
    Ok((name, Fields::new(fields, name, known)?))
}

fn fit(expected: &Document, found: &Event, at: &str, lookup: &dyn Lookup) -> Outcome {
    let (name, fields) = check_form(expected)?;
    crate::equal(at, found.name, name)?;
    for (key, value) in fields.iter() {
        let at = format!("{at}, {name}.{key}");
        let own = found.fields.get(key);
        match key.as_str() {
            "command" | "reply" => matches_root(value, own, &at, lookup)?,
            "previousDescription" | "newDescription" => matches_root(value, own, &at, lookup)?,
            "hasServiceId" | "hasServerConnectionId" => {
                let has = own.is_some();
                crate::equal(&at, Some(has), value.as_bool())?;
            }
            _ => matches_exactly(value, own, &at, lookup)?,
        }
    }
    Ok(())
}

fn command(event: &CommandEvent) -> Option<Event> {
    let (name, ids, database, more) = match event {
        CommandEvent::Started(event) => (
            "commandStartedEvent",
            (event.service_id, event.server_connection_id),
            &event.database_name,
            doc! { "command": Document::try_from(&*event.command).ok()? },
        ),
        CommandEvent::Succeeded(event) => (
            "commandSucceededEvent",
            (event.service_id, event.server_connection_id),
            &event.database_name,
            doc! { "reply": Document::try_from(&*event.reply).ok()? },
        ),
        CommandEvent::Failed(event) => (
            "commandFailedEvent",
            (event.service_id, event.server_connection_id),
            &event.database_name,
            doc! {},
        ),
        _ => return None,
    };
    let mut fields = doc! { "commandName": event.command_name(), "databaseName": &**database };
    fields.extend(more);
    service(&mut fields, ids.0);
    if ids.1.is_some_and(|id| id > 0) {
        fields.insert("hasServerConnectionId", true);
    }
    Some(Event {
        kind: Kind::Command,
        name,
        fields,
    })
}

/// Whether an event is of a hello that authenticates, which is sensitive.
fn is_redacted(event: &CommandEvent) -> bool {
    let body = match event {
        CommandEvent::Started(event) => &event.command,
        CommandEvent::Succeeded(event) => &event.reply,
        _ => return false,
    };
    let name = event.command_name();
    (name.eq_ignore_ascii_case("hello") || name.eq_ignore_ascii_case("ismaster"))
        && body.iter_elements().next().is_none()
}

/// Notes whether an event has a service id.
fn service(fields: &mut Document, id: Option<ObjectId>) {
    if id.is_some_and(|id| id.bytes() != [0; 12]) {
        fields.insert("hasServiceId", true);
    }
}

fn cmap(event: &CmapEvent) -> Option<Event> {
    let mut fields = Document::new();
    let name = match event {
        CmapEvent::PoolCreated(_) => "poolCreatedEvent",
        CmapEvent::PoolReady(_) => "poolReadyEvent",
        CmapEvent::PoolCleared(event) => {
            service(&mut fields, event.service_id);
            let interrupts = event.interrupt_in_use_connections;
            fields.insert("interruptInUseConnections", interrupts);
            "poolClearedEvent"
        }
        CmapEvent::PoolClosed(_) => "poolClosedEvent",
        CmapEvent::ConnectionCreated(_) => "connectionCreatedEvent",
        CmapEvent::ConnectionReady(_) => "connectionReadyEvent",
        CmapEvent::ConnectionClosed(event) => {
            fields.insert("reason", event.reason.to_string());
            "connectionClosedEvent"
        }
        CmapEvent::ConnectionCheckOutStarted(_) => "connectionCheckOutStartedEvent",
        CmapEvent::ConnectionCheckOutFailed(event) => {
            fields.insert("reason", event.reason.to_string());
            "connectionCheckOutFailedEvent"
        }
        CmapEvent::ConnectionCheckedOut(_) => "connectionCheckedOutEvent",
        CmapEvent::ConnectionCheckedIn(_) => "connectionCheckedInEvent",
        _ => return None,
    };
    Some(Event {
        kind: Kind::Cmap,
        name,
        fields,
    })
}

fn sdam(event: &SdamEvent) -> Option<Event> {
    let (name, fields) = match event {
        SdamEvent::TopologyOpening(_) => ("topologyOpeningEvent", doc! {}),
        SdamEvent::TopologyDescriptionChanged(event) => (
            "topologyDescriptionChangedEvent",
            changed(
                topology(&event.previous_description),
                topology(&event.new_description),
            ),
        ),
        SdamEvent::TopologyClosed(_) => ("topologyClosedEvent", doc! {}),
        SdamEvent::ServerDescriptionChanged(event) => (
            "serverDescriptionChangedEvent",
            changed(
                server(&event.previous_description),
                server(&event.new_description),
            ),
        ),
        SdamEvent::ServerHeartbeatStarted(event) => {
            let fields = doc! { "awaited": event.awaited };
            ("serverHeartbeatStartedEvent", fields)
        }
        SdamEvent::ServerHeartbeatSucceeded(event) => {
            let fields = doc! { "awaited": event.awaited };
            ("serverHeartbeatSucceededEvent", fields)
        }
        SdamEvent::ServerHeartbeatFailed(event) => {
            let fields = doc! { "awaited": event.awaited };
            ("serverHeartbeatFailedEvent", fields)
        }
        _ => return None,
    };
    Some(Event {
        kind: Kind::Sdam,
        name,
        fields,
    })
}

fn changed(previous: Document, new: Document) -> Document {
    doc! { "previousDescription": previous, "newDescription": new }
}

fn topology(description: &TopologyDescription) -> Document {
    doc! { "type": description.topology_type().to_string() }
}

fn server(description: &ServerDescription) -> Document {
    doc! { "type": description.server_type.to_string() }
}
