//! A test's controls over a deployment.

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use tokio::task::JoinHandle;

use super::balancer::Balancer;
use super::builder::{DeploymentBuilder, Host, MemberSpec, entry};
use super::seat::Seat;
use super::state::ReplicaSetState;
use super::world::{Roles, World};
use crate::listener::Place;
use crate::server::{ScriptedServer, escape};
use crate::store::Store;

/// Several servers that form one deployment for their clients.
///
/// Servers are numbered from 0 in the order of adding. They answer hellos from their current role,
/// awaitable and streaming ones as soon as it changes. A set's secondaries refuse writes, and reads
/// that don't allow secondaries. The servers of a set or a sharded deployment share their
/// documents, but not their cursors. A write can be read everywhere at once, regardless of a
/// member's lag. All replies except a standalone's carry `$clusterTime` and `operationTime`.
///
/// # Scripted servers
/// By default the servers keep the documents themselves, in memory. Retryable writes are executed
/// once, also if their retry reaches another server. A transaction sees the documents as at its
/// start, and its own writes, which others see after its commit. If it writes what another one has
/// written since its start, it fails with `WriteConflict`; other writes wait for its end. It is
/// aborted when its primary changes, after 60 s, and on any error. It can only be continued at its
/// own mongos; another one commits it again if it was committed and the client sends its
/// `recoveryToken`. Snapshot reads see the documents at their `atClusterTime`, as far as an earlier
/// read had the same.
///
/// Connected members have the same documents at once. An isolated member goes on with its own:
/// what a former primary writes while it is isolated rolls back when it rejoins, unless it has no
/// successor. While a primary does not reach a majority, writes with `w: "majority"` wait, and
/// those without a write concern are acknowledged by it alone.
///
/// # Proxies before a real server
/// With [`backed_by`](DeploymentBuilder::backed_by) each client connection has its own connection
/// to the real server, which executes the client's messages as the client wrote them, except that
/// databases have unique names if the server is a deployment of the user's. A proxy itself does
/// only what its role requires. It puts its role, `topologyVersion`, `serviceId` and
/// wire versions into hello replies, and keeps all other fields of the real server. It holds
/// awaitable hellos. It answers `configureFailPoint`, `replSetStepDown` and similar commands. It
/// refuses reads and writes that its role does not allow, and cursors of other servers. As mongos
/// it adds the `recoveryToken` of transactions. Scripts, fail points, freezes and partitions act
/// on it as on a scripted server.
///
/// TLS and compression end at the proxies, if they have [`tls`](DeploymentBuilder::tls) or
/// [`compressors`](DeploymentBuilder::compressors). All servers share the real server's documents,
/// including standalones. A command that the real server has begun is executed, whatever happens to
/// the proxy. If a transaction's primary or mongos dies, the transaction is aborted when its next
/// command arrives; until then its writes conflict with others.
///
/// # Faults of the test
/// Methods panic if the server does not exist or can't do what the test asks. Dropping a deployment
/// aborts all its tasks. [`shutdown`](Self::shutdown) also waits until they have ended.
///
/// ```
/// use mongo_testkit::{Deployment, MemberKind, MemberSpec};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let set = Deployment::replica_set("rs")
///     .members(3)
///     .member(MemberSpec::new(MemberKind::Arbiter))
///     .start()
///     .await;
/// assert_eq!(set.primary(), Some(0));
/// // … connect what is under test to `set.uri()`, then:
/// set.kill(0).await;
/// set.elect(1);
/// set.restart(0).await;
/// assert_eq!(set.primary(), Some(1));
/// set.shutdown().await;
/// # });
/// ```
#[derive(Debug)]
pub struct Deployment {
    pub(super) servers: Vec<Arc<ScriptedServer>>,
    pub(super) specs: Vec<MemberSpec>,
    pub(super) store: Store,
    pub(super) balancer: Option<Balancer>,
    pub(super) elections: Option<JoinHandle<()>>,
    pub(super) host: Host,
    pub(super) world: Arc<World>,
}

impl Deployment {
    /// A replica set. Add members to it.
    pub fn replica_set(name: &str) -> DeploymentBuilder {
        DeploymentBuilder::replica_set(name)
    }

    /// A sharded deployment with this many mongos.
    pub fn sharded(mongoses: usize) -> DeploymentBuilder {
        DeploymentBuilder::sharded(mongoses)
    }

