//! Commands of operations, as events and logs name them.

use crate::error::Result;
use crate::net::deadline::Deadline;
use crate::net::{Connection, OwnedReply, Reply};
use crate::operation::Request;

/// A command whose events and logs name its operation, on its connection.
pub(super) struct Named<'a> {
    connection: &'a mut Connection,
    request: &'a Request,
}

impl<'a> Named<'a> {
    pub(super) fn new(connection: &'a mut Connection, request: &'a Request) -> Self {
        connection.set_operation(Some(request.id));
        Self {
            connection,
            request,
        }
    }

    pub(super) async fn run(&mut self, deadline: Option<Deadline>) -> Result<OwnedReply> {
        let (database, body) = (&*self.request.database, self.request.body());
        if self.request.cursor.exhaust && self.request.is_bare {
            let own = self.connection.run_exhaust(deadline, database, body);
            // Rare, so boxed: it does not enlarge the future of every command.
            return Box::pin(own).await;
        }
        let reply = match deadline {
            Some(deadline) => {
                self.connection
                    .run_command_by(deadline, database, &body)
                    .await
            }
            None => self.connection.run_command(database, &body).await,
        };
        reply.map(Reply::into_owned)
    }

    pub(super) async fn send(&mut self, deadline: Option<Deadline>) -> Result<OwnedReply> {
        let (database, body) = (&*self.request.database, self.request.body());
        self.connection
            .run_unacknowledged(deadline, database, body)
            .await
    }
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        self.connection.set_operation(None);
    }
}
