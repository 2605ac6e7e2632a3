use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{OidcCallback, OidcRequest};
use crate::auth::Secret;
use crate::callback::guard;
use crate::error::{Error, Result, Wait};
use crate::net::auth::source::call_source;
use crate::net::current_runtime;
use crate::net::deadline::{Deadline, Elapsed, sleep_until};
use crate::sync::lock;

/// The minimum time between the starts of two calls.
const CALL_INTERVAL: Duration = Duration::from_millis(100);

/// The time-outs of a call, and of a call that asks a human.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
const HUMAN_CALL_TIMEOUT: Duration = Duration::from_secs(5 * 60);

const CALLBACK: &str = "OIDC callback";

/// The most recent access token of one credential, and the callback for the next one. The
/// specification calls this the client cache.
pub(crate) struct TokenCache {
    callback: Arc<dyn OidcCallback>,
    /// The time-out of a call of the callback. Callers may have shorter ones.
    call_timeout: Duration,
    /// Whether that is the callback's own time-out, during which no other one applies.
    has_own_time: bool,
    asks_human: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Secret>,
    called: Option<Instant>,
    /// The running call. If the channel is closed without an outcome, the runtime has shut down or
    /// the callback has panicked.
    call: Option<watch::Receiver<Option<Result<Secret>>>>,
}

impl TokenCache {
    /// `call_timeout` defaults to one minute. If the callback asks a human, it is always five
    /// minutes.
    pub(crate) fn new(callback: Arc<dyn OidcCallback>, call_timeout: Option<Duration>) -> Self {
        // If that call panics, the stricter rules apply.
        let asks_human = guard(CALLBACK, || callback.asks_human()).unwrap_or(true);
        Self {
            callback,
            call_timeout: match (asks_human, call_timeout) {
                (true, _) => HUMAN_CALL_TIMEOUT,
                (false, given) => given.unwrap_or(CALL_TIMEOUT),
            },
            has_own_time: asks_human || call_timeout.is_none(),
            asks_human,
            state: Mutex::default(),
        }
    }

    /// Whether a call has its own time-out, which `connectTimeoutMS` does not bound.
    pub(crate) fn has_own_time(&self) -> bool {
        self.has_own_time
    }

    /// Whether the callback asks a human.
    pub(crate) fn asks_human(&self) -> bool {
        self.asks_human
    }

    /// The cached token.
    pub(crate) fn kept(&self) -> Option<Secret> {
        self.state().token.clone()
    }

    /// Removes a token from the cache, unless there is a newer one.
    pub(crate) fn forget(&self, refused: &Secret) {
        let mut state = self.state();
        if state.token.as_ref() == Some(refused) {
            state.token = None;
        }
    }

    /// The cached token, or the token of the running call or of a new call; and whether another
    /// caller obtained it.
    ///
    /// The callback runs in its own task, so that a caller that is dropped or not polled does not
    /// block others. A failed call is the error of the caller that began it; the other callers
    /// begin the next call.
    pub(crate) async fn token(self: &Arc<Self>, username: Option<&str>) -> Result<(Secret, bool)> {
        if let Some(token) = self.kept() {
            return Ok((token, true));
        }
        let runtime = current_runtime()?;
        loop {
            let (mut outcome, is_own) = {
                let mut state = self.state();
                if let Some(token) = &state.token {
                    return Ok((token.clone(), true));
                }
                let under_way = state.call.clone();
                match under_way.filter(|call| call.has_changed().is_ok()) {
                    Some(call) => (call, false),
                    None => (self.begin(&mut state, &runtime, username), true),
                }
            };
            // Safe to drop: the call continues.
            let given = match outcome.wait_for(Option::is_some).await {
                Ok(given) => given.clone(),
                Err(_) => None,
            };
            match given {
                Some(Ok(token)) => return Ok((token, !is_own)),
                Some(Err(error)) if is_own => return Err(error),
                None if is_own => {
                    let panicked = "the runtime of the OIDC callback has shut down";
                    return Err(Error::credential(panicked));
                }
                Some(Err(_)) | None => {}
            }
        }
    }

