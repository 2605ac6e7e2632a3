//! Hosts and options of SRV and TXT records.
//!
//! Specification: initial DNS seedlist discovery.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use super::draft::Draft;
use super::{ClientOptions, SrvOptions, UriError, parse, table};
use crate::address::ServerAddress;

#[cfg(test)]
mod tests;

/// The largest allowed number of SRV records. More are [`SrvError::TooManyRecords`].
pub const MAX_SRV_RECORDS: usize = 1000;

/// The longest allowed text of a TXT record, in bytes, with all its strings. A longer one is
/// [`SrvError::TxtTooLong`].
pub const MAX_TXT_LENGTH: usize = 4096;

/// The longest DNS name, in bytes, without the trailing dot.
const MAX_NAME_LENGTH: usize = 253;

/// The longest label of a DNS name, in bytes.
const MAX_LABEL_LENGTH: usize = 63;

/// The options that a TXT record may set.
const TXT_OPTIONS: [&str; 3] = ["authSource", "replicaSet", "loadBalanced"];

/// An SRV record: a host of the deployment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct SrvRecord {
    /// The host's name, with or without a trailing dot.
    pub target: String,
    /// The host's port.
    pub port: u16,
    /// Ignored, as the specification requires.
    pub priority: u16,
    /// Ignored, as the specification requires.
    pub weight: u16,
    /// The time to live.
    pub ttl: Duration,
}

/// A TXT record: default options of the connection string.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TxtRecord {
    /// Its strings in order. Their concatenation is one text.
    pub strings: Vec<Vec<u8>>,
}

/// The type of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RecordType {
    /// SRV: the hosts.
    Srv,
    /// TXT: options.
    Txt,
}

impl SrvRecord {
    /// A record with priority and weight 0.
    pub fn new(target: impl Into<String>, port: u16, ttl: Duration) -> Self {
        Self {
            target: target.into(),
            port,
            priority: 0,
            weight: 0,
            ttl,
        }
    }
}

impl TxtRecord {
    /// A record of these strings, in their order.
    pub fn new(strings: Vec<Vec<u8>>) -> Self {
        Self { strings }
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Srv => "SRV",
            Self::Txt => "TXT",
        })
    }
}

/// Why the DNS records have no valid hosts or options.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SrvError {
    /// The name to look up is not a valid DNS name.
    #[error("{0:?} is not a valid DNS name")]
    Name(String),
    /// The lookup failed.
    #[error("the {record_type} records of {name} could not be looked up: {error}")]
    Lookup {
        /// The type of the records.
        record_type: RecordType,
        /// The name that was looked up.
        name: String,
        /// The cause.
        error: Arc<io::Error>,
    },
    /// No reply arrived in time. The error that this one causes has the duration of the wait.
    #[error("no reply yet for the {record_type} records of {name}")]
    Unanswered {
        /// The type of the records.
        record_type: RecordType,
        /// The name that was looked up.
        name: String,
    },
    /// There are no SRV records.
    #[error("{0} has no SRV records")]
    NoRecords(String),
    /// There are more SRV records than [`MAX_SRV_RECORDS`].
    #[error("{name} has {count} SRV records, more than {MAX_SRV_RECORDS}")]
    TooManyRecords {
        /// The name that was looked up.
        name: String,
        /// Their number, or a part of it.
        count: usize,
    },
    /// The target of an SRV record is no host name, or its port is 0.
    #[error("an SRV record names {target:?}, port {port}, which is not a host and a port")]
    Target {
        /// The record's target, cut after 253 characters.
        target: String,
        /// The record's port.
        port: u16,
    },
    /// An SRV record names a host that is not below the domain of the connection string's.
    #[error("an SRV record names {host}, which is not below {domain}")]
    ForeignHost {
        /// The host.
        host: String,
        /// The domain that it must be below.
        domain: String,
    },
    /// An SRV record of a name with fewer than three parts names that name itself.
    #[error("an SRV record names {0} itself; it must name hosts below it")]
    SameHost(String),
    /// There is more than one TXT record.
    #[error("{name} has {count} TXT records, more than 1")]
    SeveralTxt {
        /// The name that was looked up.
        name: String,
        /// Their number.
        count: usize,
    },
    /// The TXT record is longer than [`MAX_TXT_LENGTH`].
    #[error("the TXT record of {name} has {length} bytes, more than {MAX_TXT_LENGTH}")]
    TxtTooLong {
        /// The name that was looked up.
        name: String,
        /// Its length in bytes.
        length: usize,
    },
    /// The TXT record is not UTF-8.
    #[error("the TXT record of {0} is not UTF-8")]
    TxtNotText(String),
    /// The TXT record sets an option that is not allowed there.
    #[error(
        "the TXT record of {name} sets {option:?}; only authSource, replicaSet and loadBalanced \
         are allowed"
    )]
    TxtOption {
        /// The name that was looked up.
        name: String,
        /// The option, cut after 64 characters.
        option: String,
    },
    /// An option of the TXT record can't be read.
    #[error("the TXT record of {name}: {error}")]
    Txt {
        /// The name that was looked up.
        name: String,
        /// The cause.
        error: UriError,
    },
    /// The options together with those of the records violate a rule.
    #[error("with the DNS records of {name}: {error}")]
    Options {
        /// The host name of the connection string.
        name: String,
        /// The violated rule.
        error: UriError,
    },
}

