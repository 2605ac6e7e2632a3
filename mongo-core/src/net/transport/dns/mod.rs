use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

#[cfg(feature = "dns")]
mod hickory;
#[cfg(test)]
mod tests;

#[cfg(feature = "dns")]
pub use hickory::HickoryResolver;

use crate::callback::guard_async;
use crate::error::{Error, Result, Wait};
use crate::net::deadline::{Deadline, Elapsed};
use crate::uri::{ClientOptions, RecordType, SrvError, SrvOptions, SrvRecord, TxtRecord};

const RESOLVER: &str = "DNS resolver";

/// Looks up SRV and TXT records in DNS. Implement it to use another resolver. Feature `dns`
/// provides `HickoryResolver`.
///
/// Names are absolute, without a trailing dot: an implementation must not append search domains.
/// The caller bounds the call and then drops the future. The caller verifies the records; an
/// implementation bounds what it reads, as DNS itself does with messages of at most 64 KiB. A panic
/// in it is caught and logged, and counts as a failed lookup.
#[async_trait]
pub trait DnsResolver: Send + Sync + 'static {
    /// The SRV records of a name; empty if there are none, or if the name does not exist.
    ///
    /// # Errors
    /// Why DNS could not be asked, or did not answer.
    async fn srv_lookup(&self, name: &str) -> io::Result<Vec<SrvRecord>>;

    /// The TXT records of a name; empty if there are none, or if the name does not exist.
    ///
    /// # Errors
    /// Why DNS could not be asked, or did not answer.
    async fn txt_lookup(&self, name: &str) -> io::Result<Vec<TxtRecord>>;
}

/// Resolves the options of a `mongodb+srv` connection string to options with hosts: looks up the
/// SRV and TXT records concurrently, and applies them with [`ClientOptions::with_records`].
///
/// `random` chooses the hosts if `srvMaxHosts` allows fewer than there are. Use [`system_random`],
/// except in reproducible tests. Options that already have hosts are returned unchanged, without a
/// lookup. The call is bounded by `connectTimeoutMS` (default 10 s) and by the deadline, whichever
/// is earlier. If it is dropped, it leaves nothing behind.
///
/// `Pools` and `Topology` do this themselves. A pool of one server needs options with hosts, so
/// call this first:
/// ```no_run
/// use mongo_core::net::{DnsResolver, resolve, system_random};
/// use mongo_core::pools::ConnectionFactory;
/// use mongo_core::{ClientOptions, Deadline};
///
/// # async fn example(resolver: &dyn DnsResolver) -> mongo_core::Result<()> {
/// let options = ClientOptions::parse("mongodb+srv://cluster0.example.com/?tls=false")?;
/// let options = resolve(options, resolver, system_random, Deadline::never()).await?;
/// let factory = ConnectionFactory::builder(options).build()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ErrorKind::Srv`](crate::ErrorKind::Srv), which names the record, or a time-out, which names
/// the record that was not answered.
pub async fn resolve(
    options: ClientOptions,
    resolver: &dyn DnsResolver,
    random: impl FnMut() -> u64,
    deadline: Deadline,
) -> Result<ClientOptions> {
    resolve_with(options, resolver, random, deadline, &Lookup::default()).await
}

/// The records that a lookup still waits for.
#[derive(Default)]
pub(crate) struct Lookup {
    has_srv: AtomicBool,
}

impl Lookup {
    /// The error of a lookup that has no answer yet.
    pub(crate) fn unanswered(&self, srv: &SrvOptions) -> SrvError {
        let (record_type, name) = match self.has_srv.load(Ordering::Acquire) {
            true => (RecordType::Txt, Ok(srv.bare_host_name().to_owned())),
            false => (RecordType::Srv, srv.record_name()),
        };
        match name {
            Ok(name) => SrvError::Unanswered { record_type, name },
            Err(error) => error,
        }
    }
}

