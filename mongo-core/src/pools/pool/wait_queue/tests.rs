use std::sync::OnceLock;

use super::*;

type Queue = WaitQueue<&'static str, Handle>;
type Step = Next<&'static str, Handle>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Handle;

fn queue(max_size: u32, max_connecting: u32) -> Queue {
    let limits = Limits {
        max_size: Some(max_size),
        max_connecting: Some(max_connecting),
    };
    WaitQueue::new(PoolState::Ready, limits)
}

/// A clock that only a test advances.
fn now() -> Instant {
    static NOW: OnceLock<Instant> = OnceLock::new();
    *NOW.get_or_init(Instant::now)
}

fn steps(queue: &mut Queue) -> Vec<Step> {
    steps_at(queue, now())
}

fn steps_at(queue: &mut Queue, now: Instant) -> Vec<Step> {
    std::iter::from_fn(|| queue.next(now, || true)).collect()
}

/// The attempts that begin now.
fn begun(queue: &mut Queue) -> Vec<u64> {
    let steps = steps(queue).into_iter();
    steps
        .map(|step| match step {
            Next::Begin(attempt, ..) => attempt,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn enter(queue: &mut Queue, waiters: u32) {
    for _ in 0..waiters {
        queue.enter(None);
    }
}

fn make(queue: &mut Queue, attempt: u64, connection: &'static str) {
    queue.made(attempt);
    queue.offer(connection);
}

#[test]
fn max_connecting_limits_pending_connections() {
    let mut queue = queue(100, 2);
    enter(&mut queue, 5);
    let first = begun(&mut queue);
    assert_eq!(first.len(), 2);
    make(&mut queue, first[0], "a");
    let next = steps(&mut queue);
    assert!(
        matches!(next[..], [Next::Serve(0, "a"), Next::Begin(..)]),
        "{next:?}"
    );
    assert_eq!(queue.fail_waiter(first[1]), Some(1));
    queue.failed(first[1]);
    assert_eq!(begun(&mut queue).len(), 1);
    assert_eq!((queue.total(), queue.pending(), queue.waiters()), (3, 2, 3));
}

#[test]
fn max_size_limits_all_connections() {
    let mut queue = queue(1, 2);
    queue.enter(None);
    queue.enter(None);
    let attempt = begun(&mut queue)[0];
    make(&mut queue, attempt, "a");
    assert_eq!(steps(&mut queue), [Next::Serve(0, "a")]);
    queue.left();
    assert_eq!(begun(&mut queue).len(), 1);
}

#[test]
fn a_waiter_takes_the_first_connection_to_arrive() {
    let mut queue = queue(10, 2);
    enter(&mut queue, 3);
    let attempts = begun(&mut queue);
    queue.offer("returned");
    assert_eq!(steps(&mut queue), [Next::Serve(0, "returned")]);
    make(&mut queue, attempts[0], "made");
    assert_eq!(steps(&mut queue), [Next::Serve(1, "made")]);
    assert_eq!(
        (queue.pending(), queue.waiters()),
        (1, 1),
        "it adopts the other attempt"
    );
    let failed = queue.fail_waiter(attempts[1]);
    assert_eq!(failed, None, "it was begun for another");
}

#[test]
fn an_attempt_outlives_its_waiter_and_serves_the_next_one() {
    let mut queue = queue(10, 1);
    let first = queue.enter(None);
    let attempt = begun(&mut queue)[0];
    queue.leave(first);
    assert_eq!(queue.pending(), 1);
    let second = queue.enter(None);
    assert_eq!(steps(&mut queue), []);
    assert_eq!(queue.attempt_of(second), Some(attempt));
    make(&mut queue, attempt, "made");
    assert_eq!(steps(&mut queue), [Next::Serve(1, "made")]);
}

#[test]
fn an_adopted_attempt_fails_without_its_waiter() {
    let mut queue = queue(10, 1);
    let first = queue.enter(None);
    let attempt = begun(&mut queue)[0];
    queue.leave(first);
    let second = queue.enter(None);
    assert_eq!(steps(&mut queue), []);
    assert_eq!(queue.fail_waiter(attempt), None);
    queue.failed(attempt);
    let next = begun(&mut queue);
    assert_eq!(queue.attempt_of(second), Some(next[0]));
    assert_eq!(queue.fail_waiter(next[0]), Some(1));
}

#[test]
fn an_overdue_attempt_is_abandoned_for_a_waiter() {
    let mut queue = queue(10, 1);
    let first = queue.enter(None);
    let hanging = begun(&mut queue)[0];
    let second = queue.enter(None);
    assert_eq!(
        steps_at(&mut queue, now() + GRACE),
        [],
        "its own waiter waits on"
    );
    queue.leave(first);
    assert_eq!(queue.due(second), Some(now() + GRACE));
    let next = steps_at(&mut queue, now() + GRACE);
    assert!(
        matches!(next[..], [Next::Abandon(_), Next::Begin(..)]),
        "{next:?}"
    );
    assert_eq!((queue.total(), queue.pending()), (1, 1));
    // Its task may end much later.
    assert!(!queue.has_attempt(hanging) && !queue.failed(hanging));
    assert_eq!((queue.total(), queue.pending()), (1, 1));
}

#[test]
fn an_overdue_attempt_continues_unless_it_blocks_another() {
    let mut queue = queue(10, 2);
    let first = queue.enter(None);
    let slow = begun(&mut queue)[0];
    queue.leave(first);
    queue.enter(None);
    let next = steps_at(&mut queue, now() + GRACE);
    assert!(
        matches!(next[..], [Next::Begin(..)]),
        "it is not adopted: {next:?}"
    );
    make(&mut queue, slow, "late");
    assert_eq!(steps(&mut queue), [Next::Serve(1, "late")]);
}

#[test]
fn a_waiter_gives_up_an_adopted_attempt_that_is_overdue() {
    let mut queue = queue(1, 1);
    let first = queue.enter(None);
    let hanging = begun(&mut queue)[0];
    queue.leave(first);
    let second = queue.enter(None);
    assert_eq!(steps(&mut queue), []);
    assert_eq!(queue.attempt_of(second), Some(hanging));
    assert_eq!(queue.due(second), Some(now() + GRACE));
    let next = steps_at(&mut queue, now() + GRACE);
    assert!(
        matches!(next[..], [Next::Abandon(_), Next::Begin(..)]),
        "{next:?}"
    );
    assert_eq!(queue.due(second), None, "the new one is its own");
}

#[test]
fn a_waiter_that_comes_back_has_its_former_place() {
    let mut queue = queue(10, 1);
    let first = queue.enter(None);
    queue.enter(None);
    queue.offer("owes a reply");
    let next = steps(&mut queue);
    assert!(
        matches!(next[..], [Next::Serve(0, _), Next::Begin(..)]),
        "{next:?}"
    );
    queue.enter(Some(first));
    queue.offer("sound");
    assert_eq!(steps(&mut queue), [Next::Serve(0, "sound")]);
}

#[test]
fn the_grace_period_doubles_until_an_attempt_succeeds() {
    let mut queue = queue(1, 1);
    let (mut graces, mut later) = (Vec::new(), now());
    for _ in 0..10 {
        graces.push(queue.grace.as_millis());
        let ticket = queue.enter(None);
        assert!(matches!(steps_at(&mut queue, later)[..], [Next::Begin(..)]));
        queue.leave(ticket);
        let grace = queue.grace;
        assert!(queue.abandon(later).is_none());
        later += grace;
        assert!(queue.abandon(later).is_some() && queue.abandon(later).is_none());
    }
    assert_eq!(graces[..4], [1000, 2000, 4000, 8000]);
    assert_eq!(graces[9], 60_000);
    queue.enter(None);
    let attempt = begun(&mut queue)[0];
    make(&mut queue, attempt, "made");
    assert_eq!(queue.grace, GRACE);
}

#[test]
fn attempts_in_advance_serve_waiters_and_delay_none() {
    let mut queue = queue(10, 2);
    let (advance, _) = queue.begin_in_advance(now(), || true).expect("room");
    enter(&mut queue, 3);
    assert_eq!(
        begun(&mut queue).len(),
        1,
        "the first waiter adopts the other"
    );
    assert_eq!(
        queue.begin_in_advance(now(), || true),
        None,
        "a waiter lacks one"
    );
    make(&mut queue, advance, "made");
    let next = steps(&mut queue);
    assert!(
        matches!(next[..], [Next::Serve(0, "made"), Next::Begin(..)]),
        "{next:?}"
    );
}

#[test]
fn available_connections_go_first_and_to_the_first_waiter() {
    let mut queue = queue(10, 1);
    let gone = queue.enter(None);
    queue.enter(None);
    let last = queue.enter(None);
    queue.leave(gone);
    queue.offer("spare");
    let next = steps(&mut queue);
    assert!(
        matches!(next[..], [Next::Serve(1, "spare"), Next::Begin(..)]),
        "{next:?}"
    );
    assert_eq!(queue.take_available(), None);
    queue.leave(last);
    queue.offer("other");
    assert_eq!(queue.take_available(), Some("other"));
}

#[test]
fn without_a_slot_of_the_server_no_attempt_begins() {
    let mut queue = queue(10, 10);
    queue.enter(None);
    assert_eq!(queue.next(now(), || false), None);
    assert!(queue.wants_attempt());
    assert_eq!(
        queue.begin_in_advance(now(), || true),
        None,
        "a waiter lacks one"
    );
    assert_eq!((queue.total(), queue.waiters()), (0, 1));
    assert_eq!(queue.evict(), [0]);
    assert_eq!(queue.begin_in_advance(now(), || false), None);
    assert!(queue.begin_in_advance(now(), || true).is_some());
}

#[test]
fn consecutive_failures_are_paced_up_to_a_second() {
    let (mut queue, now) = (queue(10, 1), Instant::now());
    let mut pauses = Vec::new();
    for _ in 0..12 {
        queue.pace(now, 1.0);
        let pause = queue.not_before.map(|time| time - now);
        pauses.push(pause.unwrap_or_default().as_millis());
    }
    assert_eq!(pauses[..6], [0, 20, 40, 80, 160, 320]);
    assert_eq!(pauses[10..], [1000, 1000]);
    queue.enter(None);
    let attempt = begun(&mut queue)[0];
    make(&mut queue, attempt, "made");
    assert_eq!(queue.not_before, None);
    queue.pace(now, 1.0);
    assert_eq!(queue.not_before, None, "one failure alone is not paced");
}

#[test]
fn only_a_ready_pool_begins_attempts() {
    let mut queue = queue(10, 10);
    assert!(queue.pause() && !queue.pause());
    queue.enter(None);
    assert_eq!(steps(&mut queue), []);
    assert!(queue.ready() && !queue.ready());
    let attempt = begun(&mut queue)[0];
    assert!(queue.close() && !queue.close());
    assert!(!queue.ready() && !queue.pause());
    queue.enter(None);
    assert_eq!(steps(&mut queue), []);
    assert_eq!(queue.evict(), [0, 1]);
    queue.failed(attempt);
    assert_eq!(queue.total(), 0);
}

#[test]
fn retain_removes_available_connections() {
    let mut queue = queue(10, 10);
    for connection in ["a", "stale", "b"] {
        queue.offer(connection);
    }
    assert_eq!(queue.retain(|connection| *connection != "stale"), ["stale"]);
    assert_eq!(queue.available(), 2);
}

/// An attempt that was begun for another waiter after this one came also has a grace period for it.
#[test]
fn an_attempt_that_was_begun_later_for_another_is_adopted_likewise() {
    let mut queue = queue(100, 2);
    let first = queue.enter(None);
    assert_eq!(begun(&mut queue).len(), 1);
    assert!(queue.leave(first));
    let patient = queue.enter(None);
    assert!(begun(&mut queue).is_empty());
    let third = queue.enter(None);
    let second_attempt = begun(&mut queue)[0];
    assert!(queue.leave(third));
    // The first attempt fails.
    let first_attempt = queue.attempt_of(patient).expect("adopted");
    assert_eq!(queue.fail_waiter(first_attempt), None);
    queue.failed(first_attempt);
    assert!(begun(&mut queue).is_empty());
    assert_eq!(queue.attempt_of(patient), Some(second_attempt));
    assert!(queue.due(patient).is_some(), "it has a grace period");
    assert_eq!(queue.fail_waiter(second_attempt), None, "it is another's");
}

/// The same for a waiter that returns with its former ticket.
#[test]
fn a_returning_waiter_adopts_the_attempt_of_another() {
    let mut queue = queue(2, 1);
    let first = queue.enter(None);
    let other = queue.enter(None);
    queue.offer("a");
    assert!(matches!(
        steps(&mut queue)[..],
        [Next::Serve(0, "a"), Next::Begin(..)]
    ));
    assert!(queue.leave(other));
    queue.enter(Some(first));
    steps(&mut queue);
    let attempt = queue.attempt_of(first).expect("adopted");
    assert!(queue.due(first).is_some(), "it has a grace period");
    assert_eq!(queue.fail_waiter(attempt), None, "it is another's");
}
