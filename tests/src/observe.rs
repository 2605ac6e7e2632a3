//! Records of what a scripted server has received.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bson::{Bson, Document};
use tokio::sync::Notify;

use crate::codec::{Form, Request};
use crate::compression::Compressor;

/// The limit of [`wait_for`](crate::ScriptedServer::wait_for), by tokio's clock.
pub const WAIT_LIMIT: Duration = Duration::from_secs(20);
/// The log and the list of closed connections keep this many entries. Counters have no limit.
pub const KEPT_ENTRIES: usize = 10_000;

/// A command that a server has received.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SeenCommand {
    /// Its name as the client wrote it.
    pub name: String,
    /// Its database.
    pub database: String,
    /// The number of the connection that it came on, from 1.
    pub connection: u64,
    /// The message's request id.
    pub request_id: i32,
    /// Whether it came as a legacy OP_QUERY.
    pub legacy: bool,
    /// How its message was compressed.
    pub compressor: Option<Compressor>,
    /// The whole command.
    pub command: Document,
}

impl SeenCommand {
    pub(crate) fn of(connection: u64, request: &Request) -> Self {
        Self {
            name: request.name().to_owned(),
            database: request.database.clone(),
            connection,
            request_id: request.request_id,
            legacy: request.form == Form::Query,
            compressor: request.compressor,
            command: request.command.clone(),
        }
    }
}

/// A connection that a server has accepted.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SeenConnection {
    /// Whether the server still has it open. It turns false as soon as the server has read the
    /// client's close.
    pub open: bool,
    /// The client metadata of its first hello.
    pub client: Option<Document>,
    /// How many commands it has carried.
    pub commands: u64,
    /// The authenticated user, as `database.name`.
    pub user: Option<String>,
    /// Whether its TLS handshake resumed an earlier session.
    pub resumed: bool,
    /// Why its TLS handshake failed.
    pub tls_failure: Option<String>,
    /// All received bytes, if the server records them.
    pub received: Vec<u8>,
}

/// Everything that a server has seen so far.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Seen {
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Connections that are open now.
    pub open: u64,
    /// The most connections that were open at a time.
    pub most_open: u64,
    /// Connections by number. Only the newest [`KEPT_ENTRIES`] closed ones are kept.
    pub connections: BTreeMap<u64, SeenConnection>,
    /// Commands counted by name, in the client's spelling.
    pub counts: BTreeMap<String, u64>,
    /// The newest [`KEPT_ENTRIES`] commands, in the order of arrival.
    pub log: VecDeque<SeenCommand>,
    /// The newest [`KEPT_ENTRIES`] writes that were refused because the server was not the primary.
    pub refused_writes: VecDeque<SeenCommand>,
    /// The errors of malformed messages. Each ended its connection.
    pub protocol_errors: Vec<String>,
}

impl Seen {
    /// How many commands of this name were received, ignoring ASCII case.
    pub fn count(&self, name: &str) -> u64 {
        let fits = |key: &str| key.eq_ignore_ascii_case(name);
        self.counts
            .iter()
            .filter(|(key, _)| fits(key))
            .map(|(_, count)| count)
            .sum()
    }

    /// How many hellos were received, including legacy names.
    pub fn hellos(&self) -> u64 {
        self.count("hello") + self.count("ismaster")
    }

    /// The commands of this name in the log, ignoring ASCII case.
    pub fn commands<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a SeenCommand> {
        self.log
            .iter()
            .filter(move |seen| seen.name.eq_ignore_ascii_case(name))
    }

    /// The names of the commands on one connection, in the order of arrival.
    pub fn names_on(&self, connection: u64) -> Vec<&str> {
        let on = self.log.iter().filter(|seen| seen.connection == connection);
        on.map(|seen| seen.name.as_str()).collect()
    }

