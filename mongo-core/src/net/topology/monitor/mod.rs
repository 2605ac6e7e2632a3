use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{RawDocument, RawDocumentBuf};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::Shared;
use crate::ServerAddress;
use crate::error::{ClosedReason, Error, ErrorKind, Result, Wait};
use crate::event::{SdamEvent, ServerHeartbeatFailedEvent, ServerHeartbeatStartedEvent};
use crate::handshake::Environment;
use crate::net::background::{Alive, Task};
use crate::net::connection::channel::Channel;
use crate::net::connection::establish::first_hello;
use crate::net::connection::metadata::Metadata;
use crate::net::deadline::Deadline;
use crate::net::transport::Transport;
use crate::net::transport::connector::{Untried, is_cut_off, telling};
use crate::net::transport::stream::Stream;
use crate::sdam::{
    Check, Heartbeat, Input, MIN_HEARTBEAT_FREQUENCY, MonitorSettings, Output, ProbeOutput,
    RttProbe,
};
use crate::uri::ClientOptions;
use crate::wire::MsgFlags;

/// The capacity of the channel for samples of the round trip time. The monitor receives them
/// quickly.
const SAMPLES: usize = 8;

/// The state that all monitors of a topology share.
pub(crate) struct Monitoring {
    options: ClientOptions,
    transport: Transport,
    pub(crate) metadata: Metadata,
    on_faas: bool,
    next_connection: AtomicU64,
}

impl Monitoring {
    pub(crate) fn new(
        options: &ClientOptions,
        transport: Transport,
        metadata: Metadata,
        environment: &Environment<'_>,
    ) -> Self {
        Self {
            options: options.clone(),
            transport,
            metadata,
            on_faas: environment.is_faas(),
            next_connection: AtomicU64::new(1),
        }
    }

    /// The current runtime, if it has the drivers that monitors need.
    pub(crate) fn runtime(&self) -> Result<Handle> {
        self.transport.runtime()
    }
}

/// The topology's handle to the monitor of one server; its task is the [`Pump`].
pub(crate) struct Monitor {
    id: u64,
    control: Control,
    created: std::time::Instant,
    /// The start of its first check.
    first_check: Option<std::time::Instant>,
    /// The first check is due no sooner than [`MIN_HEARTBEAT_FREQUENCY`] after this.
    paced_from: Option<std::time::Instant>,
    /// The check in progress, whose end was not published yet.
    under_way: Option<(ServerHeartbeatStartedEvent, std::time::Instant)>,
    is_dead: bool,
}

/// Wakes a task of the topology. The topology notifies it without holding its lock.
pub(crate) type Signal = Arc<Notify>;

#[derive(Clone, Default)]
struct Control {
    request: Signal,
    cancel: Signal,
    stop: Signal,
}

