//! The hosts that a credential may be sent to.

#[cfg(any(feature = "net", test))]
use crate::address::ServerAddress;

/// The default hosts that the access token of a human flow may be sent to, if the credential sets
/// none (`ALLOWED_HOSTS`).
///
/// Specification: authentication, "MONGODB-OIDC".
pub const DEFAULT_ALLOWED_HOSTS: [&str; 8] = [
    "*.mongodb.net",
    "*.mongodb-qa.net",
    "*.mongodb-dev.net",
    "*.mongodbgov.net",
    "localhost",
    "127.0.0.1",
    "::1",
    "*.mongo.com",
];

/// Whether a server's host, or the path of its socket, matches one of these. A leading `*.` matches
/// any name under a domain, but not the domain itself. Ports are ignored.
#[cfg(any(feature = "net", test))]
pub(crate) fn allows<'a>(
    allowed: impl IntoIterator<Item = &'a str>,
    server: &ServerAddress,
) -> bool {
    let matches = |allowed: &str| match server {
        ServerAddress::Unix { path } => path.to_str() == Some(allowed),
        ServerAddress::Tcp { host, .. } => {
            let inner = allowed
                .strip_prefix('[')
                .and_then(|it| it.strip_suffix(']'));
            let allowed = inner.unwrap_or(allowed).to_lowercase();
            match allowed.strip_prefix('*') {
                // The label before the dot must not be empty.
                Some(domain) if domain.starts_with('.') => host
                    .strip_suffix(domain)
                    .is_some_and(|name| !name.is_empty()),
                _ => **host == *allowed,
            }
        }
    };
    allowed.into_iter().any(matches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_domains_are_compared_and_ports_are_not() {
        let allows = |allowed: &str, server: &str| {
            let server = server.parse().expect("an address");
            allows([allowed], &server)
        };
        for (allowed, server) in [
            ("db.example", "db.example"),
            ("DB.example", "db.Example:27018"),
            ("*.example", "db.example"),
            ("*.Example", "a.b.example:1"),
            ("::1", "[::1]:27017"),
            ("[::1]", "[::1]"),
            ("/tmp/a.sock", "/tmp/a.sock"),
        ] {
            assert!(allows(allowed, server), "{allowed} {server}");
        }
        for (allowed, server) in [
            ("*.example", "example"),
            ("*.db.example", "evildb.example"),
            ("*.example", "db.example.evil"),
            ("db.example", "a.db.example"),
            ("*", "db.example"),
            ("*db.example", "a.db.example"),
            ("", "db.example"),
            ("db.example:27017", "db.example"),
            ("*.sock", "/tmp/a.sock"),
        ] {
            assert!(!allows(allowed, server), "{allowed} {server}");
        }
    }

    #[test]
    fn the_default_is_that_of_the_specification() {
        let allows = |server: &str| {
            let server = server.parse().expect("an address");
            super::allows(DEFAULT_ALLOWED_HOSTS, &server)
        };
        for server in [
            "a.b.mongodb.net",
            "localhost:5",
            "127.0.0.1",
            "[::1]",
            "x.mongo.com",
        ] {
            assert!(allows(server), "{server}");
        }
        for server in [
            "mongodb.net",
            "mongodb.net.example",
            "xmongodb.net",
            "127.0.0.2",
        ] {
            assert!(!allows(server), "{server}");
        }
    }
}
