//! Pools made from their parts.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};

use super::closing::Life;
use super::leftovers::{Leftovers, SendLeftover};
use super::retired::Retired;
use super::tenant::Tenant;
use super::{Pools, Registry};
use crate::net::{AuthParts, Authenticator, Home, Tasks, Topology};
use crate::pools::Backend;
use crate::pools::follow::Servers;
use crate::pools::options::{PoolOptions, PoolsConfig};
use crate::pools::pool::FactoryConfig;
use crate::pools::server_cap::ServerCaps;
use crate::select::Criterion;
use crate::uri::ClientOptions;

/// The parts that pools are made from.
pub(in crate::pools) struct Parts<B: Backend> {
    pub(in crate::pools) topology: Topology,
    pub(in crate::pools) owns_topology: bool,
    pub(in crate::pools) options: ClientOptions,
    pub(in crate::pools) config: PoolsConfig,
    pub(in crate::pools) pool_options: PoolOptions,
    pub(in crate::pools) backend: B::Config,
    pub(in crate::pools) template: FactoryConfig,
    pub(in crate::pools) auth: AuthParts,
    /// That of the credential in the options.
    pub(in crate::pools) authenticator: Arc<Authenticator>,
    pub(in crate::pools) runtime: Option<Handle>,
    /// Sends what dropped cursors and sessions leave.
    pub(in crate::pools) send_leftover: SendLeftover<B>,
}

impl<B: Backend> Pools<B> {
    pub(in crate::pools) fn assemble(mut parts: Parts<B>) -> Self {
        let credential = parts.options.credential.clone();
        // The provider is only for the credential of the options.
        let provider = parts.auth.provider.take();
        let is_anonymous = credential.is_none() && provider.is_none();
        let client = parts.template.client.clone();
        let tenant = Arc::new(Tenant::new(parts.authenticator, client, true));
        let registry = Arc::new_cyclic(|this: &Weak<Registry<B>>| Registry {
            this: this.clone(),
            topology: parts.topology,
            owns_topology: parts.owns_topology,
            wait_timeout: parts.config.wait_timeout(&parts.options),
            options: parts.options,
            caps: ServerCaps::new(parts.config.server_limits()),
            config: parts.config,
            pool_options: parts.pool_options,
            backend: parts.backend,
            template: parts.template,
            auth: parts.auth,
            write: Criterion::write(),
            tenant: tenant.clone(),
            is_anonymous,
            has_tenants: AtomicBool::new(false),
            tenants: Mutex::new(HashMap::new()),
            servers: Servers::default(),
            retired: Retired::default(),
            adding: Mutex::new(()),
            wake: Arc::new(Notify::new()),
            maintenance: Mutex::new(None),
            home: Home::new(parts.runtime),
            tasks: Arc::<Tasks>::default(),
            is_closed: AtomicBool::new(false),
            is_recheck_due: AtomicBool::new(false),
            is_fill_due: AtomicBool::new(false),
            closed: Notify::new(),
            leftovers: Leftovers::new(parts.send_leftover),
            life: OnceLock::new(),
            ending: Semaphore::new(1),
        });
        registry.topology.listen(registry.this.clone());
        if let Some(credential) = credential {
            registry.tenants().insert(credential, tenant.clone());
        }
        registry.attach(&tenant);
        let life = Arc::new(Life(registry.clone()));
        let _ = registry.life.set(Arc::downgrade(&life));
        Pools { life, tenant }
    }
}
