//! Setup of deployments.

use std::sync::Arc;
use std::time::Duration;

use bson::{DateTime, Document};

use super::balancer::Balancer;
use super::config::{ConfigEntry, MemberKind};
use super::control::Deployment;
use super::process::Process;
use super::seat::Seat;
use super::state::ReplicaSetState;
use super::world::{Roles, World, hold_elections};
use crate::backend::Backend;
use crate::compression::Compressor;
use crate::connection::ExhaustReplies;
use crate::listener::Place;
use crate::real::RealServer;
use crate::server::ScriptedServer;
use crate::sim::SimNetwork;
use crate::store::Store;
use crate::tls::ServerTls;
use crate::user::User;

/// Describes a member of a replica set.
#[derive(Clone, Debug)]
#[must_use]
pub struct MemberSpec {
    pub(super) kind: MemberKind,
    pub(super) tags: Document,
    pub(super) lag: Duration,
    pub(super) wire_versions: Option<(i32, i32)>,
}

impl MemberSpec {
    /// A member of this kind, without tags or lag. Its wire versions are 0 to 25, or those of the
    /// real server behind it.
    pub fn new(kind: MemberKind) -> Self {
        Self {
            kind,
            tags: Document::new(),
            lag: Duration::ZERO,
            wire_versions: None,
        }
    }

    /// Adds a tag.
    pub fn tag(mut self, name: &str, value: &str) -> Self {
        self.tags.insert(name, value);
        self
    }

    /// Sets how far its `lastWrite` dates are behind the primary's.
    pub fn lag(mut self, lag: Duration) -> Self {
        self.lag = lag;
        self
    }

    /// Sets its `minWireVersion` and `maxWireVersion`. With a `maxWireVersion` under 9 it has no
    /// `topologyVersion`.
    pub fn wire_versions(mut self, min: i32, max: i32) -> Self {
        self.wire_versions = Some((min, max));
        self
    }
}

impl Default for MemberSpec {
    fn default() -> Self {
        Self::new(MemberKind::Electable)
    }
}

#[derive(Debug)]
enum Shape {
    Set(String),
    Mongoses,
    Balanced,
    Standalones,
}

/// Builds a [`Deployment`].
#[derive(Debug)]
#[must_use]
pub struct DeploymentBuilder {
    shape: Shape,
    members: Vec<MemberSpec>,
    has_primary: bool,
    elections: Option<Duration>,
    users: Vec<User>,
    plain_users: Vec<(String, String)>,
    exhaust: ExhaustReplies,
    compressors: Vec<Compressor>,
    tls: Option<ServerTls>,
    network: Option<SimNetwork>,
    real: Option<Arc<RealServer>>,
}

impl DeploymentBuilder {
    fn new(shape: Shape, servers: usize) -> Self {
        Self {
            shape,
            members: vec![MemberSpec::default(); servers],
            has_primary: true,
            elections: None,
            users: Vec::new(),
            plain_users: Vec::new(),
            exhaust: ExhaustReplies::default(),
            compressors: Vec::new(),
            tls: None,
            network: None,
            real: None,
        }
    }

    pub(super) fn replica_set(name: &str) -> Self {
        Self::new(Shape::Set(name.to_owned()), 0)
    }

    pub(super) fn sharded(mongoses: usize) -> Self {
        Self::new(Shape::Mongoses, mongoses)
    }

    pub(super) fn load_balanced(mongoses: usize) -> Self {
        Self::new(Shape::Balanced, mongoses)
    }

    pub(super) fn standalones(servers: usize) -> Self {
        Self::new(Shape::Standalones, servers)
    }

    /// Adds a server. The first electable member of a replica set starts as its primary.
    pub fn member(mut self, member: MemberSpec) -> Self {
        self.members.push(member);
        self
    }

    /// Adds `count` ordinary servers.
    pub fn members(mut self, count: usize) -> Self {
        self.members
            .extend(std::iter::repeat_n(MemberSpec::default(), count));
        self
    }