    fn begin(
        self: &Arc<Self>,
        state: &mut State,
        runtime: &Handle,
        username: Option<&str>,
    ) -> watch::Receiver<Option<Result<Secret>>> {
        let (sender, outcome) = watch::channel(None);
        state.call = Some(outcome.clone());
        let next = state
            .called
            .and_then(|called| called.checked_add(CALL_INTERVAL));
        let (cache, username) = (self.clone(), username.map(str::to_owned));
        runtime.spawn(async move {
            if let Some(next) = next {
                sleep_until(next).await;
            }
            cache.state().called = Some(Instant::now());
            let given = cache.call(username.as_deref()).await;
            let mut state = cache.state();
            if let Ok(token) = &given {
                state.token = Some(token.clone());
            }
            // Together with the token, so that no other call begins in between.
            state.call = None;
            // Without the lock, because the wakers are application code.
            drop(state);
            sender.send_replace(Some(given));
        });
        outcome
    }

    async fn call(&self, username: Option<&str>) -> Result<Secret> {
        let deadline = Deadline::after(self.call_timeout);
        let request = OidcRequest::new(username, self.call_timeout);
        let call = call_source(CALLBACK, || self.callback.token(request));
        let given = deadline
            .bound(call)
            .await
            .unwrap_or_else(|Elapsed| Err(deadline.timed_out(Wait::Credential)))?;
        match given.access_token.is_empty() {
            false => Ok(given.access_token),
            true => Err(Error::credential("the access token is empty")),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use tokio::time::sleep;

    use super::super::AccessToken;
    use super::*;

    /// Numbers its tokens, takes some time, and counts concurrent calls.
    #[derive(Default)]
    struct Numbered {
        calls: AtomicUsize,
        at_a_time: AtomicUsize,
        fails_first: bool,
        takes: Duration,
    }

    #[async_trait]
    impl OidcCallback for Numbered {
        async fn token(&self, request: OidcRequest<'_>) -> Result<AccessToken> {
            assert_eq!((request.username, request.version), (Some("u"), 1));
            assert_eq!(self.at_a_time.fetch_add(1, Ordering::SeqCst), 0);
            sleep(self.takes).await;
            self.at_a_time.fetch_sub(1, Ordering::SeqCst);
            let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
            match self.fails_first && call == 1 {
                true => Err(Error::credential("not yet")),
                false => Ok(AccessToken::new(format!("token {call}"))),
            }
        }
    }

    fn cache(callback: Numbered) -> (Arc<TokenCache>, Arc<Numbered>) {
        let callback = Arc::new(callback);
        (Arc::new(TokenCache::new(callback.clone(), None)), callback)
    }

    async fn get(cache: &Arc<TokenCache>) -> Result<(String, bool)> {
        let (token, is_cached) = cache.token(Some("u")).await?;
        Ok((token.expose().to_owned(), is_cached))
    }

    #[tokio::test(start_paused = true)]
    async fn one_call_serves_all_waiting_and_later_callers() {
        let takes = Duration::from_secs(1);
        let (cache, callback) = cache(Numbered {
            takes,
            ..Numbered::default()
        });
        let (first, second) = tokio::join!(get(&cache), get(&cache));
        assert_eq!(first.expect("a token"), ("token 1".to_owned(), false));
        assert_eq!(second.expect("a token"), ("token 1".to_owned(), true));
        assert_eq!(get(&cache).await.expect("a token").0, "token 1");
        assert_eq!(callback.calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_token_that_was_refused_is_forgotten() {
        let (cache, _) = cache(Numbered::default());
        get(&cache).await.expect("a token");
        cache.forget(&Secret::from("token 0"));
        assert_eq!(cache.kept(), Some(Secret::from("token 1")));
        cache.forget(&Secret::from("token 1"));
        assert_eq!(cache.kept(), None);
        assert_eq!(get(&cache).await.expect("a token").0, "token 2");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_goes_to_its_caller_and_the_next_call_waits() {
        let (cache, _) = cache(Numbered {
            fails_first: true,
            ..Numbered::default()
        });
        let begin = Instant::now();
        let (first, second) = tokio::join!(get(&cache), get(&cache));
        assert!(first.is_err());
        assert_eq!(second.expect("a token"), ("token 2".to_owned(), false));
        let took = begin.elapsed();
        assert!(
            took >= CALL_INTERVAL && took < 2 * CALL_INTERVAL,
            "{took:?}"
        );
    }

    /// Polls a caller once, which begins the call, and then not again.
    fn begin_only<F: Future>(caller: std::pin::Pin<&mut F>) {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(caller.poll(&mut context).is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_is_not_polled_holds_up_no_other() {
        let takes = Duration::from_secs(1);
        let (cache, callback) = cache(Numbered {
            takes,
            ..Numbered::default()
        });
        let mut unpolled = std::pin::pin!(get(&cache));
        begin_only(unpolled.as_mut());
        let begin = Instant::now();
        let second = tokio::time::timeout(2 * takes, get(&cache)).await;
        let second = second.expect("in time").expect("a token");
        assert_eq!(second, ("token 1".to_owned(), true));
        assert_eq!(begin.elapsed(), takes);
        assert_eq!(unpolled.await.expect("a token").0, "token 1");
        assert_eq!(callback.calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_with_little_time_get_a_token_in_the_end() {
        let (cache, callback) = cache(Numbered {
            takes: Duration::from_millis(300),
            ..Numbered::default()
        });
        let bound = Duration::from_millis(200);
        let first = tokio::time::timeout(bound, get(&cache)).await;
        assert!(first.is_err());
        let second = tokio::time::timeout(bound, get(&cache)).await;
        assert_eq!(second.expect("in time").expect("a token").0, "token 1");
        assert_eq!(callback.calls.load(Ordering::SeqCst), 1);
    }

    /// Never completes its first call, or panics in it.
    struct Faulty {
        calls: AtomicUsize,
        panics: bool,
    }

    #[async_trait]
    impl OidcCallback for Faulty {
        async fn token(&self, _: OidcRequest<'_>) -> Result<AccessToken> {
            if self.calls.fetch_add(1, Ordering::SeqCst) == 0 {
                assert!(!self.panics, "as the test wants it");
                std::future::pending::<()>().await;
            }
            Ok(AccessToken::new("token"))
        }
    }

    fn faulty(panics: bool, call_timeout: Option<Duration>) -> Arc<TokenCache> {
        let calls = AtomicUsize::new(0);
        let callback = Arc::new(Faulty { calls, panics });
        Arc::new(TokenCache::new(callback, call_timeout))
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_is_begun_anew_after_its_bound() {
        let bound = Duration::from_secs(10);
        let cache = faulty(false, Some(bound));
        let begin = Instant::now();
        let dropped = tokio::time::timeout(Duration::from_secs(1), get(&cache));
        let (dropped, second) = tokio::join!(dropped, get(&cache));
        assert!(dropped.is_err());
        assert_eq!(second.expect("a token"), ("token".to_owned(), false));
        assert_eq!(begin.elapsed(), bound);
    }

    #[test]
    fn a_call_that_ends_with_its_runtime_is_begun_anew_on_another() {
        let cache = faulty(false, None);
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_time().start_paused(true).build()
        };
        let short_lived = runtime().expect("a runtime");
        let mut unpolled = Box::pin(get(&cache));
        short_lived.block_on(async {
            begin_only(unpolled.as_mut());
            // The call begins.
            sleep(Duration::from_millis(1)).await;
        });
        drop(short_lived);
        let other = runtime().expect("a runtime");
        let token = other.block_on(get(&cache)).expect("a token");
        assert_eq!(token, ("token".to_owned(), false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_callback_that_panics_is_an_error_of_the_call() {
        let cache = faulty(true, None);
        let (first, second) = tokio::join!(get(&cache), get(&cache));
        let error = first.expect_err("the callback panicked");
        assert!(error.to_string().contains("panicked"), "{error}");
        assert_eq!(second.expect("a token"), ("token".to_owned(), false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_has_a_bound_of_its_own() {
        let (cache, _) = cache(Numbered {
            takes: Duration::from_secs(3600),
            ..Numbered::default()
        });
        let begin = Instant::now();
        let error = get(&cache).await.expect_err("too late");
        assert!(error.is_timeout());
        assert_eq!(begin.elapsed(), CALL_TIMEOUT);
    }
}
