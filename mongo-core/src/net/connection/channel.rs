use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bson::{RawDocument, RawDocumentBuf};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::{self, Handle, is_rt_shutdown_err};
use tokio::task::yield_now;

use crate::error::{ClosedReason, Error, ErrorKind, Result};
use crate::net::transport::stream::Stream;
use crate::wire::{self, Bounds, Exchange, Limits, MsgFlags, OpMsgBuilder, Readiness, Taker};

/// Bytes that are read before other tasks have their turn: a fraction of a millisecond's worth.
const AT_ONCE: usize = 1024 * 1024;

/// A stream and the exchange on it: what a connection is before anybody said hello.
///
/// Its errors name neither server nor user. Each future may be dropped at any await; the exchange
/// decides what that means for the next request.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: Stream,
    pub(crate) exchange: Exchange,
    /// The runtime in which it was made.
    home: Option<runtime::Id>,
    /// Whether the stream failed before the first byte of the last reply.
    is_unheard: bool,
}

impl Channel {
    pub(crate) fn new(stream: Stream) -> Self {
        let mut exchange = Exchange::new(Limits::default());
        // The first message is the reply to a hello.
        exchange.narrow();
        Self {
            stream,
            exchange,
            home: Handle::try_current().ok().map(|handle| handle.id()),
            is_unheard: false,
        }
    }

    /// Bounds replies as in a handshake, until the result is dropped.
    pub(crate) fn narrow(&mut self) -> Narrow<'_> {
        let before = self.exchange.narrow();
        Narrow {
            channel: self,
            before,
        }
    }

    /// Whether the stream failed before the first byte of the expected reply.
    pub(crate) fn is_unheard(&self) -> bool {
        self.is_unheard
    }

    /// The runtime that the stream belongs to; `None` if it was made outside of any.
    pub(crate) fn home(&self) -> Option<runtime::Id> {
        self.home
    }

    /// A closed channel.
    pub(crate) fn closed() -> Self {
        let mut channel = Self::new(Stream::custom(tokio::io::join(
            tokio::io::empty(),
            tokio::io::sink(),
        )));
        channel.exchange.close(ClosedReason::Closed);
        channel
    }

    /// Checks the idle stream without waiting: see [`Stream::check_idle`].
    pub(crate) fn check_idle(&mut self, runs: bool) -> Result<(), ClosedReason> {
        self.stream.check_idle(runs)
    }

    /// Adds a cause to a time-out that is not the server's fault: a reply is waiting in the socket,
    /// and none of it was read. That proves that nothing drives the socket's runtime.
    pub(crate) fn explain_silence(&self, error: Error) -> Error {
        let is_unseen =
            error.is_timeout() && self.exchange.awaits_first_byte() && self.stream.is_readable();
        let cause = is_unseen.then(|| {
            Error::configuration(
                "a reply waits in the socket, but nothing drives the runtime that the connection \
                 belongs to",
            )
        });
        error.caused_by(cause)
    }

    /// Encodes a command as an OP_MSG. Nothing is sent yet.
    pub(crate) fn encode<C>(&mut self, database: &str, command: &C) -> Result<()>
    where
        C: Serialize + ?Sized,
    {
        self.encode_with(MsgFlags::NONE, database, command, None)
    }

    /// Encodes a command as an OP_MSG, with flags and additional fields.
    pub(crate) fn encode_with<C>(
        &mut self,
        flags: MsgFlags,
        database: &str,
        command: &C,
        fields: Option<&RawDocument>,
    ) -> Result<()>
    where
        C: Serialize + ?Sized,
    {
        let max = self.exchange.limits().max_message_size;
        let (buf, id) = self.begin()?;
        OpMsgBuilder::new(buf, id, flags)
            .command_with(database, command, fields)
            .map_err(|error| ErrorKind::Serialization(Arc::new(error)))?
            .finish(max)?;
        Ok(())
    }

    /// Encodes a command as an OP_QUERY.
    pub(crate) fn encode_legacy(&mut self, database: &str, command: &RawDocumentBuf) -> Result<()> {
        let max = self.exchange.limits().max_message_size;
        let (buf, id) = self.begin()?;
        Ok(wire::append_query(buf, id, database, command, max)?)
    }

    fn begin(&mut self) -> Result<(&mut Vec<u8>, i32)> {
        self.exchange.begin().map_err(|readiness| {
            let reason = match readiness {
                Readiness::Closed(reason) => reason,
                Readiness::Idle | Readiness::Owed => ClosedReason::CancelledReply,
            };
            ErrorKind::ConnectionClosed(reason).into()
        })
    }

    /// Writes the encoded command and reads its reply.
    pub(crate) async fn round_trip(&mut self) -> Result<()> {
        while !self.exchange.pack(None) {
            yield_now().await;
        }
        // Before the first byte: from here on the exchange notices that this future was dropped.
        self.exchange.start_writing(Taker::Caller)?;
        let written = self.stream.send(self.exchange.request()).await;
        written.map_err(|error| self.failed(error))?;
        self.exchange.handle_written();
        self.read(usize::MAX).await
    }

    /// Writes a complete message of the caller.
    pub(crate) async fn send(&mut self, message: &[u8]) -> Result<()> {
        // Only for its checks.
        self.begin()?;
        while !self.exchange.pack(Some(message)) {
            yield_now().await;
        }
        self.exchange
            .start_writing_foreign(message, Taker::Anyone)?;
        let message = self.exchange.packed().unwrap_or(message);
        let written = self.stream.send(message).await;
        written.map_err(|error| self.failed(error))?;
        self.exchange.handle_written();
        Ok(())
    }

    fn failed(&mut self, error: io::Error) -> Error {
        let error = explain(Error::network(error));
        self.is_unheard = true;
        close(&mut self.exchange, &error);
        error
    }

    /// Reads one complete message of at most `max` bytes. Bytes that were read are kept if this
    /// future is dropped.
    pub(crate) async fn read(&mut self, max: usize) -> Result<()> {
        let (stream, exchange) = (&mut self.stream, &mut self.exchange);
        let outcome = read(stream, exchange, max).await.map_err(explain);
        outcome.inspect_err(|error| {
            self.is_unheard = exchange.awaits_first_byte();
            close(exchange, error);
        })
    }

    /// The document of the reply.
    #[inline]
    pub(crate) fn body(&self) -> Result<&RawDocument> {
        Ok(self.exchange.reply_body()?)
    }
}

