//! The servers of a case, and the transport to them.

use std::cmp::Ordering::Equal;
use std::sync::{Arc, Mutex, PoisonError};

use bson::{Bson, Document, doc};
use mongo_core::ServerAddress;
use mongo_core::net::{Connector, SocketConnector};
use mongo_testkit::{
    Deployment, DeploymentBuilder, MemberKind, MemberSpec, RealServer, ScriptedServer, SimNetwork,
    User,
};
use tokio::runtime::Runtime;

use super::case::Fields;
use super::matching::{Lookup, matches_exactly};
use super::plan::{Plan, Topology};
use crate::Outcome;
use crate::over_sim::OverSim;

/// The members of a replica set.
const MEMBERS: usize = 3;

/// The token that the scripted server accepts.
pub(super) const TOKEN: &str = "a.good.token";

/// The user of servers with authentication.
const USER: (&str, &str) = ("app", "pencil");

/// The servers of a case.
pub(super) struct Stage {
    pub(super) plan: Plan,
    servers: Servers,
    network: Option<SimNetwork>,
    real: Option<Lease>,
}

enum Servers {
    Deployment(Box<Deployment>),
    /// For MONGODB-OIDC.
    Scripted(ScriptedServer),
}

impl Stage {
    /// The runtime of a case: one thread, with a paused clock for servers in memory.
    pub(super) fn runtime(plan: &Plan) -> Result<Runtime, String> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(!plan.real && !plan.oidc);
        builder.build().map_err(|error| error.to_string())
    }

    pub(super) async fn start(plan: Plan) -> Self {
        if plan.oidc {
            let server = ScriptedServer::builder().access_tokens(&[TOKEN]);
            return Self {
                plan,
                servers: Servers::Scripted(server.start().await),
                network: None,
                real: None,
            };
        }
        let network = (!plan.real).then(|| SimNetwork::new(1));
        let real = plan.real.then(Lease::take);
        let mut builder = shape(&plan);
        if let Some(network) = &network {
            builder = builder.network(network);
        }
        if let Some(real) = &real {
            builder = builder.backed_by(Arc::clone(real.server()));
        }
        if plan.auth {
            builder = builder.user(User::new(USER.0, USER.1));
        }
        Self {
            plan,
            servers: Servers::Deployment(Box::new(builder.start().await)),
            network,
            real,
        }
    }

    /// The connection string, of one mongos or of all; or of the first server alone.
    pub(super) fn uri(&self, all_mongoses: bool, direct: bool) -> String {
        let deployment = match &self.servers {
            Servers::Deployment(deployment) => deployment,
            Servers::Scripted(server) => return server.uri(),
        };
        let mut uri = match self.plan.topology {
            Topology::ReplicaSet if direct => format!("mongodb://{}/?", deployment.address(0)),
            Topology::Sharded if !all_mongoses => {
                format!("mongodb://{}/?", deployment.address(0))
            }
            _ => deployment.uri(),
        };
        if self.plan.auth {
            uri = uri.replacen("://", &format!("://{}:{}@", USER.0, USER.1), 1);
        }
        uri
    }

    pub(super) fn connector(&self) -> Arc<dyn Connector> {
        match &self.network {
            Some(network) => Arc::new(OverSim(network.clone())),
            None => Arc::new(SocketConnector::default()),
        }
    }

    /// Sets a fail point on one server without a client: the primary, the first mongos or the
    /// standalone. Returns false if it takes a client.
    pub(super) fn set_fail_point(&self, command: &Document) -> bool {
        let Servers::Deployment(deployment) = &self.servers else {
            return false;
        };
        let server = match self.plan.topology {
            Topology::ReplicaSet => deployment.primary(),
            Topology::LoadBalanced if deployment.len() > 1 => None,
            _ => Some(0),
        };
        if let Some(server) = server {
            deployment.configure_fail_point(server, command);
        }
        server.is_some()
    }

    /// Sets a fail point on the server at an address.
    pub(super) fn set_fail_point_at(&self, address: &ServerAddress, command: &Document) -> Outcome {
        let Servers::Deployment(deployment) = &self.servers else {
            return Err("one server has no targets".to_owned());
        };
        let address = address.to_string();
        let server = (0..deployment.len()).find(|one| deployment.address(*one) == address);
        let server = server.ok_or_else(|| format!("no server is at {address}"))?;
        deployment.configure_fail_point(server, command);
        Ok(())
    }

    /// Sets the collections to a test's initial state.
    pub(super) fn set_up(&self, collections: &[Document]) -> Outcome {
        for collection in collections {
            let collection = Collection::read(collection)?;
            if let Some(real) = &self.real {
                collection.create(real.server())?;
            } else if let Servers::Deployment(deployment) = &self.servers {
                deployment.insert(&collection.namespace(), collection.documents);
            }
        }
        Ok(())
    }

    /// Compares the collections with those that a test expects in the end.
    pub(super) fn check_outcome(&self, expected: &[Document], lookup: &dyn Lookup) -> Outcome {
        for expected in expected {
            let expected = Collection::read(expected)?;
            let namespace = expected.namespace();
            let mut found = self.documents(&namespace);
            found.sort_by(|left, right| order(left).partial_cmp(&order(right)).unwrap_or(Equal));
            let found = Bson::from(found);
            let documents = Bson::from(expected.documents);
            matches_exactly(&documents, Some(&found), &namespace, lookup)?;
        }
        Ok(())
    }

    fn documents(&self, namespace: &str) -> Vec<Document> {
        match (&self.real, &self.servers) {
            (Some(real), _) => real.server().documents(namespace),
            (None, Servers::Deployment(deployment)) => deployment.documents(namespace),
            (None, Servers::Scripted(server)) => server.documents(namespace),
        }
    }

    /// The names of the commands that the servers received, for the message of a failure.
    pub(super) fn seen(&self) -> String {
        let names = |server: &ScriptedServer| {
            server.look(|seen| {
                let names = seen
                    .log
                    .iter()
                    .map(|one| format!("{}:{}", one.connection, one.name));
                names.collect::<Vec<_>>().join(" ")
            })
        };
        match &self.servers {
            Servers::Deployment(deployment) => (0..deployment.len())
                .map(|server| format!("m{server}: {}\n", names(deployment.server(server))))
                .collect(),
            Servers::Scripted(server) => names(server),
        }
    }

    pub(super) async fn end(self) {
        match self.servers {
            Servers::Deployment(deployment) => deployment.shutdown().await,
            Servers::Scripted(server) => server.shutdown().await,
        }
    }
}

