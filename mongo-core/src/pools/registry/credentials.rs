//! Credentials: handles, verification, rotation and logout.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::tenant::Tenant;
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
                let authenticator = registry.authenticator(Some(credential.clone()), None)?;
                let tenant = registry.new_tenant(authenticator);
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
        Ok(self.with_tenant(registry.new_tenant(authenticator)))
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
    /// If it names another user, the same in another database, or none (OIDC, AWS, X.509, where only
    /// the server knows the user), the idle sessions of the former one are ended over an idle
    /// connection, if there is one. Transactions in progress fail with the label
    /// `TransientTransactionError` at their next command, except behind a load balancer (see
    /// [`Session`](crate::pools::Session)). They are not aborted, because only the former user could,
    /// and its connections are closed: the server ends them (`transactionLifetimeLimitSeconds`,
    /// 60 s). [`SuspendedCursor`](crate::pools::SuspendedCursor)s and cursors of the former user fail.
    ///
    /// # Errors
    /// The credential can't be used, or there are already handles for it;
    /// [`ErrorKind::PoolClosed`](crate::ErrorKind::PoolClosed), also after a logout.
    pub fn rotate(&self, credential: Credential) -> Result<()> {
        let registry = self.registry();
        registry.check_open()?;
        let authenticator = registry.authenticator(Some(credential.clone()), None)?;
        let (former, sessions) = {
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
            let is_same_user = authenticator.is_same_user(&self.tenant.authenticator());
            let sessions = (!is_same_user).then(|| self.tenant.forget_sessions());
            (self.tenant.set_authenticator(authenticator), sessions)
        };
        drop(former);
        if let Some(sessions) = sessions {
            self.end_sessions_over_idle(&sessions);
        }
        registry.retire_all(&self.tenant);
        Ok(())
    }

    /// Gives up the credential: its pools are closed, and connections in use when they are returned.
    /// Before that, for at most 1 s, it waits until dropped cursors are closed and dropped
    /// transactions aborted, and ends the idle sessions on the server. Then waits for connections in
    /// use, also for those made before a [rotation](Self::rotate), for at most the configured close
    /// time-out (10 s), and then interrupts them. Concurrent calls wait likewise. Every handle for
    /// the credential gets [`ErrorKind::PoolClosed`](crate::ErrorKind::PoolClosed) afterwards;
    /// [`with_credential`](Self::with_credential) makes a new handle. The server ends the
    /// transactions of sessions that are not dropped before (`transactionLifetimeLimitSeconds`,
    /// 60 s).
    ///
    /// Dropping this future does not affect connections in use. The credential is given up all the
    /// same.
    pub async fn logout(&self) {
        let registry = self.registry();
        let deadline = Deadline::after(registry.config.close_timeout());
        registry.remove_tenant(&self.tenant);
        {
            // Dropping this future gives it up too.
            let _leaves = Leaves(self);
            if self.check_usable().is_ok() {
                self.settle_operations(vec![self.tenant.clone()]).await;
            }
        }
        let tenant = Some(&self.tenant);
        registry.retired.drain(tenant, deadline).await;
    }
}

/// Gives up the credential when it is dropped.
struct Leaves<'a, B: Backend>(&'a Pools<B>);

impl<B: Backend> Drop for Leaves<'_, B> {
    fn drop(&mut self) {
        let Pools { life, tenant } = self.0;
        tenant.set_gone();
        // A rotation may have entered it again.
        life.0.remove_tenant(tenant);
        // Without the lock: the wakers belong to the application.
        tenant.notify_left();
        life.0.retire_all(tenant);
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
    fn new_tenant(self: &Arc<Self>, authenticator: Arc<Authenticator>) -> Arc<Tenant<B>> {
        // The sessions of a credential are its own.
        let client = ClientContext::new(self.template.client.defaults.clone());
        let tenant = Arc::new(Tenant::new(authenticator, Arc::new(client), false));
        self.attach(&tenant);
        tenant
    }

    /// Removes a tenant from those that further handles may get.
    fn remove_tenant(&self, tenant: &Arc<Tenant<B>>) {
        let removed: Vec<_> = {
            let mut tenants = self.tenants();
            let removed = tenants.extract_if(|_, own| Arc::ptr_eq(own, tenant));
            removed.collect()
        };
        drop(removed);
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
