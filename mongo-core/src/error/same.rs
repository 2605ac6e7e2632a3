//! Comparison of errors.

use std::sync::Arc;

use super::{Error, ErrorKind, InUse};
use crate::socks5::same_system_error;

impl Error {
    /// Whether two errors report the same failure of the same server and user, apart from labels.
    /// It neither allocates nor formats, because it is called under the topology's lock.
    ///
    /// System errors are compared by kind and number. Errors of the application, and errors that
    /// are too large to compare, are equal only if they are clones of one error.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        if self.is_same(other) {
            return true;
        }
        let causes = match (self.cause(), other.cause()) {
            (None, None) => true,
            (Some(own), Some(others)) => own.says_the_same(others),
            (Some(_), None) | (None, Some(_)) => false,
        };
        causes
            && self.server() == other.server()
            && self.user() == other.user()
            && kinds(self.kind(), other.kind())
    }
}

fn kinds(one: &ErrorKind, other: &ErrorKind) -> bool {
    use ErrorKind as Kind;
    match (one, other) {
        (Kind::Uri(one), Kind::Uri(other)) => one == other,
        (Kind::Address(one), Kind::Address(other)) => one == other,
        (Kind::Tls(one), Kind::Tls(other)) => one == other,
        (Kind::Protocol(one), Kind::Protocol(other)) => one == other,
        (Kind::Handshake(one), Kind::Handshake(other)) => one == other,
        (Kind::Authentication(one), Kind::Authentication(other)) => one == other,
        (Kind::Configuration(one), Kind::Configuration(other))
        | (Kind::Pool(one), Kind::Pool(other)) => one == other,
        (Kind::Connect(one), Kind::Connect(other))
        | (Kind::Network(one), Kind::Network(other))
        | (Kind::Dns(one), Kind::Dns(other)) => same_system_error(one, other),
        (Kind::Proxy(one), Kind::Proxy(other)) => {
            one.proxy == other.proxy && one.problem.says_the_same(&other.problem)
        }
        (
            Kind::Timeout { wait, after },
            Kind::Timeout {
                wait: other,
                after: other_after,
            },
        ) => {
            // As they are shown.
            let tenths = |after: &std::time::Duration| (after.as_millis() + 50) / 100;
            wait == other && tenths(after) == tenths(other_after)
        }
        (Kind::Command(one), Kind::Command(other)) => {
            one.code == other.code
                && one.code_name == other.code_name
                && one.message == other.message
        }
        (Kind::ConnectionClosed(one), Kind::ConnectionClosed(other)) => one == other,
        (Kind::PoolExhausted(one), Kind::PoolExhausted(other)) => InUse::eq(one, other),
        (Kind::Credential(one), Kind::Credential(other))
        | (Kind::OnConnect(one), Kind::OnConnect(other))
        | (Kind::ServerSelection(one), Kind::ServerSelection(other)) => Arc::ptr_eq(one, other),
        (Kind::Serialization(one), Kind::Serialization(other))
        | (Kind::Deserialization(one), Kind::Deserialization(other)) => Arc::ptr_eq(one, other),
        (Kind::Cancelled, Kind::Cancelled)
        | (Kind::PoolClosed, Kind::PoolClosed)
        | (Kind::PoolCleared, Kind::PoolCleared)
        | (Kind::NotWritable, Kind::NotWritable)
        | (Kind::TopologyClosed, Kind::TopologyClosed) => true,
        // `Srv` is an error of the look-up, never of a server.
        _ => false,
    }
}
