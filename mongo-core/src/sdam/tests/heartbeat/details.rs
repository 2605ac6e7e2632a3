use bson::rawdoc;

use super::*;
use crate::handshake::{ServerApi, ServerApiVersion};
use crate::uri::ClientOptions;

#[test]
fn the_legacy_hello_stays_where_the_server_has_no_other() {
    let old = rawdoc! { "ok": 1, "ismaster": true, "maxWireVersion": 8 };
    let mut drive = Drive::new(polling());
    drive.connect(&old);
    drive.advance(ms(10_000));
    drive.outputs();
    let expected = rawdoc! { "isMaster": 1, "helloOk": true };
    assert_eq!(drive.command, Some(expected));

    let mut settings = polling();
    settings.server_api = Some(ServerApi::new(ServerApiVersion::V1));
    let mut drive = Drive::new(settings);
    drive.connect(&old);
    drive.advance(ms(10_000));
    drive.outputs();
    let expected = rawdoc! { "hello": 1, "helloOk": true, "apiVersion": "1" };
    assert_eq!(drive.command, Some(expected));
}

#[test]
fn numbers_the_connection_in_its_events() {
    let mut drive = Drive::new(polling());
    drive.connect(&reply(None));
    drive.advance(ms(10_000));
    let mut ids = Vec::new();
    while let Some(output) = drive.heartbeat.poll_output() {
        if let Output::Publish(event) = output {
            assert_eq!(event.topology_id(), id(42));
            assert_eq!(event.address(), Some(&address("a")));
            ids.push(match event {
                SdamEvent::ServerHeartbeatStarted(event) => {
                    (event.driver_connection_id, event.server_connection_id)
                }
                SdamEvent::ServerHeartbeatSucceeded(event) => {
                    (event.driver_connection_id, event.server_connection_id)
                }
                other => panic!("{other:?}"),
            });
        }
    }
    let known = (Some(1), Some(77));
    assert_eq!(ids, [(Some(1), None), known, known]);
}

#[test]
fn streaming_depends_on_the_mode_and_the_platform() {
    let streams = |uri: &str, on_faas: bool| {
        let options = ClientOptions::parse(uri).expect("a connection string");
        MonitorSettings::from_options(id(42), address("a"), &options, on_faas).streaming
    };
    assert!(streams("mongodb://a", false));
    assert!(!streams("mongodb://a", true));
    assert!(streams("mongodb://a/?serverMonitoringMode=stream", true));
    assert!(!streams("mongodb://a/?serverMonitoringMode=poll", false));
}

#[test]
fn checks_respect_the_minimum_frequency() {
    let mut settings = polling();
    settings.heartbeat_frequency = Duration::ZERO;
    let mut drive = Drive::new(settings);
    drive.connect(&reply(None));
    assert_eq!(drive.due(), Some(500));
    let mut settings = polling();
    settings.heartbeat_frequency = Duration::MAX;
    let mut drive = Drive::new(settings);
    drive.connect(&reply(None));
    assert_eq!(drive.due(), None);
}

/// The error of an attempt to connect that times out names what it was waiting for.
#[test]
fn a_connection_that_is_not_opened_in_time_names_its_wait() {
    use crate::error::Wait;
    for (opening, wanted) in [
        (None, "connecting"),
        (Some(Wait::Dns), "looking up hosts in DNS"),
        (Some(Wait::Tls), "TLS"),
    ] {
        let mut drive = Drive::new(settings());
        drive.advance(Duration::ZERO);
        if let Some(opening) = opening {
            drive.heartbeat.handle_opening(opening);
        }
        let due = drive.heartbeat.poll_timeout().expect("a limit");
        drive.heartbeat.handle_timeout(due);
        let failed = std::iter::from_fn(|| drive.heartbeat.poll_output()).find_map(|output| {
            let Output::Publish(SdamEvent::ServerHeartbeatFailed(failed)) = output else {
                return None;
            };
            Some(failed.failure.to_string())
        });
        let failed = failed.expect("a failure");
        assert!(failed.contains(wanted), "{failed}");
    }
}