    /// Starts a replica set without a primary.
    pub fn without_primary(mut self) -> Self {
        self.has_primary = false;
        self
    }

    /// Lets the set elect a primary by itself, once it has had none for this long and a majority is
    /// up. Without it only the test holds elections, except for the successor of a primary that
    /// steps down by a client's `replSetStepDown`.
    pub fn elections(mut self, after: Duration) -> Self {
        self.elections = Some(after);
        self
    }

    /// Adds a user to all servers except arbiters.
    pub fn user(mut self, user: User) -> Self {
        self.users.push(user);
        self
    }

    /// Adds a user of `$external` for PLAIN. PLAIN needs no hashing, so it suits tests with many
    /// users.
    pub fn plain_user(mut self, name: &str, password: &str) -> Self {
        self.plain_users
            .push((name.to_owned(), password.to_owned()));
        self
    }

    /// Sets which message each reply of a streaming hello names in `responseTo`.
    pub fn exhaust_replies(mut self, exhaust: ExhaustReplies) -> Self {
        self.exhaust = exhaust;
        self
    }

    /// Sets the compressors that the servers support, including proxies. The default is none.
    pub fn compressors(mut self, compressors: impl IntoIterator<Item = Compressor>) -> Self {
        self.compressors.extend(compressors);
        self
    }

    /// Makes the servers accept only TLS, including proxies. The connections between proxies and
    /// the real server have none.
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Runs the servers on a network in memory, as `m0.test:27017`, `m1.test:27017` and so on. The
    /// network's seed replaces chance, and tokio's clock replaces time.
    pub fn network(mut self, network: &SimNetwork) -> Self {
        self.network = Some(network.clone());
        self
    }

    /// Makes the servers proxies in front of this real server: see [`Deployment`]. The users are
    /// the real server's own.
    ///
    /// ```no_run
    /// # async fn example() {
    /// use mongo_testkit::{Deployment, RealServer};
    ///
    /// let set = Deployment::replica_set("rs").members(3).backed_by(RealServer::start());
    /// let set = set.start().await;
    /// # }
    /// ```
    pub fn backed_by(mut self, real: impl Into<Arc<RealServer>>) -> Self {
        self.real = Some(real.into());
        self
    }

    /// Starts all servers on tasks of the current runtime.
    ///
    /// # Panics
    /// Without any server, if no loopback port is available, or outside a tokio runtime. With a
    /// real server: if the deployment has a network in memory or users of its own.
    pub async fn start(self) -> Deployment {
        assert!(!self.members.is_empty(), "a deployment needs a server");
        let has_users = !self.users.is_empty() || !self.plain_users.is_empty();
        assert!(
            self.real.is_none() || self.network.is_none() && !has_users,
            "a real server has a network and users of its own"
        );
        let is_balanced = matches!(self.shape, Shape::Balanced);
        let host = Host {
            is_balanced,
            network: self.network,
            users: self.users,
            plain_users: self.plain_users,
            exhaust: self.exhaust,
            compressors: self.compressors,
            tls: self.tls,
            wire_versions: self.real.as_deref().map(RealServer::wire_versions),
            backend: self.real.map(Backend::new),
        };
        let places: Vec<(Place, String)> = (0..self.members.len())
            .map(|server| host.place(server, is_balanced))
            .collect();
        let (seed, start) = host.origin();
        let world = World::new(seed, start, |world| {
            let members = (self.members.as_slice(), places.as_slice());
            roles(&self.shape, members, self.has_primary, &host, world)
        });
        let store = Store::default();
        let mut deployment = Deployment {
            servers: Vec::new(),
            specs: self.members,
            store,
            balancer: None,
            elections: None,
            host,
            world,
        };
        for (place, _) in places {
            deployment.start_server(place);
        }
        if is_balanced {
            let place = deployment.host.place(0, false).0;
            deployment.balancer = Some(Balancer::start(place, deployment.servers.clone()));
        }
        if let Some(after) = self.elections {
            let elections = hold_elections(Arc::clone(&deployment.world), after);
            deployment.elections = Some(tokio::spawn(elections));
        }
        deployment
    }
}