impl SrvOptions {
    /// The name whose SRV records are the hosts: `_mongodb._tcp.` and the host name, without a
    /// trailing dot.
    ///
    /// # Errors
    /// [`SrvError::Name`], if it is not a valid DNS name. Names with non-ASCII characters must be
    /// written in Punycode.
    pub fn record_name(&self) -> Result<String, SrvError> {
        let (service, host) = (&self.service_name, self.bare_host_name());
        let name = format!("_{service}._tcp.{host}");
        match is_name(&name) {
            true => Ok(name),
            false => Err(SrvError::Name(cut(&name, MAX_NAME_LENGTH))),
        }
    }

    /// The domain that all hosts must be below: the host name without its first label, or the whole
    /// name if it has fewer than three labels.
    pub fn domain_name(&self) -> &str {
        let name = self.bare_host_name();
        match name.split_once('.') {
            Some((_, domain)) if domain.contains('.') => domain,
            _ => name,
        }
    }

    /// The host of a record.
    ///
    /// # Errors
    /// [`SrvError::Target`], [`SrvError::ForeignHost`] or [`SrvError::SameHost`].
    pub fn verify(&self, record: &SrvRecord) -> Result<ServerAddress, SrvError> {
        let target = record.target.to_ascii_lowercase();
        let host = target.strip_suffix('.').unwrap_or(&target);
        let domain = self.domain_name();
        if !is_name(host) || record.port == 0 {
            return Err(SrvError::Target {
                target: cut(&record.target, MAX_NAME_LENGTH),
                port: record.port,
            });
        }
        match host.strip_suffix(domain) {
            Some(below) if below.ends_with('.') => Ok(ServerAddress::tcp(host, record.port)),
            Some("") if domain == self.bare_host_name() => Err(SrvError::SameHost(host.to_owned())),
            _ => Err(SrvError::ForeignHost {
                host: host.to_owned(),
                domain: domain.to_owned(),
            }),
        }
    }

    /// The name whose TXT records are looked up: the host name, without a trailing dot.
    pub(crate) fn bare_host_name(&self) -> &str {
        self.host_name.strip_suffix('.').unwrap_or(&self.host_name)
    }

    /// The distinct hosts of all records, if all are valid.
    fn verify_all(&self, records: &[SrvRecord]) -> Result<Vec<ServerAddress>, SrvError> {
        check_count(&self.record_name()?, records)?;
        let mut seen = HashSet::new();
        let mut hosts = Vec::new();
        for record in records {
            let host = self.verify(record)?;
            if seen.insert(host.clone()) {
                hosts.push(host);
            }
        }
        Ok(hosts)
    }
}

impl ClientOptions {
    /// Returns these options with the hosts and options of the DNS records of their `mongodb+srv`
    /// name.
    ///
    /// `records` are the SRV records of [`SrvOptions::record_name`], `txt` the TXT records of
    /// [`SrvOptions::host_name`]. Options that are already set override a TXT record. If there are
    /// more hosts than `srvMaxHosts`, that many are chosen at random; `random` must return numbers
    /// that are uniform over all `u64`. TLS is enabled, unless `tls` is already set.
    ///
    /// `srv` is kept, for polling. Options without `srv` are returned unchanged.
    ///
    /// # Errors
    /// No record, an invalid record, or a violated rule between the options.
    pub fn with_records(
        mut self,
        records: &[SrvRecord],
        txt: &[TxtRecord],
        random: &mut dyn FnMut() -> u64,
    ) -> Result<Self, SrvError> {
        let Some(srv) = &mut self.srv else {
            return Ok(self);
        };
        let name = srv.host_name.clone();
        let hosts = srv.verify_all(records)?;
        srv.lowest_ttl = lowest_ttl(records);
        self.hosts = match srv.max_hosts {
            0 => hosts,
            max => choose(hosts, max, random),
        };
        if let Some(text) = txt_text(&name, txt)? {
            self.add_defaults(&name, &text)?;
        }
        self.tls.enabled.get_or_insert(true);
        self.settle_source();
        self.checked()
            .map_err(|error| SrvError::Options { name, error })
    }