/// A channel on which replies are bounded as in a handshake: see [`Exchange::narrow`].
pub(crate) struct Narrow<'a> {
    channel: &'a mut Channel,
    before: Bounds,
}

impl Deref for Narrow<'_> {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        self.channel
    }
}

impl DerefMut for Narrow<'_> {
    fn deref_mut(&mut self) -> &mut Channel {
        self.channel
    }
}

impl Drop for Narrow<'_> {
    fn drop(&mut self) {
        self.channel.exchange.widen(self.before);
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.stream.start_tls_shutdown();
        self.stream.discard();
    }
}

fn close(exchange: &mut Exchange, error: &Error) {
    exchange.close(match error.kind() {
        ErrorKind::Protocol(_) => ClosedReason::Protocol,
        ErrorKind::ConnectionClosed(reason) => *reason,
        _ => ClosedReason::Network,
    });
}

/// Distinguishes the shutdown of the socket's runtime from a network error.
fn explain(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Network(failure) if is_rt_shutdown_err(failure) => {
            ErrorKind::ConnectionClosed(ClosedReason::RuntimeEnded).into()
        }
        _ => error,
    }
}

async fn read(stream: &mut Stream, exchange: &mut Exchange, max: usize) -> Result<()> {
    // One read is nearly always enough. The rest is boxed, to keep the future of a command small.
    if let Some(target) = exchange.read_target(max)? {
        fill(stream, target).await?;
    }
    if exchange.read_target(max)?.is_some() {
        Box::pin(read_rest(stream, exchange, max)).await?;
    }
    if !exchange.prepare_reply()? {
        Box::pin(prepare_rest(exchange)).await?;
    }
    Ok(exchange.accept_reply()?)
}

async fn read_rest(stream: &mut Stream, exchange: &mut Exchange, max: usize) -> Result<()> {
    let mut at_once = 0;
    while let Some(target) = exchange.read_target(max)? {
        // A server that fills the socket as fast as it is read does not hold up other tasks.
        if at_once >= AT_ONCE {
            at_once = 0;
            yield_now().await;
        }
        let before = target.len();
        fill(&mut stream.take(AT_ONCE as u64), target).await?;
        at_once += target.len() - before;
    }
    Ok(())
}

/// Other tasks run while a large reply is decompressed and checked. Progress is kept if this future
/// is dropped.
async fn prepare_rest(exchange: &mut Exchange) -> Result<()> {
    loop {
        yield_now().await;
        if exchange.prepare_reply()? {
            return Ok(());
        }
    }
}

/// Reads once.
async fn fill(stream: &mut (impl AsyncRead + Unpin), target: &mut Vec<u8>) -> Result<()> {
    match stream.read_buf(target).await {
        Ok(1..) => Ok(()),
        Ok(0) => Err(Error::server_closed()),
        // So rustls tells of an end without its `close_notify`.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Error::server_closed()),
        Err(error) => Err(Error::network(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Cursor;

    use bson::rawdoc;
    use tokio::task::yield_now;

    use super::*;

    /// How many turns another task has while a reply with so long a text is read from a stream that
    /// never has to be waited for.
    async fn turns(length: usize) -> usize {
        let mut reply = Vec::new();
        let body = rawdoc! { "ok": 1, "text": "x".repeat(length) };
        let message = OpMsgBuilder::new(&mut reply, 9, MsgFlags::NONE).body(&body);
        message.finish(usize::MAX).expect("a message");
        // It answers the first request.
        reply[8..12].copy_from_slice(&1_i32.to_le_bytes());
        let stream = tokio::io::join(Cursor::new(reply), tokio::io::sink());
        let mut channel = Channel::new(Stream::custom(stream));
        channel.exchange.set_limits(Limits::default());
        let ping = rawdoc! { "ping": 1 };
        channel.encode("admin", &ping).expect("a command");
        let turns = Cell::new(0);
        let count = async {
            loop {
                turns.set(turns.get() + 1);
                yield_now().await;
            }
        };
        tokio::select! {
            biased;
            read = channel.round_trip() => read.expect("a reply"),
            () = count => unreachable!("it has no end"),
        }
        assert_eq!(channel.body().expect("a body"), &*body);
        turns.get()
    }

    #[tokio::test]
    async fn other_tasks_have_a_turn_with_every_mib_that_is_read() {
        assert_eq!(turns(100).await, 0);
        for mib in [4, 16, 40] {
            let turns = turns(mib * 1024 * 1024).await;
            assert!((mib - 1..=mib + 1).contains(&turns), "{turns} of {mib}");
        }
    }
}