fn roles(
    shape: &Shape,
    (members, places): (&[MemberSpec], &[(Place, String)]),
    has_primary: bool,
    host: &Host,
    world: &World,
) -> Roles {
    let processes = members.iter().map(|spec| host.process(spec, world));
    let Shape::Set(name) = shape else {
        let processes = processes.collect();
        return match shape {
            Shape::Standalones => Roles::Standalones(processes),
            Shape::Set(_) | Shape::Mongoses | Shape::Balanced => Roles::Mongoses(processes),
        };
    };
    let entries = members
        .iter()
        .zip(places)
        .enumerate()
        .map(|(number, (spec, place))| entry(number, spec, &place.1));
    let mut set = ReplicaSetState::new(name, entries.zip(processes), world.now());
    for (number, spec) in members.iter().enumerate() {
        set.set_lag(number, spec.lag);
    }
    if has_primary && let Some(member) = set.candidate(world.now()) {
        set.elect(member);
    }
    Roles::Set(set)
}

pub(super) fn entry(member: usize, spec: &MemberSpec, address: &str) -> ConfigEntry {
    ConfigEntry {
        member,
        address: address.to_owned(),
        kind: spec.kind,
        tags: spec.tags.clone(),
    }
}

/// Settings that all servers of a deployment share.
#[derive(Debug)]
pub(super) struct Host {
    /// Whether a load balancer is in front of the servers.
    pub(super) is_balanced: bool,
    network: Option<SimNetwork>,
    users: Vec<User>,
    plain_users: Vec<(String, String)>,
    exhaust: ExhaustReplies,
    compressors: Vec<Compressor>,
    tls: Option<ServerTls>,
    backend: Option<Backend>,
    /// The real server's.
    wire_versions: Option<(i32, i32)>,
}

impl Host {
    /// Returns a place for a server, and its address.
    pub(super) fn place(&self, server: usize, is_nowhere: bool) -> (Place, String) {
        let place = match &self.network {
            _ if is_nowhere => Place::Nowhere,
            Some(network) => Place::Sim(network.clone(), format!("m{server}.test:27017")),
            None => Place::loopback().expect("a port on loopback"),
        };
        let address = place.address();
        (place, address)
    }

    /// Returns the seed of the process ids and the start of the wall clock.
    fn origin(&self) -> (u64, DateTime) {
        match &self.network {
            // 2026-01-01T00:00:00Z, an arbitrary date.
            Some(network) => (
                network.draw(u64::MAX),
                DateTime::from_millis(1_767_225_600_000),
            ),
            None => {
                let mut bytes = [0; 8];
                getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
                (u64::from_le_bytes(bytes), DateTime::now())
            }
        }
    }

    pub(super) fn process(&self, spec: &MemberSpec, world: &World) -> Process {
        let mut process = Process::new(world.new_process_id());
        if let Some(versions) = spec.wire_versions.or(self.wire_versions) {
            process.wire_versions = versions;
        }
        process
    }

    pub(super) fn start_server(
        &self,
        place: Place,
        spec: &MemberSpec,
        seat: Seat,
        store: Store,
    ) -> ScriptedServer {
        let mut builder = ScriptedServer::builder()
            .place(place)
            .exhaust_replies(self.exhaust)
            .compressors(self.compressors.iter().copied())
            .seat(seat, store)
            .backend(self.backend.as_ref().map(Backend::share));
        if let Some(tls) = &self.tls {
            builder = builder.tls(tls.clone());
        }
        if spec.kind != MemberKind::Arbiter {
            for user in &self.users {
                builder = builder.user(user.clone());
            }
            for (name, password) in &self.plain_users {
                builder = builder.plain_user(name, password);
            }
        }
        builder.start_now()
    }
}
