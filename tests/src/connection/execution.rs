//! The execution of a connection's commands, here or on the real server.

use std::io;
use std::sync::Arc;

use bson::Document;
use tokio::time::{Instant, timeout};

use super::Connection;
use crate::codec::Request;
use crate::commands::completed;
use crate::server::Shared;
use crate::store::{Progress, spoiled};

impl Connection {
    /// Executes a command, here or on the real server.
    pub(super) async fn carry_out(
        &mut self,
        request: &Request,
        message: &[u8],
    ) -> io::Result<Document> {
        let shared = Arc::clone(&self.shared);
        let (Some(backend), Some(mut upstream)) = (&shared.backend, self.upstream.take()) else {
            return self.run_here(&shared, request).await;
        };
        let reply = match shared.hand_on(backend, &mut self.session, request, message) {
            Err(own) => own,
            Ok(messages) => {
                let spoil = shared.spoil(backend, request);
                let closes = spoil.is_some_and(|spoil| spoil.closes);
                let lost = || io::Error::from(io::ErrorKind::ConnectionAborted);
                if let Some(code) = spoil.and_then(|spoil| spoil.code) {
                    self.upstream = Some(upstream);
                    let name = request.name().to_ascii_lowercase();
                    let labelled = |error| shared.labelled(error, &request.command);
                    let error = completed(spoiled(&name, code).map_err(labelled));
                    return if closes { Err(lost()) } else { Ok(error) };
                }
                let answer = self.wait_with_client(upstream.ask(&messages)).await?;
                let (reply, user) = answer.inspect_err(|error| {
                    shared.observer.protocol_error(self.number, error);
                })?;
                if let Some(user) = user {
                    shared.observer.authenticated(self.number, &user);
                }
                let reply = shared.hand_back(backend, &mut self.session, request, reply);
                if closes {
                    return Err(lost());
                }
                reply
            }
        };
        self.upstream = Some(upstream);
        Ok(reply)
    }

    /// Executes a command here, after the transactions and data that it waits for.
    async fn run_here(&mut self, shared: &Shared, request: &Request) -> io::Result<Document> {
        let begun = Instant::now();
        loop {
            // Created before the attempt, so that no change between the two is missed.
            let change = shared.change();
            match shared.run(&mut self.session, request, begun.elapsed()) {
                Progress::Done(reply) => return Ok(reply),
                Progress::Lost => return Err(io::ErrorKind::ConnectionAborted.into()),
                Progress::Waits(limit) => {
                    // A timeout is a valid outcome.
                    let _ = self.wait_with_client(timeout(limit, change)).await?;
                    shared.link.thawed().await;
                }
            }
        }
    }
}
