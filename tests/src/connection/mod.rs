//! One connection of a scripted server: reads requests, applies the script, writes replies.

mod execution;
mod replies;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::HandshakeKind;
use tokio_rustls::TlsAcceptor;

use crate::action::{Content, Pause, Plan, Then};
use crate::backend::Upstream;
use crate::codec::{self, Request};
use crate::commands::Session;
use crate::deployment::KnownVersion;
use crate::fail_point::Target;
use crate::hello::app_name;
use crate::observe::SeenCommand;
use crate::script::Event;
use crate::server::Shared;
use crate::socket::Socket;
use crate::statement::size;

/// The most unread bytes from a client while its last request waits.
const PIPELINE_LIMIT: usize = 64 * 1024 * 1024;

/// Whether to continue with the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Serve,
    End,
    Reset,
}

pub(crate) struct Connection {
    shared: Arc<Shared>,
    socket: Socket,
    number: u64,
    /// Bytes that were read and not used yet.
    buffer: Vec<u8>,
    session: Session,
    /// The connection to the real server, if there is one.
    upstream: Option<Upstream>,
}

/// The position in an exhaust stream of replies.
#[derive(Clone, Copy)]
struct Turn {
    /// The `responseTo` of the next reply.
    answers: i32,
    /// The topology version that the client knows.
    known: Option<KnownVersion>,
}

/// Which message each reply of a streaming hello names in its `responseTo`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExhaustReplies {
    /// The first reply names the request, and each later one the reply before it, as on real
    /// servers.
    #[default]
    AnswerEachOther,
    /// All replies name the request.
    AnswerTheRequest,
}

/// Counts the connection as closed when its task ends in any way.
struct OpenMark {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for OpenMark {
    fn drop(&mut self) {
        self.shared.observer.closed(self.number);
    }
}

impl Connection {
    /// Serves a connection, which counts as open from this call on.
    pub(crate) fn serve(shared: Arc<Shared>, socket: Socket) -> impl Future<Output = ()> + Send {
        let number = shared.observer.accepted();
        let mark = OpenMark {
            shared: Arc::clone(&shared),
            number,
        };
        let session = Session::new(number);
        let upstream = shared.backend.as_ref().map(Upstream::new);
        let connection = Self {
            shared,
            socket,
            number,
            buffer: Vec::new(),
            session,
            upstream,
        };
        async move {
            // The socket is dropped before the connection counts as closed.
            connection.run().await;
            drop(mark);
        }
    }

    async fn run(mut self) {
        if let Some(tls) = &self.shared.tls {
            let acceptor = TlsAcceptor::from(Arc::clone(tls));
            self.socket = match acceptor.accept(self.socket.into_stream()).await {
                Ok(stream) => {
                    if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
                        self.shared.observer.resumed(self.number);
                    }
                    Socket::custom(stream)
                }
                Err(error) => return self.shared.observer.tls_failed(self.number, &error),
            };
        }
        // An I/O error means that the client ended the connection.
        let next = self.serve_all().await.unwrap_or(Next::End);
        if next == Next::Reset {
            let _ = self.socket.reset();
        }
    }

    async fn serve_all(&mut self) -> io::Result<Next> {
        let mut next = self.before_reading(&Event::Accept).await?;
        while next == Next::Serve {
            if self.buffer.is_empty() {
                if !self.socket.has_more().await? {
                    return Ok(Next::End);
                }
                next = self.before_reading(&Event::Readable).await?;
                if next != Next::Serve {
                    break;
                }
            }
            let Some(message) = self.next_message().await? else {
                return Ok(Next::End);
            };
            // A frozen server does not execute the commands it has received.
            self.shared.link.flows().await;
            let request = Request::decode(&message);
            next = match request.and_then(|request| self.session.check_compressor(request)) {
                Ok(request) => self.answer(&request, &message).await?,
                Err(error) => {
                    self.shared.observer.protocol_error(self.number, &error);
                    Next::End
                }
            };
        }
        Ok(next)
    }

    /// Applies the script to an event without a request.
    async fn before_reading(&mut self, event: &Event<'_>) -> io::Result<Next> {
        let Some(plan) = self.shared.script.plan(self.number, event) else {
            return Ok(Next::Serve);
        };
        for pause in &plan.pauses {
            pause_for(pause).await;
        }
        if let Content::Raw(bytes) = &plan.content {
            self.write(&plan, bytes).await?;
        }
        self.conclude(plan.then, false).await
    }

