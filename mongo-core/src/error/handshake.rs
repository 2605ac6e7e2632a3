//! Why a handshake failed.

use std::fmt;

use super::Error;
use crate::auth::reply::ServerError;
use crate::wire::{MAX_WIRE_VERSION, MIN_WIRE_VERSION};

/// Why a handshake failed. Errors of authentication are [`AuthError`](crate::auth::AuthError).
///
/// Specification: handshake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The client metadata can't be sent.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The server answered the hello with `ok: 0`.
    #[error("the server refused the hello: {message} (code {code}{}{code_name})", if code_name.is_empty() { "" } else { " " })]
    Refused {
        /// The server's error code; 0 if it sent none.
        code: i32,
        /// The code's name; empty if the server sent none.
        code_name: String,
        /// The server's message, cut to 1024 bytes.
        message: String,
        /// The error labels that the server sent, at most 16.
        labels: Vec<String>,
    },
    /// The reply is not a well-formed document.
    #[error("the server's answer to the hello is malformed BSON")]
    Malformed,
    /// A field of the reply is missing or has the wrong type.
    #[error("the server's answer to the hello has no valid {field}: {expected} expected")]
    Field {
        /// The field.
        field: &'static str,
        /// What was expected.
        expected: &'static str,
    },
    /// A number in the reply is too small.
    #[error("the server's answer to the hello has {field} {value}, less than {minimum}")]
    TooSmall {
        /// The field.
        field: &'static str,
        /// Its value.
        value: i64,
        /// The minimum that is accepted.
        minimum: i64,
    },
    /// The server is too old.
    #[error(
        "the server reports wire version {reported}, but this version of mongo-core requires at least {MIN_WIRE_VERSION} (MongoDB 4.2)"
    )]
    ServerTooOld {
        /// The highest wire version that the server supports.
        reported: i32,
    },
    /// The server is too new.
    #[error(
        "the server requires wire version {required}, but this version of mongo-core only supports up to {MAX_WIRE_VERSION}"
    )]
    ServerTooNew {
        /// The lowest wire version that the server supports.
        required: i32,
    },
    /// `loadBalanced=true` is set, but the reply has no `serviceId`: the server is not behind a
    /// load balancer.
    #[error(
        "Driver attempted to initialize in load balancing mode, but the server does not support this mode."
    )]
    NotLoadBalanced,
    /// The server does not belong to the replica set that the options name (`replicaSet`).
    #[error(
        "the server belongs to {}, not to the replica set {expected:?} (replicaSet)",
        ReplicaSet(.found)
    )]
    OtherReplicaSet {
        /// The name in the options.
        expected: String,
        /// The name that the server reported; `None` if it reported none.
        found: Option<String>,
    },
    /// The caller called a method out of order.
    #[error("handshake method called out of order")]
    OutOfOrder,
}

/// The replica set that a server names, if any.
struct ReplicaSet<'a>(&'a Option<String>);

impl fmt::Display for ReplicaSet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, "the replica set {name:?}"),
            None => f.write_str("no replica set"),
        }
    }
}

impl HandshakeError {
    /// The error of a hello that the server answered with `ok: 0`, with the server's labels.
    pub(crate) fn refused(error: ServerError) -> Error {
        let labels = error.labels.clone();
        let error = Error::from(Self::Refused {
            code: error.code,
            code_name: error.code_name,
            message: error.message,
            labels: error.labels,
        });
        labels.into_iter().fold(error, Error::with_label)
    }
}

/// Why the client metadata can't be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The application's name (`appName`) has more than 128 bytes.
    #[error("the application's name has {length} bytes, more than 128")]
    ApplicationName {
        /// Its length in bytes.
        length: usize,
    },
    /// A string of the driver information contains a `|`, the delimiter between the strings of
    /// several libraries.
    #[error("the driver information's {field} contains a `|`")]
    Delimiter {
        /// The field: `name`, `version` or `platform`.
        field: &'static str,
    },
    /// With this driver information, even the fields that can't be left out would not fit.
    #[error("the client metadata would have {length} bytes, more than 512")]
    TooLong {
        /// The length in bytes of the fields that can't be left out.
        length: usize,
    },
}
