//! Time-outs, requests and cancellations of checks.

use super::*;

#[test]
fn time_outs_name_the_wait() {
    let mut drive = Drive::new(settings());
    drive.heartbeat.handle_timeout(drive.now);
    drive.outputs();
    assert_eq!(drive.due(), Some(3_000));
    drive.advance(ms(3_000));
    assert_eq!(drive.outputs().len(), 3);
    assert!(
        drive.failure().contains("3.0 s connecting"),
        "{}",
        drive.failure()
    );
    drive.advance(ms(10_000));
    drive.outputs();
    drive.now += ms(1_000);
    drive.heartbeat.handle_connected(drive.now);
    assert_eq!(drive.due(), Some(2_000));
    drive.advance(ms(2_000));
    drive.outputs();
    assert!(drive.failure().contains("handshake"), "{}", drive.failure());
    drive.advance(ms(10_000));
    drive.connect(&reply(Some(1)));
    drive.outputs();
    drive.advance(ms(12_999));
    assert_eq!(drive.outputs(), [""; 0]);
    drive.advance(ms(1));
    let expected = [
        "failed true 13s",
        "disconnect",
        "describe Unknown",
        "started false",
        "Connect",
    ];
    assert_eq!(drive.outputs(), expected);
    assert!(
        drive.failure().contains("reply to a heartbeat"),
        "{}",
        drive.failure()
    );
}

#[test]
fn no_time_out_is_none_for_awaited_replies_too() {
    let mut settings = settings();
    settings.connect_timeout = None;
    let mut drive = Drive::new(settings);
    drive.heartbeat.handle_timeout(drive.now);
    assert_eq!(drive.due(), None);
    drive.connect(&reply(Some(1)));
    assert_eq!(drive.due(), None);
}

#[test]
fn a_request_wakes_but_never_within_half_a_second() {
    let mut drive = Drive::new(polling());
    drive.connect(&reply(None));
    drive.outputs();
    drive.now += ms(100);
    drive.heartbeat.handle_request(drive.now);
    assert_eq!(drive.due(), Some(400));
    drive.heartbeat.handle_request(drive.now);
    drive.advance(ms(400));
    assert_eq!(drive.outputs(), ["started false", "Hello"]);
    // While a check runs it is ignored.
    drive.heartbeat.handle_request(drive.now);
    drive.reply(1, &reply(None), false);
    assert_eq!(drive.due(), Some(10_000));
    drive.outputs();
    drive.advance(ms(2_000));
    drive.heartbeat.handle_request(drive.now);
    assert_eq!(drive.outputs(), ["started false", "Hello"]);
}

#[test]
fn cancelling_closes_the_connection_and_waits() {
    let mut drive = Drive::new(settings());
    drive.connect(&reply(Some(1)));
    drive.outputs();
    drive.now += ms(30);
    drive.heartbeat.handle_cancel(drive.now);
    assert_eq!(drive.outputs(), ["failed true 30ms", "disconnect"]);
    assert_eq!(drive.due(), Some(10_000));
    // What the check brings later is ignored.
    drive.reply(1, &reply(Some(2)), true);
    drive.lose();
    assert_eq!(drive.outputs(), [""; 0]);
    drive.heartbeat.handle_cancel(drive.now);
    assert_eq!(drive.outputs(), [""; 0]);
    drive.now += ms(1_000);
    drive.heartbeat.handle_request(drive.now);
    assert_eq!(drive.outputs(), ["started false", "Connect"]);
    drive.lose();
    assert_eq!(drive.outputs().len(), 3, "the server was not known");

    let mut drive = Drive::new(polling());
    drive.connect(&reply(None));
    drive.outputs();
    drive.heartbeat.handle_cancel(drive.now);
    assert_eq!(drive.outputs(), ["disconnect"], "the idle connection");
    assert_eq!(drive.due(), Some(10_000));
}

#[test]
fn a_stopped_monitor_has_no_more_outputs() {
    let mut drive = Drive::new(settings());
    drive.connect(&reply(Some(1)));
    drive.outputs();
    drive.heartbeat.handle_stop(drive.now);
    let expected = ["failed true 0ns", "stop probe", "disconnect"];
    assert_eq!(drive.outputs(), expected);
    assert!(drive.heartbeat.is_stopped());
    drive.heartbeat.handle_stop(drive.now);
    drive.heartbeat.handle_request(drive.now);
    drive.heartbeat.handle_cancel(drive.now);
    drive.reply(1, &reply(Some(2)), false);
    drive.lose();
    drive.advance(ms(100_000));
    assert_eq!(drive.outputs(), [""; 0]);
    assert_eq!(drive.due(), None);
}
