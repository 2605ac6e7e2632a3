//! Sources of credentials for MONGODB-AWS.

#[cfg(feature = "cloud-credentials")]
mod endpoint;
#[cfg(feature = "cloud-credentials")]
mod endpoints;
mod sources;

use async_trait::async_trait;

pub use sources::AwsSources;

use crate::auth::AwsCredentials;
use crate::error::Result;

/// Supplies AWS credentials for `MONGODB-AWS`: the specification's custom credential provider. To
/// use all sources of the AWS SDK, implement it with the SDK.
///
/// It is called each time a connection is made; an implementation that is slow should cache the
/// credentials itself. The caller bounds the call with `connectTimeoutMS` and then drops the
/// future, which must leave nothing behind. Several connections may call it concurrently. A panic
/// in it is caught and logged, and fails the call with
/// [`ErrorKind::Credential`](crate::ErrorKind::Credential).
///
/// Specification: authentication, "Custom Credential Providers".
#[async_trait]
pub trait AwsCredentialProvider: Send + Sync + 'static {
    /// The current credentials.
    ///
    /// # Errors
    /// Preferably [`Error::credential`](crate::Error::credential). Any other error becomes the
    /// cause of one, and does not count as a failure of the MongoDB server. The error's text
    /// reaches logs, so it must not contain a secret.
    async fn credentials(&self) -> Result<AwsCredentials>;

    /// Called when authentication has failed, for whatever reason. Cached credentials must not be
    /// returned again.
    fn failed(&self) {}
}