impl Monitor {
    /// Creates the monitor and its task, which the caller spawns. The first check is due at once,
    /// but no sooner than [`MIN_HEARTBEAT_FREQUENCY`] after `paced_from`: the [pace](Self::pace) of
    /// the server's previous monitor.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        server: &ServerAddress,
        topology_id: ObjectId,
        alive: Alive,
        paced_from: Option<std::time::Instant>,
    ) -> (Self, Task) {
        let monitoring = &shared.monitoring;
        let settings = MonitorSettings::from_options(
            topology_id,
            server.clone(),
            &monitoring.options,
            monitoring.on_faas,
        );
        let control = Control::default();
        let monitor = Self {
            id: alive.number(),
            control: control.clone(),
            created: now(),
            first_check: None,
            paced_from,
            under_way: None,
            is_dead: false,
        };
        let pump = Pump {
            lifeline: Lifeline {
                shared: shared.clone(),
                server: server.clone(),
                id: monitor.id,
            },
            shared: shared.clone(),
            control,
            settings,
            not_before: paced_from.map(|from| from + MIN_HEARTBEAT_FREQUENCY),
            _alive: alive,
        };
        (monitor, Box::pin(pump.run()))
    }

    /// Distinguishes this monitor from earlier ones of the same server.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether its task ended without being [stopped](Self::stop).
    pub(crate) fn is_dead(&self) -> bool {
        self.is_dead
    }

    /// The time from which the next monitor of the server counts [`MIN_HEARTBEAT_FREQUENCY`]. It is
    /// the start of this one's first check, so that a server that is removed and added by each
    /// reply is not checked in a busy loop. If the task has ended by itself, it is the creation of
    /// this one, so that a task that panics at once is not restarted in a busy loop.
    pub(crate) fn pace(&self) -> Option<std::time::Instant> {
        match self.is_dead {
            true => Some(self.created),
            false => self.first_check.or(self.paced_from),
        }
    }

    /// Requests a check as soon as one is allowed. Ignored while one runs.
    pub(crate) fn check_request(&self) -> Signal {
        self.control.request.clone()
    }

    /// Cancels the check in progress.
    pub(crate) fn check_cancellation(&self) -> Signal {
        self.control.cancel.clone()
    }

    /// Notes an event that is about to be published.
    pub(crate) fn note(&mut self, event: &SdamEvent) {
        match event {
            SdamEvent::ServerHeartbeatStarted(started) => {
                let now = now();
                self.first_check.get_or_insert(now);
                self.under_way = Some((started.clone(), now));
            }
            SdamEvent::ServerHeartbeatSucceeded(_) | SdamEvent::ServerHeartbeatFailed(_) => {
                self.under_way = None;
            }
            _ => {}
        }
    }

    /// Stops the monitor. The signal ends the task at its next await, even if the task itself sends
    /// it. The event ends the check in progress and must be published, because the task's own
    /// events are ignored from now on.
    pub(crate) fn stop(mut self) -> (Signal, Option<SdamEvent>) {
        let event = self.cut_short();
        (self.control.stop, event)
    }

    /// The task has ended by itself. The event is the same as that of [`stop`](Self::stop).
    pub(crate) fn died(&mut self) -> Option<SdamEvent> {
        self.is_dead = true;
        self.cut_short()
    }

    fn cut_short(&mut self) -> Option<SdamEvent> {
        let (started, at) = self.under_way.take()?;
        Some(SdamEvent::ServerHeartbeatFailed(
            ServerHeartbeatFailedEvent {
                topology_id: started.topology_id,
                address: started.address,
                driver_connection_id: started.driver_connection_id,
                server_connection_id: started.server_connection_id,
                duration: now().saturating_duration_since(at),
                failure: ErrorKind::ConnectionClosed(ClosedReason::Closed).into(),
                awaited: started.awaited,
            },
        ))
    }
}

/// Drives the monitor's state machine and carries out its outputs. It makes no decisions.
struct Pump {
    shared: Arc<Shared>,
    control: Control,
    settings: MonitorSettings,
    not_before: Option<std::time::Instant>,
    /// Dropped after all other fields, and in this order.
    lifeline: Lifeline,
    _alive: Alive,
}

/// Reports the end of a monitor's task, even if its runtime drops it or it panics.
struct Lifeline {
    shared: Arc<Shared>,
    server: ServerAddress,
    id: u64,
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.shared.monitor_ended(&self.server, self.id);
    }
}

/// A boxed step of a check. It owns the connection while it runs, and closes it if dropped.
type Step = Pin<Box<dyn Future<Output = Result<Stepped>> + Send>>;

/// A connection, and the step in progress on it.
#[derive(Default)]
struct Link {
    channel: Option<Channel>,
    step: Option<Step>,
    /// What the step that opens the connection waits for; `None` once it is open.
    opening: Option<Wait>,
    /// The addresses for a connection that the other side cuts off.
    untried: Untried,
}

enum Stepped {
    /// The TLS handshake may follow.
    Opened(Stream, Untried),
    Secured(Stream),
    /// The peer ended the connection before the first byte of an answer.
    CutOff(Error),
    Replied(Channel),
}

/// The meaning of a completed step for a state machine. The next step, if any, has begun.
enum Progress {
    /// The connection is still being opened.
    Opening,
    Connected,
    Replied,
    Failed(Error),
}

