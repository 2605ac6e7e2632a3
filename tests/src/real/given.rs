//! A deployment of the user's, named by `MONGO_TESTKIT_URI`.

use std::fmt;
use std::fs;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use bson::{Document, doc};
use percent_encoding::percent_decode_str;
use rustls::ClientConfig;

use super::START_LIMIT;
use crate::client::{BlockingClient, Credential, Endpoint};
use crate::server::escape;
use crate::tls;

const VARIABLE: &str = "MONGO_TESTKIT_URI";

/// A deployment that is there already. Its `Debug` shows no password.
pub(super) struct Given {
    /// The standalone, the primary or a mongos.
    pub(super) endpoint: Endpoint,
    pub(super) credential: Option<Credential>,
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// The endpoint, and then all others.
    hosts: Vec<String>,
    /// The options, without those about the user.
    options: String,
    /// The options about the user, each with its `&`.
    of_the_user: String,
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given")
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

/// The deployment of the user's, if there is one.
///
/// # Panics
/// If its URI can't be read, or it has no primary.
pub(super) fn given() -> Option<&'static Given> {
    // A failure too: the next test would wait for it again.
    static GIVEN: OnceLock<Option<Result<Given, String>>> = OnceLock::new();
    let found = GIVEN.get_or_init(|| {
        let uri = std::env::var(VARIABLE).ok().filter(|uri| !uri.is_empty())?;
        let given = Parts::read(&uri).and_then(|parts| Given::find(&parts));
        Some(given.map_err(|error| error.to_string()))
    });
    let given = found.as_ref()?.as_ref();
    Some(given.unwrap_or_else(|error| panic!("{VARIABLE}: {error}")))
}

impl Given {
    /// The connection string, with the user if there is one. Options can be appended to it.
    pub(super) fn uri(&self) -> String {
        let user = self.credential.as_ref().map(|own| {
            let (name, password) = (escape(&own.name), escape(&own.password));
            format!("{name}:{password}@")
        });
        self.uri_with(&user.unwrap_or_default(), &self.of_the_user)
    }

    /// The connection string for users of a database.
    pub(super) fn uri_of(&self, user: &str, database: &str) -> String {
        self.uri_with(user, &format!("&authSource={database}"))
    }

    fn uri_with(&self, user: &str, more: &str) -> String {
        let hosts = self.hosts.join(",");
        format!("mongodb://{user}{hosts}/?{}{more}", self.options)
    }

    fn find(parts: &Parts) -> Result<Self, String> {
        let tls = parts.tls()?;
        let deadline = Instant::now() + START_LIMIT;
        let (host, hello) = loop {
            let error = match parts.writable(tls.as_ref()) {
                Ok(found) => break found,
                Err(error) => error,
            };
            if Instant::now() > deadline {
                return Err(format!("no writable server: {error}"));
            }
            thread::sleep(Duration::from_millis(100));
        };
        let mut options: Vec<String> = parts
            .options
            .iter()
            .filter(|(name, _)| !name.eq_ignore_ascii_case("authSource"))
            .filter(|(name, _)| !name.eq_ignore_ascii_case("authMechanism"))
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let (is_direct, set) = (parts.is_direct(), hello.get_str("setName").ok());
        let mut hosts = vec![host.clone()];
        match set {
            _ if is_direct => {}
            Some(set) => {
                hosts.extend(names(&hello, "hosts"));
                if parts.option("replicaSet").is_none() {
                    options.push(format!("replicaSet={}", escape(set)));
                }
            }
            None => hosts.extend(parts.hosts.iter().cloned()),
        }
        let endpoint = Endpoint::parse(&host)?;
        let rest = hosts.split_off(1).into_iter();
        hosts.extend(rest.filter(|other| Endpoint::parse(other).is_ok_and(|one| one != endpoint)));
        if options.is_empty() {
            // Options follow an option, and this one is the default of several hosts.
            options.push(format!("directConnection={}", hosts.len() == 1));
        }
        let of_the_user = parts.credential.as_ref().map(|own| {
            let mechanism = parts.option("authMechanism");
            let mechanism = mechanism.map(|name| format!("&authMechanism={name}"));
            let source = escape(&own.source);
            format!("&authSource={source}{}", mechanism.unwrap_or_default())
        });
        Ok(Self {
            endpoint,
            credential: parts.credential.clone(),
            tls,
            hosts,
            options: options.join("&"),
            of_the_user: of_the_user.unwrap_or_default(),
        })
    }
}

/// The parts of a connection string.
struct Parts {
    credential: Option<Credential>,
    hosts: Vec<String>,
    options: Vec<(String, String)>,
}

