use std::time::Duration;

use config::{ConfigError, Environment, File};
use mongo_core::pools::{client_options, duration};
use mongo_testkit::Deployment;
use serde::Deserialize;

use crate::backend::Config;

/// The default time limit of a check-out. The default of the pools, 30 s, is longer than a client
/// of a web service waits, and without a primary all requests would pile up.
const WAIT: Duration = Duration::from_secs(2);

/// A service's configuration: from the file `service.toml`, if there is one, overridden by the
/// environment.
///
/// ```env
/// LISTEN=127.0.0.1:3000
/// ADMIN=127.0.0.1:3001
/// DRAIN=5s
/// GRACE=10s
/// MONGO__URL=mongodb://app:secret@db.example.com/?replicaSet=rs0
/// MONGO__POOL__MAX_SIZE=16
/// MONGO__POOLS__WAIT_TIMEOUT=2s
/// MONGO__POOLS__CLOSE_TIMEOUT=10s
/// MONGO__POOLS__MAX_CONNECTIONS_PER_SERVER=100
/// ```
///
/// # Shutdown
/// After a stop signal a service runs for `drain`, then for at most `grace`, then for at most the
/// pools' `close_timeout`: 5 s, 10 s and 10 s by default. The sum must be less than the time before
/// a kill: in Kubernetes that is `terminationGracePeriodSeconds`, 30 s by default, less the
/// duration of a `preStop` hook.
#[derive(Debug, Deserialize)]
pub struct Settings {
    /// The address to listen on; with port 0 the system chooses one. Default `127.0.0.1:3000`.
    pub listen: String,
    /// The address for operators: probes, metrics, the page. They show hosts, users and errors, so
    /// the address must not be public. Default `127.0.0.1:3001`; in a Kubernetes pod, whose probes
    /// come from outside, use `0.0.0.0:3001`.
    pub admin: String,
    /// How long the service still accepts requests after it became not ready, so that the load
    /// balancer notices. Default 5 s.
    #[serde(with = "duration::plain")]
    pub drain: Duration,
    /// The time limit of requests in flight after that. Default 10 s.
    #[serde(with = "duration::plain")]
    pub grace: Duration,
    /// The deployment and its pools. The time limit of a check-out is 2 s, unless this or the URL
    /// sets one.
    #[serde(default)]
    pub mongo: Config,
}

impl Settings {
    /// Loads the settings.
    ///
    /// # Errors
    /// A source can't be read, or a value is invalid.
    pub fn load() -> Result<Self, ConfigError> {
        let environment = Environment::default().separator("__");
        Self::read(File::with_name("service").required(false), environment)
    }

    fn read(
        file: impl config::Source + Send + Sync + 'static,
        environment: Environment,
    ) -> Result<Self, ConfigError> {
        let mut settings: Self = config::Config::builder()
            .set_default("listen", "127.0.0.1:3000")?
            .set_default("admin", "127.0.0.1:3001")?
            .set_default("drain", "5s")?
            .set_default("grace", "10s")?
            .add_source(file)
            .add_source(environment)
            .build()?
            .try_deserialize()?;
        settings.bound_waits();
        Ok(settings)
    }

    fn bound_waits(&mut self) {
        let mongo = &mut self.mongo;
        let options = client_options(mongo.url.as_deref(), mongo.options.as_ref());
        // The pools report an invalid URL.
        let by_url = options.is_ok_and(|options| options.wait_timeout().is_some());
        let by_pool = mongo.pool.is_some_and(|pool| pool.timeouts.wait.is_some());
        if !by_url && !by_pool {
            let pools = mongo.pools.get_or_insert_default();
            pools.wait_timeout.get_or_insert(WAIT);
        }
    }
}

/// Starts the test kit's replica set of three members, unless a deployment is configured, and sets
/// it in the settings. A `replSetStepDown` makes it elect another primary.
pub async fn start_embedded(settings: &mut Settings) -> Option<Deployment> {
    if settings.mongo.url.is_some() || settings.mongo.options.is_some() {
        return None;
    }
    let set = Deployment::replica_set("embedded").members(3).start().await;
    println!("started an embedded replica set: {}", set.uri());
    settings.mongo.url = Some(set.uri());
    Some(set)
}

#[cfg(test)]
mod tests {
    use config::{FileFormat, Map};
    use mongo_core::pools::DEFAULT_CLOSE_TIMEOUT;

    use super::*;

    fn settings(file: &str) -> Settings {
        let environment = Environment::default().source(Some(Map::new()));
        let file = File::from_str(file, FileFormat::Toml);
        Settings::read(file, environment).expect("settings")
    }

    #[test]
    fn a_service_ends_before_it_is_killed() {
        let settings = settings("");
        let end = settings.drain + settings.grace + DEFAULT_CLOSE_TIMEOUT;
        assert!(end < Duration::from_secs(30), "{end:?}");
    }

    #[test]
    fn a_wait_is_short_unless_something_says() {
        let wait = |file| {
            settings(file)
                .mongo
                .pools
                .and_then(|pools| pools.wait_timeout)
        };
        assert_eq!(wait(""), Some(WAIT));
        assert_eq!(
            wait("mongo.url = 'mongodb://host/?maxPoolSize=3'"),
            Some(WAIT)
        );
        assert_eq!(wait("mongo.pool.max_size = 3"), Some(WAIT));
        let own = Some(Duration::from_secs(7));
        assert_eq!(wait("mongo.pools.wait_timeout = '7s'"), own);
        for said in [
            "mongo.url = 'mongodb://host/?waitQueueTimeoutMS=7000'",
            "mongo.url = 'mongodb://host/?timeoutMS=7000'",
            "mongo.pool.timeouts.wait = '7s'",
        ] {
            assert_eq!(wait(said), None, "{said}");
        }
    }
}
