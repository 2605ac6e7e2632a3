use super::*;

fn with_sink() -> Failures {
    let failures = Failures::default();
    failures.expect_sink();
    failures
}

/// A whole attempt.
fn fail(failures: &Failures, text: &'static str) {
    fail_begun(&failures.begin(), text);
}

fn fail_begun(attempt: &Attempt<'_>, text: &'static str) {
    let error = Error::configuration(text);
    attempt.failed(&error);
    attempt.failures.push(&error);
}

#[test]
fn one_failure_reaches_one_caller() {
    let failures = with_sink();
    fail(&failures, "before anybody waits");
    let (first, second) = (failures.wait(), failures.wait());
    fail(&failures, "one");
    assert_eq!(Polled::new(first.told()).poll_now(), "failed: one");
    let mut second = Polled::new(second.told());
    assert_eq!(second.poll_now(), "waits");
    fail(&failures, "two");
    assert_eq!(second.poll_now(), "failed: two");
}

#[test]
fn what_nobody_takes_is_dropped() {
    let failures = with_sink();
    let caller = failures.wait();
    fail(&failures, "late");
    fail(&failures, "one too many");
    drop(caller);
    let next = failures.wait();
    assert_eq!(Polled::new(next.told()).poll_now(), "waits");
}

#[test]
fn a_failure_is_told_once_bb8_knows() {
    let failures = with_sink();
    let caller = failures.wait();
    let error = Error::configuration("of an attempt");
    failures.begin().failed(&error);
    let mut told = Polled::new(caller.told());
    assert_eq!(told.poll_now(), "waits");
    failures.push(&error);
    assert_eq!(told.poll_now(), "failed: of an attempt");
    // bb8 tells of what a customizer refused once it has counted it.
    let caller = failures.wait();
    failures.push(&Error::configuration("of a customizer"));
    let told = Polled::new(caller.told()).poll_now();
    assert_eq!(told, "failed: of a customizer");
}

#[test]
fn what_bb8_never_tells_is_forgotten_in_the_end() {
    let failures = with_sink();
    for _ in 0..2 * MAX_ANNOUNCED {
        let error = Error::configuration("of a dedicated connection");
        failures.begin().failed(&error);
    }
    assert_eq!(failures.lock().announced.len(), MAX_ANNOUNCED);
}

#[test]
fn an_attempt_from_before_is_made_again() {
    let failures = with_sink();
    let old = failures.begin();
    let caller = failures.wait();
    fail_begun(&old, "of somebody who has gone");
    assert_eq!(Polled::new(caller.told()).poll_now(), "again");
    fail(&failures, "own");
    assert_eq!(Polled::new(caller.told()).poll_now(), "failed: own");
}

#[test]
fn who_is_away_is_not_told() {
    let failures = with_sink();
    let (first, second) = (failures.wait(), failures.wait());
    let away = failures.away();
    fail(&failures, "one");
    fail(&failures, "nobody's");
    assert_eq!(Polled::new(second.told()).poll_now(), "failed: one");
    drop(away);
    assert_eq!(Polled::new(first.told()).poll_now(), "waits");
}

#[test]
fn a_closed_pool_tells_everybody() {
    let failures = with_sink();
    let (first, second) = (failures.wait(), failures.wait());
    let (mut first, mut second) = (Polled::new(first.told()), Polled::new(second.told()));
    assert_eq!(
        (first.poll_now(), second.poll_now()),
        ("waits".into(), "waits".into())
    );
    failures.close(Error::configuration("closed"));
    let third = failures.wait();
    for mut told in [first, second, Polled::new(third.told())] {
        assert_eq!(told.poll_now(), "failed: closed");
    }
}

#[tokio::test]
async fn an_attempt_is_for_as_long_as_anybody_waits() {
    let failures = with_sink();
    failures.give_up();
    let (first, second) = (failures.wait(), failures.wait());
    let mut unawaited = pin!(failures.unawaited());
    let mut is_over = async || poll_once(unawaited.as_mut()).await;
    assert!(!is_over().await);
    drop(first);
    assert!(!is_over().await);
    drop(second);
    // Somebody came before it took notice.
    let third = failures.wait();
    assert!(!is_over().await);
    drop(third);
    assert!(is_over().await);
    // In a bare pool nobody can be seen to wait; one of bb8's own makes them in advance, too.
    assert!(!poll_once(pin!(Failures::default().unawaited())).await);
    assert!(!poll_once(pin!(with_sink().unawaited())).await);
}

#[tokio::test]
async fn an_attempt_for_a_closed_pool_ends_whoever_waits() {
    let failures = with_sink();
    let _caller = failures.wait();
    let mut unawaited = pin!(failures.unawaited());
    assert!(!poll_once(unawaited.as_mut()).await);
    failures.close(Error::configuration("closed"));
    assert!(poll_once(unawaited).await);
}

async fn poll_once(mut future: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await
}

#[test]
fn a_bare_pool_keeps_nothing() {
    let failures = Failures::default();
    fail(&failures, "whoever");
    failures
        .begin()
        .failed(&Error::configuration("never pushed"));
    assert!(failures.lock().announced.is_empty());
}

#[test]
fn who_goes_without_a_connection_takes_an_attempt_with_it() {
    let failures = with_sink();
    failures.give_up();
    let (one, other) = (failures.wait(), failures.wait());
    let (old, new) = (failures.begin(), failures.begin());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut is_given_up = |attempt: &Attempt<'_>| {
        let run = std::pin::pin!(attempt.unless_given_up(std::future::pending::<()>()));
        run.poll(&mut context).is_ready()
    };
    one.served();
    assert!(!is_given_up(&old), "it goes on for who comes next");
    drop(failures.wait());
    assert!(is_given_up(&old) && !is_given_up(&new));
    // Whoever relied on it hears of it, and asks anew.
    let error = Error::configuration("given up");
    old.ended(&error);
    drop(old);
    failures.push(&error);
    assert_eq!(Polled::new(other.told()).poll_now(), "again");
    drop(other);
    assert!(is_given_up(&new));
}

#[test]
fn in_a_pool_of_its_own_bb8_goes_on() {
    let failures = with_sink();
    let (caller, attempt) = (failures.wait(), failures.begin());
    drop(caller);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let run = std::pin::pin!(attempt.unless_given_up(std::future::pending::<()>()));
    assert!(run.poll(&mut context).is_pending());
}

struct Polled<'a>(std::pin::Pin<Box<dyn Future<Output = Told> + 'a>>);

impl<'a> Polled<'a> {
    fn new(future: impl Future<Output = Told> + 'a) -> Self {
        Self(Box::pin(future))
    }

    fn poll_now(&mut self) -> String {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match self.0.as_mut().poll(&mut context) {
            Poll::Ready(Told::Failed(error)) => {
                error.to_string().replace("configuration", "failed")
            }
            Poll::Ready(Told::Again) => "again".to_owned(),
            Poll::Pending => "waits".to_owned(),
        }
    }
}
