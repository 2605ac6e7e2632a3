//! Commands that the client runs for itself.

use std::pin::pin;

use bson::RawDocument;
use serde::Serialize;

use super::{Connection, PoolHandle, bound};
use crate::error::Result;
use crate::net::deadline::Deadline;
use crate::wire::MsgFlags;

impl Connection {
    /// Runs a command that is not the application's, such as a check of the server: no event, log
    /// or span reports it. Returns the reply, `ok: 0` included. The reply is bounded like the reply
    /// to a hello.
    pub(crate) async fn run_quietly<C>(
        &mut self,
        deadline: Deadline,
        database: &str,
        command: &C,
    ) -> Result<&RawDocument>
    where
        C: Serialize + ?Sized,
    {
        self.drain(deadline).await?;
        let fields = self.inner.identity.server_api.as_deref();
        self.inner
            .channel
            .encode_with(MsgFlags::NONE, database, command, fields)
            .map_err(|error| self.inner.identity.name(error))?;
        let link = PoolHandle::link(&self.inner.pool_handle);
        let mut channel = self.inner.channel.narrow();
        let outcome = bound(
            &mut self.inner.alarm,
            deadline,
            link,
            pin!(channel.round_trip()),
        )
        .await;
        drop(channel);
        self.finish(outcome, deadline)?;
        let reply = self.inner.channel.body();
        reply.map_err(|error| self.inner.identity.name(error))
    }
}
