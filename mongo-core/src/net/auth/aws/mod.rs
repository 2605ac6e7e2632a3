//! Where the credentials of MONGODB-AWS come from.

#[cfg(feature = "cloud-credentials")]
mod endpoint;
#[cfg(feature = "cloud-credentials")]
mod endpoints;
mod sources;

use async_trait::async_trait;

pub use sources::AwsSources;

use crate::auth::AwsCredentials;
use crate::error::Result;

/// Gives credentials of AWS for `MONGODB-AWS`: the specification's custom credential provider. Put
/// AWS's own SDK behind it to have all of its sources.
///
/// It is asked each time that a connection is made; an implementation whose answer takes long keeps
/// it itself. The caller bounds the call with `connectTimeoutMS` and drops the future when that is
/// over: it must leave nothing behind when dropped. Several connections may ask at a time. A panic
/// in it is caught and logged, and fails the call as
/// [`ErrorKind::Credential`](crate::ErrorKind::Credential).
///
/// Specification: authentication, "Custom Credential Providers".
#[async_trait]
pub trait AwsCredentialProvider: Send + Sync + 'static {
    /// The current credentials.
    ///
    /// # Errors
    /// Preferably [`Error::credential`](crate::Error::credential): any other error becomes the cause of one, and
    /// does not count as a failure of the MongoDB server. The error's text reaches logs, so it must not contain a
    /// secret.
    async fn credentials(&self) -> Result<AwsCredentials>;

    /// Authentication has failed, for whatever reason: what is kept is not to be given again.
    fn failed(&self) {}
}