/// The order of documents by `_id`: numbers by value, and others by their text.
fn order(document: &Document) -> (f64, String) {
    match document.get("_id") {
        Some(Bson::Int32(number)) => (f64::from(*number), String::new()),
        Some(Bson::Int64(number)) => (*number as f64, String::new()),
        other => (f64::MAX, format!("{other:?}")),
    }
}

fn shape(plan: &Plan) -> DeploymentBuilder {
    let spec = || {
        let spec = MemberSpec::new(MemberKind::Electable);
        match plan.real {
            // The real server's own versions.
            true => spec,
            false => spec.wire_versions(0, plan.wire_version),
        }
    };
    let (builder, members) = match plan.topology {
        Topology::ReplicaSet => (Deployment::replica_set("repl"), MEMBERS),
        Topology::Sharded => (Deployment::sharded(0), plan.mongoses),
        Topology::LoadBalanced => (Deployment::load_balanced(0), plan.mongoses),
        Topology::Single => (Deployment::standalones(0), 1),
    };
    (0..members).fold(builder, |builder, _| builder.member(spec()))
}

/// A collection and its documents.
struct Collection {
    database: String,
    name: String,
    options: Document,
    documents: Vec<Document>,
}

impl Collection {
    fn read(data: &Document) -> Result<Self, String> {
        let known = [
            "databaseName",
            "collectionName",
            "createOptions",
            "documents",
        ];
        let data = Fields::new(data, "collectionData", &known)?;
        let documents = data.list("documents")?.iter();
        let documents = documents.map(|document| document.as_document().cloned());
        let mut options = data.document("createOptions")?.cloned().unwrap_or_default();
        options.remove("writeConcern");
        Ok(Self {
            database: data.text("databaseName")?.to_owned(),
            name: data.text("collectionName")?.to_owned(),
            options,
            documents: documents.collect::<Option<_>>().ok_or("no document")?,
        })
    }

    fn namespace(&self) -> String {
        format!("{}.{}", self.database, self.name)
    }

    fn create(&self, server: &RealServer) -> Outcome {
        let known = server.run_command(
            &self.database,
            doc! { "listCollections": 1, "filter": { "name": &self.name }, "nameOnly": true },
        );
        let batch = known
            .get_document("cursor")
            .and_then(|cursor| cursor.get_array("firstBatch"));
        if batch.is_ok_and(|batch| !batch.is_empty()) {
            server.run_command(&self.database, doc! { "drop": &self.name });
        }
        let mut create = doc! { "create": &self.name };
        create.extend(self.options.clone());
        server.run_command(&self.database, create);
        if !self.documents.is_empty() {
            server.insert(&self.namespace(), self.documents.clone());
        }
        Ok(())
    }
}

/// A real server that no other case uses at the same time. Tests use the same collections.
struct Lease(Option<Arc<RealServer>>);

static FREE: Mutex<Vec<Arc<RealServer>>> = Mutex::new(Vec::new());

impl Lease {
    fn take() -> Self {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self(Some(free.unwrap_or_else(|| Arc::new(RealServer::start()))))
    }

    fn server(&self) -> &Arc<RealServer> {
        self.0.as_ref().expect("a lease until it is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // One that is not the kit's own drops the case's databases.
        if let Some(server) = self.0.take().filter(|server| server.is_own()) {
            FREE.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(server);
        }
    }
}
