//! One server's monitor, as a state machine without I/O.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::RawDocument;

use crate::auth::reply::integer;
use crate::error::{ClosedReason, Error, ErrorKind, Wait, is_network_error};
use crate::event::{SdamEvent, ServerHeartbeatStartedEvent};
use crate::handshake::HandshakeError;
use crate::sdam::check::{Check, MIN_HEARTBEAT_FREQUENCY, MonitorSettings, lacks_hello};
use crate::sdam::hello::is_long_hello;
use crate::sdam::pacing::Pacing;
use crate::sdam::{RoundTripTime, ServerDescription, TopologyVersion};

mod events;

/// One server's monitor, as a state machine: it decides when and how to check the server, and turns
/// the replies into server descriptions and heartbeat events.
///
/// The driver of this machine calls a `handle_` method for each thing that happens, then carries
/// out each [`Output`] of [`poll_output`](Self::poll_output) in order, and calls
/// [`handle_timeout`](Self::handle_timeout) at [`poll_timeout`](Self::poll_timeout). One check runs
/// at a time. Results of a check that has already ended are ignored.
///
/// Some checks follow the previous one without a pause. A server cannot turn that into a busy loop:
/// - if an awaited reply comes within [`MIN_HEARTBEAT_FREQUENCY`] and brings no newer topology
///   version, or is one of many such replies in a row, the next check begins
///   `MIN_HEARTBEAT_FREQUENCY` after this one began;
/// - of connections that break within that time, only the first is replaced at once. The next ones
///   are replaced after `MIN_HEARTBEAT_FREQUENCY`.
///
/// Specification: server monitoring.
#[derive(Debug)]
pub struct Heartbeat {
    settings: MonitorSettings,
    state: State,
    outputs: VecDeque<Output>,
    /// The connection, once its first hello was answered.
    connection: Option<Connection>,
    round_trip_time: RoundTripTime,
    /// How many connections were begun, which numbers them.
    begun: u64,
    /// Whether the last check succeeded and nothing has made the server unknown since.
    is_known: bool,
    measures: bool,
    /// Whether the server has refused the command `hello`, whatever its `helloOk` said. It then
    /// gets the legacy hello.
    refuses_hello: bool,
    last_end: Option<Instant>,
    pacing: Pacing,
}

/// An action for the driver of a [`Heartbeat`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Output {
    /// Publish an event.
    Publish(SdamEvent),
    /// Check the server. The machine keeps the time itself: the driver needs no timeouts.
    Check(Check),
    /// Close the connection, if there is one, or stop opening it.
    Disconnect,
    /// Pass this to the topology as [`Input::Check`](super::Input::Check).
    Describe(Arc<ServerDescription>),
    /// Start measuring round trip times on another connection ([`RttProbe`](super::RttProbe)), and
    /// pass them to [`Heartbeat::handle_round_trip`].
    StartProbe,
    /// Stop measuring.
    StopProbe,
}

#[derive(Debug)]
enum State {
    Waiting {
        until: Option<Instant>,
    },
    Checking {
        check: Check,
        started: Instant,
        /// What a connection that is being opened waits for.
        opening: Wait,
        /// When the hello was written, or the stream's next reply was awaited.
        sent: Option<Instant>,
        connection_id: u64,
    },
    Stopped,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    /// When its first hello was answered.
    since: Instant,
    driver_id: u64,
    server_id: Option<i64>,
    hello_ok: bool,
    topology_version: Option<TopologyVersion>,
    more_to_come: bool,
}

impl Heartbeat {
    /// A monitor whose first check is due at `due`.
    pub fn new(settings: MonitorSettings, due: Instant) -> Self {
        Self {
            settings,
            state: State::Waiting { until: Some(due) },
            outputs: VecDeque::new(),
            connection: None,
            round_trip_time: RoundTripTime::new(),
            begun: 0,
            is_known: false,
            measures: false,
            refuses_hello: false,
            last_end: None,
            pacing: Pacing::default(),
        }
    }