    /// A load balancer in front of this many mongos, which have no address of their own.
    pub fn load_balanced(mongoses: usize) -> DeploymentBuilder {
        DeploymentBuilder::load_balanced(mongoses)
    }

    /// This many independent standalones.
    pub fn standalones(servers: usize) -> DeploymentBuilder {
        DeploymentBuilder::standalones(servers)
    }

    pub(super) fn start_server(&mut self, place: Place) {
        let server = self.servers.len();
        let seat = Seat {
            world: Arc::clone(&self.world),
            server,
            is_balanced: self.host.is_balanced,
        };
        let store = match self
            .world
            .look(|roles| matches!(roles, Roles::Standalones(_)))
        {
            true => Store::default(),
            false => self.store.share(),
        };
        let spec = &self.specs[server];
        let server = self.host.start_server(place, spec, seat, store);
        self.servers.push(Arc::new(server));
    }

    /// How many servers there are, including killed and removed ones.
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// One of the servers: its script, what it has seen, its faults.
    pub fn server(&self, server: usize) -> &ScriptedServer {
        &self.servers[server]
    }

    /// The address at which a server, or its load balancer, listens. The set may list it under
    /// another one.
    pub fn address(&self, server: usize) -> String {
        match &self.balancer {
            Some(balancer) => balancer.address().to_owned(),
            None => self.servers[server].address(),
        }
    }

    /// The deployment's URI: all addresses except those of arbiters and hidden members, and
    /// `replicaSet` or `loadBalanced`.
    pub fn uri(&self) -> String {
        if let Some(balancer) = &self.balancer {
            return format!("mongodb://{}/?loadBalanced=true", balancer.address());
        }
        let (seeds, options) = self.world.look(|roles| match roles {
            Roles::Set(set) => {
                let is_seed = |server: &usize| set.hello(*server).get_bool("hidden").is_err();
                let seeds = (0..self.len()).filter(is_seed).collect();
                (seeds, format!("?replicaSet={}", set.name()))
            }
            Roles::Mongoses(all) | Roles::Standalones(all) => {
                ((0..all.len()).collect::<Vec<_>>(), "?".to_owned())
            }
        });
        let seeds: Vec<String> = seeds.into_iter().map(|seed| self.address(seed)).collect();
        format!("mongodb://{}/{options}", seeds.join(","))
    }

    /// The deployment's URI with a user.
    pub fn uri_for(&self, name: &str, password: &str) -> String {
        let user = format!("://{}:{}@", escape(name), escape(password));
        self.uri().replacen("://", &user, 1)
    }

    /// The documents of a collection, named `database.collection`, in the order of insertion. For
    /// standalones, use [`server`](Self::server).
    pub fn documents(&self, namespace: &str) -> Vec<Document> {
        match self.servers[0].is_proxy() {
            true => self.servers[0].documents(namespace),
            false => self.store.documents(namespace, None),
        }
    }

    /// Inserts documents into a collection without a client.
    pub fn insert(&self, namespace: &str, documents: impl IntoIterator<Item = Document>) {
        self.servers[0].insert(namespace, documents);
    }

    /// The part of a server's current hello reply that describes its role.
    pub fn hello(&self, server: usize) -> Document {
        self.world.look(|roles| roles.hello(server))
    }

    /// Looks at the set's state.
    pub fn look_at_set<R>(&self, look: impl FnOnce(&ReplicaSetState) -> R) -> R {
        self.world.look(|roles| match roles {
            Roles::Set(set) => look(set),
            Roles::Mongoses(_) | Roles::Standalones(_) => panic!("this is no replica set"),
        })
    }

    /// Changes the set's state in one step.
    pub fn change_set<R>(&self, change: impl FnOnce(&mut ReplicaSetState) -> R) -> R {
        let change = |roles: &mut Roles| match roles {
            Roles::Set(set) => (change(set), set.contacts()),
            Roles::Mongoses(_) | Roles::Standalones(_) => panic!("this is no replica set"),
        };
        self.store.follow(|| self.world.change(change))
    }

    /// The set's primary.
    pub fn primary(&self) -> Option<usize> {
        self.look_at_set(ReplicaSetState::primary)
    }

    /// Makes a member primary in a new term; the old primary steps down.
    pub fn elect(&self, server: usize) {
        self.change_set(|set| set.elect(server));
    }