impl Link {
    fn close(&mut self) {
        *self = Self::default();
    }

    fn begin(&mut self, step: impl Future<Output = Result<Stepped>> + Send + 'static) {
        self.step = Some(Box::pin(step));
    }

    /// Waits for the current step. Safe to drop: the step is kept.
    async fn stepped(&mut self) -> Result<Stepped> {
        let outcome = match &mut self.step {
            Some(step) => telling(step, |wait| self.opening = Some(wait)).await,
            None => pending().await,
        };
        self.step = None;
        outcome
    }

    /// Tells what the connection that is being opened waits for.
    fn tell_opening(&self, heartbeat: &mut Heartbeat) {
        if let Some(wait) = self.opening {
            heartbeat.handle_opening(wait);
        }
    }

    /// Begins what a check asks for.
    fn check(&mut self, monitoring: &Monitoring, server: &ServerAddress, check: Check) {
        let channel = self.channel.take();
        match (check, channel) {
            (Check::Hello(command), Some(channel)) => {
                self.begin(ask(channel, command, MsgFlags::NONE));
            }
            (Check::AwaitableHello(command), Some(channel)) => {
                self.begin(ask(channel, command, MsgFlags::EXHAUST_ALLOWED));
            }
            (Check::NextReply, Some(channel)) => self.begin(next_reply(channel)),
            (Check::Connect, _) | (_, None) => {
                self.connect(monitoring, server, Untried::default());
            }
        }
    }

    /// Opens the transport.
    fn connect(&mut self, monitoring: &Monitoring, server: &ServerAddress, mut untried: Untried) {
        let (transport, server) = (monitoring.transport.clone(), server.clone());
        self.opening = Some(Wait::Connect);
        self.begin(async move {
            let stream = transport.connect(&server, &mut untried).await?;
            Ok(Stepped::Opened(stream, untried))
        });
    }