/// The wait, the duration and the number are those of the connection that takes the place of one that
/// was cut off.
#[test]
fn a_failure_names_the_replacing_connection() {
    use crate::error::Wait;
    let begun = || {
        let mut drive = Drive::new(polling());
        drive.advance(Duration::ZERO);
        drive.now += ms(1000);
        drive.heartbeat.handle_connected(drive.now);
        drive.heartbeat.handle_opening(Wait::Connect);
        drive.outputs();
        drive
    };
    let mut silent = begun();
    assert_eq!(silent.due(), Some(2000), "the limit is the check's");
    silent.advance(ms(2000));
    silent.outputs();
    assert!(
        silent.failure().contains("connecting"),
        "{}",
        silent.failure()
    );

    let mut heard = begun();
    heard.now += ms(500);
    heard.heartbeat.handle_connected(heard.now);
    heard.reply(20, &reply(None), false);
    let outputs = heard.outputs();
    assert_eq!(outputs, ["succeeded false 20ms", "describe Standalone"]);

    let mut unheard = begun();
    unheard.heartbeat.handle_connected(unheard.now);
    unheard.advance(ms(2000));
    unheard.outputs();
    let failure = unheard.failure();
    assert!(failure.contains("handshake"), "{failure}");
}

#[test]
fn a_server_that_refuses_hello_gets_the_legacy_one() {
    for code in [59, 115] {
        let refusal = rawdoc! { "ok": 0, "code": code };
        for streamed in [false, true] {
            let mut drive = Drive::new(settings());
            drive.connect(&reply(Some(1)));
            if streamed {
                drive.reply(20, &reply(Some(2)), true);
            }
            drive.outputs();
            drive.reply(20, &refusal, false);
            assert_eq!(drive.outputs(), ["AwaitableHello"], "{code} {streamed}");
            let command = drive.command.take().expect("a command");
            assert_eq!(command.get_i32("isMaster").ok(), Some(1), "{command:?}");
            // It is the same check still.
            drive.reply(20, &reply(Some(3)), false);
            let outputs = drive.outputs();
            assert_eq!(outputs[0], "succeeded true 20ms", "{outputs:?}");
        }
        // Another one fails the check, and so does a second refusal.
        for refusals in [
            &[rawdoc! { "ok": 0, "code": 13 }][..],
            &[refusal.clone(), refusal],
        ] {
            let mut drive = Drive::new(settings());
            drive.connect(&reply(Some(1)));
            for refusal in refusals {
                drive.outputs();
                drive.reply(20, refusal, false);
            }
            let outputs = drive.outputs();
            assert!(outputs.contains(&"disconnect".to_owned()), "{outputs:?}");
        }
    }
}

/// Whatever happens in whatever order, each check that began has ended exactly once by the next.
#[test]
fn every_start_has_one_end() {
    let mut random = super::super::properties::Random(7);
    for round in 0..200 {
        let mut drive = Drive::new(match round % 2 {
            0 => settings(),
            _ => polling(),
        });
        let (mut open, mut checks) = (0, 0);
        for step in 0..200 {
            match random.below(8) {
                0 => drive.lose(),
                1 => drive.heartbeat.handle_cancel(drive.now),
                2 => drive.heartbeat.handle_request(drive.now),
                3 => drive.reply(1, &rawdoc! { "ok": 0 }, false),
                4 => drive.reply(1, &reply(None), true),
                5 => drive.heartbeat.handle_connected(drive.now),
                6 => drive.reply(2, &reply(Some(step)), random.below(2) == 0),
                _ => drive.advance(ms(random.below(20_000))),
            }
            if step == 199 {
                drive.heartbeat.handle_stop(drive.now);
            }
            for output in drive.outputs() {
                match output.split(' ').next() {
                    Some("started") => open += 1,
                    Some("succeeded" | "failed") => open -= 1,
                    Some("Connect" | "Hello" | "AwaitableHello" | "NextReply") => checks += 1,
                    _ => {}
                }
                assert!((0..=1).contains(&open), "round {round}, step {step}");
            }
        }
        assert_eq!(open, 0);
        assert!(checks > 0 && drive.now > drive.start);
    }
}
