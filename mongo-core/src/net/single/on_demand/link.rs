use std::sync::Arc;
use std::time::Duration;

use bson::{RawDocument, RawDocumentBuf};
use tokio::time::Instant;

use crate::error::{Error, Result, Wait};
use crate::handshake::{Handshake, ServerApi};
use crate::net::connection::Connection;
use crate::net::connection::establish::{Establisher, Greeted, Opened};
use crate::net::deadline::{Deadline, Elapsed};
use crate::net::transport::connector::Untried;
use crate::reply::check_ok;
use crate::sdam::lacks_hello;
use crate::wire::MsgFlags;

/// The only connection to a server, which both checks it and runs commands. It authenticates before
/// its first command, with the credential at that time. So a scan sends only hellos, needs no
/// credential, and can check arbiters.
pub(crate) struct Link {
    pub(crate) id: u64,
    /// The server's id for the connection.
    pub(crate) server_id: Option<i64>,
    /// When the server last answered.
    pub(crate) last_use: Instant,
    pub(crate) state: LinkState,
}

pub(crate) enum LinkState {
    Greeted(Box<Greeted>),
    Ready(Connection),
}

/// The result of a check.
pub(crate) struct Checked {
    pub(crate) outcome: Result<Answer>,
    /// Measured from the start of the check, or, for an answer, from the hello.
    pub(crate) duration: Duration,
    /// Whether the deadline of the selection ended it, not its own time-out.
    pub(crate) is_cut_short: bool,
}

/// The reply of a server, `ok: 0` included.
pub(crate) struct Answer {
    pub(crate) reply: RawDocumentBuf,
    /// `None` if the connection can't be used: the handshake can't be completed.
    pub(crate) link: Option<Link>,
    /// Whether the server has refused `hello`.
    pub(crate) refuses_hello: bool,
}

/// A check to be made.
pub(crate) struct Check {
    pub(crate) establisher: Arc<Establisher>,
    pub(crate) link: Option<Link>,
    /// The command for a server that refuses `hello`; `None` if there is no alternative.
    pub(crate) legacy_hello: Option<RawDocumentBuf>,
    /// The id for a new connection.
    pub(crate) id: u64,
    /// The hello for an existing connection, without the fields of the stable API.
    pub(crate) hello: RawDocumentBuf,
}

impl Check {
    /// Sends a hello on the existing connection, or on a new one. Bounded by `connectTimeoutMS` and
    /// `until`, whichever is earlier. If dropped, it closes the connection.
    pub(crate) async fn run(self, until: Deadline) -> Checked {
        let Self {
            establisher,
            link,
            legacy_hello,
            id,
            hello,
        } = self;
        let begun = Deadline::never();
        let deadline = until.within(establisher.connect_timeout);
        let mut wait = Wait::Connect;
        // They outlive the future that the deadline bounds.
        let (mut link, mut opened) = (link, None);
        let bounded = deadline.bound(async {
            if let Some(known) = &mut link
                && known.is_usable(deadline).await
            {
                wait = Wait::Heartbeat;
                let legacy_hello = legacy_hello.as_ref();
                return known
                    .check(&hello, legacy_hello, establisher.server_api)
                    .await;
            }
            link = None;
            open(&establisher, &mut opened, &mut wait).await
        });
        let bounded = bounded.await;
        let is_cut_short = bounded.is_err() && until.is_over();
        let outcome = match bounded.unwrap_or_else(|Elapsed| Err(deadline.timed_out(wait))) {
            Ok(said) => {
                // The reply describes the server even if the connection can't be used.
                let greeted = said.handshake.zip(opened);
                let greeted = greeted.and_then(|(own, opened)| opened.greeted(own).ok());
                let new = greeted.map(|greeted| Link {
                    id,
                    server_id: server_id(&said.reply),
                    last_use: Instant::now(),
                    state: LinkState::Greeted(Box::new(greeted)),
                });
                let answer = Answer {
                    reply: said.reply,
                    link: link.or(new),
                    refuses_hello: said.refuses_hello,
                };
                Ok((answer, said.duration))
            }
            Err(error) => Err(match (&opened, &link) {
                (Some(opened), _) => opened.channel.explain_silence(error),
                (None, Some(link)) => link.explain_silence(error),
                (None, None) => error,
            }),
        };
        let (outcome, duration) = match outcome {
            Ok((answer, duration)) => (Ok(answer), duration),
            Err(error) => (Err(error.at(&establisher.server)), begun.elapsed()),
        };
        Checked {
            outcome,
            duration,
            is_cut_short,
        }
    }
}

