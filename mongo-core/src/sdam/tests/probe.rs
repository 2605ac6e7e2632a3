use std::time::Duration;

use bson::rawdoc;

use super::*;

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

#[test]
fn measures_on_a_connection_of_its_own() {
    let mut settings = MonitorSettings::new(id(42), address("a"));
    settings.connect_timeout = Some(ms(3_000));
    let mut now = Instant::now();
    let mut probe = RttProbe::new(settings, now);
    let reply = rawdoc! { "ok": 1, "helloOk": true };
    probe.handle_timeout(now);
    assert_eq!(
        probe.poll_output(),
        Some(ProbeOutput::Check(Check::Connect))
    );
    now += ms(50);
    probe.handle_connected(now);
    now += ms(7);
    probe.handle_reply(now, &reply);
    assert_eq!(probe.poll_output(), Some(ProbeOutput::Sample(ms(7))));
    assert_eq!(probe.poll_timeout(), Some(now + ms(10_000)));
    now += ms(10_000);
    probe.handle_timeout(now);
    let hello = Check::Hello(rawdoc! { "hello": 1, "helloOk": true });
    assert_eq!(probe.poll_output(), Some(ProbeOutput::Check(hello)));
    now += ms(9);
    probe.handle_reply(now, &reply);
    assert_eq!(probe.poll_output(), Some(ProbeOutput::Sample(ms(9))));
    assert_eq!(probe.poll_output(), None);
}

#[test]
fn a_probe_begins_anew_after_a_failure() {
    let mut now = Instant::now();
    let mut probe = RttProbe::new(MonitorSettings::new(id(42), address("a")), now);
    for failure in 0..3 {
        probe.handle_timeout(now);
        assert_eq!(
            probe.poll_output(),
            Some(ProbeOutput::Check(Check::Connect))
        );
        match failure {
            0 => probe.handle_error(now),
            1 => probe.handle_reply(now, &rawdoc! { "ok": 0 }),
            _ => {
                assert_eq!(probe.poll_timeout(), Some(now + ms(10_000)));
                now += ms(10_000);
                probe.handle_timeout(now);
            }
        }
        assert_eq!(probe.poll_output(), Some(ProbeOutput::Disconnect));
        assert_eq!(probe.poll_output(), None);
        probe.handle_error(now);
        probe.handle_reply(now, &rawdoc! { "ok": 1 });
        assert_eq!(probe.poll_output(), None, "nothing is under way");
        now += ms(10_000);
    }
}
