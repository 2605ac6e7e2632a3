//! Command execution of a scripted server.

use std::time::Duration;

use bson::{Bson, Document, doc};

use crate::action::ErrorReply;
use crate::aws::AwsConversation;
use crate::codec::{CodecError, Request};
use crate::compression::Compressor;
use crate::deployment::{Seat, is_write};
use crate::external::{EXTERNAL, Proved, payload, sasl_reply};
use crate::observe::SeenCommand;
use crate::scram::Conversation;
use crate::script::{Event, is_hello};
use crate::server::Shared;
use crate::store::{Call, Progress};

/// Commands that need no authentication, in lower case.
const OPEN_COMMANDS: [&str; 9] = [
    "authenticate",
    "hello",
    "ismaster",
    "ping",
    "buildinfo",
    "saslstart",
    "saslcontinue",
    "logout",
    "connectionstatus",
];

/// From this wire version on (MongoDB 4.4) servers add labels to errors.
const LABELS_WIRE_VERSION: i32 = 9;
/// From this wire version on (MongoDB 6.2) servers have no `getnonce`.
const WITHOUT_NONCES: i32 = 19;

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: u64,
    conversation: Option<Conversation>,
    aws: Option<AwsConversation>,
    user: Option<String>,
    /// The compressors that client and server both support, in the client's order.
    pub(crate) compressors: Vec<Compressor>,
    pub(crate) has_metadata: bool,
    /// The application's name in the client metadata.
    pub(crate) app_name: Option<String>,
}

impl Session {
    pub(crate) fn new(connection: u64) -> Self {
        Self {
            connection,
            conversation: None,
            aws: None,
            user: None,
            compressors: Vec::new(),
            has_metadata: false,
            app_name: None,
        }
    }

    /// Refuses messages that a client must not compress, or not with this compressor.
    pub(crate) fn check_compressor(&self, request: Request) -> Result<Request, CodecError> {
        let name = request.name();
        match request.compressor {
            None => Ok(request),
            Some(_) if is_hello(name) || name.to_ascii_lowercase().starts_with("sasl") => {
                Err(CodecError::Compressed("a command that must not be"))
            }
            Some(compressor) if self.compressors.contains(&compressor) => Ok(request),
            Some(_) => Err(CodecError::Compressed("was not negotiated")),
        }
    }
}

pub(crate) type Outcome = Result<Document, ErrorReply>;

impl Shared {
    /// Executes a command. The reply is complete, including `ok`. `waited` is how long the command
    /// has waited in former attempts.
    pub(crate) fn run(
        &self,
        session: &mut Session,
        request: &Request,
        waited: Duration,
    ) -> Progress {
        let command = &request.command;
        let seat = self.seat.as_ref();
        if let Some(seat) = seat {
            seat.hear(command);
        }
        let step = self.authorize(session, request.name()).and_then(|()| {
            let name = request.name().to_ascii_lowercase();
            self.dispatch(session, &name, request, waited)
        });
        let outcome = match step {
            Ok(Progress::Done(reply)) => Ok(reply),
            Ok(unfinished) => return unfinished,
            Err(error) => Err(self.labelled(error, command)),
        };
        let mut reply = completed(outcome);
        if let Some(seat) = seat {
            seat.sign(&mut reply);
            seat.add_recovery_token(command, &mut reply);
        }
        Progress::Done(reply)
    }

    /// Whether the server adds labels to errors, as from MongoDB 4.4 on.
    pub(crate) fn has_labels(&self) -> bool {
        let seat = self.seat.as_ref();
        seat.is_none_or(|seat| seat.wire_versions().1 >= LABELS_WIRE_VERSION)
    }

    pub(crate) fn labelled(&self, error: ErrorReply, command: &Document) -> ErrorReply {
        match self.has_labels() {
            true => error.labelled_for(command),
            false => error,
        }
    }

    /// The next change of documents, transactions and roles, also one before the first poll.
    pub(crate) fn change(&self) -> impl Future<Output = ()> + Send {
        let data = self.store.changed();
        let roles = self.seat.as_ref().map(|seat| seat.world.changed());
        async move {
            let Some(roles) = roles else {
                return data.await;
            };
            tokio::select! {
                biased;
                () = data => {}
                () = roles => {}
            }
        }
    }

    fn authorize(&self, session: &Session, name: &str) -> Result<(), ErrorReply> {
        let is_open = OPEN_COMMANDS
            .iter()
            .any(|open| open.eq_ignore_ascii_case(name));
        let is_free = self.users.is_empty() && self.external.is_empty();
        if is_free || session.user.is_some() || is_open {
            return Ok(());
        }
        let message = format!("Command {name} requires authentication");
        Err(ErrorReply::new(13, "Unauthorized", &message))
    }