    /// The next action; `None` until a `handle_` method is called.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout); `None` if no timeout is pending.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting { until } => *until,
            State::Checking { check, started, .. } => {
                // A time that `Instant` can't represent never comes.
                self.time_limit(check)
                    .and_then(|limit| started.checked_add(limit))
            }
            State::Stopped => None,
        }
    }

    /// Whether the monitor was stopped. Once all outputs were taken, no more follow.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped)
    }

    /// The round trip times.
    pub fn round_trip_time(&self) -> &RoundTripTime {
        &self.round_trip_time
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come. A call that is too early does
    /// nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        match &self.state {
            State::Waiting { .. } => self.start(now),
            State::Checking {
                check,
                started,
                opening,
                sent,
                ..
            } => {
                let wait = match (check, sent) {
                    (Check::Connect, None) => *opening,
                    (Check::Connect, Some(_)) => Wait::Handshake,
                    _ => Wait::Heartbeat,
                };
                let after = now.saturating_duration_since(*started);
                self.fail(now, Error::timeout(wait, after));
            }
            State::Stopped => {}
        }
    }

    /// What the connection that [`Check::Connect`] asked for waits for until it is open, for the error of a
    /// time-out. Default [`Wait::Connect`]. After [`handle_connected`](Self::handle_connected) it means
    /// that another connection is opened in place of that one, which the other side has cut off.
    pub fn handle_opening(&mut self, wait: Wait) {
        if let State::Checking {
            check: Check::Connect,
            opening,
            sent,
            connection_id,
            ..
        } = &mut self.state
        {
            if sent.take().is_some() {
                self.begun += 1;
                *connection_id = self.begun;
            }
            *opening = wait;
        }
    }

    /// The connection of [`Check::Connect`] is open, and its hello is about to be written.
    pub fn handle_connected(&mut self, now: Instant) {
        if let State::Checking {
            check: Check::Connect,
            sent,
            ..
        } = &mut self.state
        {
            *sent = Some(now);
        }
    }

    /// The reply to the check, `ok: 0` included. `more_to_come` is the reply's flag `moreToCome`:
    /// another reply follows without a request.
    pub fn handle_reply(&mut self, now: Instant, reply: &RawDocument, more_to_come: bool) {
        let (awaited, began, duration, driver_id) = match &self.state {
            State::Checking {
                check,
                started,
                sent,
                connection_id,
                ..
            } => {
                let duration = now.saturating_duration_since(sent.unwrap_or(*started));
                (check.is_awaited(), *started, duration, *connection_id)
            }
            State::Waiting { .. } | State::Stopped => return,
        };
        let read = ServerDescription::read_hello(&self.settings.server, reply, now);
        let mut description = match read {
            Ok(description) => description,
            Err(error) if self.is_refusal_of_hello(&error) => {
                return self.check_by_legacy_hello(now);
            }
            Err(error) => return self.fail(now, error),
        };
        if !awaited {
            self.round_trip_time.record(duration);
        }
        description.round_trip_time = self.round_trip_time.average();
        description.min_round_trip_time = Some(self.round_trip_time.minimum());
        let server_id = match self.connection {
            Some(connection) => connection.server_id,
            None => reply.get("connectionId").ok().flatten().and_then(integer),
        };
        let former = self.connection;
        self.connection = Some(Connection {
            since: former.map_or(now, |former| former.since),
            driver_id,
            server_id,
            hello_ok: description.hello_ok,
            topology_version: description.topology_version,
            more_to_come: more_to_come && awaited,
        });
        let found = description.topology_version;
        self.is_known = true;
        self.publish_success(reply, duration, awaited);
        self.outputs
            .push_back(Output::Describe(Arc::new(description)));
        self.measure(self.streams());
        if !self.streams() {
            return self.wait(now);
        }
        self.last_end = Some(now);
        let known = former.and_then(|former| former.topology_version);
        let not_before = match awaited {
            true => {
                let is_long = is_long_hello(reply);
                self.pacing.after_reply(now, began, is_long, [known, found])
            }
            false => None,
        };
        self.start_at(now, not_before);
    }

    /// The check failed: the connection could not be opened, or broke.
    pub fn handle_error(&mut self, now: Instant, error: Error) {
        if let State::Checking { .. } = self.state {
            self.fail(now, error);
        }
    }

    /// Requests a check as soon as [`MIN_HEARTBEAT_FREQUENCY`] allows. Ignored while a check runs.
    pub fn handle_request(&mut self, now: Instant) {
        if let State::Waiting { until } = &mut self.state {
            let earliest = match self.last_end {
                Some(end) => end + MIN_HEARTBEAT_FREQUENCY,
                None => now,
            };
            *until = Some(until.map_or(earliest, |until| until.min(earliest)));
            self.handle_timeout(now);
        }
    }

    /// A connection to the server broke, which makes the server unknown. Cancels the check that is
    /// under way and closes the monitor's connection.
    pub fn handle_cancel(&mut self, now: Instant) {
        match self.state {
            State::Stopped => return,
            State::Checking { .. } => {
                let cancelled = ErrorKind::ConnectionClosed(ClosedReason::Closed);
                self.publish_failure(now, cancelled.into());
                self.outputs.push_back(Output::Disconnect);
                self.wait(now);
            }
            State::Waiting { .. } if self.connection.is_some() => {
                self.outputs.push_back(Output::Disconnect);
            }
            State::Waiting { .. } => {}
        }
        self.forget();
    }

    /// Stops monitoring the server.
    pub fn handle_stop(&mut self, now: Instant) {
        if let State::Checking { .. } = self.state {
            let stopped = ErrorKind::ConnectionClosed(ClosedReason::Closed);
            self.publish_failure(now, stopped.into());
        }
        if !self.is_stopped() {
            self.measure(false);
            self.outputs.push_back(Output::Disconnect);
            self.forget();
            self.state = State::Stopped;
        }
    }

    /// A sample of the round trip time from the probe.
    pub fn handle_round_trip(&mut self, sample: Duration) {
        self.round_trip_time.record(sample);
    }

    fn is_refusal_of_hello(&self, error: &Error) -> bool {
        let ErrorKind::Handshake(HandshakeError::Refused { code, .. }) = error.kind() else {
            return false;
        };
        let sent_hello = self.connection.is_some_and(|own| own.hello_ok);
        let may_choose = !self.refuses_hello && self.settings.server_api.is_none();
        sent_hello && may_choose && lacks_hello(*code)
    }

    /// Continues the current check with the legacy hello.
    fn check_by_legacy_hello(&mut self, now: Instant) {
        self.refuses_hello = true;
        if let Some(connection) = &mut self.connection {
            // A refusal is the last reply of a stream.
            connection.more_to_come = false;
        }
        let next = self.next_check();
        if let State::Checking { check, sent, .. } = &mut self.state {
            (*check, *sent) = (next.clone(), Some(now));
            self.outputs.push_back(Output::Check(next));
        }
    }

    fn next_check(&self) -> Check {
        let has_hello = |hello_ok| hello_ok && !self.refuses_hello;
        match self.connection {
            None => Check::Connect,
            Some(Connection {
                more_to_come: true, ..
            }) => Check::NextReply,
            Some(Connection {
                hello_ok,
                topology_version: Some(version),
                ..
            }) if self.settings.streaming => {
                let hello = self.settings.hello(has_hello(hello_ok), Some(version));
                Check::AwaitableHello(hello)
            }
            Some(Connection { hello_ok, .. }) => {
                Check::Hello(self.settings.hello(has_hello(hello_ok), None))
            }
        }
    }

    fn start(&mut self, now: Instant) {
        let check = self.next_check();
        let driver_id = self.connection.map(|own| own.driver_id);
        let driver_id = driver_id.unwrap_or_else(|| {
            self.begun += 1;
            self.begun
        });
        let event = ServerHeartbeatStartedEvent {
            topology_id: self.settings.topology_id,
            address: self.settings.server.clone(),
            driver_connection_id: Some(driver_id),
            server_connection_id: self.connection.and_then(|own| own.server_id),
            awaited: check.is_awaited(),
        };
        self.publish(SdamEvent::ServerHeartbeatStarted(event));
        self.outputs.push_back(Output::Check(check.clone()));
        self.state = State::Checking {
            sent: (check != Check::Connect).then_some(now),
            check,
            started: now,
            opening: Wait::Connect,
            connection_id: driver_id,
        };
    }

    /// Makes the server unknown. If it was known and this is a network error, one more check
    /// follows at once on a new connection, or after a pause if connections keep breaking.
    fn fail(&mut self, now: Instant, error: Error) {
        let error = error.at(&self.settings.server);
        let again = self.is_known && is_network_error(&error);
        let since = self.connection.map(|own| own.since);
        self.publish_failure(now, error.clone());
        self.outputs.push_back(Output::Disconnect);
        let server = self.settings.server.clone();
        let description = ServerDescription::failed(server, error, now);
        self.outputs
            .push_back(Output::Describe(Arc::new(description)));
        self.forget();
        if !again {
            return self.wait(now);
        }
        self.last_end = Some(now);
        let not_before = self.pacing.after_break(now, since);
        self.start_at(now, not_before);
    }

    fn start_at(&mut self, now: Instant, not_before: Option<Instant>) {
        match not_before {
            None => self.start(now),
            until => self.state = State::Waiting { until },
        }
    }

    fn wait(&mut self, now: Instant) {
        self.last_end = Some(now);
        // A time that `Instant` can't represent never comes.
        let until = now.checked_add(self.settings.frequency());
        self.state = State::Waiting { until };
    }

    fn forget(&mut self) {
        self.connection = None;
        self.is_known = false;
        self.round_trip_time.reset();
    }

    fn streams(&self) -> bool {
        self.settings.streaming
            && self
                .connection
                .is_some_and(|own| own.more_to_come || own.topology_version.is_some())
    }

    fn measure(&mut self, measures: bool) {
        match (self.measures, measures) {
            (false, true) => self.outputs.push_back(Output::StartProbe),
            (true, false) => self.outputs.push_back(Output::StopProbe),
            (false, false) | (true, true) => {}
        }
        self.measures = measures;
    }

    fn time_limit(&self, check: &Check) -> Option<Duration> {
        let limit = self.settings.connect_timeout?;
        Some(match check {
            Check::Connect | Check::Hello(_) => limit,
            Check::AwaitableHello(_) | Check::NextReply => {
                limit.saturating_add(self.settings.frequency())
            }
        })
    }
}
