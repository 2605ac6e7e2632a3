//! The suites of initial-dns-seedlist-discovery, with a resolver that answers from a table, and
//! scripted deployments behind its hosts.

mod records;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bson::doc;
use mongo_core::error::ErrorKind;
use mongo_core::net::{Connector, DnsResolver, Stream, Topology, resolve, system_random};
use mongo_core::pools::ConnectionFactory;
use mongo_core::sdam::TopologyDescription;
use mongo_core::select::Criterion;
use mongo_core::uri::{ClientOptions, SrvRecord, TxtRecord};
use mongo_core::{Deadline, Error, ServerAddress};
use mongo_testkit::{Deployment, SimNetwork};
use serde_json::Value;

use crate::{Outcome, equal, known_keys, options, text};
use records::{SRV, TTL, TXT};

/// The keys of a case. All of them are checked.
const KEYS: [&str; 10] = [
    "uri",
    "seeds",
    "numSeeds",
    "options",
    "parsed_options",
    "hosts",
    "numHosts",
    "ping",
    "error",
    "comment",
];

/// The limit for waits, by the paused clock.
const LIMIT: Duration = Duration::from_secs(60);

/// The deployment of a suite.
#[derive(Clone, Copy)]
enum Behind {
    /// The replica set `repl0` of localhost's ports 27017 to 27019.
    ReplicaSet,
    /// Routers at the ports 27017 and 27018.
    Routers,
    /// A load balancer at port 8000.
    LoadBalancer,
}

/// Runs one case of the folder replica-set.
pub(crate) fn run_replica_set(case: &Value) -> Outcome {
    run(case, Behind::ReplicaSet)
}

/// Runs one case of the folder sharded.
pub(crate) fn run_sharded(case: &Value) -> Outcome {
    run(case, Behind::Routers)
}

/// Runs one case of the folder load-balanced.
pub(crate) fn run_load_balanced(case: &Value) -> Outcome {
    run(case, Behind::LoadBalancer)
}

fn run(case: &Value, behind: Behind) -> Outcome {
    known_keys("case", case, &KEYS)?;
    let uri = text(case, "uri")?;
    let fails = truth(case, "error")?.unwrap_or(false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| error.to_string())?;
    let found = match (runtime.block_on(look_up(uri)), fails) {
        (Ok(found), false) => found,
        (Err(_), true) => return runtime.block_on(tells_why(uri)),
        (Ok(_), true) => return Err("was taken".to_owned()),
        (Err(error), false) => return Err(format!("was refused: {error}")),
    };
    check_seeds(&found.hosts, case)?;
    options::check(&found, &case["options"])?;
    check_parsed_options(&found, &case["parsed_options"])?;
    runtime.block_on(check_deployment(uri, case, behind))
}

fn truth(case: &Value, key: &str) -> Result<Option<bool>, String> {
    match &case[key] {
        Value::Null => Ok(None),
        value => match value.as_bool() {
            Some(value) => Ok(Some(value)),
            None => Err(format!("{key} is no truth value")),
        },
    }
}

/// Invalid records also fail a server selection, at once.
async fn tells_why(uri: &str) -> Outcome {
    let Ok(options) = ClientOptions::parse(uri) else {
        return Ok(());
    };
    let topology = topology(options, &SimNetwork::new(1))?;
    let selected = topology.select(&Criterion::write()).await;
    topology.close().await;
    match selected {
        Ok(_) => Err("the topology took it".to_owned()),
        Err(error) if matches!(error.kind(), ErrorKind::Srv(_)) => Ok(()),
        Err(error) => Err(format!("the topology tells of something else: {error}")),
    }
}

fn topology(options: ClientOptions, network: &SimNetwork) -> Result<Topology, String> {
    let topology = Topology::builder(options)
        .resolver(Arc::new(Table))
        .connector(Arc::new(ByPort(network.clone())))
        .build()
        .map_err(|error| error.to_string())?;
    topology.connect().map_err(|error| error.to_string())?;
    Ok(topology)
}

/// Discovers the deployment, and pings it.
async fn check_deployment(uri: &str, case: &Value, behind: Behind) -> Outcome {
    let network = SimNetwork::new(1);
    let deployment = behind.start(&network).await;
    let options = ClientOptions::parse(uri).map_err(|error| error.to_string())?;
    let topology = topology(options, &network)?;
    let hosts = addresses(case, "hosts")?;
    let number = case.get("numHosts").and_then(Value::as_u64);
    let is_found = |known: &TopologyDescription| {
        let servers = known.servers().iter();
        let found: BTreeSet<_> = servers.map(|server| server.address.to_string()).collect();
        hosts.as_ref().is_none_or(|hosts| *hosts == found)
            && number.is_none_or(|number| number == found.len() as u64)
            && known
                .servers()
                .iter()
                .all(|server| server.server_type.is_data_bearing())
    };
    let mut changes = topology.subscribe();
    // Don't hold the borrowed description: it would block changes of the topology.
    let found = tokio::time::timeout(LIMIT, changes.wait_for(|known| is_found(known)))
        .await
        .is_ok();
    if !found {
        return Err(format!(
            "expected the hosts {hosts:?} ({number:?}): {topology:?}"
        ));
    }
    if truth(case, "ping")?.unwrap_or(true) {
        ping(&topology, &network)
            .await
            .map_err(|error| format!("ping: {error}"))?;
    }
    let stayed = is_found(&topology.description());
    topology.close().await;
    deployment.shutdown().await;
    equal("the hosts stay", Some(stayed), Some(true))
}

