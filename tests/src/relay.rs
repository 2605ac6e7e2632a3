//! A proxy in front of a real server: the commands it answers itself, and its changes to the real
//! server's replies.

use bson::Document;

use crate::action::ErrorReply;
use crate::backend::{Backend, passed_on};
use crate::codec::{Request, encode_command, is_ok};
use crate::commands::{Outcome, Session, completed, echo};
use crate::deployment::Seat;
use crate::fail_point::Spoil;
use crate::script::is_hello;
use crate::server::Shared;
use crate::statement::is_retryable_write;

/// Fields of a hello that the proxy handles instead of the real server: for awaitable hellos, load
/// balancing and compression.
const NOT_ASKED: [&str; 4] = [
    "topologyVersion",
    "maxAwaitTimeMS",
    "loadBalanced",
    "compression",
];
/// Fields of a hello reply that describe the server's role.
const OF_THE_ROLE: [&str; 24] = [
    "topologyVersion",
    "hosts",
    "passives",
    "arbiters",
    "setName",
    "setVersion",
    "isWritablePrimary",
    "ismaster",
    "secondary",
    "primary",
    "passive",
    "hidden",
    "arbiterOnly",
    "tags",
    "me",
    "electionId",
    "lastWrite",
    "isreplicaset",
    "info",
    "msg",
    "serviceId",
    "localTime",
    "minWireVersion",
    "maxWireVersion",
];
/// Fields that arbiters and ghosts do not have: sessions and users.
const OF_WHO_BEARS_DATA: [&str; 3] = [
    "logicalSessionTimeoutMinutes",
    "saslSupportedMechs",
    "speculativeAuthenticate",
];

impl Shared {
    /// The messages for the real server, whose reply to the last one counts, or else this server's
    /// own reply.
    pub(crate) fn hand_on(
        &self,
        backend: &Backend,
        session: &mut Session,
        request: &Request,
        message: &[u8],
    ) -> Result<Vec<Vec<u8>>, Document> {
        let name = request.name().to_ascii_lowercase();
        if let Some(outcome) = self.own(backend, session, &name, request) {
            let outcome = outcome.map_err(|error| self.labelled(error, &request.command));
            return Err(completed(outcome));
        }
        let mut command = request.command.clone();
        if !is_hello(&name) {
            let tenure = self.seat.as_ref().map(Seat::tenure);
            let lost = tenure.and_then(|tenure| backend.transactions.begin(&command, tenure));
            let mut messages = Vec::from_iter(lost.map(|abort| encode_command(0, 0, &abort)));
            messages.push(passed_on(request, message));
            return Ok(messages);
        }
        for field in NOT_ASKED {
            command.remove(field);
        }
        command.insert("$db", request.database.as_str());
        Ok(vec![encode_command(request.request_id, 0, &command)])
    }

    fn own(
        &self,
        backend: &Backend,
        session: &mut Session,
        name: &str,
        request: &Request,
    ) -> Option<Outcome> {
        let command = &request.command;
        match name {
            _ if is_hello(name) => self.check_hello(session, command).err().map(Err),
            "configurefailpoint" => Some(self.configure_fail_point(command)),
            "setparameter" => self.fail_point.set_parameter(command),
            "committransaction" if self.is_unrecoverable(backend, command) => {
                let message = "cannot commit with no participants";
                Some(Err(ErrorReply::new(50940, "Location50940", message)))
            }
            "echo" => Some(echo(command)),
            "getmore" | "killcursors" => backend.refuse_cursor(name, command),
            _ => self.seat.as_ref().and_then(|seat| {
                let admission = || self.admit(session, seat, name, request);
                seat.run(name, request)
                    .or_else(|| admission().err().map(Err))
            }),
        }
    }

    /// Whether a mongos is to commit another one's transaction without a recovery token.
    fn is_unrecoverable(&self, backend: &Backend, command: &Document) -> bool {
        let mongos = self.seat.as_ref().filter(|seat| seat.is_mongos());
        mongos.is_some_and(|seat| {
            !command.contains_key("recoveryToken")
                && !backend.transactions.is_of(command, &seat.tenure())
        })
    }

    /// What a fail point does to a write that is not a retry of an executed one.
    pub(crate) fn spoil(&self, backend: &Backend, request: &Request) -> Option<Spoil> {
        let name = request.name().to_ascii_lowercase();
        let command = &request.command;
        let is_new = is_retryable_write(&name, command)
            && self.fail_point.spoils_writes()
            && !backend.transactions.has_executed(command);
        if is_new {
            self.fail_point.hit_write()
        } else {
            None
        }
    }

    /// Turns the real server's reply into this server's own.
    pub(crate) fn hand_back(
        &self,
        backend: &Backend,
        session: &mut Session,
        request: &Request,
        mut reply: Document,
    ) -> Document {
        let (name, command) = (request.name().to_ascii_lowercase(), &request.command);
        let is_ok = is_ok(&reply);
        if is_hello(&name) && is_ok {
            reply = self.in_role(&name, command, reply);
            self.offer_compressors(session, command, &mut reply);
        } else {
            reply.remove("topologyVersion");
        }
        if is_ok {
            backend.note_cursors(&name, command, &reply);
            backend.transactions.end(&name, command);
        }
        if let Some(seat) = &self.seat {
            if is_ok {
                seat.done(&name, command);
            }
            seat.add_recovery_token(command, &mut reply);
            if !seat.has_cluster_time() {
                reply.remove("$clusterTime");
                reply.remove("operationTime");
            }
        }
        reply
    }

    fn in_role(&self, name: &str, command: &Document, mut real: Document) -> Document {
        for field in OF_THE_ROLE {
            real.remove(field);
        }
        if !self.seat.as_ref().is_none_or(Seat::has_sessions) {
            for field in OF_WHO_BEARS_DATA {
                real.remove(field);
            }
        }
        let mut reply = self.role(name, command);
        reply.extend(real);
        reply
    }
}
