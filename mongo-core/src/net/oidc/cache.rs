use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{OidcCallback, OidcRequest};
use crate::auth::Secret;
use crate::callback::guard_async;
use crate::error::{Error, Result, Wait};
use crate::net::deadline::{Deadline, Elapsed, sleep_until};

/// From the beginning of one call to that of the next.
const CALL_INTERVAL: Duration = Duration::from_millis(100);

/// For a callback where nobody has a deadline.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

const CALLBACK_VERSION: u32 = 1;

/// The most recent access token of one credential, and whoever gives the next one: what the
/// specification calls the client's cache.
pub(crate) struct TokenCache {
    callback: Arc<dyn OidcCallback>,
    state: Mutex<State>,
    /// Whose turn it is to call. Nothing is locked while the callback runs.
    turn: Semaphore,
}

#[derive(Default)]
struct State {
    token: Option<Secret>,
    called: Option<Instant>,
}

impl TokenCache {
    pub(crate) fn new(callback: Arc<dyn OidcCallback>) -> Self {
        Self {
            callback,
            state: Mutex::default(),
            turn: Semaphore::new(1),
        }
    }

    /// The token that is kept.
    pub(crate) fn kept(&self) -> Option<Secret> {
        self.state().token.clone()
    }

    /// Forgets a token, unless there is a newer one by now.
    pub(crate) fn forget(&self, refused: &Secret) {
        let mut state = self.state();
        if state.token.as_ref() == Some(refused) {
            state.token = None;
        }
    }

    /// The token that is kept, or that somebody else has just got, or a new one; and whether it was
    /// kept. Dropped meanwhile, the next one who waits calls.
    pub(crate) async fn token(
        &self,
        username: Option<&str>,
        deadline: Deadline,
    ) -> Result<(Secret, bool)> {
        if let Some(token) = self.kept() {
            return Ok((token, true));
        }
        let turn = self.turn.acquire().await;
        let _turn = turn.map_err(|_| Error::credential("nobody gives access tokens any more"))?;
        if let Some(token) = self.kept() {
            return Ok((token, true));
        }
        let called = self.state().called;
        if let Some(next) = called.and_then(|called| called.checked_add(CALL_INTERVAL)) {
            sleep_until(next).await;
        }
        self.state().called = Some(Instant::now());
        let token = self.call(username, deadline).await?;
        self.state().token = Some(token.clone());
        Ok((token, false))
    }

    async fn call(&self, username: Option<&str>, deadline: Deadline) -> Result<Secret> {
        let deadline = match deadline.remaining() {
            Some(_) => deadline,
            None => Deadline::after(CALL_TIMEOUT),
        };
        let request = OidcRequest {
            username,
            timeout: deadline.remaining().unwrap_or(CALL_TIMEOUT),
            version: CALLBACK_VERSION,
        };
        let call = guard_async("OIDC callback", || self.callback.token(request));
        let called = deadline.bound(async { call.await.map_err(Error::credential)? });
        let given = called
            .await
            .unwrap_or_else(|Elapsed| Err(deadline.timed_out(Wait::Credential)))?;
        match given.access_token.is_empty() {
            false => Ok(given.access_token),
            true => Err(Error::credential("the access token is empty")),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use tokio::time::sleep;

    use super::super::AccessToken;
    use super::*;

    /// Numbers its tokens, takes a while, and counts who calls at a time.
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

    fn cache(callback: Numbered) -> (TokenCache, Arc<Numbered>) {
        let callback = Arc::new(callback);
        (TokenCache::new(callback.clone()), callback)
    }

    async fn get(cache: &TokenCache) -> Result<(String, bool)> {
        let (token, is_cached) = cache.token(Some("u"), Deadline::never()).await?;
        Ok((token.expose().to_owned(), is_cached))
    }

    #[tokio::test(start_paused = true)]
    async fn one_call_serves_all_who_wait_and_all_who_come_later() {
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
    async fn a_failure_is_told_to_who_called_and_the_next_call_waits() {
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

    /// Never gives a token to the first who asks.
    #[derive(Default)]
    struct Deaf(AtomicUsize);

    #[async_trait]
    impl OidcCallback for Deaf {
        async fn token(&self, _: OidcRequest<'_>) -> Result<AccessToken> {
            if self.0.fetch_add(1, Ordering::SeqCst) == 0 {
                std::future::pending::<()>().await;
            }
            Ok(AccessToken::new("token"))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_dropped_leaves_the_call_to_the_next() {
        let cache = TokenCache::new(Arc::new(Deaf::default()));
        let dropped = tokio::time::timeout(Duration::from_secs(1), get(&cache));
        let (dropped, second) = tokio::join!(dropped, get(&cache));
        assert!(dropped.is_err());
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