    /// Continues after a step.
    fn advance(
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
    fn reply(&self) -> Result<(&RawDocument, bool)> {
        let Some(channel) = &self.channel else {
            return Err(ErrorKind::ConnectionClosed(ClosedReason::Closed).into());
        };
        Ok((channel.body()?, channel.exchange.is_streaming()))
    }

    /// Does the TLS handshake.
    fn secure(&mut self, monitoring: &Monitoring, server: &ServerAddress, stream: Stream) {
        let (transport, server) = (monitoring.transport.clone(), server.clone());
        self.opening = Some(Wait::Tls);
        self.begin(async move {
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
        self.begin(async move {
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

impl Pump {
    async fn run(self) {
        let mut heartbeat = Heartbeat::new(self.settings.clone(), self.first_check());
        let mut link = Link::default();
        let (samples, mut sampled) = mpsc::channel(SAMPLES);
        let mut probe: Option<Running> = None;
        let mut timer = Timer::default();
        loop {
            while let Some(output) = heartbeat.poll_output() {
                match output {
                    Output::Publish(event) => self.report(Some(event), None),
                    Output::Describe(description) => {
                        self.report(None, Some(Input::Check(description)));
                    }
                    Output::Check(check) => {
                        link.check(&self.shared.monitoring, &self.settings.server, check);
                    }
                    Output::Disconnect => link.close(),
                    Output::StartProbe => {
                        let (shared, settings) = (self.shared.clone(), self.settings.clone());
                        probe = Some(Box::pin(measure(shared, settings, samples.clone())));
                    }
                    Output::StopProbe => probe = None,
                }
            }
            // Each branch is safe to drop: the step and the probe are kept, a notification or a
            // sample that was not received is kept, and the time is absolute. The order is fixed,
            // so that a simulation is reproducible. A requested check comes after a reply that has
            // arrived, because the reply would otherwise consume the request.
            tokio::select! {
                biased;
                () = self.control.stop.notified() => return,
                () = self.control.cancel.notified() => heartbeat.handle_cancel(now()),
                Some(sample) = sampled.recv() => heartbeat.handle_round_trip(sample),
                stepped = link.stepped() => self.stepped(&mut heartbeat, &mut link, stepped),
                () = timer.at(heartbeat.poll_timeout()) => {
                    link.tell_opening(&mut heartbeat);
                    heartbeat.handle_timeout(now());
                }
                () = self.control.request.notified() => heartbeat.handle_request(now()),
                () = running(&mut probe) => probe = None,
            }
        }
    }

    /// The time of the first check. A paused clock may be ahead of this runtime's clock.
    fn first_check(&self) -> std::time::Instant {
        let now = now();
        let latest = now + MIN_HEARTBEAT_FREQUENCY;
        self.not_before.map_or(now, |at| at.max(now).min(latest))
    }

    fn stepped(&self, heartbeat: &mut Heartbeat, link: &mut Link, stepped: Result<Stepped>) {
        let monitoring = &self.shared.monitoring;
        match link.advance(monitoring, &self.settings.server, stepped) {
            Progress::Connected => {
                let id = monitoring.next_connection.fetch_add(1, Ordering::Relaxed);
                heartbeat.handle_connected(now(), id);
            }
            Progress::Replied => match link.reply() {
                Ok((reply, more_to_come)) => heartbeat.handle_reply(now(), reply, more_to_come),
                Err(error) => heartbeat.handle_error(now(), error),
            },
            Progress::Opening => link.tell_opening(heartbeat),
            Progress::Failed(error) => heartbeat.handle_error(now(), error),
        }
    }

    fn report(&self, event: Option<SdamEvent>, input: Option<Input>) {
        self.shared
            .report(&self.settings.server, self.lifeline.id, event, input);
    }
}

/// Measures round trip times for as long as it is polled.
async fn measure(shared: Arc<Shared>, settings: MonitorSettings, samples: mpsc::Sender<Duration>) {
    let monitoring = &shared.monitoring;
    let mut probe = RttProbe::new(settings.clone(), now());
    let mut link = Link::default();
    let mut timer = Timer::default();
    loop {
        while let Some(output) = probe.poll_output() {
            match output {
                ProbeOutput::Check(check) => link.check(monitoring, &settings.server, check),
                ProbeOutput::Disconnect => link.close(),
                // A monitor that is too busy to receive a sample can do without it.
                ProbeOutput::Sample(sample) => drop(samples.try_send(sample)),
            }
        }
        // As above.
        tokio::select! {
            biased;
            stepped = link.stepped() => match link.advance(monitoring, &settings.server, stepped) {
                Progress::Connected => probe.handle_connected(now()),
                Progress::Replied => match link.reply() {
                    Ok((reply, _)) => probe.handle_reply(now(), reply),
                    Err(_) => probe.handle_error(now()),
                },
                Progress::Opening => {}
                Progress::Failed(_) => probe.handle_error(now()),
            },
            () = timer.at(probe.poll_timeout()) => probe.handle_timeout(now()),
        }
    }
}

/// The current time by Tokio's clock, which tests may pause.
pub(crate) fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Completes at a time, and after one more turn of the reactor. So, after the process was
/// suspended, a `select!` that polls a step first receives a reply that is waiting in the socket.
pub(crate) async fn at(time: Option<std::time::Instant>) {
    match time {
        Some(time) => {
            let expiry = Deadline::at(Instant::from_std(time)).bound(pending::<()>());
            let _ = expiry.await;
        }
        None => pending().await,
    }
}

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A time-out over the consecutive steps of a check.
#[derive(Default)]
struct Timer {
    time: Option<std::time::Instant>,
    running: Option<Running>,
}

impl Timer {
    /// Like [`at`], but continues if the time is the same as before: after a suspension of the
    /// process, all steps of a check share the grace time. Safe to drop.
    async fn at(&mut self, time: Option<std::time::Instant>) {
        if self.time != time {
            self.running = time.map(|time| Box::pin(at(Some(time))) as Running);
            self.time = time;
        }
        running(&mut self.running).await;
        *self = Self::default();
    }
}

async fn running(task: &mut Option<Running>) {
    match task {
        Some(task) => task.await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