/// The result of a hello.
struct Said {
    reply: RawDocumentBuf,
    duration: Duration,
    refuses_hello: bool,
    /// Set on a new connection.
    handshake: Option<Box<Handshake>>,
}

async fn open(
    establisher: &Establisher,
    opened: &mut Option<Opened>,
    wait: &mut Wait,
) -> Result<Said> {
    let mut sent = Instant::now();
    let mut enter = |next| {
        *wait = next;
        sent = Instant::now();
    };
    let opened = opened.insert(establisher.open(Untried::default(), &mut enter).await?);
    let handshake = establisher.greet(opened, None, &mut enter).await?;
    Ok(Said {
        reply: opened.channel.body()?.to_owned(),
        duration: sent.elapsed(),
        refuses_hello: false,
        handshake: Some(handshake),
    })
}

impl Link {
    /// Whether a command can be sent: the server has not closed the connection, and an outstanding
    /// reply was drained in time. Neither says anything about the server.
    pub(crate) async fn is_usable(&mut self, deadline: Deadline) -> bool {
        match &mut self.state {
            LinkState::Greeted(greeted) => greeted.opened.channel.check_idle(false).is_ok(),
            LinkState::Ready(connection) => {
                !connection.is_stale()
                    && connection.drain(deadline).await.is_ok()
                    && connection.check_idle().is_ok()
            }
        }
    }

    /// Whether it must not be used again.
    pub(crate) fn is_over(&self) -> bool {
        match &self.state {
            LinkState::Greeted(greeted) => greeted.opened.generation.is_stale(),
            LinkState::Ready(connection) => connection.is_closed() || connection.is_stale(),
        }
    }

    /// Adds a cause to a time-out that is not the server's fault.
    fn explain_silence(&self, error: Error) -> Error {
        match &self.state {
            LinkState::Greeted(greeted) => greeted.opened.channel.explain_silence(error),
            LinkState::Ready(connection) => connection.explain_silence(error),
        }
    }

    async fn check(
        &mut self,
        hello: &RawDocumentBuf,
        legacy_hello: Option<&RawDocumentBuf>,
        server_api: Option<ServerApi>,
    ) -> Result<Said> {
        let mut sent = Instant::now();
        let mut reply = self.say_hello(hello, server_api).await?;
        let is_refusal = |reply: &RawDocument| {
            let found = check_ok(reply).err().and_then(|error| error.code());
            found.is_some_and(lacks_hello)
        };
        let legacy_hello = legacy_hello.filter(|_| is_refusal(&reply));
        if let Some(legacy_hello) = legacy_hello {
            sent = Instant::now();
            reply = self.say_hello(legacy_hello, server_api).await?;
        }
        let duration = sent.elapsed();
        self.last_use = Instant::now();
        Ok(Said {
            reply,
            duration,
            refuses_hello: legacy_hello.is_some(),
            handshake: None,
        })
    }

    async fn say_hello(
        &mut self,
        hello: &RawDocumentBuf,
        server_api: Option<ServerApi>,
    ) -> Result<RawDocumentBuf> {
        Ok(match &mut self.state {
            LinkState::Greeted(greeted) => {
                let fields = server_api.map(|api| api.fields());
                let channel = &mut greeted.opened.channel;
                channel.encode_with(MsgFlags::NONE, "admin", hello, fields.as_deref())?;
                channel.round_trip().await?;
                channel.body()?.to_owned()
            }
            LinkState::Ready(connection) => {
                let never = Deadline::never();
                let reply = connection.run_quietly(never, "admin", hello).await?;
                reply.to_owned()
            }
        })
    }
}

fn server_id(reply: &RawDocument) -> Option<i64> {
    let value = reply.get("connectionId").ok().flatten()?;
    crate::auth::reply::integer(value)
}
