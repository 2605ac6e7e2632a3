use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use hickory_resolver::{ResolverBuilder, TokioResolver};

use super::DnsResolver;
use crate::error::{Error, Result};
use crate::net::runtime;
use crate::uri::{MAX_SRV_RECORDS, SrvRecord, TxtRecord};

#[cfg(test)]
mod tests;

/// The maximum number of CNAME records to follow.
const MAX_ALIASES: usize = 8;

/// Queries the system's name servers, or given ones, with hickory-resolver: over UDP first, and
/// over TCP if an answer is too long.
///
/// It has no cache, so that polling sees a change at once; polling is no more frequent than the
/// records' time to live. Its tasks end when it is dropped.
///
/// If a name has no SRV records but a CNAME record, the CNAME record is followed to find the SRV
/// records, through at most 8 such records. The specification does not require support of CNAME
/// records. It does require hosts below the domain of the connection string's name, also in this
/// case.
///
/// Feature `dns`.
#[derive(Clone)]
pub struct HickoryResolver(TokioResolver);

impl HickoryResolver {
    /// Uses the system's name servers (`/etc/resolv.conf`, or the platform's equivalent).
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if they can't be read.
    pub fn from_system() -> Result<Self> {
        TokioResolver::builder_tokio()
            .and_then(build)
            .map(Self)
            .map_err(|error| Error::configuration(format!("the system's name servers: {error}")))
    }

    /// Uses the given name servers.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if none is given.
    pub fn with_name_servers(servers: &[SocketAddr]) -> Result<Self> {
        let wrong = |error: String| Error::configuration(format!("the name servers: {error}"));
        if servers.is_empty() {
            return Err(wrong("the list is empty".to_owned()));
        }
        let servers = servers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut way| {
                way.port = server.port();
                way
            });
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        build(TokioResolver::builder_with_config(
            config,
            TokioRuntimeProvider::default(),
        ))
        .map(Self)
        .map_err(|error| wrong(error.to_string()))
    }

    /// The answers of one type; empty if the name has none, or does not exist.
    async fn lookup(&self, name: &str, record_type: RecordType) -> io::Result<Vec<Record>> {
        // Without a timer or an I/O driver, hickory panics.
        runtime::current()
            .and_then(|_| runtime::check_io())
            .map_err(io::Error::other)?;
        // The trailing dot makes the name absolute.
        let name = format!("{}.", name.strip_suffix('.').unwrap_or(name));
        match self.0.lookup(name, record_type).await {
            Ok(found) => Ok(found.answers().to_vec()),
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(NetError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// The target of a name's CNAME record, if it has one.
    async fn alias(&self, name: &str) -> io::Result<Option<String>> {
        let answers = self.lookup(name, RecordType::CNAME).await?;
        Ok(answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) => Some(target.to_ascii().to_ascii_lowercase()),
            _ => None,
        }))
    }
}

fn build(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> Result<TokioResolver, NetError> {
    let options = builder.options_mut();
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build()
}

#[async_trait]
impl DnsResolver for HickoryResolver {
    async fn srv_lookup(&self, name: &str) -> io::Result<Vec<SrvRecord>> {
        let mut answers = self.lookup(name, RecordType::SRV).await?;
        let mut names = vec![format!("{name}.")];
        // hickory itself follows a CNAME record only if the SRV records are not in the same answer.
        while answers.is_empty()
            && names.len() <= MAX_ALIASES
            && let Some(alias) = self.alias(&names[names.len() - 1]).await?
            && !names.contains(&alias)
        {
            answers = self.lookup(&alias, RecordType::SRV).await?;
            names.push(alias);
        }
        let records = answers.iter().filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(SrvRecord {
                target: srv.target.to_ascii(),
                port: srv.port,
                priority: srv.priority,
                weight: srv.weight,
                ttl: Duration::from_secs(record.ttl.into()),
            }),
            _ => None,
        });
        // One record too many is enough to reject them.
        Ok(records.take(MAX_SRV_RECORDS + 1).collect())
    }

    async fn txt_lookup(&self, name: &str) -> io::Result<Vec<TxtRecord>> {
        let answers = self.lookup(name, RecordType::TXT).await?;
        let records = answers.iter().filter_map(|record| match &record.data {
            RData::TXT(txt) => Some(TxtRecord {
                strings: txt.txt_data.iter().map(|part| part.to_vec()).collect(),
            }),
            _ => None,
        });
        Ok(records.collect())
    }
}

impl std::fmt::Debug for HickoryResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HickoryResolver").finish_non_exhaustive()
    }
}