    /// Makes the primary a secondary, so that there is none.
    pub fn step_down(&self, server: usize) {
        self.change_set(|set| set.step_down(server));
    }

    /// Ends a server's process: its listener, connections and cursors are gone.
    pub async fn kill(&self, server: usize) {
        if let Some(balancer) = &self.balancer {
            balancer.set_up(server, false);
        }
        self.world.change(|roles| match roles {
            Roles::Set(set) => set.kill(server),
            Roles::Mongoses(_) | Roles::Standalones(_) => {}
        });
        self.servers[server].stop().await;
    }

    /// Restarts a killed server at the same address.
    pub async fn restart(&self, server: usize) {
        let id = self.world.new_process_id();
        self.world.change(|roles| match roles {
            Roles::Set(set) => set.restart(server, id),
            Roles::Mongoses(all) | Roles::Standalones(all) => {
                all[server].id = id;
                all[server].counter = 0;
            }
        });
        self.servers[server].accept_connections().await;
        if let Some(balancer) = &self.balancer {
            balancer.set_up(server, true);
        }
    }

    /// Gives a server the wire versions of another release. Real servers restart for that; without
    /// a restart the next hellos show it.
    pub fn upgrade(&self, server: usize, min_wire_version: i32, max_wire_version: i32) {
        let versions = (min_wire_version, max_wire_version);
        self.world.change(|roles| match roles {
            Roles::Set(set) => set.set_wire_versions(server, versions.0, versions.1),
            Roles::Mongoses(all) | Roles::Standalones(all) => {
                all[server].wire_versions = versions;
                all[server].counter += 1;
            }
        });
    }

    /// Adds a member to the set, and returns its number.
    pub async fn add(&mut self, spec: MemberSpec) -> usize {
        let number = self.len();
        let (place, address) = self.host.place(number, false);
        let process = self.host.process(&spec, &self.world);
        self.change_set(|set| {
            set.add(entry(number, &spec, &address), process);
            set.set_lag(number, spec.lag);
        });
        self.specs.push(spec);
        self.start_server(place);
        number
    }

    /// Removes a member from the set. Its process continues as an RSGhost.
    pub fn remove(&self, server: usize) {
        self.change_set(|set| set.remove(server));
    }

    /// Lists a member under another address, such as another name of the same host. It still
    /// listens at its former address.
    pub fn rename(&self, server: usize, address: &str) {
        self.change_set(|set| set.rename(server, address));
    }

    /// Sets a member's lag, which its `lastWrite` dates show.
    pub fn set_lag(&self, server: usize, lag: Duration) {
        self.change_set(|set| set.set_lag(server, lag));
    }

    /// Sets a server's clock this many milliseconds ahead of the true time, or behind it if
    /// negative. This affects its `localTime` and the dates that it writes as primary.
    pub fn skew_clock(&self, server: usize, millis: i64) {
        let skew = |roles: &mut Roles| roles.process_mut(server).clock_skew = millis;
        self.world.change(skew);
    }

    /// Sets a server's fail point, as a client would by `configureFailPoint: "failCommand"`.
    ///
    /// # Panics
    /// If the server would refuse it.
    pub fn fail_commands(&self, server: usize, mode: impl Into<bson::Bson>, data: Document) {
        let command = doc! {
            "configureFailPoint": "failCommand",
            "mode": mode.into(),
            "data": data,
        };
        self.configure_fail_point(server, &command);
    }

    /// Executes a `configureFailPoint` command on a server, as for a client.
    ///
    /// # Panics
    /// If the server would refuse it.
    pub fn configure_fail_point(&self, server: usize, command: &Document) {
        let outcome = self.servers[server].configure_fail_point(command);
        assert!(outcome.is_ok(), "{:?} for {command}", outcome.err());
    }

    /// Ends all tasks and waits for them. Afterwards no socket of the deployment is open.
    pub async fn shutdown(mut self) {
        if let Some(elections) = self.elections.take() {
            elections.abort();
            // The task was aborted: its error is expected.
            let _ = elections.await;
        }
        if let Some(balancer) = &mut self.balancer {
            balancer.end().await;
        }
        for server in &self.servers {
            server.end().await;
        }
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        if let Some(elections) = &self.elections {
            elections.abort();
        }
    }
}
