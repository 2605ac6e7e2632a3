use std::time::Duration;

use config::{ConfigError, Environment, File};
use mongo_core::pools::duration;
use mongo_testkit::Deployment;
use serde::Deserialize;

use crate::backend::Config;

/// A service's configuration: from the file `service.toml`, if there is one, and over it from the
/// environment.
///
/// ```env
/// LISTEN=127.0.0.1:3000
/// DRAIN=5s
/// MONGO__URL=mongodb://app:secret@db.example.com/?replicaSet=rs0
/// MONGO__POOL__MAX_SIZE=16
/// MONGO__POOLS__MAX_CONNECTIONS_PER_SERVER=100
/// ```
#[derive(Debug, Deserialize)]
pub struct Settings {
    /// The address to listen at; with port 0 the system chooses one. Default `127.0.0.1:3000`.
    pub listen: String,
    /// How long to go on serving once not ready any more, for the load balancer to see it. Default
    /// none.
    #[serde(default, with = "duration::option")]
    pub drain: Option<Duration>,
    /// The deployment, and its pools.
    #[serde(default)]
    pub mongo: Config,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// What is there can't be read; a value does not fit.
    pub fn load() -> Result<Self, ConfigError> {
        config::Config::builder()
            .set_default("listen", "127.0.0.1:3000")?
            .add_source(File::with_name("service").required(false))
            .add_source(Environment::default().separator("__"))
            .build()?
            .try_deserialize()
    }
}

/// Starts the test kit's replica set of three members, for who has no deployment at hand, and puts
/// it into the settings. A `replSetStepDown` has it elect another primary.
pub async fn start_embedded(settings: &mut Settings) -> Option<Deployment> {
    if settings.mongo.url.is_some() || settings.mongo.options.is_some() {
        return None;
    }
    let set = Deployment::replica_set("embedded").members(3).start().await;
    println!("started an embedded replica set: {}", set.uri());
    settings.mongo.url = Some(set.uri());
    Some(set)
}
