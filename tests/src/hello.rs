//! A server's reply to hello, and its checks of the client's hello.

use std::time::Duration;

use bson::{Bson, DateTime, Document, doc};

use crate::action::ErrorReply;
use crate::codec::Request;
use crate::commands::{Outcome, Session};
use crate::compression::Compressor;
use crate::deployment::{KnownVersion, MAX_WIRE_VERSION, Seat};
use crate::script::is_hello;
use crate::server::Shared;
use crate::statement::size;

/// Longer client metadata is refused, as real servers do.
const MAX_METADATA_LENGTH: usize = 512;
/// From this wire version on (MongoDB 4.4) hellos are awaitable.
const STREAMING_WIRE_VERSION: i32 = 9;

impl Shared {
    pub(crate) fn hello(&self, session: &mut Session, name: &str, command: &Document) -> Outcome {
        self.check_hello(session, command)?;
        let mut reply = self.role(name, command);
        reply.extend(doc! {
            "maxBsonObjectSize": 16 * 1024 * 1024,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "connectionId": i32::try_from(session.connection).unwrap_or(i32::MAX),
            "readOnly": false,
        });
        if self.seat.as_ref().is_none_or(Seat::has_sessions) {
            reply.insert("logicalSessionTimeoutMinutes", 30);
        }
        if command.get_bool("helloOk").is_ok_and(|wanted| wanted) {
            reply.insert("helloOk", true);
        }
        self.offer_compressors(session, command, &mut reply);
        if let Ok(wanted) = command.get_str("saslSupportedMechs") {
            let fits = |user: &&crate::User| format!("{}.{}", user.database, user.name) == wanted;
            if let Some(user) = self.users.iter().find(fits) {
                reply.insert("saslSupportedMechs", user.mechanism_names());
            }
        }
        if let Ok(start) = command.get_document("speculativeAuthenticate") {
            let database = start.get_str("db").unwrap_or("admin");
            let first = match start.contains_key("authenticate") {
                true => self.authenticate(session, database, start),
                false => self.sasl_start(session, database, start),
            };
            // A failed speculative authentication is omitted from the reply.
            if let Ok(mut first) = first {
                first.remove("ok");
                reply.insert("speculativeAuthenticate", first);
            }
        }
        Ok(reply)
    }

    pub(crate) fn offer_compressors(
        &self,
        session: &mut Session,
        command: &Document,
        reply: &mut Document,
    ) {
        if let Ok(offered) = command.get_array("compression") {
            let both = self.both(offered);
            if !both.is_empty() {
                let names = both.iter().map(|both| both.name());
                reply.insert("compression", names.collect::<Vec<_>>());
            }
            session.compressors = both;
        }
    }

    /// The client's compressors that the server supports, in the client's order.
    fn both(&self, offered: &[Bson]) -> Vec<Compressor> {
        offered
            .iter()
            .filter_map(|name| {
                let has = |own: &&Compressor| name.as_str() == Some(own.name());
                self.compressors.iter().find(has).copied()
            })
            .collect()
    }

    pub(crate) fn check_hello(
        &self,
        session: &mut Session,
        command: &Document,
    ) -> Result<(), ErrorReply> {
        check_metadata(session, command)?;
        self.check_awaitable(command)
    }

    /// The server's role, version and time in a hello reply.
    pub(crate) fn role(&self, name: &str, command: &Document) -> Document {
        let wants_service = command.get_bool("loadBalanced").unwrap_or(false);
        let (mut reply, now, versions) = match &self.seat {
            Some(seat) => (seat.hello(wants_service), seat.now(), seat.wire_versions()),
            None => (
                doc! {"isWritablePrimary": true},
                DateTime::now(),
                (0, MAX_WIRE_VERSION),
            ),
        };
        if name != "hello"
            && let Some(is_primary) = reply.remove("isWritablePrimary")
        {
            reply.insert("ismaster", is_primary);
        }
        if versions.1 < STREAMING_WIRE_VERSION {
            reply.remove("topologyVersion");
        }
        reply.extend(doc! {
            "localTime": now,
            "minWireVersion": versions.0,
            "maxWireVersion": versions.1,
        });
        reply
    }

    /// Checks that an awaitable hello has both fields.
    fn check_awaitable(&self, command: &Document) -> Result<(), ErrorReply> {
        let has_version = command.contains_key("topologyVersion");
        let has_time = command.contains_key("maxAwaitTimeMS");
        if !has_version && !has_time {
            return Ok(());
        }
        let message = if !self.streams() {
            "this server has no topologyVersion to wait for"
        } else if !has_version || !has_time {
            "topologyVersion and maxAwaitTimeMS need each other"
        } else if KnownVersion::of(command).is_none() {
            "topologyVersion is malformed"
        } else {
            return Ok(());
        };
        Err(ErrorReply::new(72, "InvalidOptions", message))
    }

    fn streams(&self) -> bool {
        let seat = self.seat.as_ref();
        seat.is_some_and(|seat| seat.wire_versions().1 >= STREAMING_WIRE_VERSION)
    }

    /// The topology version that an awaitable hello knows, and how long it waits; `None` if the
    /// request is answered at once.
    pub(crate) fn awaits(&self, request: &Request) -> Option<(&Seat, KnownVersion, Duration)> {
        let command = &request.command;
        if !is_hello(request.name()) || !self.streams() {
            return None;
        }
        let known = KnownVersion::of(command)?;
        let limit = u64::try_from(size(command, "maxAwaitTimeMS")?).ok()?;
        Some((self.seat.as_ref()?, known, Duration::from_millis(limit)))
    }
}

/// The application's name in a command's client metadata.
pub(crate) fn app_name(command: &Document) -> Option<&str> {
    let client = command.get_document("client").ok()?;
    client
        .get_document("application")
        .ok()?
        .get_str("name")
        .ok()
}

fn check_metadata(session: &mut Session, command: &Document) -> Result<(), ErrorReply> {
    let Ok(client) = command.get_document("client") else {
        return Ok(());
    };
    if session.has_metadata {
        let message = "The client metadata document may only be sent in the first hello";
        return Err(ErrorReply::new(
            186,
            "ClientMetadataCannotBeMutated",
            message,
        ));
    }
    if crate::codec::document_bytes(client).len() > MAX_METADATA_LENGTH {
        let message =
            format!("The client metadata document must be at most {MAX_METADATA_LENGTH} bytes");
        return Err(ErrorReply::new(
            188,
            "ClientMetadataDocumentTooLarge",
            &message,
        ));
    }
    session.has_metadata = true;
    session.app_name = app_name(command).map(str::to_owned);
    Ok(())
}
