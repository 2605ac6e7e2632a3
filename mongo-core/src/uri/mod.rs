//! Connection strings and options.
//!
//! [`ConnectionString`] is the parsed syntax, [`ClientOptions`] are the typed options. Both are
//! pure: no I/O, no clock.
//!
//! # With serde
//! [`ClientOptions`] deserializes from a string, which is a connection string, or from a table. The
//! keys are the connection string's option names; case, underscores and hyphens are ignored
//! (`maxPoolSize`, `max_pool_size`). Further keys are `hosts` (a list, or a string with commas) or
//! `srvHost` instead, `database`, and either `username` and `password` or a whole `credential` (see
//! [`Credential`](crate::auth::Credential)).
//!
//! A duration under a name with a unit (`connectTimeoutMS`, `connect_timeout_ms`) is a number of
//! that unit. Under that name, or under the name without the unit (`connect_timeout`), it can be a
//! string with a unit (`"250ms"`, `"5s"`, `"2m"`, `"1h"`) or a table of `secs` and `nanos`.
//! `compressors` can be a list, `authMechanismProperties` a table and `readPreferenceTags` a list
//! of tables. All other values can be strings, as in environment variables.
//!
//! The rules are the same as for connection strings, but an unknown name or an invalid value is an
//! error: a table is written for this program, and has no options for other programs.
//!
//! [`ClientOptions`] serializes to such a table. It has the hosts, or `srvHost` and not the hosts that
//! were looked up, and what differs from the defaults. These are left out: the password, mechanism
//! properties that may be secrets, `tlsCertificateKeyFilePassword`, `proxyUsername` and
//! `proxyPassword`, and [warnings](ClientOptions::warnings).
//!
//! # DNS
//! The seeds of `mongodb+srv` and some of its options are in DNS. [`ClientOptions::with_records`]
//! verifies the records that were looked up and applies them; `mongo_core::net::resolve` looks them
//! up too. `Pools`, `Topology` and `OnDemandTopology` do this by themselves.
//!
//! # Secrets
//! No error, warning or `Debug` of this module shows a password, an option's value or the whole
//! connection string. `TOKEN_RESOURCE` and other mechanism properties with a comma in their
//! value can't be given in a connection string; set them in code or with serde.

mod apply;
mod de;
mod draft;
mod error;
mod options;
mod parse;
mod public;
mod ser;
mod srv;
mod table;
#[cfg(test)]
mod tests;
mod tls;
mod types;
mod validate;
mod value;

pub use error::{EncodingProblem, HostProblem, UriError, UriWarning};
pub use options::ClientOptions;
pub use parse::{ConnectionString, MAX_LENGTH, RawOption};
pub use srv::{MAX_SRV_RECORDS, MAX_TXT_LENGTH, RecordType, SrvError, SrvRecord, TxtRecord};
pub(crate) use srv::{check_count, choose, lowest_ttl};
pub use tls::TlsOptions;
pub use types::{ProxyOptions, ServerMonitoringMode, SrvOptions};

pub use crate::settings::UnknownName;
pub use crate::wire::Compressor;
