//! The deployment that meets the requirements of a case.

use std::sync::OnceLock;

use bson::{Bson, Document, doc};
use mongo_testkit::RealServer;

use super::case::{Case, Fields};

/// A kind of deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topology {
    ReplicaSet,
    Sharded,
    LoadBalanced,
    Single,
}

/// A version and its `maxWireVersion`.
type Release = ([u32; 3], i32);

/// Releases that the kit's servers can look like, with their `maxWireVersion`.
const RELEASES: [Release; 7] = [
    ([8, 0, 4], 25),
    ([7, 0, 0], 21),
    ([6, 0, 0], 17),
    ([5, 0, 0], 13),
    ([4, 4, 7], 9),
    ([4, 2, 0], 8),
    ([4, 0, 0], 7),
];

/// Operations of cases in which time matters. They run in memory unless they need a real server.
const TIMED: [&str; 8] = [
    "getSnapshotTime",
    "failPoint",
    "targetedFailPoint",
    "runOnThread",
    "wait",
    "waitForEvent",
    "assertEventCount",
    "recordTopologyDescription",
];

/// The deployment of a case.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) topology: Topology,
    pub(super) wire_version: i32,
    /// Whether clients authenticate.
    pub(super) auth: bool,
    pub(super) oidc: bool,
    /// Whether a real server executes the commands. Otherwise all runs in memory, on a paused
    /// clock.
    pub(super) real: bool,
    /// How many mongos there are.
    pub(super) mongoses: usize,
}

impl Plan {
    /// The first deployment that meets the requirements of the file and of the test.
    pub(super) fn of(case: &Case) -> Result<Self, String> {
        let (own, shape) = own_release();
        let topologies = [
            shape,
            Topology::ReplicaSet,
            Topology::Single,
            Topology::Sharded,
            Topology::LoadBalanced,
        ];
        let several = case.used_entities().iter().any(|entity| {
            let client = entity.get_document("client");
            client.is_ok_and(|client| client.get_bool("useMultipleMongoses").unwrap_or(false))
        });
        let has = |names: &[&str]| {
            case.all_operations().iter().any(|operation| {
                let name = operation.get_str("name").unwrap_or_default();
                names.contains(&name)
            })
        };
        // The real server has no snapshots.
        let has_snapshot = case.all_entities().iter().any(|entity| {
            let session = entity.get_document("session");
            let options = session.and_then(|session| session.get_document("sessionOptions"));
            options.is_ok_and(|options| options.contains_key("snapshot"))
        });
        // Time-outs are exact on a paused clock alone.
        let has_times = case.used_entities().iter().any(|entity| {
            let client = entity.get_document("client");
            let options = client.and_then(|client| client.get_document("uriOptions"));
            options.is_ok_and(|options| options.keys().any(|name| name.ends_with("MS")))
        });
        let real = !has(&TIMED) && !has_snapshot && !has_times;
        let others = RELEASES.into_iter().filter(|release| *release != own);
        for (release, wire_version) in [own].into_iter().chain(others) {
            for auth in [false, true] {
                for topology in topologies {
                    let mut plan = Self {
                        topology,
                        wire_version,
                        auth,
                        oidc: false,
                        real,
                        mongoses: if several { 2 } else { 1 },
                    };
                    let mut is_met = true;
                    for alternatives in &case.requirements {
                        is_met &=
                            alternatives.is_empty() || plan.meets_any(alternatives, &release)?;
                    }
                    if is_met {
                        // The real server behind a deployment has no users, and one version.
                        plan.real &= !auth && wire_version == own.1;
                        return Ok(plan);
                    }
                }
            }
        }
        let wanted = &case.requirements;
        Err(format!("no deployment meets the requirements {wanted:?}"))
    }

    fn meets_any(&mut self, wanted: &[Document], release: &[u32; 3]) -> Result<bool, String> {
        for one in wanted {
            if self.meets(one, release)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn meets(&mut self, wanted: &Document, release: &[u32; 3]) -> Result<bool, String> {
        let known = [
            "minServerVersion",
            "maxServerVersion",
            "topologies",
            "serverless",
            "auth",
            "authMechanism",
            "serverParameters",
            "csfle",
        ];
        let wanted = Fields::new(wanted, "runOnRequirements", &known)?;
        let version = |key: &str| {
            wanted
                .get(key)
                .map(|_| version(wanted.text(key)?))
                .transpose()
        };
        let new_enough = version("minServerVersion")?.is_none_or(|least| *release >= least);
        let old_enough = version("maxServerVersion")?.is_none_or(|most| *release <= most);
        let topologies = wanted.texts("topologies")?;
        let fits = topologies.is_empty() || topologies.iter().any(|name| self.is_called(name));
        let auth = wanted.get("auth").and_then(Bson::as_bool);
        let mechanism = wanted.get("authMechanism").and_then(Bson::as_str);
        self.oidc |= mechanism == Some("MONGODB-OIDC");
        let known_mechanism = mechanism.is_none_or(|name| name == "MONGODB-OIDC");
        // No server here has a second API version.
        let parameters = wanted.document("serverParameters")?;
        let second = |all: &Document| all.get_bool("acceptApiVersion2").unwrap_or(false);
        Ok(new_enough
            && old_enough
            && fits
            && auth.is_none_or(|auth| auth == self.auth)
            && known_mechanism
            && !parameters.is_some_and(second)
            && !wanted.flag("csfle")?
            && wanted.get("serverless").and_then(Bson::as_str) != Some("require"))
    }

    fn is_called(&self, name: &str) -> bool {
        match self.topology {
            Topology::ReplicaSet => name == "replicaset",
            Topology::Sharded => matches!(name, "sharded" | "sharded-replicaset"),
            Topology::LoadBalanced => name == "load-balanced",
            Topology::Single => name == "single",
        }
    }
}

/// The release of the real server, and the topology that it has by itself.
fn own_release() -> (Release, Topology) {
    static OWN: OnceLock<(Release, Topology)> = OnceLock::new();
    *OWN.get_or_init(|| {
        if !RealServer::is_chosen() {
            return (RELEASES[0], Topology::ReplicaSet);
        }
        let hello = RealServer::start().run_command("admin", doc! { "hello": 1 });
        let newest = hello.get_i32("maxWireVersion").unwrap_or_default();
        let known = RELEASES.into_iter().find(|release| release.1 <= newest);
        let topology = match hello.get_str("msg") {
            Ok("isdbgrid") => Topology::Sharded,
            _ if hello.contains_key("setName") => Topology::ReplicaSet,
            _ => Topology::Single,
        };
        (known.unwrap_or(RELEASES[RELEASES.len() - 1]), topology)
    })
}

fn version(text: &str) -> Result<[u32; 3], String> {
    let mut version = [0; 3];
    for (place, part) in text.split('.').take(3).enumerate() {
        let part = part.split('-').next().unwrap_or(part);
        version[place] = part.parse().map_err(|_| format!("version {text}"))?;
    }
    Ok(version)
}
