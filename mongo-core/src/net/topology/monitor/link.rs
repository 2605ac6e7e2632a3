//! The connection of a monitor, and the step in progress on it.

use std::future::{Future, pending};
use std::pin::Pin;

use bson::{RawDocument, RawDocumentBuf};
use tokio::task::yield_now;

use crate::ServerAddress;
use crate::error::{ClosedReason, Error, ErrorKind, Result, Wait};
use crate::net::connection::channel::Channel;
use crate::net::connection::establish::first_hello;
use crate::net::transport::connector::{Untried, is_cut_off, telling};
use crate::net::transport::stream::Stream;
use crate::sdam::{Check, Heartbeat, is_long_hello};
use crate::wire::MsgFlags;

use super::Monitoring;

/// A boxed step of a check. It owns the connection while it runs, and closes it if dropped.
pub(in crate::net::topology) type Step = Pin<Box<dyn Future<Output = Result<Stepped>> + Send>>;

/// A connection, and the step in progress on it.
#[derive(Default)]
pub(in crate::net::topology) struct Link {
    channel: Option<Channel>,
    step: Option<Step>,
    /// What the step that opens the connection waits for; `None` once it is open.
    pub(in crate::net::topology) opening: Option<Wait>,
    /// The addresses for a connection that the other side cuts off.
    untried: Untried,
}

pub(in crate::net::topology) enum Stepped {
    /// The TLS handshake may follow.
    Opened(Stream, Untried),
    Secured(Stream),
    /// The peer ended the connection before the first byte of an answer.
    CutOff(Error),
    Replied(Channel),
}

/// The meaning of a completed step for a state machine. The next step, if any, has begun.
pub(in crate::net::topology) enum Progress {
    /// The connection is still being opened.
    Opening,
    Connected,
    Replied,
    Failed(Error),
}

impl Link {
    pub(in crate::net::topology) fn close(&mut self) {
        *self = Self::default();
    }

    /// Begins a step. A long reply names many hosts and is costly to handle, and many monitors may
    /// receive one at the same time. They take turns, so that other tasks and timers run between
    /// two such replies.
    fn begin(
        &mut self,
        monitoring: &Monitoring,
        step: impl Future<Output = Result<Stepped>> + Send + 'static,
    ) {
        let turns = monitoring.turns.clone();
        self.step = Some(Box::pin(async move {
            let stepped = step.await?;
            if let Stepped::Replied(channel) = &stepped
                && channel.body().is_ok_and(is_long_hello)
            {
                // The semaphore is never closed.
                let _turn = turns.acquire().await;
                yield_now().await;
            }
            Ok(stepped)
        }));
    }

    /// Waits for the current step. Safe to drop: the step is kept.
    pub(in crate::net::topology) async fn stepped(&mut self) -> Result<Stepped> {
        let outcome = match &mut self.step {
            Some(step) => telling(step.as_mut(), |wait| self.opening = Some(wait)).await,
            None => pending().await,
        };
        self.step = None;
        outcome
    }

    /// Tells what the connection that is being opened waits for.
    pub(in crate::net::topology) fn tell_opening(&self, heartbeat: &mut Heartbeat) {
        if let Some(wait) = self.opening {
            heartbeat.handle_opening(wait);
        }
    }

    /// Begins what a check asks for.
    pub(in crate::net::topology) fn check(
        &mut self,
        monitoring: &Monitoring,
        server: &ServerAddress,
        check: Check,
    ) {
        let channel = self.channel.take();
        match (check, channel) {
            (Check::Hello(command), Some(channel)) => {
                self.begin(monitoring, ask(channel, command, MsgFlags::NONE));
            }
            (Check::AwaitableHello(command), Some(channel)) => {
                let step = ask(channel, command, MsgFlags::EXHAUST_ALLOWED);
                self.begin(monitoring, step);
            }
            (Check::NextReply, Some(channel)) => self.begin(monitoring, next_reply(channel)),
            (Check::Connect, _) | (_, None) => {
                self.connect(monitoring, server, Untried::default());
            }
        }
    }

    /// Opens the transport.
    pub(in crate::net::topology) fn connect(
        &mut self,
        monitoring: &Monitoring,
        server: &ServerAddress,
        mut untried: Untried,
    ) {
        let (transport, server) = (monitoring.transport.clone(), server.clone());
        self.opening = Some(Wait::Connect);
        self.begin(monitoring, async move {
            let stream = transport.connect(&server, &mut untried).await?;
            Ok(Stepped::Opened(stream, untried))
        });
    }

    /// Continues after a step.
    pub(in crate::net::topology) fn advance(
        &mut self,
        monitoring: &Monitoring,
        server: &ServerAddress,
        stepped: Result<Stepped>,
    ) -> Progress {
        match stepped {
            Ok(Stepped::Opened(stream, untried)) => {
                self.untried = untried;
                if monitoring.transport.secures() {
                    self.secure(monitoring, server, stream);
                    return Progress::Opening;
                }
                self.hello(monitoring, Channel::new(stream));
                Progress::Connected
            }
            Ok(Stepped::Secured(stream)) => {
                self.hello(monitoring, Channel::new(stream));
                Progress::Connected
            }
            Ok(Stepped::CutOff(error)) if self.untried.is_left_after(&error) => {
                let untried = std::mem::take(&mut self.untried);
                self.connect(monitoring, server, untried);
                Progress::Opening
            }
            Ok(Stepped::Replied(channel)) => {
                self.channel = Some(channel);
                Progress::Replied
            }
            Ok(Stepped::CutOff(error)) | Err(error) => Progress::Failed(error),
        }
    }

    /// The reply of the last step, `ok: 0` included, and whether more follow (`moreToCome`).
    pub(in crate::net::topology) fn reply(&self) -> Result<(&RawDocument, bool)> {
        let Some(channel) = &self.channel else {
            return Err(ErrorKind::ConnectionClosed(ClosedReason::Closed).into());
        };
        Ok((channel.body()?, channel.exchange.is_streaming()))
    }

    /// Does the TLS handshake.
    fn secure(&mut self, monitoring: &Monitoring, server: &ServerAddress, stream: Stream) {
        let (transport, server) = (monitoring.transport.clone(), server.clone());
        self.opening = Some(Wait::Tls);
        self.begin(monitoring, async move {
            match transport.secure(stream, &server).await {
                Err(error) if is_cut_off(&error) => Ok(Stepped::CutOff(error)),
                secured => secured.map(Stepped::Secured),
            }
        });
    }

    /// Sends the hello on a new connection.
    fn hello(&mut self, monitoring: &Monitoring, mut channel: Channel) {
        let transport = monitoring.transport.clone();
        let metadata = monitoring.metadata.document();
        let server_api = monitoring.options.server_api;
        self.opening = None;
        self.begin(monitoring, async move {
            match first_hello(&mut channel, metadata, server_api).await {
                Ok(()) => Ok(Stepped::Replied(channel)),
                Err(error) if channel.is_unheard() && is_cut_off(&error) => {
                    Ok(Stepped::CutOff(error))
                }
                Err(error) => {
                    transport.note_failure(&error).await;
                    Err(error)
                }
            }
        });
    }
}

async fn ask(mut channel: Channel, command: RawDocumentBuf, flags: MsgFlags) -> Result<Stepped> {
    channel.encode_with(flags, "admin", &command, None)?;
    channel.round_trip().await?;
    Ok(Stepped::Replied(channel))
}

async fn next_reply(mut channel: Channel) -> Result<Stepped> {
    channel.read(usize::MAX).await?;
    Ok(Stepped::Replied(channel))
}
