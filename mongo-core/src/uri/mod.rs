//! Connection strings and options.
//!
//! [`ConnectionString`] is the syntax, [`ClientOptions`] what it means. Both are pure: no I/O, no
//! clock.
//!
//! # By serde
//! [`ClientOptions`] deserialises from a text, which is a connection string, or from a table. Keys
//! are the connection string's option names, in any case, underscores and hyphens being ignored
//! (`maxPoolSize`, `max_pool_size`), and besides `hosts` (a list, or a text with commas), `srvHost`
//! in its place, `database`, and either `username` and `password` or a whole `credential` (see
//! [`Credential`](crate::auth::Credential)).
//!
//! A time under a name with its unit (`connectTimeoutMS`, `connect_timeout_ms`) is a number of that
//! unit; under that name, or under the name without it (`connect_timeout`), it can be a text with
//! a unit (`"250ms"`, `"5s"`, `"2m"`, `"1h"`) or a table of `secs` and `nanos`. `compressors` can be
//! a list, `authMechanismProperties` and `readPreferenceTags` tables, the latter a list of them.
//! Other values can be texts, as in environment variables.
//!
//! The rules are the same as for connection strings, but an unknown name and a bad value are
//! errors: a table is written for this program, and has no options for others.
//!
//! # By DNS
//! The seeds of `mongodb+srv` and some of its options are in DNS.
//! [`ClientOptions::with_records`] takes the records that were looked up, and verifies them;
//! `mongo_core::net::resolve` does both, the lookups and that. `Pools`, `Topology` and
//! `OnDemandTopology` do so by themselves.
//!
//! # Secrets
//! No error, warning or `Debug` of this module shows a password, nor an option's value, nor the
//! whole connection string. `TOKEN_RESOURCE` and other mechanism properties with a comma in their
//! value can't be given in a connection string; set them by hand or by serde.

mod de;
mod draft;
mod error;
mod options;
mod parse;
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
pub use types::{Compressor, ProxyOptions, ServerMonitoringMode, SrvOptions, UnknownName};
