//! Measures round trip times while hellos are awaited, as a state machine without I/O.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bson::RawDocument;

use super::ServerDescription;
use super::check::{Check, MonitorSettings, lacks_hello};
use crate::error::ErrorKind;
use crate::handshake::HandshakeError;

/// Measures the round trip times of one server's hellos on a dedicated connection, as a state
/// machine. It is needed while the monitor's hellos are awaited, since the duration of those is not
/// a round trip time.
///
/// It is driven as [`Heartbeat`](super::Heartbeat) is. Its failures don't change what is known of
/// the server, and it has no events. To stop it, drop it and its connection.
///
/// Specification: server monitoring, measuring RTT.
#[derive(Debug)]
pub struct RttProbe {
    settings: MonitorSettings,
    state: State,
    outputs: VecDeque<ProbeOutput>,
    /// Whether the server has the command `hello`; `None` while no connection is open.
    connected: Option<bool>,
    /// Whether the server has refused the command `hello`.
    refuses_hello: bool,
}

/// An action for the driver of an [`RttProbe`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ProbeOutput {
    /// Open a connection or send a hello, and pass in the reply: [`Check::Connect`] or
    /// [`Check::Hello`].
    Check(Check),
    /// Close the connection, if there is one, or stop opening it.
    Disconnect,
    /// A round trip time for [`Heartbeat::handle_round_trip`](super::Heartbeat::handle_round_trip).
    Sample(Duration),
}

#[derive(Clone, Copy, Debug)]
enum State {
    Waiting {
        until: Option<Instant>,
    },
    Checking {
        until: Option<Instant>,
        sent: Instant,
    },
}

impl RttProbe {
    /// A probe whose first measurement is due.
    pub fn new(settings: MonitorSettings, now: Instant) -> Self {
        Self {
            settings,
            state: State::Waiting { until: Some(now) },
            outputs: VecDeque::new(),
            connected: None,
            refuses_hello: false,
        }
    }

    /// The next action.
    pub fn poll_output(&mut self) -> Option<ProbeOutput> {
        self.outputs.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } | State::Checking { until, .. } => until,
        }
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come. A call that is too early does
    /// nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        match self.state {
            State::Checking { .. } => self.handle_error(now),
            State::Waiting { .. } => {
                let check = match self.connected {
                    None => Check::Connect,
                    Some(hello_ok) => {
                        let has_hello = hello_ok && !self.refuses_hello;
                        Check::Hello(self.settings.hello(has_hello, None))
                    }
                };
                self.outputs.push_back(ProbeOutput::Check(check));
                let limit = self.settings.connect_timeout;
                self.state = State::Checking {
                    until: limit.and_then(|limit| now.checked_add(limit)),
                    sent: now,
                };
            }
        }
    }

    /// The connection is open, and its hello is about to be written.
    pub fn handle_connected(&mut self, now: Instant) {
        if let State::Checking { sent, .. } = &mut self.state {
            *sent = now;
        }
    }

    /// The reply to the hello.
    pub fn handle_reply(&mut self, now: Instant, reply: &RawDocument) {
        let State::Checking { sent, .. } = self.state else {
            return;
        };
        match ServerDescription::read_hello(&self.settings.server, reply, now) {
            Err(error) => {
                if let ErrorKind::Handshake(HandshakeError::Refused { code, .. }) = error.kind() {
                    self.refuses_hello |= lacks_hello(*code);
                }
                self.handle_error(now);
            }
            Ok(description) => {
                let sample = now.saturating_duration_since(sent);
                self.outputs.push_back(ProbeOutput::Sample(sample));
                self.connected = Some(description.hello_ok);
                self.wait(now);
            }
        }
    }

    /// The connection could not be opened, or broke.
    pub fn handle_error(&mut self, now: Instant) {
        if let State::Checking { .. } = self.state {
            self.outputs.push_back(ProbeOutput::Disconnect);
            self.connected = None;
            self.wait(now);
        }
    }

    fn wait(&mut self, now: Instant) {
        let until = now.checked_add(self.settings.frequency());
        self.state = State::Waiting { until };
    }
}
