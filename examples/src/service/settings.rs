use std::time::Duration;

use config::{ConfigError, Environment, File};
use mongo_core::pools::{client_options, duration};
use mongo_testkit::Deployment;
use serde::Deserialize;

use crate::backend::Config;

/// How long a request waits for a connection where nothing says: who asks a web service is gone by
/// the end of the 30 s that a check-out may take otherwise, and with no primary all requests would
/// pile up.
const WAIT: Duration = Duration::from_secs(2);

/// A service's configuration: from the file `service.toml`, if there is one, and over it from the
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
/// # The end
/// Once asked to stop, a service takes `drain`, then at most `grace`, then at most the pools'
/// `close_timeout`: 5 s, 10 s and 10 s by default. The sum is to be less than what whoever stops
/// it waits before a kill: Kubernetes does for 30 s, `terminationGracePeriodSeconds`, from which a
/// `preStop` hook takes its part.
#[derive(Debug, Deserialize)]
pub struct Settings {
    /// The address to listen at; with port 0 the system chooses one. Default `127.0.0.1:3000`.
    pub listen: String,
    /// The address for who runs the service: probes, metrics, the page. They tell of hosts, users
    /// and errors, so it is to be out of the public's reach. Default `127.0.0.1:3001`; in a pod,
    /// whose probes come from without, `0.0.0.0:3001`.
    pub admin: String,
    /// How long to go on serving once not ready any more, for the load balancer to see it. Default
    /// 5 s.
    #[serde(with = "duration::plain")]
    pub drain: Duration,
    /// How long requests in flight may take from then on. Default 10 s.
    #[serde(with = "duration::plain")]
    pub grace: Duration,
    /// The deployment, and its pools. A check-out waits for 2 s at most where neither this nor the
    /// URL says how long.
    #[serde(default)]
    pub mongo: Config,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// What is there can't be read; a value does not fit.
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
        // A URL that can't be used is the pools' to report.
        let by_url = options.is_ok_and(|options| options.wait_timeout().is_some());
        let by_pool = mongo.pool.is_some_and(|pool| pool.timeouts.wait.is_some());
        if !by_url && !by_pool {
            let pools = mongo.pools.get_or_insert_default();
            pools.wait_timeout.get_or_insert(WAIT);
        }
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