/// Like [`resolve`], with its progress visible to others in `lookup`.
pub(crate) async fn resolve_with(
    options: ClientOptions,
    resolver: &dyn DnsResolver,
    mut random: impl FnMut() -> u64,
    deadline: Deadline,
    lookup: &Lookup,
) -> Result<ClientOptions> {
    let Some(srv) = &options.srv else {
        return Ok(options);
    };
    let (record_name, host_name) = (srv.record_name()?, srv.bare_host_name());
    let deadline = deadline.within(options.connect_timeout);
    lookup.has_srv.store(false, Ordering::Release);
    let lookup_hosts = async {
        let records = lookup_srv(resolver, &record_name).await?;
        lookup.has_srv.store(true, Ordering::Release);
        Ok(records)
    };
    let lookups = async { tokio::try_join!(lookup_hosts, lookup_txt(resolver, host_name)) };
    let (records, txt) = match deadline.bound(lookups).await {
        Ok(outcome) => outcome?,
        Err(Elapsed) => {
            let unanswered = Error::from(lookup.unanswered(srv));
            let error = deadline.timed_out(Wait::Dns);
            return Err(error.caused_by(Some(unanswered)));
        }
    };
    Ok(options.with_records(&records, &txt, &mut random)?)
}

/// The resolver for the options, if they have records to look up: the given one, else one with the
/// system's name servers.
///
/// # Errors
/// The options have neither hosts nor records, or there is no resolver for the records, or the
/// system's name servers can't be read.
pub(crate) fn resolver_for(
    options: &ClientOptions,
    given: Option<Arc<dyn DnsResolver>>,
) -> Result<Option<Arc<dyn DnsResolver>>> {
    let resolver = match (&options.srv, given) {
        (None, _) => None,
        (Some(_), Some(given)) => Some(given),
        (Some(_), None) => default_resolver()?,
    };
    match (options.hosts.is_empty(), &options.srv, &resolver) {
        (true, None, _) => Err(Error::configuration("there is no host")),
        (true, Some(_), None) => Err(Error::configuration(
            "`mongodb+srv` needs the feature `dns` of mongo-core, which mongo-deadpool and mongo-bb8 \
             also have, or a custom resolver",
        )),
        _ => Ok(resolver),
    }
}

#[cfg(feature = "dns")]
fn default_resolver() -> Result<Option<Arc<dyn DnsResolver>>> {
    let resolver = HickoryResolver::from_system()?;
    Ok(Some(Arc::new(resolver)))
}

#[cfg(not(feature = "dns"))]
fn default_resolver() -> Result<Option<Arc<dyn DnsResolver>>> {
    Ok(None)
}

async fn lookup_srv(resolver: &dyn DnsResolver, name: &str) -> Result<Vec<SrvRecord>, SrvError> {
    let outcome = srv_lookup(resolver, name).await;
    outcome.map_err(|error| failed(RecordType::Srv, name, error))
}

async fn lookup_txt(resolver: &dyn DnsResolver, name: &str) -> Result<Vec<TxtRecord>, SrvError> {
    let outcome = guard_async(RESOLVER, || resolver.txt_lookup(name)).await;
    let outcome = outcome.unwrap_or_else(|panicked| Err(panicked.into_io()));
    outcome.map_err(|error| failed(RecordType::Txt, name, error))
}

/// Looks up SRV records.
pub(crate) async fn srv_lookup(
    resolver: &dyn DnsResolver,
    name: &str,
) -> io::Result<Vec<SrvRecord>> {
    let outcome = guard_async(RESOLVER, || resolver.srv_lookup(name)).await;
    outcome.unwrap_or_else(|panicked| Err(panicked.into_io()))
}

fn failed(record_type: RecordType, name: &str, error: io::Error) -> SrvError {
    SrvError::Lookup {
        record_type,
        name: name.to_owned(),
        error: Arc::new(error),
    }
}

/// A random number, uniform over all `u64`. It is good enough to spread load, but not for secrets.
pub fn system_random() -> u64 {
    // Every new state has different keys, derived from the system's randomness.
    RandomState::new().hash_one(())
}
