//! Why a server is unknown, and why a deployment can't be used.

use std::fmt;
use std::sync::Arc;

use bson::oid::ObjectId;

use crate::address::ServerAddress;
use crate::error::Error;
use crate::handshake::{MAX_WIRE_VERSION, MIN_WIRE_VERSION};

/// Why a server's type is unknown.
///
/// Two errors are equal if their messages are equal: this is how the specification compares server
/// descriptions.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SdamError {
    /// A check of the server, or an application's command, failed.
    #[error(transparent)]
    Failed(#[from] Error),
    /// The server calls itself primary, but a later election is known.
    #[error(
        "primary marked stale due to electionId/setVersion mismatch, {stale} is stale compared to {max}"
    )]
    StalePrimary {
        /// What the server reported.
        stale: ElectionTuple,
        /// The greatest tuple that any primary reported.
        max: ElectionTuple,
    },
    /// The server was the primary until another one was found.
    #[error("primary marked stale due to discovery of newer primary")]
    NewerPrimary,
    /// The server of a direct connection does not belong to the replica set that `replicaSet`
    /// names.
    #[error(
        "the server belongs to {}, not to the replica set {expected:?} (replicaSet)",
        found.as_ref().map_or_else(|| "no replica set".to_owned(), |name| format!("the replica set {name:?}"))
    )]
    SetName {
        /// The value of `replicaSet`.
        expected: Arc<str>,
        /// The name that the server reported.
        found: Option<Arc<str>>,
    },
}

impl PartialEq for SdamError {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Failed(own), Self::Failed(others)) => own.says_the_same(others),
            (
                Self::StalePrimary { stale, max },
                Self::StalePrimary {
                    stale: other_stale,
                    max: other_max,
                },
            ) => (stale, max) == (other_stale, other_max),
            (Self::NewerPrimary, Self::NewerPrimary) => true,
            (
                Self::SetName { expected, found },
                Self::SetName {
                    expected: other_expected,
                    found: other_found,
                },
            ) => (expected, found) == (other_expected, other_found),
            _ => false,
        }
    }
}

impl Eq for SdamError {}

/// The election and the version of a replica set's configuration, as a primary reports them. A
/// missing value is less than any other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ElectionTuple {
    /// The election that made the server primary.
    pub election_id: Option<ObjectId>,
    /// The version of the replica set's configuration.
    pub set_version: Option<i64>,
}

impl fmt::Display for ElectionTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.election_id {
            Some(id) => write!(f, "(electionId {id}, ")?,
            None => f.write_str("(electionId null, ")?,
        }
        match self.set_version {
            Some(version) => write!(f, "setVersion {version})"),
            None => f.write_str("setVersion null)"),
        }
    }
}

/// A server's wire versions don't overlap with those of this crate. While the topology has such a
/// server, no operation can run.
///
/// Specification: server discovery and monitoring, checking wire protocol compatibility.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompatibilityError {
    /// The server is too new.
    #[error(
        "Server at {server} requires wire version {required}, but this version of mongo-core only supports up to {MAX_WIRE_VERSION}."
    )]
    TooNew {
        /// The server.
        server: ServerAddress,
        /// The lowest wire version that it speaks.
        required: i32,
    },
    /// The server is too old.
    #[error(
        "Server at {server} reports wire version {reported}, but this version of mongo-core requires at least {MIN_WIRE_VERSION} (MongoDB 4.2)."
    )]
    TooOld {
        /// The server.
        server: ServerAddress,
        /// The highest wire version that it speaks.
        reported: i32,
    },
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use bson::rawdoc;

    use super::*;
    use crate::error::{CommandError, ErrorKind, Wait};
    use crate::socks5::{ProxyError, ProxyProblem};

    fn command(code: i32, message: &str) -> Error {
        let error = CommandError {
            code,
            code_name: String::new(),
            message: message.to_owned(),
            reply: rawdoc! {},
        };
        Error::from(error).at(&ServerAddress::tcp("a", 1))
    }

    fn proxy(problem: ProxyProblem) -> Error {
        let proxy = "p:1".into();
        ErrorKind::Proxy(ProxyError { proxy, problem }).into()
    }

    /// Errors compare as their messages do, except for what an error message of the operating
    /// system adds to its kind.
    #[test]
    fn failures_compare_by_their_messages() {
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        let late = |millis| Error::timeout(Wait::Handshake, Duration::from_millis(millis));
        let failures = [
            command(91, "bye"),
            command(92, "bye"),
            command(91, "by"),
            command(91, "bye").caused_by(Some(late(1))),
            command(91, "bye").for_user(Some(&"u".into())),
            Error::network(reset()),
            Error::network(io::Error::from_raw_os_error(104)),
            ErrorKind::Connect(Arc::new(reset())).into(),
            late(2000),
            late(3000),
            Error::timeout(Wait::Connect, Duration::from_millis(2000)),
            ErrorKind::PoolCleared.into(),
            ErrorKind::NotWritable.into(),
            proxy(ProxyProblem::Password),
            proxy(ProxyProblem::NoMethod),
            proxy(ProxyProblem::Refused(5)),
            proxy(ProxyProblem::Refused(6)),
        ];
        for (place, one) in failures.iter().enumerate() {
            for (other_place, other) in failures.iter().enumerate() {
                let is_same = SdamError::from(one.clone()) == SdamError::from(other.clone());
                assert_eq!(is_same, place == other_place, "{one} and {other}");
            }
        }
        let again = [
            (command(91, "bye"), command(91, "bye")),
            (Error::network(reset()), Error::network(reset())),
            (late(2000), late(2001)),
            (
                proxy(ProxyProblem::Refused(5)),
                proxy(ProxyProblem::Refused(5)),
            ),
        ];
        for (one, other) in again {
            assert_eq!(SdamError::from(one), SdamError::from(other));
        }
        let labelled = command(91, "bye").with_label("RetryableWriteError");
        assert_eq!(
            SdamError::from(labelled),
            SdamError::from(command(91, "bye"))
        );
        assert_ne!(SdamError::from(command(91, "bye")), SdamError::NewerPrimary);
    }
}
