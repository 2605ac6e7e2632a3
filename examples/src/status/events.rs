//! The recent events.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use mongo_core::event::{
    CmapEvent, CommandEvent, ConnectionClosedReason, EventHandlers, SdamEvent,
    ServerDescriptionChangedEvent, TopologyDescriptionChangedEvent,
};
use mongo_core::sdam::{SdamError, ServerType, TopologyDescription};
use mongo_core::{Error, ErrorKind, ServerAddress};
use serde::Serialize;

/// The default number of events that are kept.
const CAPACITY: usize = 200;
/// The most characters of a name or a message.
pub(super) const MAX_TEXT: usize = 300;
/// A failure is counted with the one before if that is no older, in milliseconds.
const MERGE_WITHIN: u64 = 60_000;

/// The events of topologies, pools and commands that an operator wants to see: changes, and
/// failures. Keeps the newest ones, 200 by default. A failure like one of the last minute is
/// counted with it, so that a failing server does not displace all others. Cheap to clone; clones
/// are the same events.
///
/// The handlers do not block: they take a lock for an event that is kept, and for no other. Events
/// of successful check-outs and commands are not kept.
#[derive(Clone, Debug)]
pub struct RecentEvents {
    capacity: usize,
    events: Arc<Mutex<VecDeque<RecentEvent>>>,
}

/// An event, or several failures that are alike. Its texts are bounded, and may come from the
/// network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecentEvent {
    /// When it happened, or last happened, in milliseconds since the Unix epoch.
    pub time: u64,
    /// When it first happened.
    pub first_time: u64,
    /// How often it happened.
    pub count: u64,
    /// Whether it is good news.
    pub level: Level,
    /// Its kind, such as `pool cleared`.
    pub kind: &'static str,
    /// The server; `None` for events of a topology.
    pub server: Option<String>,
    /// The user of the credential of a pool or a command.
    pub user: Option<String>,
    /// The details.
    pub text: String,
}

/// What an event means for the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Level {
    /// A server or a pool is available again.
    Good,
    /// A change.
    Info,
    /// A failure. Like ones are counted together.
    Warning,
    /// A server or a pool is not available any more.
    Bad,
}

impl RecentEvents {
    /// Keeps the newest events, this many.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            events: Arc::default(),
        }
    }

    /// Adds the handlers for commands, pools and connections to others.
    #[must_use]
    pub fn handlers(&self, others: EventHandlers) -> EventHandlers {
        let (commands, pools) = (self.clone(), self.clone());
        others
            .on_command(move |event| commands.command(event))
            .on_cmap(move |event| pools.cmap(event))
    }

    /// The handler for topologies, for `on_sdam` of the builder of pools.
    pub fn sdam_handler(&self) -> impl Fn(&SdamEvent) + Send + Sync + use<> {
        let events = self.clone();
        move |event| events.sdam(event)
    }

    /// Records an event of a command: a failure.
    pub fn command(&self, event: &CommandEvent) {
        if let CommandEvent::Failed(event) = event {
            let server = Some(&event.address);
            let user = event.user.as_deref();
            let text = format!("{}: {}", event.command_name, shown(&event.failure));
            self.push(Level::Warning, "command failed", server, user, &text);
        }
    }

    /// Records an event of a pool or a connection.
    pub fn cmap(&self, event: &CmapEvent) {
        let (level, kind, text) = match event {
            CmapEvent::PoolCreated(_) => (Level::Info, "pool created", String::new()),
            CmapEvent::PoolReady(_) => (Level::Good, "pool ready", String::new()),
            CmapEvent::PoolCleared(event) => (Level::Bad, "pool cleared", text(&event.error)),
            CmapEvent::PoolClosed(_) => (Level::Info, "pool closed", String::new()),
            CmapEvent::ConnectionClosed(event) => match event.reason {
                ConnectionClosedReason::Error => {
                    (Level::Warning, "connection failed", text(&event.error))
                }
                _ => return,
            },
            CmapEvent::ConnectionCheckOutFailed(event) => {
                let text = match &event.error {
                    Some(error) => shown(error),
                    None => "the caller dropped it".to_owned(),
                };
                (Level::Warning, "check-out failed", text)
            }
            _ => return,
        };
        let user = event.user().map(|user| &**user);
        self.push(level, kind, Some(event.address()), user, &text);
    }

    /// Records an event of a topology.
    pub fn sdam(&self, event: &SdamEvent) {
        let (level, kind, text) = match event {
            SdamEvent::TopologyOpening(_) => (Level::Info, "monitoring begins", String::new()),
            SdamEvent::TopologyClosed(_) => (Level::Info, "monitoring ends", String::new()),
            SdamEvent::ServerOpening(_) => (Level::Info, "server added", String::new()),
            SdamEvent::ServerClosed(_) => (Level::Info, "server removed", String::new()),
            SdamEvent::TopologyDescriptionChanged(event) => match topology_change(event) {
                Some((level, text)) => (level, "topology", text),
                None => return,
            },
            SdamEvent::ServerDescriptionChanged(event) => match server_change(event) {
                Some((level, text)) => (level, "server", text),
                None => return,
            },
            SdamEvent::ServerHeartbeatFailed(event) => {
                (Level::Warning, "heartbeat failed", shown(&event.failure))
            }
            _ => return,
        };
        self.push(level, kind, event.address(), None, &text);
    }

    fn push(
        &self,
        level: Level,
        kind: &'static str,
        server: Option<&ServerAddress>,
        user: Option<&str>,
        text: &str,
    ) {
        let time = now();
        self.add(RecentEvent {
            time,
            first_time: time,
            count: 1,
            level,
            kind,
            server: server.map(bounded),
            user: user.map(bounded),
            text: bounded(text),
        });
    }

    pub(super) fn add(&self, mut event: RecentEvent) {
        let mut events = self.lock();
        let alike = match event.level {
            Level::Warning => events.iter().rposition(|former| former.is_like(&event)),
            Level::Good | Level::Info | Level::Bad => None,
        };
        if let Some(former) = alike.and_then(|place| events.remove(place)) {
            event.first_time = former.first_time;
            event.count += former.count;
        }
        events.push_back(event);
        if events.len() > self.capacity {
            events.pop_front();
        }
    }

    /// The events that are kept, the newest first.
    pub fn newest_first(&self) -> Vec<RecentEvent> {
        self.lock().iter().rev().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<RecentEvent>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for RecentEvents {
    fn default() -> Self {
        Self::new(CAPACITY)
    }
}

impl RecentEvent {
    /// Whether a later failure can be counted with this one. Numbers in the messages may differ.
    fn is_like(&self, later: &Self) -> bool {
        fn without_numbers(text: &str) -> impl Iterator<Item = char> + '_ {
            text.chars()
                .filter(|character| !character.is_ascii_digit() && *character != '.')
        }
        later.time.saturating_sub(self.time) <= MERGE_WITHIN
            && (self.kind, &self.server, &self.user) == (later.kind, &later.server, &later.user)
            && without_numbers(&self.text).eq(without_numbers(&later.text))
    }
}