    fn forget_old_connections(&mut self) {
        let open = usize::try_from(self.open).unwrap_or(usize::MAX);
        if self.connections.len() > open.saturating_add(KEPT_ENTRIES) {
            let oldest = self
                .connections
                .iter()
                .find(|(_, seen)| !seen.open)
                .map(|(&n, _)| n);
            if let Some(number) = oldest {
                self.connections.remove(&number);
            }
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Observer {
    seen: Mutex<Seen>,
    changed: Notify,
}

impl Observer {
    pub(crate) fn look<R>(&self, look: impl FnOnce(&Seen) -> R) -> R {
        look(&self.lock())
    }

    pub(crate) async fn wait_for(&self, what: &str, condition: impl Fn(&Seen) -> bool) {
        let wait = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                // Enabled before the check, so that no change between the two is missed.
                changed.as_mut().enable();
                if self.look(&condition) {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(WAIT_LIMIT, wait).await.is_err() {
            let seen = self.lock().clone();
            panic!("the server has not seen {what} within {WAIT_LIMIT:?}, but {seen:#?}");
        }
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.change(|seen| {
            seen.accepted += 1;
            seen.open += 1;
            seen.most_open = seen.most_open.max(seen.open);
            let connection = SeenConnection {
                open: true,
                ..SeenConnection::default()
            };
            seen.connections.insert(seen.accepted, connection);
            seen.accepted
        })
    }

    pub(crate) fn closed(&self, connection: u64) {
        self.change(|seen| {
            seen.open = seen.open.saturating_sub(1);
            if let Some(entry) = seen.connections.get_mut(&connection) {
                entry.open = false;
            }
            seen.forget_old_connections();
        });
    }

    pub(crate) fn command(&self, command: SeenCommand) {
        self.change(|seen| {
            match seen.counts.get_mut(&command.name) {
                Some(count) => *count += 1,
                None => {
                    seen.counts.insert(command.name.clone(), 1);
                }
            }
            if let Some(entry) = seen.connections.get_mut(&command.connection) {
                entry.commands += 1;
                if let (None, Some(Bson::Document(client))) =
                    (&entry.client, command.command.get("client"))
                {
                    entry.client = Some(client.clone());
                }
            }
            keep(&mut seen.log, command);
        });
    }

    pub(crate) fn refused_write(&self, command: SeenCommand) {
        self.change(|seen| keep(&mut seen.refused_writes, command));
    }

    pub(crate) fn authenticated(&self, connection: u64, user: &str) {
        self.change(|seen| {
            if let Some(entry) = seen.connections.get_mut(&connection) {
                entry.user = Some(user.to_owned());
            }
        });
    }

    pub(crate) fn resumed(&self, connection: u64) {
        self.change(|seen| {
            if let Some(entry) = seen.connections.get_mut(&connection) {
                entry.resumed = true;
            }
        });
    }

    pub(crate) fn tls_failed(&self, connection: u64, error: &dyn std::fmt::Display) {
        self.change(|seen| {
            if let Some(entry) = seen.connections.get_mut(&connection) {
                entry.tls_failure = Some(error.to_string());
            }
        });
    }

    pub(crate) fn received(&self, connection: u64, bytes: &[u8]) {
        self.change(|seen| {
            if let Some(entry) = seen.connections.get_mut(&connection) {
                entry.received.extend_from_slice(bytes);
            }
        });
    }

    pub(crate) fn protocol_error(&self, connection: u64, error: &dyn std::fmt::Display) {
        self.change(|seen| {
            if seen.protocol_errors.len() < KEPT_ENTRIES {
                seen.protocol_errors
                    .push(format!("connection {connection}: {error}"));
            }
        });
    }

    fn change<R>(&self, change: impl FnOnce(&mut Seen) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_waiters();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep(log: &mut VecDeque<SeenCommand>, command: SeenCommand) {
    if log.len() == KEPT_ENTRIES {
        log.pop_front();
    }
    log.push_back(command);
}