impl Parts {
    /// Errors never contain the text.
    fn read(uri: &str) -> Result<Self, String> {
        let rest = uri.strip_prefix("mongodb://").ok_or(
            "a connection string begins with mongodb:// (the kit does not look up mongodb+srv)",
        )?;
        let (authority, tail) = match rest.find(['/', '?']) {
            Some(end) => (&rest[..end], rest[end..].trim_start_matches('/')),
            None => (rest, ""),
        };
        let (database, options) = tail.split_once('?').unwrap_or((tail, ""));
        let options = options.split('&').filter(|option| !option.is_empty());
        let options = options.map(|option| {
            let (name, value) = option.split_once('=').ok_or("an option without a value")?;
            Ok((name.to_owned(), value.to_owned()))
        });
        let options = options.collect::<Result<Vec<_>, String>>()?;
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        let mut parts = Self {
            credential: None,
            hosts: hosts.split(',').map(str::to_owned).collect(),
            options,
        };
        for host in &parts.hosts {
            Endpoint::parse(host)?;
        }
        parts.credential = user
            .map(|user| parts.credential_of(user, database))
            .transpose()?;
        Ok(parts)
    }

    fn credential_of(&self, user: &str, database: &str) -> Result<Credential, String> {
        let mechanism = self.option("authMechanism").unwrap_or("SCRAM-SHA-256");
        if mechanism != "SCRAM-SHA-256" {
            return Err("the kit authenticates with SCRAM-SHA-256 alone".to_owned());
        }
        let (name, password) = user.split_once(':').ok_or("a user without a password")?;
        let plain = |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8();
            decoded
                .map(String::from)
                .map_err(|_| "not UTF-8".to_owned())
        };
        let source = match (self.option("authSource"), database) {
            (Some(source), _) => source,
            (None, "") => "admin",
            (None, database) => database,
        };
        Ok(Credential {
            name: plain(name)?,
            password: plain(password)?,
            source: plain(source)?,
        })
    }

    fn option(&self, wanted: &str) -> Option<&str> {
        let mut options = self.options.iter();
        let found = options.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.as_str())
    }

    fn is_direct(&self) -> bool {
        self.option("directConnection") == Some("true")
    }

    fn tls(&self) -> Result<Option<Arc<ClientConfig>>, String> {
        let is_on = self.option("tls").or(self.option("ssl")) == Some("true");
        if !is_on {
            return Ok(None);
        }
        if self.option("tlsCertificateKeyFile").is_some() {
            return Err("the kit has no client certificate".to_owned());
        }
        let file = self.option("tlsCAFile").ok_or("TLS needs tlsCAFile")?;
        let file = percent_decode_str(file).decode_utf8_lossy();
        let authority = fs::read_to_string(&*file).map_err(|error| format!("{file}: {error}"))?;
        Ok(Some(tls::client_config(&authority, None)))
    }

    /// The first host that accepts writes, and its hello.
    fn writable(&self, tls: Option<&Arc<ClientConfig>>) -> Result<(String, Document), String> {
        let mut hosts = self.hosts.clone();
        let mut errors = Vec::new();
        let mut next = 0;
        while let Some(host) = hosts.get(next).cloned() {
            next += 1;
            match hello(&host, tls) {
                Ok(reply) if reply.get_bool("isWritablePrimary").unwrap_or(false) => {
                    return Ok((host, reply));
                }
                Ok(reply) => {
                    errors.push(format!("{host} does not accept writes"));
                    if let (false, Ok(primary)) = (self.is_direct(), reply.get_str("primary"))
                        && !hosts.iter().any(|known| known == primary)
                    {
                        hosts.push(primary.to_owned());
                    }
                }
                Err(error) => errors.push(format!("{host}: {error}")),
            }
        }
        Err(errors.join("; "))
    }
}

fn hello(host: &str, tls: Option<&Arc<ClientConfig>>) -> Result<Document, String> {
    let endpoint = Endpoint::parse(host)?;
    BlockingClient::connect(&endpoint, tls.cloned())
        .and_then(|mut client| client.run("admin", doc! {"hello": 1}))
        .map_err(|error| error.to_string())
}

fn names(hello: &Document, key: &str) -> Vec<String> {
    let names = hello.get_array(key).map(Vec::as_slice).unwrap_or_default();
    names
        .iter()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_has_its_parts() {
        let parts = Parts::read("mongodb://a%40b:p%2Fw@h1:1,[::1],h3/kit?tls=true&w=2");
        let parts = parts.expect("it is valid");
        assert_eq!(parts.hosts, ["h1:1", "[::1]", "h3"]);
        let own = parts.credential.as_ref().expect("a user");
        assert_eq!((&*own.name, &*own.password), ("a@b", "p/w"));
        assert_eq!(own.source, "kit");
        assert_eq!(parts.option("W"), Some("2"));
        let parts = Parts::read("mongodb://h").expect("it is valid");
        assert!(parts.credential.is_none() && parts.options.is_empty());
    }

    #[test]
    fn neither_errors_nor_debug_show_a_password() {
        for uri in [
            "mongodb+srv://app:s3cret@h",
            "mongodb://app:s3cret@h/?authMechanism=PLAIN",
            "mongodb://app:s3cret@h:port",
            "mongodb://app:s3cret@h/?x",
            "mongodb://app:s3cret%FF@h",
        ] {
            let error = Parts::read(uri).err().expect("it is refused");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let parts = Parts::read("mongodb://app:s3cret@h").expect("valid");
        assert!(!format!("{:?}", parts.credential).contains("s3cret"));
    }
}