/// An error without what a server said about a failed command, which may quote a document.
fn shown(error: &Error) -> String {
    let kind = match error.kind() {
        ErrorKind::Command(error) => format!("{} (code {})", error.code_name, error.code),
        ErrorKind::OnConnect(own) => match own.downcast_ref() {
            Some(own) => format!("on_connect: {}", shown(own)),
            None => error.kind().to_string(),
        },
        kind => kind.to_string(),
    };
    match error.cause() {
        Some(cause) => format!("{kind}; last failure: {}", shown(cause)),
        None => kind,
    }
}

/// Why a server is unknown, like [`shown`].
pub(super) fn shown_of_server(error: &SdamError) -> String {
    match error {
        SdamError::Failed(error) => shown(error),
        other => other.to_string(),
    }
}

/// The change of a topology's type or primary.
fn topology_change(event: &TopologyDescriptionChangedEvent) -> Option<(Level, String)> {
    let (old, new) = (&event.previous_description, &event.new_description);
    let primary = |known: &TopologyDescription| match known.primary() {
        Some(server) => server.address.to_string(),
        None => "none".to_owned(),
    };
    let (from, to) = (primary(old), primary(new));
    let is_other_type = old.topology_type() != new.topology_type();
    if !is_other_type && from == to {
        return None;
    }
    let mut changes = Vec::new();
    if is_other_type {
        changes.push(format!(
            "{} \u{2192} {}",
            old.topology_type(),
            new.topology_type()
        ));
    }
    if from != to {
        changes.push(format!("primary: {from} \u{2192} {to}"));
    }
    let level = match (old.primary(), new.primary()) {
        (Some(_), None) => Level::Bad,
        (_, Some(_)) => Level::Good,
        (None, None) => Level::Info,
    };
    Some((level, changes.join(", ")))
}

/// The change of a server's type.
fn server_change(event: &ServerDescriptionChangedEvent) -> Option<(Level, String)> {
    let (old, new) = (&event.previous_description, &event.new_description);
    if old.server_type == new.server_type {
        return None;
    }
    let level = match (old.server_type, new.server_type) {
        (_, ServerType::Unknown) => Level::Bad,
        (ServerType::Unknown, _) | (_, ServerType::RsPrimary) => Level::Good,
        _ => Level::Info,
    };
    let mut text = format!("{} \u{2192} {}", old.server_type, new.server_type);
    if let Some(error) = &new.error {
        text += &format!(": {}", shown_of_server(error));
    }
    Some((level, text))
}

fn text(error: &Option<Error>) -> String {
    error.as_ref().map(shown).unwrap_or_default()
}

/// The beginning of a text, without control characters, and without those that change the direction
/// of other text.
pub(super) fn bounded(text: impl Display) -> String {
    let text = text.to_string();
    let mut characters = text.chars();
    let shown = characters.by_ref().take(MAX_TEXT);
    let mut shown: String = shown
        .map(|character| match character {
            '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            control if control.is_control() => '\u{fffd}',
            other => other,
        })
        .collect();
    if characters.next().is_some() {
        shown.push('\u{2026}');
    }
    shown
}

/// The time, in milliseconds since the Unix epoch.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
