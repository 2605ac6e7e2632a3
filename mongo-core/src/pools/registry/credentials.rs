//! Credentials: handles, verification, rotation and logout.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::tenant::{Identity, Tenant};
use super::{Pools, Registry};
use crate::auth::{AuthError, Credential};
use crate::error::{Error, ErrorKind, Result};
use crate::net::{AuthParts, Authenticator, CredentialProvider, Deadline};
use crate::operation::ClientContext;
use crate::pools::Backend;
use crate::select::{Criterion, ReadPreference, ReadPreferenceMode};

impl<B: Backend> Pools<B> {
    /// A handle for another credential, on the same topology and monitors. All handles for equal
    /// credentials share their pools. If it has no source, the `authSource` of the options or of a
    /// TXT record applies. Does not connect: see [`verify`](Self::verify).
    ///
    /// # Errors
    /// The credential can't be used; [`ErrorKind::PoolClosed`](crate::ErrorKind::PoolClosed).
    pub fn with_credential(&self, credential: Credential) -> Result<Self> {
        let registry = self.registry();
        registry.check_open()?;
        registry.has_tenants.store(true, Ordering::Release);
        let mut tenants = registry.tenants();
        let tenant = match tenants.get(&credential) {
            Some(tenant) => tenant.clone(),
            None => {
                let identity = registry.identity(credential.clone())?;
                let tenant = Arc::new(registry.new_tenant(identity));
                tenants.insert(credential, tenant.clone());
                tenant
            }
        };
        Ok(self.with_tenant(tenant))
    }

    /// A handle for the credential of a provider, on the same topology and monitors. Each call
    /// returns a handle with pools of its own, which end with [`logout`](Self::logout), or when
    /// they have been unused for the configured time (10 min).
    ///
    /// # Errors
    /// [`ErrorKind::PoolClosed`](crate::ErrorKind::PoolClosed).
    pub fn with_credential_provider(&self, provider: Arc<dyn CredentialProvider>) -> Result<Self> {
        let registry = self.registry();
        registry.check_open()?;
        registry.has_tenants.store(true, Ordering::Release);
        let authenticator = registry.authenticator(None, Some(provider))?;
        let identity = Identity {
            credential: None,
            authenticator,
        };
        Ok(self.with_tenant(Arc::new(registry.new_tenant(identity))))
    }

    /// Verifies the credential: authenticates with the nearest server, on a new connection or again
    /// on an idle one. If the idle one was made for a former user of the credential's provider, it
    /// is closed, and a new connection is made within `maxPoolSize` and `maxConnecting`, which then
    /// stays in the pool. Without a credential, it suffices to check out a connection.
    ///
    /// # Errors
    /// [`ErrorKind::Authentication`](crate::ErrorKind::Authentication), or the failure to reach the
    /// server.
    pub async fn verify(&self) -> Result<()> {
        let begun = Instant::now();
        let deadline = Deadline::after(self.registry().wait_timeout);
        let nearest = Criterion::read(ReadPreference::new(ReadPreferenceMode::Nearest));
        let nearest = nearest.map_err(|error| Error::configuration(error.to_string()))?;
        loop {
            let mut connection = self.get_by(deadline, &nearest, &[]).await?;
            let is_nobody = connection.description().authenticated.is_none();
            if is_nobody || connection.created() >= begun {
                return Ok(());
            }
            match connection.reauthenticate(deadline).await {
                Err(error) if is_of_other_user(&error) => drop(connection),
                verdict => return verdict,
            }
            // The next idle connection may also be of the former user.
            if self.make_one(deadline, &nearest).await? {
                return Ok(());
            }
        }
    }

    /// Replaces the secret, or the whole credential: the pools of this handle's credential are
    /// closed, and connections are made with the new one from now on. Requests in flight continue
    /// on their connections until all pools are closed. Waiting check-outs wait for a connection
    /// with the new credential. All handles for the old credential switch to the new one.
    ///
    /// # Errors
    /// The credential can't be used, or there are already handles for it;
    /// [`ErrorKind::PoolClosed`](crate::ErrorKind::PoolClosed), also after a logout.
    pub fn rotate(&self, credential: Credential) -> Result<()> {
        let registry = self.registry();
        registry.check_open()?;
        let identity = registry.identity(credential.clone())?;
        let former = {
            let mut tenants = registry.tenants();
            self.tenant.check()?;
            if let Some(other) = tenants.get(&credential) {
                return match Arc::ptr_eq(other, &self.tenant) {
                    true => Ok(()),
                    false => Err(Error::configuration(
                        "there are already handles for the new credential",
                    )),
                };
            }
            tenants.retain(|_, tenant| !Arc::ptr_eq(tenant, &self.tenant));
            tenants.insert(credential, self.tenant.clone());
            let is_same_user = identity.authenticator.user() == self.user().as_ref();
            if !is_same_user {
                self.tenant.forget_sessions();
            }
            self.tenant.set_identity(identity)
        };
        drop(former);
        registry.retire_all(&self.tenant);
        Ok(())
    }

    /// Gives up the credential: its pools are closed at once, and connections in use when they are
    /// returned. Waits for these, also for those made before a [rotation](Self::rotate), for at
    /// most the configured close time-out (10 s), and then interrupts them. Concurrent calls wait
    /// likewise. Every handle for the credential gets
    /// [`ErrorKind::PoolClosed`](crate::ErrorKind::PoolClosed) from now on;
    /// [`with_credential`](Self::with_credential) makes a new handle. The server ends the sessions of
    /// the credential by itself (30 minutes), and its open transactions (60 s).
    ///
    /// Dropping this future does not affect connections in use.
    pub async fn logout(&self) {
        let registry = self.registry();
        {
            let mut tenants = registry.tenants();
            tenants.retain(|_, tenant| !Arc::ptr_eq(tenant, &self.tenant));
            self.tenant.set_gone();
        }
        // Without the lock: the wakers belong to the application.
        self.tenant.notify_left();
        registry.retire_all(&self.tenant);
        let deadline = Deadline::after(registry.config.close_timeout());
        let tenant = Some(&self.tenant);
        registry.retired.drain(tenant, deadline).await;
    }
}

/// Whether a connection was made for a user that its credential no longer names.
fn is_of_other_user(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Authentication(AuthError::OtherUser)
    )
}

impl<B: Backend> Registry<B> {
    fn new_tenant(&self, identity: Identity) -> Tenant<B> {
        // The sessions of a credential are its own.
        let client = ClientContext::new(self.template.client.defaults.clone());
        Tenant::new(identity, Arc::new(client), false)
    }

    fn identity(&self, credential: Credential) -> Result<Identity> {
        Ok(Identity {
            authenticator: self.authenticator(Some(credential.clone()), None)?,
            credential: Some(credential),
        })
    }

    fn authenticator(
        &self,
        credential: Option<Credential>,
        provider: Option<Arc<dyn CredentialProvider>>,
    ) -> Result<Arc<Authenticator>> {
        let mut options = self.options.clone();
        options.credential = credential;
        // It is the default for the connection string's own credential only.
        options.default_database = None;
        let parts = AuthParts {
            provider,
            ..self.auth.clone()
        };
        Authenticator::new(&options, parts).map(Arc::new)
    }
}
