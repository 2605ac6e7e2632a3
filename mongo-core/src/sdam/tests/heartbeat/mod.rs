mod details;
mod time_outs;

use std::time::Duration;

use bson::{RawDocumentBuf, rawdoc};

use super::*;
use crate::auth::reply::integer;

/// A monitor with a manual clock.
struct Drive {
    heartbeat: Heartbeat,
    start: Instant,
    now: Instant,
    /// The last description and the last command.
    description: Option<Arc<ServerDescription>>,
    command: Option<RawDocumentBuf>,
}

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn settings() -> MonitorSettings {
    let mut settings = MonitorSettings::new(id(42), address("a"));
    settings.heartbeat_frequency = ms(10_000);
    settings.connect_timeout = Some(ms(3_000));
    settings
}

fn polling() -> MonitorSettings {
    let mut settings = settings();
    settings.streaming = false;
    settings
}

/// A standalone's reply; with a counter, it can stream.
fn reply(counter: Option<i64>) -> RawDocumentBuf {
    let mut reply = rawdoc! { "ok": 1, "helloOk": true, "maxWireVersion": 25, "connectionId": 77 };
    if let Some(counter) = counter {
        let version = rawdoc! { "processId": id(1), "counter": counter };
        reply.append(bson::raw::cstr!("topologyVersion"), version);
    }
    reply
}

impl Drive {
    fn new(settings: MonitorSettings) -> Self {
        let now = Instant::now();
        Self {
            heartbeat: Heartbeat::new(settings, now),
            start: now,
            now,
            description: None,
            command: None,
        }
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.heartbeat.handle_timeout(self.now);
    }

    fn reply(&mut self, after: u64, reply: &RawDocumentBuf, more_to_come: bool) {
        self.now += ms(after);
        self.heartbeat.handle_reply(self.now, reply, more_to_come);
    }

    /// Opens the connection in 5 ms, and answers its hello after another 20 ms.
    fn connect(&mut self, answer: &RawDocumentBuf) {
        self.heartbeat.handle_timeout(self.now);
        self.now += ms(5);
        self.heartbeat.handle_connected(self.now);
        self.reply(20, answer, false);
    }

    fn lose(&mut self) {
        self.heartbeat.handle_error(self.now, network_error());
    }

    fn outputs(&mut self) -> Vec<String> {
        let mut outputs = Vec::new();
        while let Some(output) = self.heartbeat.poll_output() {
            outputs.push(match output {
                Output::Publish(event) => shown(&event),
                Output::Check(check) => {
                    let shown = format!("{check:?}");
                    if let Check::Hello(command) | Check::AwaitableHello(command) = check {
                        self.command = Some(command);
                    }
                    shown
                }
                Output::Disconnect => "disconnect".to_owned(),
                Output::Describe(description) => {
                    let shown = format!("describe {}", description.server_type);
                    self.description = Some(description);
                    shown
                }
                Output::StartProbe => "start probe".to_owned(),
                Output::StopProbe => "stop probe".to_owned(),
            });
        }
        outputs
    }

    /// The next timeout, in milliseconds from now.
    fn due(&self) -> Option<u128> {
        let at = self.heartbeat.poll_timeout()?;
        Some(at.saturating_duration_since(self.now).as_millis())
    }

    fn failure(&self) -> String {
        let description = self.description.as_ref().expect("a description");
        description.error.as_ref().expect("an error").to_string()
    }
}

#[test]
fn the_frequency_counts_from_the_end_of_a_check() {
    let mut drive = Drive::new(polling());
    assert_eq!(drive.due(), Some(0));
    drive.connect(&reply(Some(1)));
    let first = [
        "started false",
        "Connect",
        "succeeded false 20ms",
        "describe Standalone",
    ];
    assert_eq!(drive.outputs(), first);
    assert_eq!(drive.due(), Some(10_000));
    drive.advance(ms(9_999));
    assert_eq!(drive.outputs(), [""; 0]);
    drive.advance(ms(1));
    assert_eq!(drive.outputs(), ["started false", "Hello"]);
    assert_eq!(drive.due(), Some(3_000));
    drive.reply(30, &reply(Some(1)), false);
    assert_eq!(
        drive.outputs(),
        ["succeeded false 30ms", "describe Standalone"]
    );
    assert_eq!(drive.due(), Some(10_000));
    let found = drive.description.expect("a description");
    assert_eq!(found.round_trip_time, Some(ms(22)));
    assert_eq!(found.min_round_trip_time, Some(ms(20)));
}

