//! The task of a monitor: feeds the state machine, and does what it says.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use tokio::sync::mpsc;

use super::clock::{at, now};
use super::monitor::link::{Link, Progress, Stepped};
use super::monitor::{Control, Monitor, Monitoring};
use super::shared::Shared;
use crate::ServerAddress;
use crate::error::Result;
use crate::event::SdamEvent;
use crate::net::background::{Alive, Task};
use crate::sdam::{
    Heartbeat, Input, MIN_HEARTBEAT_FREQUENCY, MonitorSettings, Output, ProbeOutput, RttProbe,
};

/// The capacity of the channel for samples of the round trip time. The monitor receives them
/// quickly.
const SAMPLES: usize = 8;

/// Creates the monitor of a server and its task, which the caller spawns. The first check is due at
/// once, but no sooner than [`MIN_HEARTBEAT_FREQUENCY`] after `paced_from`: the
/// [pace](Monitor::pace) of the server's previous monitor.
///
/// The task creates its state when it first runs: one reply may start a thousand monitors.
pub(crate) fn start(
    shared: &Arc<Shared>,
    server: &ServerAddress,
    topology_id: ObjectId,
    alive: Alive,
    paced_from: Option<std::time::Instant>,
) -> (Monitor, Task) {
    let monitor = Monitor::new(alive.number(), paced_from);
    let pump = Pump {
        topology_id,
        control: monitor.control.clone(),
        not_before: paced_from.map(|from| from + MIN_HEARTBEAT_FREQUENCY),
        lifeline: Lifeline {
            shared: shared.clone(),
            server: server.clone(),
            id: monitor.id,
        },
        _alive: alive,
    };
    let task = Box::pin(async move { Box::pin(pump.run()).await });
    (monitor, task)
}

/// Drives the monitor's state machine and carries out its outputs. It makes no decisions.
struct Pump {
    topology_id: ObjectId,
    control: Control,
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

impl Pump {
    async fn run(self) {
        let Lifeline { shared, server, .. } = &self.lifeline;
        let settings = self.settings();
        let mut heartbeat = Heartbeat::new(settings.clone(), self.first_check());
        let mut link = Link::default();
        let (samples, mut sampled) = mpsc::channel(SAMPLES);
        let mut probe: Option<Running> = None;
        let mut timer = Timer::default();
        // Usually its last reference, so that closing a topology does not free those of all servers
        // at once: each may name a thousand hosts.
        let mut described = None;
        loop {
            while let Some(output) = heartbeat.poll_output() {
                match output {
                    Output::Publish(event) => self.report(Some(event), None),
                    Output::Describe(description) => {
                        let former = described.replace(description.clone());
                        self.report(None, Some(Input::Check(description)));
                        drop(former);
                    }
                    Output::Check(check) => {
                        link.check(&shared.monitoring, server, check);
                    }
                    Output::Disconnect => link.close(),
                    Output::StartProbe => {
                        let probing = measure(shared.clone(), settings.clone(), samples.clone());
                        probe = Some(Box::pin(probing));
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

    fn settings(&self) -> MonitorSettings {
        let Lifeline { shared, server, .. } = &self.lifeline;
        let Monitoring {
            options, on_faas, ..
        } = &shared.monitoring;
        MonitorSettings::from_options(self.topology_id, server.clone(), options, *on_faas)
    }

    /// The time of the first check. A paused clock may be ahead of this runtime's clock.
    fn first_check(&self) -> std::time::Instant {
        let now = now();
        let latest = now + MIN_HEARTBEAT_FREQUENCY;
        self.not_before.map_or(now, |at| at.max(now).min(latest))
    }

    fn stepped(&self, heartbeat: &mut Heartbeat, link: &mut Link, stepped: Result<Stepped>) {
        let Lifeline { shared, server, .. } = &self.lifeline;
        match link.advance(&shared.monitoring, server, stepped) {
            Progress::Connected => heartbeat.handle_connected(now()),
            Progress::Replied => match link.reply() {
                Ok((reply, more_to_come)) => heartbeat.handle_reply(now(), reply, more_to_come),
                Err(error) => heartbeat.handle_error(now(), error),
            },
            Progress::Opening => link.tell_opening(heartbeat),
            Progress::Failed(error) => heartbeat.handle_error(now(), error),
        }
    }

    fn report(&self, event: Option<SdamEvent>, input: Option<Input>) {
        let Lifeline { shared, server, id } = &self.lifeline;
        shared.report(server, *id, event, input);
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