    fn dispatch(
        &self,
        session: &mut Session,
        name: &str,
        request: &Request,
        waited: Duration,
    ) -> Result<Progress, ErrorReply> {
        let command = &request.command;
        let database = request.database.as_str();
        let outcome = match name {
            _ if is_hello(name) => self.hello(session, name, command),
            "ping" => Ok(Document::new()),
            "configurefailpoint" => self.configure_fail_point(command),
            "setparameter" => {
                let unknown = || ErrorReply::new(72, "InvalidOptions", "no option found to set");
                let set = self.fail_point.set_parameter(command);
                set.unwrap_or_else(|| Err(unknown()))
            }
            "buildinfo" => Ok(build_info()),
            "getnonce" if self.has_nonces() => Ok(doc! {"nonce": "0123456789abcdef"}),
            "authenticate" => self.authenticate(session, database, command),
            "saslstart" => self.sasl_start(session, database, command),
            "saslcontinue" => self.sasl_continue(session, command),
            "logout" => {
                session.user = None;
                Ok(Document::new())
            }
            "connectionstatus" => Ok(connection_status(session)),
            "echo" => echo(command),
            _ => return self.run_seated(session, name, request, waited),
        };
        outcome.map(Progress::Done)
    }

    /// Whether the server has `getnonce`, as before MongoDB 6.2.
    fn has_nonces(&self) -> bool {
        let seat = self.seat.as_ref();
        seat.is_some_and(|seat| seat.wire_versions().1 < WITHOUT_NONCES)
    }

    pub(crate) fn configure_fail_point(&self, command: &Document) -> Outcome {
        let is_mongos = self.seat.as_ref().is_some_and(Seat::is_mongos);
        self.fail_point.configure(command, is_mongos)
    }

    /// Commands that depend on the server's role.
    fn run_seated(
        &self,
        session: &Session,
        name: &str,
        request: &Request,
        waited: Duration,
    ) -> Result<Progress, ErrorReply> {
        let command = &request.command;
        if let Some(seat) = &self.seat {
            if let Some(outcome) = seat.run(name, request) {
                return outcome.map(Progress::Done);
            }
            self.admit(session, seat, name, request)?;
            seat.check_cluster_time(command)?;
        }
        self.store.run(&Call {
            name,
            database: &request.database,
            command,
            user: session.user.as_deref(),
            seat: self.seat.as_ref(),
            fail_point: &self.fail_point,
            waited,
        })
    }

    pub(crate) fn authenticate(
        &self,
        session: &mut Session,
        database: &str,
        command: &Document,
    ) -> Outcome {
        let proved = self.external.authenticate(database, command);
        self.prove(session, proved)
    }

    fn prove(&self, session: &mut Session, proved: Proved) -> Outcome {
        let (reply, name) = proved?;
        let user = format!("{EXTERNAL}.{name}");
        self.observer.authenticated(session.connection, &user);
        session.user = Some(user);
        Ok(reply)
    }

    /// Whether the server may execute this command in its role.
    pub(crate) fn admit(
        &self,
        session: &Session,
        seat: &Seat,
        name: &str,
        request: &Request,
    ) -> Result<(), ErrorReply> {
        let admitted = seat.admit(name, request);
        if admitted.is_err() && is_write(name, &request.command) {
            let refused = SeenCommand::of(session.connection, request);
            self.observer.refused_write(refused);
        }
        admitted
    }

    pub(crate) fn sasl_start(
        &self,
        session: &mut Session,
        database: &str,
        command: &Document,
    ) -> Outcome {
        session.conversation = None;
        session.aws = None;
        let is_aws = command
            .get_str("mechanism")
            .is_ok_and(|name| name == "MONGODB-AWS");
        if is_aws && !self.external.aws.is_empty() {
            let (conversation, reply) = AwsConversation::start(payload(command))?;
            session.aws = Some(conversation);
            return Ok(reply);
        }
        if let Some(proved) = self.external.start(database, command) {
            return self.prove(session, proved);
        }
        let plan = self.script.plan(session.connection, &Event::Scram);
        let attack = plan.and_then(|plan| plan.scram);
        let (conversation, reply) =
            Conversation::start(&self.users, database, command, attack, self.long_scram)?;
        session.conversation = Some(conversation);
        Ok(reply)
    }

    fn sasl_continue(&self, session: &mut Session, command: &Document) -> Outcome {
        let no_session = || ErrorReply::new(17, "ProtocolError", "No SASL session state found");
        if let Some(aws) = session.aws.take() {
            let signer = aws.finish(&self.external.aws, payload(command));
            return self.prove(session, signer.map(|id| (sasl_reply(true, Vec::new()), id)));
        }
        // An error ends the conversation, so it is put back only if it continues.
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

/// The complete reply, including `ok`.
pub(crate) fn completed(outcome: Outcome) -> Document {
    match outcome {
        Ok(mut reply) => {
            if !reply.contains_key("ok") {
                reply.insert("ok", 1.0);
            }
            reply
        }
        Err(error) => error.into_document(),
    }
}

pub(crate) fn echo(command: &Document) -> Outcome {
    Ok(doc! {"echo": command.get("echo").cloned().unwrap_or(Bson::Null)})
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
    fn commands_without_authentication_are_in_lower_case() {
        assert!(
            OPEN_COMMANDS
                .iter()
                .all(|name| *name == name.to_ascii_lowercase())
        );
    }
}
