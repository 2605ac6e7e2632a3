//! Calls to sources of credentials.

use std::future::Future;
use std::pin::Pin;

use crate::callback::guard_async;
use crate::error::{Error, Result};

/// Calls a source of credentials, which is called `name` in logs and errors.
///
/// # Errors
/// Any failure of the source is a failure to obtain the credential, with the source's error as its
/// cause. A network or server error of the source is not one of the connection, and does not change
/// the description of the MongoDB server.
pub(crate) async fn call_source<'a, T>(
    name: &'static str,
    begin: impl FnOnce() -> Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>,
) -> Result<T> {
    let given = guard_async(name, begin).await;
    given.map_err(Error::credential)?.map_err(Error::of_source)
}
