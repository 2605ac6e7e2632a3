//! What a scripted server does with a command.

use bson::{Bson, DateTime, Document, doc};

use crate::action::ErrorReply;
use crate::codec::Request;
use crate::scram::Conversation;
use crate::script::{Event, is_hello};
use crate::server::Shared;

/// The newest wire version that the server claims (MongoDB 8.0).
const MAX_WIRE_VERSION: i32 = 25;
/// Longer client metadata is refused, as real servers do.
const MAX_METADATA_LENGTH: usize = 512;

/// Commands that need no authentication, in lower case.
const OPEN_COMMANDS: [&str; 8] = [
    "hello",
    "ismaster",
    "ping",
    "buildinfo",
    "saslstart",
    "saslcontinue",
    "logout",
    "connectionstatus",
];

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct Session {
    connection: u64,
    conversation: Option<Conversation>,
    user: Option<String>,
    has_metadata: bool,
}

impl Session {
    pub(crate) fn new(connection: u64) -> Self {
        Self {
            connection,
            conversation: None,
            user: None,
            has_metadata: false,
        }
    }
}

pub(crate) type Outcome = Result<Document, ErrorReply>;

impl Shared {
    /// Carries a command out. The reply is complete, `ok` included.
    pub(crate) fn run(&self, session: &mut Session, request: &Request) -> Document {
        let outcome = self.authorize(session, request.name()).and_then(|()| {
            let name = request.name().to_ascii_lowercase();
            self.dispatch(session, &name, request)
        });
        match outcome {
            Ok(mut reply) => {
                // Servers put it last.
                if !reply.contains_key("ok") {
                    reply.insert("ok", 1.0);
                }
                reply
            }
            Err(error) => error.into_document(),
        }
    }

    fn authorize(&self, session: &Session, name: &str) -> Result<(), ErrorReply> {
        let is_open = OPEN_COMMANDS
            .iter()
            .any(|open| open.eq_ignore_ascii_case(name));
        if self.users.is_empty() || session.user.is_some() || is_open {
            return Ok(());
        }
        let message = format!("Command {name} requires authentication");
        Err(ErrorReply::new(13, "Unauthorized", &message))
    }

    fn dispatch(&self, session: &mut Session, name: &str, request: &Request) -> Outcome {
        let command = &request.command;
        let database = request.database.as_str();
        match name {
            _ if is_hello(name) => self.hello(session, name, command),
            "ping" | "endsessions" => Ok(Document::new()),
            "buildinfo" => Ok(build_info()),
            "saslstart" => self.sasl_start(session, database, command),
            "saslcontinue" => self.sasl_continue(session, command),
            "logout" => {
                session.user = None;
                Ok(Document::new())
            }
            "connectionstatus" => Ok(connection_status(session)),
            "echo" => Ok(doc! {"echo": command.get("echo").cloned().unwrap_or(Bson::Null)}),
            _ => self.store.run(name, database, command),
        }
    }

    fn hello(&self, session: &mut Session, name: &str, command: &Document) -> Outcome {
        check_metadata(session, command)?;
        if command.contains_key("topologyVersion") || command.contains_key("maxAwaitTimeMS") {
            let message = "this server has no topologyVersion to wait for";
            return Err(ErrorReply::new(72, "InvalidOptions", message));
        }
        let primary = if name == "hello" {
            "isWritablePrimary"
        } else {
            "ismaster"
        };
        let mut reply = doc! {
            primary: true,
            "maxBsonObjectSize": 16 * 1024 * 1024,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "localTime": DateTime::now(),
            "logicalSessionTimeoutMinutes": 30,
            "connectionId": i32::try_from(session.connection).unwrap_or(i32::MAX),
            "minWireVersion": 0,
            "maxWireVersion": MAX_WIRE_VERSION,
            "readOnly": false,
        };
        if command.get_bool("helloOk").is_ok_and(|wanted| wanted) {
            reply.insert("helloOk", true);
        }
        if let Ok(wanted) = command.get_str("saslSupportedMechs") {
            let fits = |user: &&crate::User| format!("{}.{}", user.database, user.name) == wanted;
            if let Some(user) = self.users.iter().find(fits) {
                reply.insert("saslSupportedMechs", user.mechanism_names());
            }
        }
        if let Ok(start) = command.get_document("speculativeAuthenticate") {
            let database = start.get_str("db").unwrap_or("admin");
            // A speculation that fails is left out of the reply.
            if let Ok(mut first) = self.sasl_start(session, database, start) {
                first.remove("ok");
                reply.insert("speculativeAuthenticate", first);
            }
        }
        Ok(reply)
    }

    fn sasl_start(&self, session: &mut Session, database: &str, command: &Document) -> Outcome {
        session.conversation = None;
        let plan = self.script.plan(session.connection, &Event::Scram);
        let attack = plan.and_then(|plan| plan.scram);
        let (conversation, reply) =
            Conversation::start(&self.users, database, command, attack, self.long_scram)?;
        session.conversation = Some(conversation);
        Ok(reply)
    }

    fn sasl_continue(&self, session: &mut Session, command: &Document) -> Outcome {
        let no_session = || ErrorReply::new(17, "ProtocolError", "No SASL session state found");
        // An error ends the conversation, so it is put back only when it goes on.
        let mut conversation = session.conversation.take().ok_or_else(no_session)?;
        let step = conversation.proceed(command)?;
        if step.authenticated {
            let user = conversation.user();
            let user = format!("{}.{}", user.database, user.name);
            self.observer.authenticated(session.connection, &user);
            session.user = Some(user);
        } else {
            session.conversation = Some(conversation);
        }
        Ok(step.reply)
    }
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
    Ok(())
}

fn build_info() -> Document {
    doc! {
        "version": "8.0.0",
        "versionArray": [8, 0, 0, 0],
        "gitVersion": "mongo-testkit",
        "modules": Bson::Array(Vec::new()),
        "bits": 64,
        "maxBsonObjectSize": 16 * 1024 * 1024,
    }
}

fn connection_status(session: &Session) -> Document {
    let users: Vec<Bson> = session
        .user
        .iter()
        .filter_map(|user| user.split_once('.'))
        .map(|(database, name)| doc! {"user": name, "db": database}.into())
        .collect();
    doc! {"authInfo": {"authenticatedUsers": users, "authenticatedUserRoles": Bson::Array(Vec::new())}}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_commands_are_in_lower_case() {
        assert!(
            OPEN_COMMANDS
                .iter()
                .all(|name| *name == name.to_ascii_lowercase())
        );
    }
}