    async fn next_message(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            match codec::message_length(&self.buffer) {
                Ok(Some(length)) if length <= self.buffer.len() => {
                    let rest = self.buffer.split_off(length);
                    return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
                }
                Ok(_) => {}
                Err(error) => {
                    self.shared.observer.protocol_error(self.number, &error);
                    return Ok(None);
                }
            }
            if self.fill().await? == 0 {
                if !self.buffer.is_empty() {
                    let error = "the client closed inside a message";
                    self.shared.observer.protocol_error(self.number, &error);
                }
                return Ok(None);
            }
        }
    }

    /// Reads more bytes; 0 is the end of the stream.
    async fn fill(&mut self) -> io::Result<usize> {
        let before = self.buffer.len();
        let count = self.socket.read_to(&mut self.buffer).await?;
        if self.shared.record_bytes {
            self.shared
                .observer
                .received(self.number, &self.buffer[before..]);
        }
        Ok(count)
    }

    async fn answer(&mut self, request: &Request, message: &[u8]) -> io::Result<Next> {
        let seen = SeenCommand::of(self.number, request);
        self.shared.observer.command(seen);
        let mut turn = Turn {
            answers: request.request_id,
            known: self.shared.awaits(request).map(|(_, known, _)| known),
        };
        loop {
            let plan = self.plan(request);
            for pause in &plan.pauses {
                self.wait_with_client(pause_for(pause)).await?;
            }
            if request.name() == "echo" {
                let delay = size(&request.command, "delayMS");
                if let Some(delay) = delay.and_then(|delay| u64::try_from(delay).ok()) {
                    let sleep = tokio::time::sleep(Duration::from_millis(delay));
                    self.wait_with_client(sleep).await?;
                }
            }
            let plan = self.wait_for_news(request, plan, turn).await?;
            let goes_on = self.reply(request, message, &plan, &mut turn).await?;
            let next = self.conclude(plan.then, true).await?;
            if !goes_on || next != Next::Serve {
                return Ok(next);
            }
        }
    }

    /// The plan for the next reply: from the first rule of the script that applies, or else from
    /// the fail point.
    fn plan(&self, request: &Request) -> Plan {
        let (name, command) = (request.name(), &request.command);
        let event = Event::Command(name, command);
        if let Some(plan) = self.shared.script.plan(self.number, &event) {
            return plan;
        }
        self.failure(request).unwrap_or_else(Plan::ordinary)
    }

    /// The plan of the fail point for a command.
    fn failure(&self, request: &Request) -> Option<Plan> {
        let command = &request.command;
        // The first hello of a connection already counts for its application.
        let app_name = self.session.app_name.as_deref().or(app_name(command));
        let actions = self.shared.fail_point.hit(&Target {
            command,
            database: &request.database,
            app_name,
            has_labels: self.shared.has_labels(),
        })?;
        Some(Plan::of(&actions))
    }

    /// Lets an awaitable hello wait, if its reply is an ordinary one. A fail point that is set
    /// during the wait hits that reply.
    async fn wait_for_news(
        &mut self,
        request: &Request,
        plan: Plan,
        turn: Turn,
    ) -> io::Result<Plan> {
        let shared = Arc::clone(&self.shared);
        let (Content::Normal, Some(known), Some((seat, _, limit))) =
            (&plan.content, turn.known, shared.awaits(request))
        else {
            return Ok(plan);
        };
        let version = shared.fail_point.version();
        self.wait_with_client(seat.wait_for_news(known, limit))
            .await?;
        shared.link.thawed().await;
        if shared.fail_point.version() == version {
            return Ok(plan);
        }
        let Some(failure) = self.failure(request) else {
            return Ok(plan);
        };
        for pause in &failure.pauses {
            self.wait_with_client(pause_for(pause)).await?;
        }
        Ok(failure)
    }

    async fn conclude(&mut self, then: Then, after_reply: bool) -> io::Result<Next> {
        match then {
            Then::Serve => Ok(Next::Serve),
            Then::Close => {
                // Without a reply, the unread request may reset the connection.
                if after_reply {
                    self.socket.finish().await?;
                }
                Ok(Next::End)
            }
            Then::Reset => Ok(Next::Reset),
            Then::Hang => {
                while self.fill().await? > 0 {
                    self.buffer.clear();
                }
                Ok(Next::End)
            }
        }
    }

    /// Waits, and returns an error if the client closes the connection during the wait.
    async fn wait_with_client<T>(&mut self, wait: impl Future<Output = T>) -> io::Result<T> {
        let mut wait = std::pin::pin!(wait);
        loop {
            if self.buffer.len() >= PIPELINE_LIMIT {
                return Ok(wait.await);
            }
            // Reading is cancellation safe.
            tokio::select! {
                biased;
                done = &mut wait => return Ok(done),
                count = self.fill() => {
                    if count? == 0 {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                }
            }
        }
    }
}

async fn pause_for(pause: &Pause) {
    match pause {
        Pause::Delay(time) => tokio::time::sleep(*time).await,
        Pause::Gate(gate) => gate.wait().await,
    }
}
