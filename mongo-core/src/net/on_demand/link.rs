use std::sync::Arc;
use std::time::Duration;

use bson::{RawDocument, RawDocumentBuf};
use tokio::time::Instant;

use crate::error::{Result, Wait};
use crate::handshake::ServerApi;
use crate::net::connection::Connection;
use crate::net::connector::Untried;
use crate::net::deadline::{Deadline, Elapsed};
use crate::net::establish::{Establisher, Greeted};
use crate::sdam::lacks_hello;
use crate::wire::{MsgFlags, check_ok};

/// The one connection to a server, which both checks it and runs commands. It authenticates when
/// it first runs one, with the credential of that time: so a scan costs no more than hellos, depends
/// on no credential, and can check arbiters.
pub(in crate::net) struct Link {
    pub(in crate::net) id: u64,
    /// The server's number for it.
    pub(in crate::net) server_id: Option<i64>,
    /// When the server last answered.
    pub(in crate::net) last_use: Instant,
    pub(in crate::net) state: LinkState,
}

pub(in crate::net) enum LinkState {
    Greeted(Box<Greeted>),
    Ready(Connection),
}

/// How a check ended.
pub(super) struct Checked {
    pub(super) outcome: Result<Answer>,
    /// From the start of the check on, or for an answer, from the hello on.
    pub(super) duration: Duration,
    /// Whether it ran out of the time of the selection that it was for, not of its own.
    pub(super) is_cut_short: bool,
}

/// What a server said, `ok: 0` included.
pub(super) struct Answer {
    pub(super) reply: RawDocumentBuf,
    /// `None` if the connection can't be used: the handshake can't be completed.
    pub(super) link: Option<Link>,
    /// Whether the server has refused `hello`.
    pub(super) refuses_hello: bool,
}

/// A check that is to be made.
pub(super) struct Check {
    pub(super) establisher: Arc<Establisher>,
    pub(super) link: Option<Link>,
    /// What a server gets that refuses `hello`; `None` if it has to have it.
    pub(super) legacy_hello: Option<RawDocumentBuf>,
    /// For a connection that is opened.
    pub(super) id: u64,
    /// For a connection that is there, without the fields of the stable API.
    pub(super) hello: RawDocumentBuf,
}

impl Check {
    /// Says hello on the connection that is there, or on a new one. Bounded by `connectTimeoutMS`
    /// and by `until`, whichever is earlier; dropped, it closes the connection.
    pub(super) async fn run(self, until: Deadline) -> Checked {
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
        let bounded = deadline.bound(async {
            if let Some(mut link) = link
                && link.is_usable(deadline).await
            {
                wait = Wait::Heartbeat;
                let legacy_hello = legacy_hello.as_ref();
                return link
                    .check(&hello, legacy_hello, establisher.server_api)
                    .await;
            }
            open(&establisher, id, &mut wait).await
        });
        let bounded = bounded.await;
        let is_cut_short = bounded.is_err() && until.is_over();
        let outcome = bounded.unwrap_or_else(|Elapsed| Err(deadline.timed_out(wait)));
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

async fn open(establisher: &Establisher, id: u64, wait: &mut Wait) -> Result<(Answer, Duration)> {
    let mut sent = Instant::now();
    let mut enter = |next| {
        *wait = next;
        sent = Instant::now();
    };
    let mut opened = establisher.open(Untried::default(), &mut enter).await?;
    let handshake = establisher.greet(&mut opened, None, &mut enter).await?;
    let duration = sent.elapsed();
    let reply = opened.channel.body()?.to_owned();
    // What the server is shows in its reply, also if nobody can use the connection.
    let greeted = opened.greeted(handshake).ok();
    let link = greeted.map(|greeted| Link {
        id,
        server_id: server_id(&reply),
        last_use: Instant::now(),
        state: LinkState::Greeted(Box::new(greeted)),
    });
    let refuses_hello = false;
    let answer = Answer {
        reply,
        link,
        refuses_hello,
    };
    Ok((answer, duration))
}

impl Link {
    /// Whether a command can be sent: the server has not closed the connection, and what was owed
    /// to a cancelled command came in time. Neither tells anything about the server.
    pub(in crate::net) async fn is_usable(&mut self, deadline: Deadline) -> bool {
        match &mut self.state {
            LinkState::Greeted(greeted) => greeted.channel.check_idle(false).is_ok(),
            LinkState::Ready(connection) => {
                !connection.is_stale()
                    && connection.drain(deadline).await.is_ok()
                    && connection.check_idle().is_ok()
            }
        }
    }

    /// Whether it is not to be used again.
    pub(super) fn is_over(&self) -> bool {
        match &self.state {
            LinkState::Greeted(greeted) => greeted.generation.is_stale(),
            LinkState::Ready(connection) => connection.is_closed() || connection.is_stale(),
        }
    }

    async fn check(
        mut self,
        hello: &RawDocumentBuf,
        legacy_hello: Option<&RawDocumentBuf>,
        server_api: Option<ServerApi>,
    ) -> Result<(Answer, Duration)> {
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
        let answer = Answer {
            reply,
            link: Some(self),
            refuses_hello: legacy_hello.is_some(),
        };
        Ok((answer, duration))
    }

    async fn say_hello(
        &mut self,
        hello: &RawDocumentBuf,
        server_api: Option<ServerApi>,
    ) -> Result<RawDocumentBuf> {
        Ok(match &mut self.state {
            LinkState::Greeted(greeted) => {
                let fields = server_api.map(|api| api.fields());
                let channel = &mut greeted.channel;
                channel.encode_with(MsgFlags::NONE, "admin", hello, fields.as_deref())?;
                greeted.channel.round_trip().await?;
                greeted.channel.body()?.to_owned()
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