    /// Takes the options of a TXT record that are not set yet.
    fn add_defaults(&mut self, name: &str, text: &str) -> Result<(), SrvError> {
        let wrong = |error| SrvError::Txt {
            name: name.to_owned(),
            error,
        };
        let mut draft = Draft::default();
        for option in parse::parse_pairs(text, 0, true).map_err(wrong)? {
            let spec = table::find(option.name())
                .filter(|spec| TXT_OPTIONS.contains(&spec.name))
                .ok_or_else(|| SrvError::TxtOption {
                    name: name.to_owned(),
                    option: cut(option.name(), 64),
                })?;
            if option.value().is_err() {
                return Err(wrong(UriError::Option {
                    option: spec.name,
                    expected: "percent-encoded UTF-8",
                }));
            }
            draft.apply_option(spec, &option).map_err(wrong)?;
        }
        let defaults = draft.options;
        for warning in defaults.warnings() {
            tracing::warn!("TXT record of {name}: {warning}");
        }
        self.warnings.extend(defaults.warnings);
        let has_source = |credential: &crate::auth::Credential| credential.source().is_some();
        if self.auth_source.is_none() && !self.credential.as_ref().is_some_and(has_source) {
            self.auth_source = defaults.auth_source;
        }
        self.replica_set = self.replica_set.take().or(defaults.replica_set);
        self.load_balanced = self.load_balanced.or(defaults.load_balanced);
        Ok(())
    }
}

/// Fails if there are no SRV records, or too many.
pub(crate) fn check_count(name: &str, records: &[SrvRecord]) -> Result<(), SrvError> {
    match records.len() {
        0 => Err(SrvError::NoRecords(name.to_owned())),
        1..=MAX_SRV_RECORDS => Ok(()),
        count => Err(SrvError::TooManyRecords {
            name: name.to_owned(),
            count,
        }),
    }
}

/// The lowest time to live of records.
pub(crate) fn lowest_ttl(records: &[SrvRecord]) -> Option<Duration> {
    records.iter().map(|record| record.ttl).min()
}

/// Chooses `count` items at random and in random order, or all if there are fewer: the first steps
/// of a Fisher-Yates shuffle.
pub(crate) fn choose<T>(mut items: Vec<T>, count: u32, random: &mut dyn FnMut() -> u64) -> Vec<T> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let count = count.min(items.len());
    for place in 0..count {
        let other = place + below(items.len() - place, random);
        items.swap(place, other);
    }
    items.truncate(count);
    items
}

/// A uniformly distributed number below `bound`.
fn below(bound: usize, random: &mut dyn FnMut() -> u64) -> usize {
    let bound = bound.max(1) as u64;
    // 2^64 modulo `bound`: this many numbers must be rejected for a uniform result.
    let left_over = (u64::MAX % bound + 1) % bound;
    // A good generator hardly ever needs a second try. The limit prevents an endless loop with a
    // broken one.
    let mut number = random();
    for _ in 0..8 {
        if number >= left_over {
            break;
        }
        number = random();
    }
    (number % bound) as usize
}

/// The text of the single TXT record, if there is one.
fn txt_text(name: &str, records: &[TxtRecord]) -> Result<Option<String>, SrvError> {
    let name = || name.to_owned();
    let record = match records {
        [] => return Ok(None),
        [record] => record,
        [_, _, ..] => {
            return Err(SrvError::SeveralTxt {
                name: name(),
                count: records.len(),
            });
        }
    };
    let length = record.strings.iter().map(Vec::len).sum();
    if length > MAX_TXT_LENGTH {
        return Err(SrvError::TxtTooLong {
            name: name(),
            length,
        });
    }
    match String::from_utf8(record.strings.concat()) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(SrvError::TxtNotText(name())),
    }
}

/// Whether the name is a valid DNS name: labels of letters, digits, hyphens and underscores.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    name.len() <= MAX_NAME_LENGTH
        && name
            .split('.')
            .all(|part| (1..=MAX_LABEL_LENGTH).contains(&part.len()) && part.bytes().all(fits))
}

fn cut(text: &str, length: usize) -> String {
    text.chars().take(length).collect()
}
