//! Credentials: handles for them, whether they are good, their change and their end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::tenant::{Identity, Tenant};
use super::{Pools, Registry};
use crate::auth::{AuthError, Credential};
use crate::error::{Error, ErrorKind, Result};
use crate::net::{AuthParts, Authenticator, CredentialProvider, Deadline};
use crate::pools::Backend;
use crate::select::{Criterion, ReadPreference, ReadPreferenceMode};

impl<B: Backend> Pools<B> {
    /// A handle for another credential, on the same topology and monitors. All handles for equal
    /// credentials share their pools. Without a source of its own it has that of the options'
    /// `authSource`, or of a TXT record. Nothing is connected: see [`verify`](Self::verify).
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
                let tenant = Arc::new(Tenant::new(identity, false));
                tenants.insert(credential, tenant.clone());
                tenant
            }
        };
        Ok(self.with_tenant(tenant))
    }

    /// A handle for what a provider tells, on the same topology and monitors. Each call gives a
    /// handle with pools of its own, which end with [`logout`](Self::logout), or when they have been
    /// unused for the configured time (10 min).
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
        Ok(self.with_tenant(Arc::new(Tenant::new(identity, false))))
    }

    /// Authenticates with a server, whichever is nearest: whether the credential is good now. That
    /// is on a new connection, or anew on an idle one; if that was made for a former user of the
    /// credential's provider, it is closed, and a new connection is made within `maxPoolSize` and
    /// `maxConnecting`, which then serves the pool. Without a credential, it is enough that there is
    /// a connection.
    ///
    /// # Errors
    /// [`ErrorKind::Authentication`](crate::ErrorKind::Authentication), or why the server could not be asked.
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
            // The next idle one may be of the former user, too.
            if self.make_one(deadline, &nearest).await? {
                return Ok(());
            }
        }
    }

    /// Goes on with another secret, or another credential altogether: the pools of this handle's
    /// credential are closed, and connections are made with the new one from now on. Requests in
    /// flight go on, on their connections, until all pools are closed; who waits for one waits for a
    /// new one. All handles for the old credential follow.
    ///
    /// # Errors
    /// The credential can't be used, or there are handles for it already;
    /// [`ErrorKind::PoolClosed`](crate::ErrorKind::PoolClosed), after a logout too.
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
                        "there are handles for the new credential already",
                    )),
                };
            }
            tenants.retain(|_, tenant| !Arc::ptr_eq(tenant, &self.tenant));
            tenants.insert(credential, self.tenant.clone());
            self.tenant.set_identity(identity)
        };
        drop(former);
        registry.retire_all(&self.tenant);
        Ok(())
    }

    /// Gives the credential up: its pools are closed, and connections in use when they come back,
    /// those too that were made before a [rotation](Self::rotate), which is waited for, for at most
    /// the configured close time-out (10 s); what is left then is interrupted. Who logs out at the
    /// same time waits likewise. Every handle for it gets
    /// [`ErrorKind::PoolClosed`](crate::ErrorKind::PoolClosed) from now on;
    /// [`with_credential`](Self::with_credential) begins anew.
    ///
    /// Dropped meanwhile, what is in use goes on.
    pub async fn logout(&self) {
        let registry = self.registry();
        {
            let mut tenants = registry.tenants();
            tenants.retain(|_, tenant| !Arc::ptr_eq(tenant, &self.tenant));
            self.tenant.set_gone();
        }
        // Without the lock: the wakers are an application's.
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