async fn ping(topology: &Topology, network: &SimNetwork) -> Result<(), Error> {
    let selected = topology.select(&Criterion::write()).await?;
    let mut options = ClientOptions::clone(&topology.options());
    options.hosts = vec![selected.address().clone()];
    let factory = ConnectionFactory::builder(options)
        .connector(Arc::new(ByPort(network.clone())))
        .build()?;
    let mut connection = factory.establish(Deadline::after(LIMIT)).await?;
    let pinged = connection.run_command("admin", &doc! {"ping": 1}).await;
    pinged.map(|_| ())
}

impl Behind {
    async fn start(self, network: &SimNetwork) -> Deployment {
        let builder = match self {
            Self::ReplicaSet => Deployment::replica_set("repl0").members(3),
            Self::Routers => Deployment::sharded(2),
            Self::LoadBalancer => Deployment::load_balanced(2),
        };
        let deployment = builder.network(network).start().await;
        if matches!(self, Self::ReplicaSet) {
            for (member, port) in (27017..27020).enumerate() {
                deployment.rename(member, &format!("localhost:{port}"));
            }
        }
        deployment
    }
}

/// Connects each port, on any host, to one of the deployment's servers.
struct ByPort(SimNetwork);

#[async_trait]
impl Connector for ByPort {
    async fn connect(&self, address: &ServerAddress) -> Result<Stream, Error> {
        let server = match address.port() {
            Some(8000 | 27017) => "m0.test:27017",
            Some(27018) => "m1.test:27017",
            Some(27019) => "m2.test:27017",
            Some(_) | None => "nowhere.test:1",
        };
        let stream = self.0.connect(server).await;
        stream
            .map(Stream::custom)
            .map_err(|error| ErrorKind::Connect(Arc::new(error)).into())
    }

    /// Counts as TLS: the cases are about DNS, and nothing leaves the process.
    fn is_secure(&self) -> bool {
        true
    }
}

async fn look_up(uri: &str) -> Result<ClientOptions, String> {
    let options = ClientOptions::parse(uri).map_err(|error| error.to_string())?;
    let deadline = Deadline::after(LIMIT);
    resolve(options, &Table, system_random, deadline)
        .await
        .map_err(|error| error.to_string())
}

/// A resolver with the records of the tests.
struct Table;

/// The rows for a name.
fn rows<T: Copy>(table: &[(&str, T)], name: &str) -> Vec<T> {
    let rows = table.iter().filter(|(row, _)| *row == name);
    rows.map(|(_, value)| *value).collect()
}

#[async_trait]
impl DnsResolver for Table {
    async fn srv_lookup(&self, name: &str) -> io::Result<Vec<SrvRecord>> {
        let rows = rows(SRV, name).into_iter();
        let records = rows.map(|(port, target)| SrvRecord::new(format!("{target}."), port, TTL));
        Ok(records.collect())
    }

    async fn txt_lookup(&self, name: &str) -> io::Result<Vec<TxtRecord>> {
        let rows = rows(TXT, name).into_iter();
        let records = rows.map(|strings| {
            TxtRecord::new(strings.iter().map(|part| part.as_bytes().into()).collect())
        });
        Ok(records.collect())
    }
}

/// Compares the seeds as a set.
fn check_seeds(found: &[ServerAddress], case: &Value) -> Outcome {
    let found: BTreeSet<_> = found.iter().map(ToString::to_string).collect();
    if let Some(expected) = addresses(case, "seeds")? {
        equal("seeds", Some(&found), Some(&expected))?;
    }
    match case.get("numSeeds") {
        None => Ok(()),
        Some(number) => equal("numSeeds", Some(found.len() as u64), number.as_u64()),
    }
}

/// The set of addresses under a key, if there is one.
fn addresses(case: &Value, key: &str) -> Result<Option<BTreeSet<String>>, String> {
    let Some(list) = case.get(key) else {
        return Ok(None);
    };
    let list = list.as_array().into_iter().flatten();
    let texts = list.map(|address| address.as_str().map(str::to_owned));
    match texts.collect::<Option<BTreeSet<_>>>() {
        Some(addresses) if !addresses.is_empty() => Ok(Some(addresses)),
        Some(_) | None => Err(format!("{key} is no list of addresses")),
    }
}

fn check_parsed_options(found: &ClientOptions, expected: &Value) -> Outcome {
    let Some(expected) = expected.as_object() else {
        return Ok(());
    };
    let credential = found.credential.as_ref();
    for (key, expected) in expected {
        let value = match &**key {
            "user" => credential.and_then(|it| it.username()).map(|name| &**name),
            "password" => credential
                .and_then(|it| it.password())
                .map(|it| it.expose()),
            "auth_database" | "db" | "defaultDatabase" => found.default_database.as_deref(),
            _ => {
                return Err(format!(
                    "the runner does not know the parsed option {key:?}"
                ));
            }
        };
        equal(key, value, expected.as_str())?;
    }
    Ok(())
}