#[test]
fn a_streaming_monitor_makes_no_pause() {
    let mut drive = Drive::new(settings());
    drive.connect(&reply(Some(1)));
    let first = [
        "started false",
        "Connect",
        "succeeded false 20ms",
        "describe Standalone",
        "start probe",
        "started true",
        "AwaitableHello",
    ];
    assert_eq!(drive.outputs(), first);
    assert_eq!(drive.due(), Some(13_000));
    let command = drive.command.take().expect("a command");
    let expected = rawdoc! {
        "hello": 1, "helloOk": true,
        "topologyVersion": { "processId": id(1), "counter": 1_i64 },
        "maxAwaitTimeMS": 10_000_i64,
    };
    assert_eq!(command, expected);
    // A stream, whose last reply has no `moreToCome`.
    drive.reply(10_000, &reply(Some(1)), true);
    let next = [
        "succeeded true 10s",
        "describe Standalone",
        "started true",
        "NextReply",
    ];
    assert_eq!(drive.outputs(), next);
    assert_eq!(drive.due(), Some(13_000));
    drive.reply(100, &reply(Some(2)), false);
    let last = [
        "succeeded true 100ms",
        "describe Standalone",
        "started true",
        "AwaitableHello",
    ];
    assert_eq!(drive.outputs(), last);
    let command = drive.command.take().expect("a command");
    let version = command.get_document("topologyVersion").expect("a version");
    let counter = version.get("counter").ok().flatten();
    assert_eq!(counter.and_then(integer), Some(2));
    // Awaited replies give no round trip time; the probe does.
    let known = drive.description.clone().expect("a description");
    assert_eq!(known.round_trip_time, Some(ms(20)));
    assert_eq!(known.min_round_trip_time, Some(ms(0)), "of one sample");
    drive.heartbeat.handle_round_trip(ms(120));
    drive.reply(1, &reply(Some(3)), false);
    drive.outputs();
    let found = drive.description.clone().expect("a description");
    assert_eq!(found.round_trip_time, Some(ms(40)));
    assert_eq!(found.min_round_trip_time, Some(ms(20)));
}

#[test]
fn a_server_that_stops_to_stream_is_polled() {
    let mut drive = Drive::new(settings());
    drive.connect(&reply(Some(1)));
    drive.outputs();
    drive.reply(10, &reply(None), false);
    let expected = ["succeeded true 10ms", "describe Standalone", "stop probe"];
    assert_eq!(drive.outputs(), expected);
    assert_eq!(drive.due(), Some(10_000));
    drive.advance(ms(10_000));
    assert_eq!(drive.outputs(), ["started false", "Hello"]);
}

#[test]
fn a_failed_check_is_repeated_at_once_and_only_once() {
    let mut drive = Drive::new(settings());
    drive.connect(&reply(Some(1)));
    drive.outputs();
    drive.now += ms(50);
    drive.lose();
    let first = [
        "failed true 50ms",
        "disconnect",
        "describe Unknown",
        "started false",
        "Connect",
    ];
    assert_eq!(drive.outputs(), first);
    assert_eq!(*drive.heartbeat.round_trip_time(), RoundTripTime::new());
    drive.lose();
    let second = ["failed false 0ns", "disconnect", "describe Unknown"];
    assert_eq!(drive.outputs(), second);
    assert_eq!(drive.due(), Some(10_000));
    assert!(drive.failure().contains("a:27017"), "{}", drive.failure());
}

/// How many checks begin within a time, if each step takes a millisecond.
fn checks_within(drive: &mut Drive, time: Duration, mut step: impl FnMut(&mut Drive)) -> usize {
    let mut started = 0;
    let end = drive.now + time;
    while drive.now < end {
        drive.advance(ms(1));
        step(drive);
        let outputs = drive.outputs();
        started += outputs
            .iter()
            .filter(|own| own.starts_with("started"))
            .count();
    }
    started
}

#[test]
fn an_awaited_reply_without_a_newer_version_is_followed_after_half_a_second() {
    let mut drive = Drive::new(settings());
    drive.connect(&reply(Some(7)));
    drive.outputs();
    for (version, more_to_come) in [(7, false), (7, true), (6, true), (6, false)] {
        drive.reply(1, &reply(Some(version)), more_to_come);
        let outputs = drive.outputs();
        assert_eq!(outputs, ["succeeded true 1ms", "describe Standalone"]);
        assert_eq!(drive.due(), Some(499));
        // A request does not make it earlier.
        drive.heartbeat.handle_request(drive.now);
        assert_eq!(drive.due(), Some(499));
        drive.advance(ms(499));
        let next = if more_to_come {
            "NextReply"
        } else {
            "AwaitableHello"
        };
        assert_eq!(drive.outputs(), ["started true", next]);
    }
    // A reply after 500 ms is followed by the next check at once.
    drive.reply(500, &reply(Some(6)), true);
    let outputs = drive.outputs();
    assert_eq!(outputs[2..], ["started true", "NextReply"]);
    // A stream without any version.
    drive.reply(500, &reply(None), true);
    drive.outputs();
    drive.reply(1, &reply(None), true);
    assert_eq!(drive.due(), Some(499));
}

/// A reply with this topology version.
fn versioned(process: u8, counter: i64) -> RawDocumentBuf {
    let mut reply = reply(None);
    let version = rawdoc! { "processId": id(process), "counter": counter };
    reply.append(bson::raw::cstr!("topologyVersion"), version);
    reply
}

#[test]
fn newer_versions_are_followed_at_once_but_not_for_ever() {
    for (other_process, padding, expected) in [
        (false, 0, 200..=220),
        (true, 0, 200..=220),
        (false, 5_000, 25..=35),
        (true, 5_000, 25..=35),
    ] {
        let mut drive = Drive::new(settings());
        drive.connect(&reply(Some(0)));
        let mut counter = 0_i64;
        let started = checks_within(&mut drive, ms(10_000), |drive| {
            counter += 1;
            let mut newer = match other_process {
                true => versioned((counter % 251) as u8, 0),
                false => versioned(1, counter),
            };
            newer.append(bson::raw::cstr!("padding"), "x".repeat(padding));
            drive.heartbeat.handle_reply(drive.now, &newer, true);
        });
        assert!(expected.contains(&started), "{started} in 10 s");
    }
}

#[test]
fn states_of_a_flapping_replica_set_do_not_pile_up() {
    let mut drive = Drive::new(settings());
    drive.connect(&versioned(1, 0));
    drive.outputs();
    for counter in 1..=100 {
        drive.reply(100, &versioned(1, counter), true);
        let outputs = drive.outputs();
        assert_eq!(outputs[2..], ["started true", "NextReply"], "{counter}");
    }
}

#[test]
fn a_server_that_closes_after_its_hello_is_connected_to_at_a_pace() {
    let mut drive = Drive::new(settings());
    let mut sequence = Vec::new();
    for _ in 0..3 {
        drive.connect(&reply(Some(1)));
        drive.outputs();
        drive.now += ms(1);
        drive.lose();
        drive.outputs();
        sequence.push(drive.due());
        drive.now += ms(500);
    }
    // The first one is replaced at once: its check runs.
    assert_eq!(sequence, [Some(3_000), Some(500), Some(500)]);

    let mut drive = Drive::new(settings());
    let started = checks_within(&mut drive, ms(10_000), |drive| {
        drive.heartbeat.handle_connected(drive.now);
        drive
            .heartbeat
            .handle_reply(drive.now, &reply(Some(1)), false);
        // Even if another reply comes before the loss.
        drive
            .heartbeat
            .handle_reply(drive.now, &reply(Some(2)), false);
        drive.lose();
    });
    assert!((40..=75).contains(&started), "{started} in 10 s");
}

#[test]
fn a_connection_that_lasted_is_replaced_at_once_each_time() {
    let mut drive = Drive::new(settings());
    drive.connect(&reply(Some(1)));
    for _ in 0..3 {
        drive.outputs();
        drive.now += ms(500);
        drive.lose();
        let outputs = drive.outputs();
        assert_eq!(outputs[3..], ["started false", "Connect"]);
        drive.now += ms(1);
        drive.heartbeat.handle_connected(drive.now);
        drive.reply(1, &reply(Some(1)), false);
    }
}

#[test]
fn a_refused_or_malformed_hello_waits() {
    let cases = [
        rawdoc! { "ok": 0, "errmsg": "no" },
        rawdoc! { "ok": 1, "hosts": 1 },
    ];
    for bad in cases {
        let mut drive = Drive::new(polling());
        drive.connect(&reply(None));
        drive.advance(ms(10_000));
        drive.outputs();
        drive.reply(1, &bad, false);
        let expected = ["failed false 1ms", "disconnect", "describe Unknown"];
        assert_eq!(drive.outputs(), expected);
        assert_eq!(drive.due(), Some(10_000));
        drive.advance(ms(10_000));
        assert_eq!(drive.outputs(), ["started false", "Connect"]);
    }
}
